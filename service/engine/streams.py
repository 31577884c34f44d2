"""What asyncio sees of the engine: the stream of one sequence, and the streams of one request read together."""

import asyncio
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any

from service.engine.executor import Executor
from service.engine.sequences.base import Delta, End, Sequence
from service.errors import CopyistError, EngineFailureError, ShuttingDownError


class Stream:
    """The asyncio side of a sequence; all methods belong to the event loop's thread.

    Args:
        cancel: orders the engine to end a stream's sequence.
        executor: that runs it.
        sequence: what is streamed.

    Attributes:
        wants_more: whether the reader waits for more: set here, cleared by the engine's thread when it tells something.
    """

    def __init__(self, cancel: Callable[["Stream"], None], executor: Executor[Any], sequence: Sequence) -> None:
        self.executor, self.sequence = executor, sequence
        self.wants_more = True
        self.has_ended = False
        self._cancel = cancel
        self._pending: Delta | None = None
        self._ready = asyncio.Event()
        self._is_cancelled = False

    async def take(self) -> Delta | None:
        """Return all there is to tell, at least something, or None after a `nudge` that found nothing."""
        self.wants_more = self._pending is None
        await self._ready.wait()
        self._ready.clear()
        delta, self._pending = self._pending, None
        return delta

    def join(self, ready: asyncio.Event) -> None:
        """Set an event that several streams share whenever there is something to tell; `poll` then says what."""
        self._ready = ready

    def poll(self) -> Delta | None:
        """Return what there is to tell without waiting; the reader is hungry again when this was nothing."""
        delta, self._pending = self._pending, None
        self.wants_more = delta is None
        return delta

    def nudge(self) -> None:
        """Let a waiting `take` return."""
        self._ready.set()

    def cancel(self) -> None:
        """Have the sequence end as cancelled within one step, if it has not ended yet."""
        if not self._is_cancelled and not self.has_ended:
            self._is_cancelled = True
            self._cancel(self)

    def put(self, delta: Delta) -> None:
        """Take in what the engine tells."""
        if self._pending is None:
            self._pending = delta
        else:
            self._pending.extend(delta)
        self.has_ended = self.has_ended or delta.end is not None
        self._ready.set()


class Choices:
    """The streams of one request, read as one; what any of them tells names its choice.

    Args:
        streams: submitted to the engine.
    """

    def __init__(self, streams: Seq[Stream]) -> None:
        self._open, self._ready = list(streams), asyncio.Event()
        self._told: deque[Delta] = deque()
        for stream in streams:
            stream.join(self._ready)

    @property
    def is_over(self) -> bool:
        """Whether everything was taken."""
        return not (self._open or self._told)

    async def take(self) -> Delta | None:
        """Return the next that one of them tells, or None after a `nudge` that found nothing."""
        if not self._told:
            self._poll()
        if not self._told:
            await self._ready.wait()
            self._ready.clear()
            self._poll()
        return self._told.popleft() if self._told else None

    def nudge(self) -> None:
        """Let a waiting `take` return."""
        self._ready.set()

    def cancel(self) -> None:
        """Have all end that have not."""
        for stream in self._open:
            stream.cancel()

    def _poll(self) -> None:
        for stream in list(self._open):
            delta = stream.poll()
            if delta:
                self._told.append(delta)
                if delta.end:
                    self._open.remove(stream)


def error_of(end: End | None) -> CopyistError | None:
    """Return what to tell a client about an end that is none of its doing."""
    if end and end.reason == "error":
        return EngineFailureError("The engine failed at a step of this request.")
    if end and end.reason == "shutdown":
        return ShuttingDownError("The service stops before this request is done.")
    return None
