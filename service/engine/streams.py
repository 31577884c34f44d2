"""The event loop's side of the engine: a stream for each sequence, and the streams of one request read together."""

import asyncio
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any, Protocol

from service.engine.executor import Executor
from service.engine.sequences.base import Delta, End, Sequence
from service.errors import CopyistError, EngineFailureError, ShuttingDownError


class Stream:
    """The event loop's end of one sequence; only the event loop's thread calls its methods.

    Args:
        cancel: orders the engine to end the sequence of a stream.
        executor: the executor that runs the sequence.
        sequence: the sequence whose items are streamed.

    Attributes:
        wants_more: whether the reader has taken everything. Set here; the engine's thread clears it when it publishes.
        has_ended: whether the last delta has been put in.
    """

    def __init__(self, cancel: Callable[["Stream"], None], executor: Executor[Any], sequence: Sequence) -> None:
        self.executor = executor
        self.sequence = sequence
        self.wants_more = True
        self.has_ended = False
        self._cancel = cancel
        self._pending: Delta | None = None
        self._ready = asyncio.Event()
        self._is_cancelled = False

    def join(self, ready: asyncio.Event) -> None:
        """Use an event that several streams share; it is set whenever `poll` has something to return."""
        self._ready = ready

    def poll(self) -> Delta | None:
        """Return what has come since the last call, without waiting; None asks the engine for more."""
        delta, self._pending = self._pending, None
        self.wants_more = delta is None
        return delta

    def cancel(self) -> None:
        """Have the engine end the sequence as cancelled within one step, if it has not ended yet."""
        if not self._is_cancelled and not self.has_ended:
            self._is_cancelled = True
            self._cancel(self)

    def put(self, delta: Delta) -> None:
        """Add what the engine has published; a reader that is behind gets one longer delta."""
        if self._pending is None:
            self._pending = delta
        else:
            self._pending.extend(delta)
        self.has_ended = self.has_ended or delta.end is not None
        self._ready.set()


class Choices:
    """The streams of one request, read as one; each delta says which choice it belongs to.

    Args:
        streams: streams that were submitted to the engine.
    """

    def __init__(self, streams: Seq[Stream]) -> None:
        self._open = list(streams)
        self._ready = asyncio.Event()
        self._deltas: deque[Delta] = deque()
        for stream in streams:
            stream.join(self._ready)

    @property
    def is_over(self) -> bool:
        """Whether everything was taken."""
        return not (self._open or self._deltas)

    async def take(self) -> Delta:
        """Wait for the next delta of any stream and return it."""
        while not self._deltas:
            # Cleared before the streams are polled: a delta that comes later sets it again, and one that the poll
            # finds does not leave it set, which would end the next wait with nothing.
            self._ready.clear()
            self._poll()
            if not self._deltas:
                await self._ready.wait()
        return self._deltas.popleft()

    def cancel(self) -> None:
        """Cancel every stream that has not ended."""
        for stream in self._open:
            stream.cancel()

    def _poll(self) -> None:
        for stream in list(self._open):
            delta = stream.poll()
            if delta:
                self._deltas.append(delta)
                if delta.end:
                    self._open.remove(stream)


class Submitter(Protocol):
    """The engine, as `submit_all` needs it."""

    def submit(self, executor: Executor[Any], sequence: Sequence, followers: int = 0) -> Stream:
        """Hand a sequence to its executor; `followers` more are submitted right after it."""
        ...


def submit_all(engine: Submitter, executor: Executor[Any], sequences: Seq[Sequence]) -> Choices:
    """Submit the sequences of a request, all of them or none, and return their streams.

    Nothing else is submitted in between, so it is enough that the first one asks for room for all.

    Raises:
        QueueFullError: the queue has no room for all of them.
        ShuttingDownError: the engine drains or is gone.
    """
    last = len(sequences) - 1
    return Choices([engine.submit(executor, each, last - index) for index, each in enumerate(sequences)])


def error_of(end: End | None) -> CopyistError | None:
    """Return what to tell a client about an end that is none of its doing."""
    if end and end.reason == "error":
        return EngineFailureError("The engine failed at a step of this request.")
    if end and end.reason == "shutdown":
        return ShuttingDownError("The service stops before this request is done.")
    return None
