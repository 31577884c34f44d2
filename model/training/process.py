"""What a long training asks of its process: memory that stays, no garbage collector, and a Ctrl-C that waits."""

import ctypes
import gc
import signal
import sys
from types import FrameType
from typing import Any, Self

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


class Interrupted(Exception):  # noqa: N818 (not an error: everything is saved)
    """Stopped by Ctrl-C, after saving."""


def settle() -> None:
    """Spare a long training what the process does for short ones; for the rest of its life.

    A window makes thousands of tensors, and each round of the garbage collector that they set off would go through all
    objects of PyTorch again: an eighth of the time on a CPU. What lives now is taken out of its sight. And memory that
    one update gives back is wanted by the next: glibc is told to keep it, where there is a glibc.
    """
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "mallopt"):
        for setting in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            libc.mallopt(setting, 2**31 - 1)


class CatchInterrupt:
    """Turns the first Ctrl-C into a flag, so that the update in hand is finished; a second one kills."""

    def __init__(self) -> None:
        self.caught = False

    def __enter__(self) -> Self:
        try:
            self._before: Any = signal.signal(signal.SIGINT, self._catch)
        except ValueError:  # not in the main thread: whoever called us owns the signals
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _catch(self, _number: int, _frame: FrameType | None) -> None:
        self.caught = True
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
