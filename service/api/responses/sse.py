"""Responses that follow a stream of the engine: as server-sent events framed by hand, or as one body at the end.

Both watch for the client's leaving while they wait, and hand it to the engine at once. Comments that keep a silent
stream alive are one line without a blank one: OpenAI's client takes a blank line for an event and stops.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.engine.sequences.base import Delta, End
from service.engine.streams import Choices, error_of
from service.telemetry.log import log_ends

EVENT_STREAM = "text/event-stream"
PING = b": ping\n"
DONE = b"data: [DONE]\n\n"
END = "end"  # id of a stream's last event
RETRY_MS = 1000


class Events(Protocol):
    """What renders the engine's deltas one by one."""

    def event(self, delta: Delta) -> list[bytes]:
        """Return the JSON of the events that tell a delta."""
        ...


class Whole(Protocol):
    """What renders them at once."""

    media_type: str

    def whole(self, delta: Delta, end: End) -> bytes | None:
        """Return the body of a reply told at once, or None as long as there are choices to come."""
        ...


class EventIds:
    """Labels events with the position that they reach, and the last one as that.

    Args:
        position: characters or points told before.
    """

    def __init__(self, position: int) -> None:
        self._position = position
        self._hint = b"retry: %d\n" % RETRY_MS

    def __call__(self, delta: Delta) -> bytes:
        """Return the lines that go before the data of a delta's last event."""
        return self.at(self._position + len(delta.unseen.items), has_ended=delta.end is not None)

    def at(self, position: int, *, has_ended: bool) -> bytes:
        """Return the lines that go before the data of an event that reaches a position."""
        self._position = position
        hint, self._hint = self._hint, b""
        return hint + b"id: %s\n" % (END if has_ended else str(position)).encode()


class EventStream(Response):
    """Server-sent events, one for each delta; an error is the last event, and [DONE] ends them all.

    Args:
        choices: to follow.
        reply: renders its deltas.
        heartbeat_s: a silent stream gets a comment after so long.
        headers: further headers.
        label: returns lines that go before the data of a delta's last event, such as its id.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        choices: Choices,
        reply: Events,
        heartbeat_s: float,
        headers: dict[str, str],
        label: Callable[[Delta], bytes] | None = None,
    ) -> None:
        # Proxies must neither store nor collect events.
        super().__init__(headers={**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._choices, self._reply, self._heartbeat_s, self._label = choices, reply, heartbeat_s, label

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send events until all choices end, one fails, or the client leaves."""
        watch = asyncio.create_task(_cancel_on_disconnect(self._choices, receive))
        beat = asyncio.create_task(self._beat())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            log_ends(await self._tell(send))
        finally:
            watch.cancel()
            beat.cancel()
            self._choices.cancel()

    async def _tell(self, send: Send) -> list[End]:
        ends: list[End] = []
        while not self._choices.is_over:
            delta = await self._choices.take()
            await send(_body(PING if delta is None else self._frames(delta), more=True))
            if delta and delta.end:
                ends.append(delta.end)
                if error_of(delta.end):
                    break
        await send(_body(DONE, more=False))
        return ends

    def _frames(self, delta: Delta) -> bytes:
        """The events of a delta; what came before an error is told before it."""
        error = error_of(delta.end)
        told = replace(delta, end=None) if error else delta
        bodies = self._reply.event(told) if told.unseen.items or told.end else []
        events = [b"data: " + body + b"\n\n" for body in bodies]
        if events and self._label:
            events[-1] = self._label(told) + events[-1]
        if error:
            events.append(b"data: " + error.body + b"\n\n")
        return b"".join(events)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            self._choices.nudge()


class WholeReply(Response):
    """The reply as one body, sent when all choices have ended.

    Args:
        choices: to follow, each to be told at its end only.
        reply: renders them.
        headers: further headers.
    """

    def __init__(self, choices: Choices, reply: Whole, headers: dict[str, str]) -> None:
        super().__init__(headers=headers, media_type=reply.media_type)
        self._choices, self._reply = choices, reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body, or nothing if the client leaves first.

        Raises:
            CopyistError: the engine could not finish it.
        """
        watch = asyncio.create_task(_cancel_on_disconnect(self._choices, receive))
        try:
            body = await self._told()
        finally:
            watch.cancel()
            self._choices.cancel()
        if body is not None:
            self.body = body
            self.headers["content-length"] = str(len(self.body))
            await super().__call__(scope, receive, send)

    async def _told(self) -> bytes | None:
        """Return the body once every choice is told, or None if the client has left."""
        body, ends = None, []
        while not self._choices.is_over:
            delta = await self._choices.take()
            assert delta, "nothing nudges a whole reply"
            assert delta.end, "a whole reply is told once, with its end"
            ends.append(delta.end)
            error = error_of(delta.end)
            if error:
                log_ends(ends)
                raise error
            body = await self._render(delta, delta.end)
        log_ends(ends)
        return None if any(end.reason == "cancelled" for end in ends) else body

    async def _render(self, delta: Delta, end: End) -> bytes | None:
        """Return the body; one that takes long to make is made elsewhere."""
        return self._reply.whole(delta, end)


async def _cancel_on_disconnect(choices: Choices, receive: Receive) -> None:
    """Wait for the client to leave; its rows are worth more than a tidy end."""
    while (await receive())["type"] != "http.disconnect":
        pass
    choices.cancel()


def _body(body: bytes, *, more: bool) -> Message:
    message: dict[str, Any] = {"type": "http.response.body", "body": body, "more_body": more}
    return message
