"""Puts the service together: settings in, an ASGI application out. Nothing is read or started at import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service.access.auth import Guard
from service.access.body_limit import BodyLimit
from service.access.rate_limits import RateHeaders, RateLimits
from service.api import error_handlers
from service.api.deps import Service
from service.api.openapi import ABOUT, describe, describe_keys
from service.api.responses.styles import StyleSamples
from service.api.routes import completions, handwriting, health, models, segment, streams, tokenizer
from service.engine.loop import Engine, FlushPolicy
from service.handwriting.copybook import writer as copybook
from service.handwriting.priming import PrimedStates
from service.registry.fingerprint import VERSION
from service.registry.registry import ModelRegistry
from service.settings import Settings
from service.telemetry import tracing
from service.telemetry.log import RequestLog
from service.telemetry.metrics import PATH as METRICS
from service.telemetry.metrics import Metrics
from service.telemetry.peers import Peers
from service.web.pages import Pages

_ROUTERS = tuple(each.router for each in (completions, tokenizer, models, health, segment, handwriting, streams))
_OPEN_PATHS = ("/healthz", "/readyz", *Pages.paths)  # without a key
_MAY_SEND = ("authorization", "content-type", "last-event-id", "x-request-id")
_MAY_READ = ("x-request-id", "x-seed", "retry-after", "x-should-retry", "ratelimit", "ratelimit-policy")
_DRAWING_THREADS = 2  # that the copybook writes on: the engine's thread must not wait for the interpreter


def create_app(settings: Settings, peers: Peers | None = None) -> FastAPI:
    """Return the application, its bundles opened; the engine runs from its start-up to its shutdown.

    Args:
        settings: the service's settings.
        peers: the other processes of the service, if there are any.

    Raises:
        LoadingError: there is no sound bundle to serve.
    """
    service = _open_service(settings, peers or Peers())
    app = _Application(service)
    for router in _ROUTERS:
        app.include_router(router)
    pages = Pages()
    for path in pages.paths:
        app.add_route(path, pages.serve, include_in_schema=False)
    app.add_api_route(METRICS, app.metrics.scrape, response_class=PlainTextResponse, summary="Metrics for Prometheus")
    error_handlers.install(app)
    _add_middleware(app, service)
    return app


class _Application(FastAPI):
    """FastAPI with the engine's life as its own, and with our OpenAPI description.

    Args:
        service: the parts that endpoints use.

    Attributes:
        metrics: of the service.
        state.service, state.metrics: the same for endpoints and for the server.
    """

    def __init__(self, service: Service) -> None:
        # FastAPI's own documentation pages load scripts from elsewhere; the description itself does not.
        super().__init__(
            title="Copyist",
            version=VERSION,
            description=ABOUT,
            lifespan=_run_engine,
            docs_url=None,
            redoc_url=None,
            telemetry=tracing.OFF,
        )
        self.metrics = Metrics(service.registry, service.engine, service.sealer, service.peers)
        self.state.service = service
        self.state.metrics = self.metrics
        self.state.stop_tracing = None

    def openapi(self) -> dict[str, object]:
        """Return the OpenAPI description; it is made once."""
        if self.openapi_schema is None:
            service: Service = self.state.service
            self.openapi_schema = describe(self, service.settings, service.registry)
            if service.keys:
                describe_keys(self.openapi_schema, _OPEN_PATHS)
        return self.openapi_schema


def _open_service(settings: Settings, peers: Peers) -> Service:
    """Open the bundles and make all that endpoints use."""
    registry = ModelRegistry.open(settings.bundles, settings.rows, copybook.NAME, kernel=settings.kernel)
    policy = FlushPolicy(settings.flush_chars, settings.flush_ms / 1000)
    engine = Engine(registry.executors, policy, settings.queue, settings.stall_s)
    primed = PrimedStates()
    return Service(
        settings,
        registry,
        engine,
        rates=RateLimits(settings.rate_limit, settings.rate_store.get_secret_value(), peers.tally),
        peers=peers,
        primed=primed,
        samples=StyleSamples(registry, engine, primed),
        drawing=CapacityLimiter(_DRAWING_THREADS),
    )


@asynccontextmanager
async def _run_engine(app: FastAPI) -> AsyncIterator[None]:
    """Run the engine while the application runs."""
    service: Service = app.state.service
    engine, metrics = service.engine, app.state.metrics
    engine.start()
    await service.peers.answer({"families": metrics.families, health.UNREADY_REASON: lambda: engine.unready_reason})
    try:
        yield
    finally:
        engine.stop()
        service.peers.close()
        await service.rates.close()
        if app.state.stop_tracing:
            await to_thread.run_sync(app.state.stop_tracing)


def _add_middleware(app: FastAPI, service: Service) -> None:
    """Add what stands between server and endpoints; the last that is added is the first to see a request."""
    settings = service.settings
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, Route)]
    bodies = [route.path for route in routes if "POST" in (route.methods or ())]
    app.add_middleware(BodyLimit, paths=bodies, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
    if settings.rate_limit:
        app.add_middleware(RateHeaders)
    app.add_middleware(Guard, keys=service.keys, open_paths=_OPEN_PATHS)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=_MAY_SEND,
            expose_headers=_MAY_READ,
        )
    if settings.otlp_url:
        app.state.stop_tracing = tracing.install(app, settings.otlp_url)
    app.add_middleware(RequestLog, note=app.state.metrics.answered)
