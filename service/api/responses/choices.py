"""Replies that the engine writes: the choices of one request, followed from delta to delta."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from anyio import to_thread

from service.api.responses.sse import Event
from service.engine.sequences.base import Delta, End
from service.engine.streams import Choices, error_of
from service.telemetry.log import log_ends


class Renderer(Protocol):
    """Makes the bodies of a reply from the engine's deltas, at once."""

    media_type: str

    def whole(self, delta: Delta, end: End) -> bytes | None:
        """Return the body of a reply whose sequences send all at their end; None as long as a choice is missing."""
        ...


class EventRenderer(Renderer, Protocol):
    """Makes them also event by event."""

    def event(self, delta: Delta) -> list[bytes]:
        """Return the JSON of the events that show a delta."""
        ...


class ChoicesReply:
    """The reply to a request that the engine runs, made from all its choices.

    Args:
        choices: of the request, submitted to the engine.
        renderer: makes the body.
        in_thread: whether making the body takes so long that another thread does it.
    """

    def __init__(self, choices: Choices, renderer: Renderer, *, in_thread: bool = False) -> None:
        self._choices = choices
        self._renderer = renderer
        self._in_thread = in_thread
        self._ends: list[End] = []
        self._has_failed = False

    @property
    def media_type(self) -> str:
        """Of the whole reply."""
        return self._renderer.media_type

    async def whole(self) -> bytes:
        """Return the body once every choice has ended.

        Raises:
            CopyistError: the engine could not finish a choice.
        """
        body: bytes | None = None
        async for delta in self._deltas():
            if delta.end is None:  # what came before an error
                continue
            if self._in_thread:
                body = await to_thread.run_sync(self._renderer.whole, delta, delta.end)
            else:
                body = self._renderer.whole(delta, delta.end)
        assert body is not None, "all choices have ended"
        return body

    async def close(self) -> None:
        """End the choices that still run, and add how they all ended to the request's log line."""
        self._choices.cancel()
        while not self._choices.is_over and not self._has_failed:
            await self._take()  # the engine confirms an end within one step
        if self._ends:
            log_ends(self._ends)

    async def _deltas(self) -> AsyncGenerator[Delta, None]:
        """Yield deltas until all choices have ended.

        Raises:
            CopyistError: the engine could not finish a choice; what it had written before was yielded.
        """
        while not self._choices.is_over:
            delta = await self._take()
            error = error_of(delta.end)
            if error is None:
                yield delta
                continue
            self._has_failed = True
            if delta.unseen.items:
                yield replace(delta, end=None)
            raise error

    async def _take(self) -> Delta:
        delta = await self._choices.take()
        if delta.end:
            self._ends.append(delta.end)
        return delta


class StreamedReply(ChoicesReply):
    """The same, which can also be sent in pieces.

    Args:
        choices: of the request, submitted to the engine.
        renderer: makes the body or the events.
        position: characters or points that were sent before the request was repeated.
        in_thread: whether making the body takes so long that another thread does it.
    """

    def __init__(
        self, choices: Choices, renderer: EventRenderer, *, position: int = 0, in_thread: bool = False
    ) -> None:
        super().__init__(choices, renderer, in_thread=in_thread)
        self._event_renderer = renderer
        self._position = position

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the events of each delta; the last of them says the position that the delta reaches.

        Raises:
            CopyistError: the engine could not finish a choice.
        """
        async with aclosing(self._deltas()) as deltas:
            async for delta in deltas:
                self._position += len(delta.unseen.items)
                *others, last = self._event_renderer.event(delta)
                for body in others:
                    yield Event(body)
                yield Event(last, self._position, is_last=delta.end is not None)
