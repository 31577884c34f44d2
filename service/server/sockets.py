"""Sockets for a port on which several processes of one service listen, and no other program."""

import socket
from typing import Any

# Connections closed a moment ago do not keep a new service from its port.
_AGAIN = socket.SOL_SOCKET, socket.SO_REUSEADDR, 1


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket that keeps a port for the processes of this service.

    Raises:
        OSError: another program listens there.
    """
    family, kind, proto, _, address = _resolved(host, port)
    with socket.socket(family, kind, proto) as only:  # without SO_REUSEPORT, so it fails if another listens
        only.setsockopt(*_AGAIN)
        only.bind(address)
        address = only.getsockname()
    return _bound(family, address)


def share(host: str, port: int) -> socket.socket:
    """Return one more socket on a reserved port; the system spreads connections over those that listen."""
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
