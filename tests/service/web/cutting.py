"""A proxy on loopback that cuts connections, as a bad network does."""

import contextlib
import socket
import struct
import threading
from typing import Self

from tests.programs import PATIENCE_S

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


class CuttingProxy:
    """Passes bytes between browsers and a server until it is told otherwise.

    Args:
        port: of the server on loopback.

    Attributes:
        port: the same; another one is for new connections.
        url: where it listens.
        budgets: after so many bytes from the server, all connections together, the one that brings the next is cut;
            each budget serves for one cut.
        hushes: whether a connection that is cut stays open, and brings nothing from then on, instead of being reset.
        num_cuts: so far.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.budgets: list[int] = []
        self.hushes = False
        self.num_cuts = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening and cut what is open."""
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut what is open."""
        for each in list(self._open):
            self._reset(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
                self._open |= {near, far}
                threading.Thread(target=self._forth, args=(near, far), daemon=True).start()
                threading.Thread(target=self._back, args=(far, near), daemon=True).start()

    def _forth(self, near: socket.socket, far: socket.socket) -> None:
        """From the browser to the server."""
        with contextlib.suppress(OSError):
            while data := near.recv(65_536):
                far.sendall(data)
        self._reset(far)

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        """From the server to the browser, within the budget."""
        with contextlib.suppress(OSError):
            while data := far.recv(65_536):
                allowed, is_cut = self._spend(len(data))
                near.sendall(data[:allowed])
                if is_cut and self.hushes:
                    near.recv(1)  # until the browser leaves
                if is_cut:
                    break
        self._reset(near)
        self._reset(far)

    def _spend(self, size: int) -> tuple[int, bool]:
        """Return how many bytes may pass, and whether the connection is cut after them."""
        with self._lock:
            if not self.budgets:
                return size, False
            if size <= self.budgets[0]:
                self.budgets[0] -= size
                return size, False
            self.num_cuts += 1
            return self.budgets.pop(0), True

    def _reset(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads from it
        connection.close()
        self._open.discard(connection)
