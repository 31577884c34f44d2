"""python -m service [--host HOST] [--port PORT]: run the service until a signal ends it.

Everything else is set by environment variables named COPYIST_..., see settings.py. On SIGTERM or SIGINT the service
becomes unready at once, takes nothing new, lets running requests finish for COPYIST_DRAIN_S seconds, ends what is left
with an error event and exits with code 0. A second signal does not wait for the time to pass.
"""

import argparse
import asyncio
import math
import signal
import socket
import sys
from types import FrameType
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from service import log
from service.app import create_app
from service.catalogue import CatalogueError
from service.connections import bounded
from service.settings import Settings

_log = structlog.get_logger(__name__)

SWITCH_INTERVAL_S = 5e-4
GRACE_S = 2


class Server(uvicorn.Server):
    """uvicorn, with our way of stopping."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
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
        self._engine, self._drain_s = app.state.service.engine, settings.drain_s
        self._is_hurried = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open bundles, then listen, and say where."""
        await super().startup(sockets)
        for server in getattr(self, "servers", ()):
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                _log.info("listening", host=host, port=port)

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


def main(arguments: list[str] | None = None) -> int:
    """Run the service and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m service", description="Serve the bundles of Copyist over HTTP.")
    parser.add_argument("--host", help="address to listen on (COPYIST_HOST, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for a free one (COPYIST_PORT, else 8000)")
    given: dict[str, Any] = {
        key: value for key, value in vars(parser.parse_args(arguments)).items() if value is not None
    }
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for problem in error.errors():
            print(f"COPYIST_{str(problem['loc'][0]).upper()}: {problem['msg']}", file=sys.stderr)
        return 2
    log.configure(settings)
    # The engine's thread shares the interpreter with asyncio: a shorter turn keeps first characters quick.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # uvicorn raises the signal again once it has stopped; by then it has done its work.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        sockets = [_shared_port(settings)] if settings.share_port else None
    except OSError as error:
        print(f"COPYIST_SHARE_PORT: {settings.host}:{settings.port} cannot be shared: {error}", file=sys.stderr)
        return 1
    try:
        app = create_app(settings)
    except CatalogueError as error:
        print(error, file=sys.stderr)
        return 1
    server = Server(app, settings)
    try:
        server.run(sockets)
    except KeyboardInterrupt:
        return 0
    finally:
        app.state.service.engine.stop()  # after a second signal nobody else has
    return 0 if server.started else 1


def _shared_port(settings: Settings) -> socket.socket:
    """A socket that further processes may listen beside.

    Raises:
        OSError: the system cannot, or somebody has the port who does not share it.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise OSError("this system lets no two processes listen on one port")
    ((family, kind, proto, _, address), *_) = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    shared = socket.socket(family, kind, proto)
    try:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(address)
    except OSError:
        shared.close()
        raise
    return shared


if __name__ == "__main__":
    sys.exit(main())
