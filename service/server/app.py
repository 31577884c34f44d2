"""Puts the service together: settings in, an ASGI application out. Nothing is read or started at import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
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
from service.api.routes import completions, handwriting, health, models, segment, streams, tokenizer
from service.engine.loop import Engine, FlushPolicy
from service.handwriting.copybook import writer as copybook
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
_PROBES = ("/healthz", "/readyz")
_MAY_SEND = ("authorization", "content-type", "last-event-id", "x-request-id")
_MAY_READ = ("x-request-id", "x-seed", "retry-after", "x-should-retry", "ratelimit", "ratelimit-policy")


def create_app(settings: Settings, siblings: Peers | None = None) -> FastAPI:
    """Return the application, its bundles opened; the engine runs from its start-up to its shutdown.

    Args:
        settings: of the operator.
        siblings: the other processes of the service; without them, there are none.

    Raises:
        LoadingError: there is no sound bundle to serve.
    """
    siblings = siblings or Peers()
    registry = ModelRegistry.open(settings.bundles, settings.rows, copybook.NAME, kernel=settings.kernel)
    policy = FlushPolicy(settings.flush_chars, settings.flush_ms / 1000)
    engine = Engine(registry.executors, policy, settings.queue, settings.stall_s)
    rates = RateLimits(settings, siblings.tally)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        """Run the engine while the application runs."""
        engine.start()
        await siblings.answer({"families": metrics.families, "unready_reason": lambda: engine.unready_reason})
        try:
            yield
        finally:
            engine.stop()
            siblings.close()
            await rates.close()
            if stop_tracing:
                await to_thread.run_sync(stop_tracing)

    # FastAPI's own documentation pages load scripts from elsewhere; the description itself does not.
    app = FastAPI(
        title="Copyist",
        version=VERSION,
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=tracing.OFF,
    )
    app.state.service = service = Service(settings, registry, engine, rates, siblings)
    for router in _ROUTERS:
        app.include_router(router)
    pages, metrics = Pages(), Metrics(registry, engine, service.sealer, siblings)
    for path in pages.paths:
        app.add_route(path, pages.serve, include_in_schema=False)
    app.state.metrics = metrics
    app.add_api_route(METRICS, metrics.scrape, response_class=PlainTextResponse, summary="What Prometheus is told")
    error_handlers.install(app)
    # The last is the first to see a request.
    keys, open_paths = service.keys, (*_PROBES, *pages.paths)
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, Route)]
    bodies = [route.path for route in routes if "POST" in (route.methods or ())]
    app.add_middleware(BodyLimit, paths=bodies, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
    if settings.rate_limit:
        app.add_middleware(RateHeaders)
    app.add_middleware(Guard, keys=keys, open_paths=open_paths)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=_MAY_SEND,
            expose_headers=_MAY_READ,
        )
    stop_tracing = tracing.install(app, settings.otlp_url) if settings.otlp_url else None
    app.add_middleware(RequestLog, note=metrics.answered)

    def openapi() -> dict[str, object]:
        """Describe once, then remember."""
        if app.openapi_schema is None:
            app.openapi_schema = describe(app, settings, registry)
            if keys:
                describe_keys(app.openapi_schema, open_paths)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app
