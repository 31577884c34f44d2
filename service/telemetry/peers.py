"""What the processes of one service share: a secret, memory for rate counts, and sockets to ask each other questions.

The parent makes all of it before it starts children, and they inherit it. So it outlives each of them, and no other
program can take the place of a process that is being replaced.
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

PATIENCE_S = 1.0  # for an answer of another process
_CREDENTIALS = struct.Struct("3i")


class Silence:
    """Stands for the answer of a process that did not answer in time."""


@dataclass(frozen=True)
class Shared:
    """What the parent makes for its children.

    Attributes:
        secret: seals tokens, unless secrets are configured.
        tally: file descriptor of the memory in which rates are counted.
        doors: a local socket for each process, at which the others ask it; it listens once its process is up.
    """

    secret: str
    tally: int
    doors: tuple[socket.socket, ...]

    @classmethod
    def make(cls, count: int) -> Self:
        """Make what `count` processes share."""
        doors = tuple(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(count))
        for door in doors:
            door.bind("")  # Linux chooses an abstract name, which is in no folder
        return cls(_secret(), os.memfd_create("copyist rates"), doors)

    def close(self) -> None:
        """Close all file descriptors."""
        os.close(self.tally)
        for door in self.doors:
            door.close()


class Peers:
    """The other processes of a service, as one process sees them.

    Args:
        shared: what the parent made for all of them; None for a process without peers.
        number: number of this process.

    Attributes:
        secret: seals tokens, unless secrets are configured.
        tally: file descriptor of the memory in which rates are counted, or None without peers.
        number: number of this process.
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
        """Whether there are other processes."""
        return bool(self._doors)

    async def answer(self, answers: Mapping[str, Callable[[], Any]]) -> None:
        """Answer the other processes from now on.

        Args:
            answers: for each question, by name, what returns the answer; answers are pickled.
        """
        if self._doors:
            self._answers = answers
            self._door = await asyncio.start_unix_server(self._answer_one, sock=self._doors[self.number].dup())

    async def ask(self, what: str) -> dict[int, Any]:
        """Return the answers of the other processes to a question, by their numbers.

        A process that does not answer within PATIENCE_S gives a Silence. One that is not up yet is left out.
        """
        found: dict[int, Any] = {}

        async def ask(number: int) -> None:
            with suppress(ConnectionRefusedError):
                found[number] = await self._ask(number, what)

        await asyncio.gather(*(ask(number) for number in range(len(self._doors)) if number != self.number))
        return found

    def close(self) -> None:
        """Stop answering."""
        if self._door:
            self._door.close()

    async def _ask(self, number: int, what: str) -> Any:
        """Return the answer of one process, or a Silence."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await _asked(self._doors[number].getsockname(), what)
        except (TimeoutError, EOFError, ConnectionResetError, BrokenPipeError, pickle.UnpicklingError):
            return Silence()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
    """Ask a question at a door, which only our parent can have made, and return the answer."""
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
        return pickle.loads(await reader.read())  # noqa: S301 - sent by a process of this service
    finally:
        writer.close()


def _user(connection: socket.socket) -> int:
    """Return the user id of the process at the other end, as the kernel knows it."""
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(user)
