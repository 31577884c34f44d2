"""The log: one line per request, with everything about it except its content; console on a terminal, else JSON."""

import logging
import re
import secrets
import sys
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING, Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars, merge_contextvars
from structlog.typing import EventDict

from service.settings import Settings

if TYPE_CHECKING:  # the supervisor logs too, and has no use for the engine and NumPy
    from service.engine.sequences.base import End

_log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_QUIET_ROUTES = ("/healthz", "/readyz", "/metrics")


def configure(settings: Settings, **facts: Any) -> None:
    """Send our log and the libraries' logs to standard error in one format.

    Args:
        settings: say format and level.
        facts: fields that are added to every line.
    """

    def add_facts(_logger: Any, _method: str, entry: EventDict) -> EventDict:
        entry.update(facts)
        return entry

    is_console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        merge_contextvars,
        add_facts,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Plain tracebacks, because richer ones print local variables, and with them what clients sent.
    render: list[Any] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if is_console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    level = logging.getLevelName(settings.log_level.upper())
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # It writes a line and its newline in one call, so that the lines of several processes do not mix.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render]
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


class RequestLog:
    """ASGI middleware that gives each request an id, times it and logs it in one line.

    A client's own X-Request-Id is kept if it is 1 to 64 plain characters. Every response carries the id.

    Args:
        app: the application that it wraps.
        note: called with method, route, status, seconds and error code of each request, for the metrics.
    """

    def __init__(self, app: ASGIApp, note: Callable[[str, str | None, int, float, str | None], None]) -> None:
        self._app = app
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and log it when it ends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        status = 0
        scope.setdefault("state", {})["request_id"] = request_id
        clear_contextvars()
        bind_contextvars(request_id=request_id)

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            status = status or 500  # the error handler around this middleware answers with it
            raise
        finally:
            route = getattr(scope.get("route"), "path", None)
            level = logging.DEBUG if route in _QUIET_ROUTES else logging.INFO
            took_s = time.perf_counter() - began
            self._note(scope["method"], route, status, took_s, get_contextvars().get("error"))
            total_ms = round(1000 * took_s, 2)
            _log.log(level, "request", method=scope["method"], route=route, status=status, total_ms=total_ms)


def _request_id(scope: Scope) -> str:
    """Return the client's id of a request if it is a plain one, else a new id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return secrets.token_hex(12)


def log_ends(ends: "Seq[End]") -> None:
    """Add to the request's log line the steps of all its choices, and reason and times of the last one."""
    times = ends[-1].times
    bind_contextvars(
        finish_reason=ends[-1].reason,
        steps=sum(len(end.trace) for end in ends),
        queue_ms=_between_ms(times.submitted, times.admitted),
        first_ms=_between_ms(times.submitted, times.first),
    )


def _between_ms(earlier: float | None, later: float | None) -> float | None:
    """Return the milliseconds between two times in seconds, or None if one is missing."""
    return None if earlier is None or later is None else round(1000 * (later - earlier), 2)
