"""The service inside this process, for commands without --url: the same application behind a private socket.

It is the whole service (uvicorn, HTTP, the engine's thread), so a command gets the same bytes as from another server,
and as they are written. httpx's own ASGI transport returns nothing before the end of a reply, so it cannot do this. The
socket lies in a folder that only this user can open, and both are removed afterwards.
"""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from service.cli.problems import UnreachableError, UsageError
from service.registry.loading import LoadingError
from service.server.app import create_app
from service.settings import Settings
from service.telemetry import log

GRACE_S = 1


@contextmanager
def service_inside() -> Iterator[httpx.HTTPTransport]:
    """Run the service with the settings of this environment during the block; yield a transport to it.

    Raises:
        UsageError: a setting is out of range.
        UnreachableError: the service cannot start.
    """
    settings = _settings()
    log.configure(settings)
    try:
        app = create_app(settings)
    except LoadingError as error:
        raise UnreachableError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="copyist-") as folder:
        path = str(Path(folder) / "socket")
        server = _Server(app, path)
        server.begin()
        try:
            with httpx.HTTPTransport(uds=path) as transport:
                yield transport
        finally:
            server.end()


def _settings() -> Settings:
    """The settings of the environment, without keys and rates, as no other client can connect, and with few logs."""
    try:
        return Settings(log_level="error", api_keys=None, api_keys_file=None, rate_limit=None)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(f"COPYIST_{str(problem['loc'][0]).upper()}: {problem['msg']}.") from None


class _Server(uvicorn.Server):
    """uvicorn in a thread of its own, from `begin` to `end`."""

    def __init__(self, app: FastAPI, path: str) -> None:
        config = uvicorn.Config(
            app,
            uds=path,
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
        )
        super().__init__(config)
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)

    def begin(self) -> None:
        """Start the server and return when it listens."""
        self._thread.start()
        self._is_up.wait()
        if not self.started:
            raise UnreachableError("The service cannot start in this process.")

    def end(self) -> None:
        """Stop the server and wait for its end; its one client has left, so no request is open."""
        self.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        try:
            self.run()
        finally:
            self._is_up.set()

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, then say so."""
        await super().startup(sockets)  # type: ignore[arg-type]
        self._is_up.set()
