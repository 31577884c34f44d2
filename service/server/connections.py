"""Limits on connections: how many there are, how large and how late a request's head may be, how slow a reader.

uvicorn limits only the time between two requests. Here the head of a request must be complete in time and has a largest
size, a client must read what is sent to it, and the number of connections is limited. A connection that is refused
before there is a request gets the same error object as any other refusal.
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

# Room for colons, spaces and line ends, which the limit of a head does not count.
PUNCTUATION_BYTES = 8192
# Chunked transfer: a body in chunks of one byte needs five more bytes for each.
FRAMING = 8


@dataclass(frozen=True)
class Bounds:
    """The limits of a connection.

    Attributes:
        connections: most open connections.
        header_bytes: most bytes of the target, the names and the values of a head together.
        headers: most headers in a head.
        body_bytes: most bytes of a body; its chunked framing may be `FRAMING` times as much.
        header_s: seconds in which a head must arrive.
        write_s: seconds in which a client must read what waits for it.
    """

    connections: int
    header_bytes: int
    headers: int
    body_bytes: int
    header_s: float
    write_s: float

    @classmethod
    def of(cls, settings: Settings) -> "Bounds":
        """Return the bounds that the settings give."""
        return cls(
            settings.max_connections,
            settings.max_header_bytes,
            settings.max_headers,
            settings.max_body_bytes,
            settings.header_timeout_s,
            settings.write_timeout_s,
        )


def bounded(settings: Settings, note: Callable[[str], None]) -> Any:
    """Return the factory that uvicorn makes its connections with.

    Args:
        settings: service settings.
        note: called with the error's code for every connection that is refused.
    """
    return partial(Connection, bounds=Bounds.of(settings), note=note)


class _Deadline:
    """Calls a function after a while, unless it is lifted before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, after_s: float, then: Callable[[], None]) -> None:
        self._loop = loop
        self._after_s = after_s
        self._then = then
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> None:
        """Start the timer, if it does not run yet."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._after_s, self._then)

    def lift(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Connection(HttpToolsProtocol):
    """One of uvicorn's connections, with limits.

    Args:
        config: of uvicorn.
        server_state: of uvicorn.
        app_state: of the application's lifespan.
        bounds: the limits.
        note: as `bounded` has it.
    """

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
        self._bounds = bounds
        self._note = note
        self._awaits_head = True  # no head is complete yet
        self._is_whole = True  # no request is half read
        self._head_bytes = self._num_headers = self._raw_bytes = 0  # of the request that is being read
        self._answered: Any = None  # the request that is being answered
        self._refusal: CopyistError | None = None
        self._is_refused = False
        self._head = _Deadline(self.loop, bounds.header_s, self._give_up_head)
        self._reader = _Deadline(self.loop, bounds.write_s, self._give_up_reader)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for a head, or refuse one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            self._refuse(ConnectionsError(f"{self._bounds.connections} connections are open, as many as may."))
        else:
            self._head.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, and let the request that is being answered know."""
        self._head.lift()
        self._reader.lift()
        self.pipeline.clear()
        if self._answered is not None:  # uvicorn does so for the last of pipelined requests only
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and refuse what is too much."""
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
        """Count the target towards the size of the head."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, or a trailer of a body, and refuse one too many."""
        self._num_headers += 1
        if self._num_headers > self._bounds.headers:
            self._stop(f"A request may have {self._bounds.headers} headers at most.")
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the time for the head; the body follows."""
        self._awaits_head = False
        self._is_whole = False
        self._raw_bytes = 0
        self._head.lift()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body. `BodyLimit` limits its size, and this class that of the framing around it."""
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
        """Close the connection of a client that still sends a body after its answer."""
        super().on_response_complete()
        if not self._is_whole and not self.pipeline and self.cycle.response_complete:
            self.transport.close()

    def pause_writing(self) -> None:
        """Start the time for a client that does not read fast enough."""
        super().pause_writing()
        self._reader.set()

    def resume_writing(self) -> None:
        """Stop the time: the client has read what waited for it."""
        self._reader.lift()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; where an answer was left unread, drop it."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _give_up_head(self) -> None:
        """Refuse a head that is late; a client that has sent nothing gets no answer."""
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
        """Refuse a head, or the framing of a body, that grows without an end."""
        bounds = self._bounds
        most = bounds.header_bytes if self._awaits_head else FRAMING * bounds.body_bytes
        if self._raw_bytes > most + PUNCTUATION_BYTES + bounds.headers * 8:
            self._refuse(HeadersTooLargeError(f"The head of a request may have {bounds.header_bytes} bytes at most."))

    def _stop(self, message: str) -> None:
        """Stop the parser by an exception, which `data_received` catches."""
        self._refusal = HeadersTooLargeError(message)
        raise self._refusal

    def _refuse(self, error: CopyistError) -> None:
        """Send the error, unless an answer is being sent, and close the connection."""
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
    """Return an HTTP response, as bytes, with an error as its body."""
    headers = {"content-type": "application/json", "content-length": str(len(error.body)), "connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, **error.headers}.items())
    return STATUS_LINE[error.status] + lines.encode("ascii") + b"\r\n" + error.body
