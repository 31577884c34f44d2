"""What the processes of one service share, so that its clients meet one service: a secret, counts, word of each other.

All of it is made by the parent, before there are children, and inherited by them. So it outlives each of them, and no
other program can put itself in the place of one that is being replaced.
"""

import asyncio
import os
import pickle
import secrets
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

PATIENCE_S = 1.0
_CREDENTIALS = struct.Struct("3i")


class Silence:
    """What a process that should have answered is said to have answered."""


@dataclass(frozen=True)
class Shared:
    """What the parent makes.

    Attributes:
        secret: that seals tokens, unless the operator has secrets.
        tally: file descriptor of the memory in which rates are counted.
        doors: a local socket of each process, at which the others ask. It listens once its process does.
    """

    secret: str
    tally: int
    doors: tuple[socket.socket, ...]

    @classmethod
    def make(cls, count: int) -> Self:
        """Make what so many processes share."""
        doors = tuple(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(count))
        for door in doors:
            door.bind("")  # Linux finds a name for it, which lies in no folder
        return cls(_secret(), os.memfd_create("copyist rates"), doors)

    def close(self) -> None:
        """Part from all of it."""
        os.close(self.tally)
        for door in self.doors:
            door.close()


class Peers:
    """The other processes of a service, as one of them meets them.

    Args:
        shared: of them all; None for one that is alone.
        number: of this one.

    Attributes:
        secret: that seals tokens, unless the operator has secrets.
        tally: file descriptor of memory to count rates in, None for one that is alone.
        number: of this one.
    """

    def __init__(self, shared: Shared | None = None, number: int = 0) -> None:
        self.secret = shared.secret if shared else _secret()
        self.tally = shared.tally if shared else None
        self.number = number
        self._doors = shared.doors if shared else ()
        self._answers: Mapping[str, Callable[[], Any]] = {}
        self._door: asyncio.Server | None = None

    @property
    def are_any(self) -> bool:
        """Whether there are others."""
        return bool(self._doors)

    async def answer(self, answers: Mapping[str, Callable[[], Any]]) -> None:
        """Tell the others what they ask for from now on, by its name."""
        if self._doors:
            self._answers = answers
            self._door = await asyncio.start_unix_server(self._tell, sock=self._doors[self.number].dup())

    async def ask(self, what: str) -> dict[int, Any]:
        """Return what each of the others says, by its number; a Silence for one that says nothing in time.

        One that has not come up yet is left out.
        """
        found: dict[int, Any] = {}

        async def ask(number: int) -> None:
            with suppress(ConnectionRefusedError):
                found[number] = await self._ask(number, what)

        await asyncio.gather(*(ask(number) for number in range(len(self._doors)) if number != self.number))
        return found

    def close(self) -> None:
        """Answer no more."""
        if self._door:
            self._door.close()

    async def _ask(self, number: int, what: str) -> Any:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await _asked(self._doors[number].getsockname(), what)
        except (TimeoutError, EOFError, ConnectionResetError, BrokenPipeError, pickle.UnpicklingError):
            return Silence()

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question, if it is asked by a process of the same user."""
        try:
            if _user(writer.get_extra_info("socket")) == os.getuid():
                what = (await reader.readline()).decode("ascii").strip()
                writer.write(pickle.dumps(self._answers[what]()))
                await writer.drain()
        finally:
            writer.close()


def _secret() -> str:
    return secrets.token_hex(32)


async def _asked(door: bytes, what: str) -> Any:
    """Ask at a door, which only the parent of us all can have made."""
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    caller.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(caller, door)
        reader, writer = await asyncio.open_unix_connection(sock=caller)
    except BaseException:
        caller.close()
        raise
    try:
        writer.write(what.encode("ascii") + b"\n")
        return pickle.loads(await reader.read())  # noqa: S301 - from a process of our own
    finally:
        writer.close()


def _user(connection: socket.socket) -> int:
    """Who is at the other end, by the system's word."""
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(user)
