"""A counter store for rate limits, in memory that the processes of one service share.

The counts of all keys are one small piece of JSON, as there are few keys. A file lock protects it; the system releases
the lock when its process ends, for whatever reason.
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
    """A storage for the `limits` library: for each key a count, and its expiry in unix seconds.

    Args:
        memory: file descriptor of the shared memory.
    """

    STORAGE_SCHEME = None

    def __init__(self, memory: int) -> None:
        super().__init__(wrap_exceptions=True)
        self._memory = memory

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """The exceptions that the methods may raise."""
        return OSError, ValueError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to the count of a key and return it. A new count starts at 0 and expires after `expiry` seconds."""
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
        """Return when the count of a key expires, in unix seconds; now if there is none."""
        with self._held() as counts:
            return counts.get(key, (0, time.time()))[1]

    async def check(self) -> bool:
        """Return whether the store can be reached: always."""
        return True

    async def reset(self) -> int | None:
        """Delete all counts and return how many there were."""
        with self._held() as counts:
            os.ftruncate(self._memory, 0)
            return len(counts)

    async def clear(self, key: str) -> None:
        """Delete the count of a key."""
        with self._held() as counts:
            counts.pop(key, None)
            os.ftruncate(self._memory, 0)
            os.pwrite(self._memory, json.dumps(counts).encode(), 0)

    @contextmanager
    def _held(self) -> Iterator[Counts]:
        """Hold the lock, and give the counts that have not expired."""
        fcntl.lockf(self._memory, fcntl.LOCK_EX)
        try:
            now, written = time.time(), os.pread(self._memory, _MAX_BYTES, 0)
            counts = json.loads(written) if written else {}
            yield {key: (count, ends) for key, (count, ends) in counts.items() if ends > now}
        finally:
            fcntl.lockf(self._memory, fcntl.LOCK_UN)
