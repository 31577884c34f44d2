"""Other processes that tests start, none of which is waited for without a limit."""

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PATIENCE_S = 120.0


@contextmanager
def started(command: Sequence[Any], patience_s: float = PATIENCE_S, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run a program for as long as the block, and wait for its end after it.

    A program that takes too long is killed, so reading its pipes and waiting for it always end.

    Args:
        command: the program and its arguments.
        patience_s: seconds until it must have ended.
        options: of `subprocess.Popen`.

    Raises:
        AssertionError: it was killed because it took too long.
    """
    is_late = threading.Event()

    def give_up() -> None:
        is_late.set()
        process.kill()

    process = subprocess.Popen(command, **options)
    timer = threading.Timer(patience_s, give_up)
    timer.start()
    try:
        with process:
            try:
                yield process
            except BaseException:  # a test that failed waits for nobody
                process.kill()
                raise
    finally:
        timer.cancel()
        assert not is_late.is_set(), f"{command} took longer than {patience_s} s"
