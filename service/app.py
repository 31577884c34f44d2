"""Puts the service together: settings in, an ASGI application out. Nothing is read or started at import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service import errors, handwriting, streams
from service.catalogue import VERSION, Catalogue
from service.description import ABOUT, describe
from service.engine.loop import Engine, FlushPolicy
from service.limits import BodyLimit
from service.log import RequestLog
from service.pages import Pages
from service.routes import Service, router
from service.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """Return the application, its bundles opened; the engine runs from its start-up to its shutdown.

    Args:
        settings: of the operator.

    Raises:
        CatalogueError: there is no sound bundle to serve.
    """
    catalogue = Catalogue.open(settings.bundles, settings.rows)
    policy = FlushPolicy(settings.flush_chars, settings.flush_ms / 1000)
    engine = Engine(catalogue.lanes, policy, settings.queue, settings.stall_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        """Run the engine while the application runs."""
        engine.start()
        try:
            yield
        finally:
            engine.stop()

    # FastAPI's own documentation pages load scripts from elsewhere; the description itself does not.
    app = FastAPI(title="Copyist", version=VERSION, description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = Service(settings, catalogue, engine)
    app.include_router(router)
    app.include_router(handwriting.router)
    app.include_router(streams.router)
    pages = Pages()
    for path in pages.paths:
        app.add_route(path, pages.serve, include_in_schema=False)
    errors.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
    app.add_middleware(RequestLog)

    def openapi() -> dict[str, object]:
        """Describe once, then remember."""
        app.openapi_schema = app.openapi_schema or describe(app, settings)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app
