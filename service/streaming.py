"""Responses that follow a stream of the engine: as server-sent events framed by hand, or as one body at the end.

Both watch for the client's leaving while they wait, and hand it to the engine at once. Comments that keep a silent
stream alive are one line without a blank one: OpenAI's client takes a blank line for an event and stops.
"""

import asyncio
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from service.engine.loop import Stream
from service.engine.sequence import Delta, End
from service.errors import CopyistError, EngineFailureError, ShuttingDownError

EVENT_STREAM = "text/event-stream"
PING = b": ping\n"
DONE = b"data: [DONE]\n\n"


class Reply(Protocol):
    """What renders the engine's deltas."""

    media_type: str

    def event(self, delta: Delta) -> list[bytes]:
        """Return the JSON of the events that tell a delta."""
        ...

    def whole(self, delta: Delta, end: End) -> bytes:
        """Return the body of a reply told at once."""
        ...


class EventStream(Response):
    """Server-sent events, one for each delta; an error is the last event, and [DONE] ends them all.

    Args:
        stream: submitted to the engine.
        reply: renders its deltas.
        heartbeat_s: a silent stream gets a comment after so long.
        headers: further headers.
    """

    media_type = EVENT_STREAM

    def __init__(self, stream: Stream, reply: Reply, heartbeat_s: float, headers: dict[str, str]) -> None:
        # Proxies must neither store nor collect events.
        super().__init__(headers={**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._stream, self._reply, self._heartbeat_s = stream, reply, heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send events until the stream ends or the client leaves."""
        watch = asyncio.create_task(_cancel_on_disconnect(self._stream, receive))
        beat = asyncio.create_task(self._beat())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            end = await self._tell(send)
            log_end(end)
        finally:
            watch.cancel()
            beat.cancel()
            self._stream.cancel()

    async def _tell(self, send: Send) -> End:
        while True:
            delta = await self._stream.take()
            await send(_body(PING if delta is None else self._frames(delta), more=True))
            if delta and delta.end:
                await send(_body(DONE, more=False))
                return delta.end

    def _frames(self, delta: Delta) -> bytes:
        """The events of a delta; what came before an error is told before it."""
        error = error_of(delta.end)
        told = Delta(delta.items, delta.trace) if error else delta
        bodies = self._reply.event(told) if told.items or told.end else []
        if error:
            bodies = [*bodies, error.body]
        return b"".join(b"data: " + body + b"\n\n" for body in bodies)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            self._stream.nudge()


class WholeReply(Response):
    """The reply as one body, sent when the stream has ended.

    Args:
        stream: submitted to the engine, to be told at the end only.
        reply: renders it.
        headers: further headers.
    """

    def __init__(self, stream: Stream, reply: Reply, headers: dict[str, str]) -> None:
        super().__init__(headers=headers, media_type=reply.media_type)
        self._stream, self._reply = stream, reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body, or nothing if the client leaves first.

        Raises:
            CopyistError: the engine could not finish it.
        """
        watch = asyncio.create_task(_cancel_on_disconnect(self._stream, receive))
        try:
            delta = await self._stream.take()
        finally:
            watch.cancel()
            self._stream.cancel()
        assert delta, "nothing nudges a whole reply"
        assert delta.end, "a whole reply is told once, with its end"
        log_end(delta.end)
        error = error_of(delta.end)
        if error:
            raise error
        if delta.end.reason != "cancelled":
            self.body = self._reply.whole(delta, delta.end)
            self.headers["content-length"] = str(len(self.body))
            await super().__call__(scope, receive, send)


def error_of(end: End | None) -> CopyistError | None:
    """Return what to tell a client about an end that is none of its doing."""
    if end and end.reason == "error":
        return EngineFailureError("The engine failed at a step of this request.")
    if end and end.reason == "shutdown":
        return ShuttingDownError("The service stops before this request is done.")
    return None


def log_end(end: End) -> None:
    """Add to the request's log line what the engine knows of it."""
    times = end.times
    bind_contextvars(
        finish_reason=end.reason,
        steps=len(end.trace),
        queue_ms=_between_ms(times.submitted, times.admitted),
        first_ms=_between_ms(times.submitted, times.first),
    )


def _between_ms(earlier: float | None, later: float | None) -> float | None:
    return None if earlier is None or later is None else round(1000 * (later - earlier), 2)


async def _cancel_on_disconnect(stream: Stream, receive: Receive) -> None:
    """Wait for the client to leave; its row is worth more than a tidy end."""
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.cancel()


def _body(body: bytes, *, more: bool) -> Message:
    message: dict[str, Any] = {"type": "http.response.body", "body": body, "more_body": more}
    return message
