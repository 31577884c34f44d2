"""A process for each core, all on one port: a parent that serves nothing itself starts them and replaces what dies.

The first is started alone, so that what keeps the service from starting is said once, and the others when it listens.
Signals are passed on, and a parent that is killed takes its children along. It imports nothing that steps or
answers, so that it is small and has no threads, which makes forking safe.
"""

import multiprocessing
import os
import signal
import socket
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from math import ceil
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import structlog

from service.server.sockets import share
from service.settings import Settings
from service.telemetry import log
from service.telemetry.peers import Peers, Shared

_log = structlog.get_logger(__name__)

# A process holds networks and rows of its own, so a large machine is not filled unasked.
MOST_UNASKED = 4
RESTART_S = 1.0
STOPPING = (signal.SIGTERM, signal.SIGINT)
CAN_SHARE = hasattr(os, "memfd_create") and hasattr(socket, "SO_REUSEPORT")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_fork: Any = multiprocessing.get_context("fork") if CAN_SHARE else None


def num_cores() -> int:
    """Return how many cores this process may use, a container's share of them rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = map(int, _QUOTA.read_text("ascii").split())  # without one it says "max", which is no number
        cores = min(cores, ceil(quota / period))
    return max(1, cores)


def num_processes(settings: Settings) -> int:
    """Return how many processes serve: as many as are asked for, or one for each core, within reason."""
    return settings.processes or (min(num_cores(), MOST_UNASKED) if CAN_SHARE else 1)


@dataclass(frozen=True, eq=False)
class Worker:
    """A process that serves.

    Attributes:
        number: of it, from 0. process: itself.
        line: at whose other end it is; says once that it listens.
    """

    number: int
    process: Any
    line: Connection


class Supervisor:
    """Runs the processes of a service.

    Args:
        settings: of the operator.
        count: of processes.
        port: a socket that keeps it.
    """

    def __init__(self, settings: Settings, count: int, port: socket.socket) -> None:
        self._settings, self._count = settings, count
        self._port: int = port.getsockname()[1]
        self._shared = Shared.make(count)
        self._children: dict[int, Worker] = {}
        self._listening: set[int] = set()
        self._due: dict[int, float] = {}
        self._exit_code: int | None = None  # set when the service stops

    def run(self) -> int:
        """Start them and stay until all have ended; return the service's exit code."""
        woken, waker = socket.socketpair()
        with closing(self._shared), woken, waker:
            waker.setblocking(False)
            signal.set_wakeup_fd(waker.fileno())
            for stopping in STOPPING:
                signal.signal(stopping, lambda *_: None)
            self._start(0)
            self._watch(woken)
            signal.set_wakeup_fd(-1)
        return self._exit_code or 0

    def _watch(self, woken: socket.socket) -> None:
        """Do what is due, until there is no child and none to come."""
        while self._children or self._due:
            lines = {child.line: child for child in self._children.values() if child.number not in self._listening}
            ends = {child.process.sentinel: child for child in self._children.values()}
            patience = max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None
            ready = wait([woken, *lines, *ends], patience)
            if woken in ready:
                for _ in woken.recv(64):
                    self._pass_on()
            for child in [lines[line] for line in lines if line in ready]:
                self._heard(child)
            for child in [ends[end] for end in ends if end in ready]:
                self._ended(child)
            for number in [number for number, at in self._due.items() if at <= time.monotonic()]:
                self._start(number)

    def _start(self, number: int) -> None:
        """Begin a child; a signal that comes meanwhile reaches it when it is ours to be told."""
        self._due.pop(number, None)
        ours, theirs = _fork.Pipe()
        inherited = [ours, *(child.line for child in self._children.values())]
        process = _fork.Process(
            target=_be, args=(self._settings, Peers(self._shared, number), self._port, theirs, inherited)
        )
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        self._children[number] = Worker(number, process, ours)

    def _heard(self, child: Worker) -> None:
        """Note that a child listens, and let the others begin when the first one does."""
        with suppress(EOFError):
            child.line.recv()
            is_first = not self._listening
            self._listening.add(child.number)
            if is_first and self._exit_code is None:
                for number in range(self._count):
                    if number not in self._children:
                        self._due.setdefault(number, 0.0)
            if len(self._listening) == self._count:
                _log.info("all processes listen", processes=self._count)

    def _ended(self, child: Worker) -> None:
        """Note that a child has ended; replace it, unless the service stops or cannot start."""
        child.process.join()
        child.line.close()
        code: int = child.process.exitcode
        del self._children[child.number]
        if self._exit_code is not None:
            return
        if not self._listening:
            self._stop(code if code > 0 else 1)
            return
        self._listening.discard(child.number)
        _log.error("a process ended and is replaced", process=child.number, exit_code=code)
        self._due[child.number] = time.monotonic() + RESTART_S

    def _pass_on(self) -> None:
        """Pass a signal on to every child, whichever it was."""
        self._stop(0)
        for child in self._children.values():
            os.kill(child.process.pid, signal.SIGTERM)

    def _stop(self, exit_code: int) -> None:
        """Replace nobody from now on."""
        if self._exit_code is None:
            self._exit_code = exit_code
        self._due.clear()


def _be(settings: Settings, siblings: Peers, port: int, parent: Connection, inherited: list[Connection]) -> None:
    """Be a child: serve, and end the process."""
    for line in inherited:  # else the parent's end would stay open when it is gone
        line.close()
    signal.set_wakeup_fd(-1)
    for each in STOPPING:
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, who passes it on: twice would mean to hurry
    log.configure(settings, process=siblings.number)
    from service.server.uvicorn_server import serve

    with share(settings.host, port) as own:
        raise SystemExit(serve(settings, siblings, own, parent))
