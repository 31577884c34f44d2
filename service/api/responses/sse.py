"""Responses that take a while: as server-sent events while the reply is made, or as one body when it is done.

Both watch for the client to leave, and then end the work. Comments that keep a silent stream alive are one line
without a blank one: OpenAI's client takes a blank line for an event and stops.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple, Protocol

import structlog
from anyio import CancelScope
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.errors import CopyistError, EngineFailureError

_log = structlog.get_logger(__name__)

EVENT_STREAM = "text/event-stream"
PING = b": ping\n"
DONE = b"data: [DONE]\n\n"
END = "end"  # id of a stream's last event
RETRY_MS = 1000


class Event(NamedTuple):
    """One event of a stream.

    Attributes:
        data: its JSON.
        position: characters or points sent up to its end, from which a browser can resume; None where it cannot.
        is_last: whether it ends the reply.
    """

    data: bytes
    position: int | None = None
    is_last: bool = False


class Work(Protocol):
    """Work that is done for a reply."""

    async def close(self) -> None:
        """End the work that has not ended by itself, and add how it went to the request's log line."""
        ...


class InPieces(Work, Protocol):
    """A reply that comes in pieces."""

    def events(self) -> AsyncGenerator[Event, None]:
        """Yield the reply in pieces; called once.

        Raises:
            CopyistError: the reply could not be finished.
        """
        ...


class AtOnce(Work, Protocol):
    """A reply that comes at once."""

    @property
    def media_type(self) -> str:
        """Of the body."""
        ...

    async def whole(self) -> bytes:
        """Return the body; called once.

        Raises:
            CopyistError: the reply could not be finished.
        """
        ...


class EventStream(Response):
    """Server-sent events: those of a reply, an error as the last one if it fails, and [DONE].

    Args:
        reply: yields the events; is closed afterwards.
        heartbeat_s: a stream that is silent for so long gets a comment.
        headers: further headers.
        has_ids: whether events say their position, so that a browser can resume after any of them.
    """

    media_type = EVENT_STREAM

    def __init__(self, reply: InPieces, heartbeat_s: float, headers: dict[str, str], *, has_ids: bool = False) -> None:
        # Proxies must neither store nor collect events.
        super().__init__(headers={**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._reply = reply
        self._heartbeat_s = heartbeat_s
        self._has_ids = has_ids
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send events until the reply ends or fails, or the client leaves."""
        async with _while_connected(self._reply, receive):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self._sent_at = _now()
            heart = asyncio.create_task(self._beat(send))
            try:
                async with aclosing(self._frames()) as frames:
                    async for frame in frames:
                        self._sent_at = _now()
                        await send(_part(frame))
            finally:
                heart.cancel()
            await send(_part(DONE, is_last=True))

    async def _frames(self) -> AsyncGenerator[bytes, None]:
        """Frame the events; an error is the last one."""
        retry = b"retry: %d\n" % RETRY_MS  # once, before the first id
        try:
            async with aclosing(self._reply.events()) as events:
                async for event in events:
                    label = b""
                    if self._has_ids and event.position is not None:
                        label = retry + b"id: %s\n" % (END if event.is_last else str(event.position)).encode()
                        retry = b""
                    yield label + b"data: " + event.data + b"\n\n"
        except CopyistError as error:
            yield b"data: " + error.body + b"\n\n"
        except Exception as error:  # noqa: BLE001 - the status has been sent, so the stream itself says that it failed
            _log.error("unforeseen", exc_info=error)
            yield b"data: " + EngineFailureError("The service failed while writing the reply.").body + b"\n\n"

    async def _beat(self, send: Send) -> None:
        """Send a comment whenever nothing was sent for `heartbeat_s`."""
        while True:
            await asyncio.sleep(self._sent_at + self._heartbeat_s - _now())
            if _now() - self._sent_at >= self._heartbeat_s:
                self._sent_at = _now()
                await send(_part(PING))


class WholeReply(Response):
    """A reply as one body, sent when it is done.

    Args:
        reply: makes the body; is closed afterwards.
        headers: further headers.
    """

    def __init__(self, reply: AtOnce, headers: dict[str, str]) -> None:
        super().__init__(headers=headers, media_type=reply.media_type)
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body, or nothing if the client leaves first.

        Raises:
            CopyistError: the reply could not be finished.
        """
        body: bytes | None = None
        async with _while_connected(self._reply, receive):
            body = await self._reply.whole()
        if body is not None:
            self.body = body
            self.headers["content-length"] = str(len(body))
            await super().__call__(scope, receive, send)


@asynccontextmanager
async def _while_connected(work: Work, receive: Receive) -> AsyncIterator[None]:
    """Run a block until it is done or the client leaves, which cancels it; then close the work."""
    with CancelScope() as block:
        watch = asyncio.create_task(_cancel_on_disconnect(block, receive))
        try:
            yield
        finally:
            watch.cancel()
            with CancelScope(shield=True):  # the client may be gone, but the work has to end
                await work.close()


async def _cancel_on_disconnect(block: CancelScope, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    block.cancel()


def _part(body: bytes, *, is_last: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not is_last}


def _now() -> float:
    """Return the event loop's time, in seconds."""
    return asyncio.get_running_loop().time()
