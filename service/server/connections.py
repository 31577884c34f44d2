"""Connections that may not be held for nothing: bounds on a request's head, on waiting for it, and on readers.

uvicorn has a deadline for the time between two requests and no other. Here a head must be complete in time and may
weigh so much, a reader must take what there is for it, and there are so many connections at most. What is refused
before there is a request is answered with the same error object as everything else.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httptools
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from service.errors import (
    ConnectionsError,
    CopyistError,
    HeadersTimeoutError,
    HeadersTooLargeError,
    InvalidRequestError,
)
from service.settings import Settings

_log = structlog.get_logger(__name__)

# Colons, spaces and line ends around names and values, which the limit of a head leaves out.
PUNCTUATION_BYTES = 8192
# A body in chunks of one byte needs five more for each.
FRAMING = 8


@dataclass(frozen=True)
class Bounds:
    """How much and how long.

    Attributes:
        connections: open ones at most.
        header_bytes: of the target, the names and the values of a head together.
        headers: in a head.
        body_bytes: of a body; what frames it may be so many times more.
        header_s: for a head to arrive.
        write_s: for a reader to take what waits for it.
    """

    connections: int
    header_bytes: int
    headers: int
    body_bytes: int
    header_s: float
    write_s: float

    @classmethod
    def of(cls, settings: Settings) -> "Bounds":
        """Return the bounds that an operator set."""
        return cls(
            settings.max_connections,
            settings.max_header_bytes,
            settings.max_headers,
            settings.max_body_bytes,
            settings.header_timeout_s,
            settings.write_timeout_s,
        )


def bounded(settings: Settings, note: Callable[[str], None]) -> Any:
    """Return what uvicorn makes its connections with.

    Args:
        settings: service settings.
        note: called with the error's code of every connection that is refused.
    """
    return partial(Connection, bounds=Bounds.of(settings), note=note)


class _Deadline:
    """Something that happens after a while, unless it is lifted."""

    def __init__(self, loop: asyncio.AbstractEventLoop, after_s: float, then: Callable[[], None]) -> None:
        self._loop, self._after_s, self._then = loop, after_s, then
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> None:
        """Begin to wait, if that has not begun yet."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._after_s, self._then)

    def lift(self) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Connection(HttpToolsProtocol):
    """One of uvicorn's connections, bounded."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        bounds: Bounds,
        note: Callable[[str], None],
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds, self._note = bounds, note
        self._awaits_head, self._is_whole = True, True
        self._head_bytes = self._num_headers = self._raw_bytes = 0
        self._answered: Any = None
        self._refusal: CopyistError | None = None
        self._is_refused = False
        self._head = _Deadline(self.loop, bounds.header_s, self._give_up_head)
        self._reader = _Deadline(self.loop, bounds.write_s, self._give_up_reader)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            self._refuse(ConnectionsError(f"{self._bounds.connections} connections are open, as many as may."))
        else:
            self._head.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        self._head.lift()
        self._reader.lift()
        self.pipeline.clear()
        if self._answered is not None:  # uvicorn tells the last of pipelined requests only
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it is too much."""
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        if self._awaits_head:
            self._head.set()
        self._raw_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or InvalidRequestError("The request is not valid HTTP."))
        except httptools.HttpParserUpgrade:
            pass  # nothing to upgrade to: the request is answered as it is
        else:
            self._check_raw()

    def on_url(self, url: bytes) -> None:
        """Count the target."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, or one that trails a body."""
        self._num_headers += 1
        if self._num_headers > self._bounds.headers:
            self._stop(f"A request may have {self._bounds.headers} headers at most.")
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._awaits_head, self._is_whole, self._raw_bytes = False, False, 0
        self._head.lift()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body, which `BodyLimit` weighs; what frames it is weighed here."""
        self._raw_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Be ready for the next head."""
        self._awaits_head = self._is_whole = True
        self._head_bytes = self._num_headers = self._raw_bytes = 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Hang up on a client that still sends what nobody reads any more."""
        super().on_response_complete()
        if not self._is_whole and not self.pipeline and self.cycle.response_complete:
            self.transport.close()

    def pause_writing(self) -> None:
        """Give a reader that does not keep up its time."""
        super().pause_writing()
        self._reader.set()

    def resume_writing(self) -> None:
        """Be content with a reader that took what there was."""
        self._reader.lift()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Hang up on an idle client, also on one that left an answer unread."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _give_up_head(self) -> None:
        """Answer a head that is late; a client that has said nothing at all has asked nothing."""
        if not self._raw_bytes:
            self.transport.close()
            return
        seconds = f"{self._bounds.header_s:g}"
        self._refuse(HeadersTimeoutError(f"The head of the request did not arrive within {seconds} seconds."))

    def _give_up_reader(self) -> None:
        _log.info("reader dropped", after_s=self._bounds.write_s)
        self._note("slow_reader")
        self.transport.abort()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._bounds.header_bytes:
            self._stop(f"The head of a request may have {self._bounds.header_bytes} bytes at most.")

    def _check_raw(self) -> None:
        """Refuse a head or the framing of a body that never comes to an end."""
        bounds = self._bounds
        most = bounds.header_bytes if self._awaits_head else FRAMING * bounds.body_bytes
        if self._raw_bytes > most + PUNCTUATION_BYTES + bounds.headers * 8:
            self._refuse(HeadersTooLargeError(f"The head of a request may have {bounds.header_bytes} bytes at most."))

    def _stop(self, message: str) -> None:
        """Make the parser stop where it is; `data_received` hears of it."""
        self._refusal = HeadersTooLargeError(message)
        raise self._refusal

    def _refuse(self, error: CopyistError) -> None:
        """Answer, unless an answer is under way, and hang up."""
        self._is_refused = True
        self._head.lift()
        if self.transport.is_closing():
            return
        self._note(error.code or error.type)
        _log.info("connection refused", error=error.code or error.type, status=error.status)
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]  # it is None at first
            self.transport.write(_response(error))
        self.transport.close()


def _response(error: CopyistError) -> bytes:
    """Return a whole response, as bytes, that carries an error."""
    headers = {"content-type": "application/json", "content-length": str(len(error.body)), "connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, **error.headers}.items())
    return STATUS_LINE[error.status] + lines.encode("ascii") + b"\r\n" + error.body
