"""A port that several processes of ours listen on, and nobody else."""

import socket
from typing import Any

# Connections that were closed a moment ago keep nobody from the port, whichever way they came.
_AGAIN = socket.SOL_SOCKET, socket.SO_REUSEADDR, 1


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket that keeps a port for our processes to listen on, and for nobody else.

    Raises:
        OSError: somebody listens there.
    """
    family, kind, proto, _, address = _resolved(host, port)
    with socket.socket(family, kind, proto) as only:  # would share it with nobody, so it finds out who is there
        only.setsockopt(*_AGAIN)
        only.bind(address)
        address = only.getsockname()
    return _bound(family, address)


def share(host: str, port: int) -> socket.socket:
    """Return one more socket on a reserved port; the system deals connections out to those that listen."""
    family, _, _, _, address = _resolved(host, port)
    return _bound(family, address)


def _resolved(host: str, port: int) -> tuple[Any, ...]:
    (first, *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return first


def _bound(family: int, address: Any) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(*_AGAIN)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
