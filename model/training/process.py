"""A long training and its process: no garbage collector, memory that is kept, Ctrl-C, and the ways it ends early."""

import ctypes
import gc
import signal
import sys
from types import FrameType
from typing import Any, Self

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


class TrainingError(Exception):
    """Training cannot go on; the message says what happened and what to change."""


class Interrupted(Exception):  # noqa: N818 (not an error: everything is saved)
    """Stopped by Ctrl-C, after saving."""


def settle() -> None:
    """Set the process up for a long training, for the rest of its life.

    A window makes thousands of tensors. Each garbage collection that they set off would go through all objects of
    PyTorch again, which takes an eighth of the time on a CPU, so the objects that exist now are frozen. Memory that one
    update frees is needed by the next, so glibc, where there is one, is told to keep it.
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
        except ValueError:  # not in the main thread: the caller handles signals
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _catch(self, _number: int, _frame: FrameType | None) -> None:
        self.caught = True
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
