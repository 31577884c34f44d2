"""What SIGINT and SIGTERM do before the service listens and after it has ended: end the process without a word.

While modules are imported and bundles are opened there is nothing to finish, so a stop signal ends the process at once.
It does so from the handler itself. An exception raised there would surface wherever the interpreter happens to be: as a
traceback within an import, or nowhere at all, where a library or a destructor swallows it. The server and the
supervisor put handlers of their own in this place, each with one call, so that there is never a moment without one.

This module imports nothing heavy: it is loaded before everything else.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_at_once(code: int = 0, signals: tuple[signal.Signals, ...] = STOP_SIGNALS) -> None:
    """End the process with this exit code when one of the signals comes, from now on."""

    def end(*_: object) -> None:
        os._exit(code)

    handle_by(end, signals)


def handle_by(
    handler: Callable[[int, FrameType | None], None], signals: tuple[signal.Signals, ...] = STOP_SIGNALS
) -> None:
    """Call a function when one of the signals comes, from now on, whatever was done about them before."""
    for number in signals:
        signal.signal(number, handler)


def ignore() -> None:
    """Let no signal change the exit code of a process that has done its work.

    The interpreter gives up Python's own handlers on its way out, and then a second Ctrl-C would kill the process.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
