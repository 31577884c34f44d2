"""One process that serves: uvicorn around the application, with our way of stopping."""

import asyncio
import math
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from service.registry.loading import LoadingError
from service.server import stop_signals
from service.server.app import create_app
from service.server.connections import bounded
from service.settings import Settings
from service.telemetry.peers import Peers

_log = structlog.get_logger(__name__)

SWITCH_INTERVAL_S = 5e-4
GRACE_S = 2


class Server(uvicorn.Server):
    """uvicorn, with our way of stopping.

    Args:
        app: to serve.
        settings: service settings.
        supervisor: pipe to the supervisor of this process, if it has one. It is sent a message when this process
            listens, and when its other end is closed, because the supervisor has died, this process ends.
    """

    def __init__(self, app: FastAPI, settings: Settings, supervisor: Connection | None = None) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=bounded(settings, app.state.metrics.refused),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]  # a timer of asyncio takes it as it is
            timeout_graceful_shutdown=math.ceil(settings.drain_s) + GRACE_S,
        )
        super().__init__(config)
        self._engine = app.state.service.engine
        self._drain_s = settings.drain_s
        self._supervisor = supervisor
        self._is_hurried = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers as `serve` has set them.

        uvicorn would set its own here, put the former ones back at the end and raise the signal once more for them.
        """
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the engine, listen, and log the address; do neither if a signal has come already."""
        if self.should_exit:
            return
        await super().startup(sockets)
        for server in getattr(self, "servers", ()):
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                _log.info("listening", host=host, port=port)
        if self._supervisor and self.started:
            asyncio.get_running_loop().add_reader(self._supervisor.fileno(), self._on_supervisor_gone)
            with suppress(BrokenPipeError):  # it has just died, which the reader above notices
                self._supervisor.send(None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler takes both
        """Stop on the first signal, end what still runs on the second, and drop everything on the third."""
        if not self.should_exit:
            self.should_exit = True
        elif not self._is_hurried:
            self._is_hurried = True
            self._engine.end_all()
        else:
            self.force_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new, let what runs finish, and end what is left when the time for draining is over."""
        self._engine.drain()
        _log.info("draining", open=self._engine.num_open)
        asyncio.get_running_loop().call_later(self._drain_s, self._engine.end_all)
        await super().shutdown(sockets)

    def _on_supervisor_gone(self) -> None:
        """Stop at once. The supervisor sends nothing, so its pipe is readable only when it has died."""
        asyncio.get_running_loop().remove_reader(self._supervisor.fileno())  # type: ignore[union-attr]
        self.should_exit = True
        self._is_hurried = True
        self._engine.end_all()


def serve(
    settings: Settings,
    peers: Peers | None = None,
    port: socket.socket | None = None,
    supervisor: Connection | None = None,
) -> int:
    """Serve until a signal stops it, and return the process's exit code.

    Until the bundles are opened, stop signals are left to the handlers that the caller has set. From then on they stop
    the server.

    Args:
        settings: service settings.
        peers: the other processes of the service, if there are any.
        port: socket to listen on, where several processes share the port.
        supervisor: as `Server` has it.
    """
    # The engine's thread shares the interpreter with asyncio: a shorter turn keeps first characters quick.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        app = create_app(settings, peers)
    except LoadingError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    server = Server(app, settings, supervisor)
    stop_signals.handle_by(server.handle_exit)
    try:
        server.run([port] if port else None)
    finally:
        app.state.service.engine.stop()  # a third signal makes uvicorn leave it running
    return 0 if server.started or server.should_exit else 1
