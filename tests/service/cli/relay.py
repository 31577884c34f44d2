"""A way to a server that breaks: every connection is cut after so many bytes of what the server says."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.programs import PATIENCE_S


@dataclass
class Relay:
    """Where it listens, and how often it cut."""

    url: str
    cuts: list[int] = field(default_factory=list)


@contextmanager
def breaking(url: str, max_bytes: int) -> Iterator[Relay]:
    """Relay connections to a server for as long as the block, none of them for longer than its bytes last.

    Args:
        url: of the server.
        max_bytes: what a connection hands on before it is cut.
    """
    place = (str(urlsplit(url).hostname), int(urlsplit(url).port or 80))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = Relay(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=_accept, args=(listener, place, max_bytes, relay))
        thread.start()
        try:
            yield relay
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_S)


def _accept(listener: socket.socket, place: tuple[str, int], max_bytes: int, relay: Relay) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with closing(client), socket.create_connection(place, PATIENCE_S) as server:
            up = threading.Thread(target=_carry, args=(client, server, 2**30))
            up.start()
            if _carry(server, client, max_bytes):
                relay.cuts.append(max_bytes)
            for end in (client, server):
                _shut(end)
            up.join(PATIENCE_S)


def _carry(source: socket.socket, sink: socket.socket, max_bytes: int) -> bool:
    """Hand on bytes until there are no more, or no more may pass; tell whether it was the latter."""
    left = max_bytes
    try:
        while piece := source.recv(min(left, 65_536)):
            sink.sendall(piece)
            left -= len(piece)
            if not left:
                return True
    except OSError:
        pass
    return False


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
