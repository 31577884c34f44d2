"""Several processes that serve on one port, and a supervisor that starts them and replaces those that die.

The first worker is started alone, so that a fault that keeps the service from starting is reported once. The others
start when the first one listens. The supervisor passes stop signals on, and when it is killed its workers end too. It
serves nothing itself and imports neither the engine nor the application, so it stays small and has one thread, which
makes forking safe.
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

from service.server import stop_signals
from service.server.sockets import share
from service.settings import Settings
from service.telemetry import log
from service.telemetry.peers import Peers, Shared

_log = structlog.get_logger(__name__)

# Each process holds its own networks and state rows, so by default a large machine is not filled with them.
MAX_DEFAULT_PROCESSES = 4
RESTART_S = 1.0
CAN_SHARE = hasattr(os, "memfd_create") and hasattr(socket, "SO_REUSEPORT")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_fork: Any = multiprocessing.get_context("fork") if CAN_SHARE else None


def num_cores() -> int:
    """Return how many cores this process may use; a container's share of them is rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = map(int, _QUOTA.read_text("ascii").split())  # without a quota it says "max", which is no number
        cores = min(cores, ceil(quota / period))
    return max(1, cores)


def num_processes(settings: Settings) -> int:
    """Return how many processes serve: the number set, or one for each core and at most four."""
    return settings.processes or (min(num_cores(), MAX_DEFAULT_PROCESSES) if CAN_SHARE else 1)


@dataclass(frozen=True, eq=False)
class Worker:
    """A process that serves.

    Attributes:
        number: its number, from 0.
        process: the process itself.
        pipe: our end of a pipe, at which one message comes when the worker listens.
    """

    number: int
    process: Any
    pipe: Connection


class Supervisor:
    """Runs the workers of a service.

    Args:
        settings: service settings.
        count: number of workers.
        port: a socket that keeps the port.
    """

    def __init__(self, settings: Settings, count: int, port: socket.socket) -> None:
        self._settings = settings
        self._count = count
        self._port: int = port.getsockname()[1]
        self._shared = Shared.make(count)
        self._workers: dict[int, Worker] = {}
        self._listening: set[int] = set()
        self._restart_at: dict[int, float] = {}
        self._exit_code: int | None = None  # set when the service stops

    def run(self) -> int:
        """Start the workers and stay until all have ended; return the service's exit code."""
        # The interpreter writes a byte into this pair of sockets for each signal that has a handler, so that `wait`
        # wakes up and no signal is lost, whatever the supervisor is doing when it comes.
        woken, waker = socket.socketpair()
        with closing(self._shared), woken, waker:
            woken.setblocking(False)
            waker.setblocking(False)
            signal.set_wakeup_fd(waker.fileno())
            stop_signals.handle_by(lambda *_: None)
            self._start(0)
            self._watch(woken)
            signal.set_wakeup_fd(-1)
        return self._exit_code or 0

    def _watch(self, woken: socket.socket) -> None:
        """React to signals and to workers, until no worker is left and none is to be started."""
        while self._workers or self._restart_at:
            starting = {
                worker.pipe: worker for worker in self._workers.values() if worker.number not in self._listening
            }
            sentinels = {worker.process.sentinel: worker for worker in self._workers.values()}
            timeout_s = max(0.0, min(self._restart_at.values()) - time.monotonic()) if self._restart_at else None
            ready = wait([woken, *starting, *sentinels], timeout_s)
            # Signals first, also those that came since: a worker that ends after one has not failed.
            with suppress(BlockingIOError):
                for _ in woken.recv(64):
                    self._pass_on_stop()
            for worker in [starting[pipe] for pipe in starting if pipe in ready]:
                self._on_listening(worker)
            for worker in [sentinels[sentinel] for sentinel in sentinels if sentinel in ready]:
                self._on_ended(worker)
            for number in [number for number, at in self._restart_at.items() if at <= time.monotonic()]:
                self._start(number)

    def _start(self, number: int) -> None:
        """Fork a worker. A signal that comes meanwhile waits until the worker is one of ours, and is then passed on."""
        self._restart_at.pop(number, None)
        ours, theirs = _fork.Pipe()
        inherited = [ours, *(worker.pipe for worker in self._workers.values())]
        process = _fork.Process(
            target=_run_worker, args=(self._settings, Peers(self._shared, number), self._port, theirs, inherited)
        )
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals.STOP_SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        self._workers[number] = Worker(number, process, ours)

    def _on_listening(self, worker: Worker) -> None:
        """Note that a worker listens; when it is the first one, let the others start."""
        with suppress(EOFError):
            worker.pipe.recv()
            is_first = not self._listening
            self._listening.add(worker.number)
            if is_first and self._exit_code is None:
                for number in range(self._count):
                    if number not in self._workers:
                        self._restart_at.setdefault(number, 0.0)
            if len(self._listening) == self._count:
                _log.info("all processes listen", processes=self._count)

    def _on_ended(self, worker: Worker) -> None:
        """Note that a worker has ended; replace it, unless the service is stopping or has never started."""
        worker.process.join()
        worker.pipe.close()
        code: int = worker.process.exitcode
        del self._workers[worker.number]
        if self._exit_code is not None:
            return
        if not self._listening:
            self._stop(code if code > 0 else 1)
            return
        self._listening.discard(worker.number)
        _log.error("a process ended and is replaced", process=worker.number, exit_code=code)
        self._restart_at[worker.number] = time.monotonic() + RESTART_S

    def _pass_on_stop(self) -> None:
        """Send SIGTERM to every worker, whichever stop signal came."""
        self._stop(0)
        for worker in self._workers.values():
            os.kill(worker.process.pid, signal.SIGTERM)

    def _stop(self, exit_code: int) -> None:
        """Replace no worker from now on, and end with this exit code; the first call decides."""
        if self._exit_code is None:
            self._exit_code = exit_code
        self._restart_at.clear()


def _run_worker(
    settings: Settings, peers: Peers, port: int, supervisor: Connection, inherited: list[Connection]
) -> None:
    """Serve, as a worker, and end the process."""
    for pipe in inherited:  # otherwise the supervisor's end would stay open after its death
        pipe.close()
    signal.set_wakeup_fd(-1)
    # Ctrl-C reaches every process of a group, and the supervisor passes it on: a worker that saw both would take them
    # for two signals. So the worker leaves the group, and drops a Ctrl-C that came before it could leave.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop_signals.exit_at_once()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals.STOP_SIGNALS)
    log.configure(settings, process=peers.number)
    from service.server.uvicorn_server import serve

    with share(settings.host, port) as own:
        code = serve(settings, peers, own, supervisor)
    stop_signals.ignore()
    raise SystemExit(code)
