"""Tracing: one span per request, part of the caller's trace, sent to a collector by OpenTelemetry's protocol (OTLP).

A span says what the request's log line says and nothing else: no body, no header, and only the route instead of the
path, because a path can hold a token. FastAPI's own spans contain the path, so they stay off. Attributes have
OpenTelemetry's names where there is one. Needs the extra `otel`, which is imported only if tracing is configured.
"""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, get_contextvars

from service.registry.fingerprint import VERSION

OFF: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}  # FastAPI's own telemetry
EXPORT_TIMEOUT_S = 2  # short, so that an unreachable collector does not keep the service from stopping
_QUIET_PATHS = ("/healthz", "/readyz", "/metrics")
_FACTS = {
    "request_id": "copyist.request_id",
    "key": "enduser.id",
    "model": "gen_ai.request.model",
    "steps": "copyist.steps",
    "queue_ms": "copyist.queue_ms",
    "first_ms": "copyist.first_ms",
    "finish_reason": "copyist.finish_reason",
    "error": "error.type",
}


def install(app: FastAPI, url: str) -> Callable[[], None]:
    """Make an application send spans; return a function that sends the last ones and stops.

    Args:
        app: the application, which gets the middleware.
        url: where spans are sent by HTTP, such as http://collector:4318/v1/traces.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.name": "copyist", "service.version": VERSION}
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S)))
    app.add_middleware(Spans, tracer=provider.get_tracer("copyist", VERSION))
    return provider.shutdown


class Spans:
    """ASGI middleware that makes a span of each request, except those of probes and scrapers.

    The id of the trace is added to the request's log line.

    Args:
        app: the application that it wraps.
        tracer: a tracer of OpenTelemetry.
    """

    def __init__(self, app: ASGIApp, tracer: Any) -> None:
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._app = app
        self._tracer = tracer
        self._kind = SpanKind.SERVER
        self._failed = StatusCode.ERROR
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and describe it in a span once it is answered."""
        if scope["type"] != "http" or scope["path"] in _QUIET_PATHS:
            await self._app(scope, receive, send)
            return
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        caller = self._propagator.extract(headers)
        # An exception's message may hold what a client sent. It goes to the log and not into a span.
        quiet = {"record_exception": False, "set_status_on_exception": False}
        with self._tracer.start_as_current_span(scope["method"], caller, self._kind, **quiet) as span:
            bind_contextvars(trace_id=f"{span.get_span_context().trace_id:032x}")
            try:
                await self._app(scope, receive, noting)
            except Exception:
                status = status or 500
                raise
            finally:
                self._describe(span, scope, status)

    def _describe(self, span: Any, scope: Scope, status: int) -> None:
        """Set the attributes of a span to the facts of the request's log line."""
        facts, route = get_contextvars(), getattr(scope.get("route"), "path", None)
        span.set_attribute("http.request.method", scope["method"])
        if status:
            span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(self._failed)
        if route:
            span.update_name(f"{scope['method']} {route}")
            span.set_attribute("http.route", route)
        for fact, name in _FACTS.items():
            if facts.get(fact) is not None:
                span.set_attribute(name, facts[fact])
