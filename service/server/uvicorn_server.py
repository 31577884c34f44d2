"""One process that serves: uvicorn around the application, with our way of stopping."""

import asyncio
import math
import signal
import socket
import sys
from multiprocessing.connection import Connection
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from service.registry.loading import LoadingError
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
        settings: of the operator.
        parent: of this process, if it has one: is told when we listen, and when it is gone, we end.
    """

    def __init__(self, app: FastAPI, settings: Settings, parent: Connection | None = None) -> None:
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
        self._engine, self._drain_s, self._parent = app.state.service.engine, settings.drain_s, parent
        self._is_hurried = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open bundles, then listen, and say where."""
        await super().startup(sockets)
        for server in getattr(self, "servers", ()):
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                _log.info("listening", host=host, port=port)
        if self._parent and self.started:
            asyncio.get_running_loop().add_reader(self._parent.fileno(), self._end)
            self._parent.send(None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop on the first signal, end what still runs on the second, and drop everything on the third."""
        if self.should_exit and not self._is_hurried:
            self._is_hurried = True
            self._engine.end_all()
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain: nothing new, and an end to everything after a while."""
        self._engine.drain()
        _log.info("draining", open=self._engine.num_open)
        asyncio.get_running_loop().call_later(self._drain_s, self._engine.end_all)
        await super().shutdown(sockets)

    def _end(self) -> None:
        """Stop at once: the parent says nothing, so it can only be gone."""
        asyncio.get_running_loop().remove_reader(self._parent.fileno())  # type: ignore[union-attr]
        self.should_exit = self._is_hurried = True
        self._engine.end_all()


def serve(
    settings: Settings,
    siblings: Peers | None = None,
    port: socket.socket | None = None,
    parent: Connection | None = None,
) -> int:
    """Serve until a signal ends it, and return the process's exit code; SIGINT comes out as KeyboardInterrupt.

    Args:
        settings: of the operator.
        siblings: the other processes of the service, if there are any.
        port: to listen on, where it is shared with them.
        parent: as `Server` has it.
    """
    # The engine's thread shares the interpreter with asyncio: a shorter turn keeps first characters quick.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        app = create_app(settings, siblings)
    except LoadingError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    server = Server(app, settings, parent)
    # uvicorn raises the signal again once it has stopped; by then it has done its work.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        server.run([port] if port else None)
    finally:
        app.state.service.engine.stop()  # after a second signal nobody else has
    return 0 if server.started else 1
