"""Rates counted in memory that the processes of one service share.

The counts of all keys, which are few, are one small piece of JSON. A lock of the system's keeps it whole, and is gone
with the process that held it, however that ended.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from limits.aio.storage import Storage

Counts = dict[str, tuple[int, float]]
_MAX_BYTES = 2**24


class RateCounter(Storage):
    """A store for `limits`: for each key a count, and when it ends in unix seconds.

    Args:
        memory: file descriptor of the shared memory.
    """

    STORAGE_SCHEME = None

    def __init__(self, memory: int) -> None:
        super().__init__(wrap_exceptions=True)
        self._memory = memory

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """What may go wrong."""
        return OSError, ValueError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to the count of a key, which begins at 0 and ends `expiry` seconds later; return it."""
        with self._held() as counts:
            count, ends = counts.get(key, (0, time.time() + expiry))
            counts[key] = max(0, count + amount), ends
            os.ftruncate(self._memory, 0)
            os.pwrite(self._memory, json.dumps(counts).encode(), 0)
            return counts[key][0]

    async def get(self, key: str) -> int:
        """Return the count of a key."""
        with self._held() as counts:
            return counts.get(key, (0, 0.0))[0]

    async def get_expiry(self, key: str) -> float:
        """Return when the count of a key ends, or now where there is none."""
        with self._held() as counts:
            return counts.get(key, (0, time.time()))[1]

    async def check(self) -> bool:
        """Memory is there."""
        return True

    async def reset(self) -> int | None:
        """Forget all counts; return how many there were."""
        with self._held() as counts:
            os.ftruncate(self._memory, 0)
            return len(counts)

    async def clear(self, key: str) -> None:
        """Forget the count of a key."""
        with self._held() as counts:
            counts.pop(key, None)
            os.ftruncate(self._memory, 0)
            os.pwrite(self._memory, json.dumps(counts).encode(), 0)

    @contextmanager
    def _held(self) -> Iterator[Counts]:
        """The counts that have not ended, while no other process may touch them."""
        fcntl.lockf(self._memory, fcntl.LOCK_EX)
        try:
            now, written = time.time(), os.pread(self._memory, _MAX_BYTES, 0)
            counts = json.loads(written) if written else {}
            yield {key: (count, ends) for key, (count, ends) in counts.items() if ends > now}
        finally:
            fcntl.lockf(self._memory, fcntl.LOCK_UN)
