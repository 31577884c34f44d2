"""A client that asks for many streams at once and is never what is slow; a process of its own.

While it loads it does nothing but take bytes and note when they came: one loop over raw sockets. What the bytes say,
how many characters each event told and when the first of a stream came, is worked out after the last of them.

A plan comes as JSON on standard input, see `Plan`, and the findings go as JSON to standard output.
"""

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httptools
import numpy as np
import orjson

ROOT = Path(__file__).parents[1]
PIECE = 2**18
PATIENCE_S = 60.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Plan:
    """What to ask for.

    Attributes:
        url: http://HOST:PORT.
        path: of the endpoint.
        body: of each stream's request; each gets a seed of its own.
        streams: to hold open, all begun at once; when `seconds` are over they are left, as a closed page leaves them.
        seconds: to count for, after `warm_s`; 0 waits until every stream has ended by itself and counts everything.
        warm_s: seconds before the count begins.
        probe: body of a request whose first character is timed, or None for none.
        probes: how many of them at most; when they are done, so is the load.
        probe_gap_s: from one probe's end to the next one's start.
        pids: of the server's processes, whose use of the processor is counted.
        core: to run on; -1 leaves it to the system.
    """

    url: str
    path: str
    body: dict[str, Any]
    streams: int
    seconds: float = 0.0
    warm_s: float = 0.0
    probe: dict[str, Any] | None = None
    probes: int = 0
    probe_gap_s: float = 0.01
    pids: list[int] = field(default_factory=list)
    core: int = -1


@dataclass
class Findings:
    """What came of it; milliseconds unless the name says otherwise.

    Attributes:
        num_items: characters or points, over all streams.
        items_per_s: of them.
        items_per_event: how many an event told on average.
        first_p50, first_p99: from before the connection to the first item, of probes or else of streams.
        gap_p50, gap_p99: between events of one stream.
        num_first: how many first items were timed.
        cpu_us_per_item: of the whole server.
        cpu_main_us_per_item: of its processes' main threads, which are those that talk to clients.
        client_share: of a core that this client used.
        slowest_per_s: items of the stream that got fewest.
    """

    num_items: int = 0
    items_per_s: float = 0.0
    items_per_event: float = 0.0
    first_p50: float | None = None
    first_p99: float | None = None
    gap_p50: float | None = None
    gap_p99: float | None = None
    num_first: int = 0
    cpu_us_per_item: float | None = None
    cpu_main_us_per_item: float | None = None
    client_share: float = 0.0
    slowest_per_s: float = 0.0


class LoadError(Exception):
    """The server did not answer as a stream does; the message shows how it did."""


def run(plan: Plan) -> Findings:
    """Carry out a plan in a process of its own.

    Raises:
        LoadError: a stream was refused or broke.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=json.dumps(asdict(plan)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        raise LoadError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the load client died")
    return Findings(**json.loads(done.stdout))


@dataclass(eq=False)
class _Request:
    """One request on its way: when it began, what came back when, and whether the server hung up."""

    socket: socket.socket
    began: float
    has_ended: bool = False
    came: list[tuple[float, bytes]] = field(default_factory=list)


class _Client:
    """Carries out a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        address = urlsplit(plan.url)
        self._address = (address.hostname or "127.0.0.1", address.port or 80)
        self._selector = selectors.DefaultSelector()
        self._running: set[_Request] = set()
        self.streams: list[_Request] = []
        self.probes: list[_Request] = []

    def carry_out(self) -> Findings:
        """Load, then read what came."""
        self.streams = [self._ask(self.plan.body | {"seed": number}) for number in range(self.plan.streams)]
        began = time.perf_counter()
        self._take_until(began + self.plan.warm_s)
        counted, server, client = time.perf_counter(), _cpu_s(self.plan.pids), time.process_time()
        if self.plan.probe is not None and not self.plan.streams:
            self._probe_until(counted + PATIENCE_S)
        elif self.plan.probe is not None:
            self._probe_until(counted + self.plan.seconds)
        elif self.plan.seconds:
            self._take_until(counted + self.plan.seconds)
        else:
            self._take_until(counted + 10 * PATIENCE_S, is_over=lambda: not self._running)
        ended = time.perf_counter()
        used = {name: spent - server.get(name, 0.0) for name, spent in _cpu_s(self.plan.pids).items()}
        busy = (time.process_time() - client) / max(ended - counted, 1e-9)
        for request in list(self._running):
            self._close(request)
        return self._read(counted, ended, used, busy)

    def _ask(self, body: dict[str, Any]) -> _Request:
        """Connect and send a request."""
        began = time.perf_counter()
        content = orjson.dumps(body)
        head = (
            f"POST {self.plan.path} HTTP/1.1\r\nHost: {self._address[0]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        connection = socket.create_connection(self._address, PATIENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head.encode() + content)
        connection.setblocking(False)
        request = _Request(connection, began)
        self._selector.register(connection, selectors.EVENT_READ, request)
        self._running.add(request)
        return request

    def _take_until(self, deadline: float, is_over: Any = lambda: False) -> None:
        """Take what comes until a time, or until something holds."""
        while not is_over() and (left := deadline - time.perf_counter()) > 0:
            for key, _ in self._selector.select(left):
                self._take(key.data)

    def _take(self, request: _Request) -> None:
        try:
            piece = request.socket.recv(PIECE)
        except BlockingIOError:
            return
        if piece:
            request.came.append((time.perf_counter(), piece))
        else:
            request.has_ended = True
            self._close(request)

    def _probe_until(self, deadline: float) -> None:
        """Ask, wait for the end, pause, ask again."""
        while len(self.probes) < self.plan.probes and time.perf_counter() < deadline:
            probe = self._ask((self.plan.probe or {}) | {"seed": len(self.probes)})
            self.probes.append(probe)
            self._take_until(deadline, is_over=lambda probe=probe: probe not in self._running)
            self._take_until(min(deadline, time.perf_counter() + self.plan.probe_gap_s))

    def _close(self, request: _Request) -> None:
        self._running.discard(request)
        self._selector.unregister(request.socket)
        request.socket.close()

    def _read(self, counted: float, ended: float, used: dict[str, float], busy: float) -> Findings:
        events = [_told(request) for request in self.streams]
        inside = [[(when, items) for when, items in told if counted <= when <= ended] for told in events]
        if not self.plan.seconds:
            inside = events
        total = sum(items for told in inside for _, items in told)
        count = sum(len(told) for told in inside)
        timed = self.probes or self.streams
        firsts = [_first_ms(request) for request in timed]
        known = [first for first in firsts if first is not None]
        gaps = [1000 * (then[0] - now[0]) for told in inside for now, then in pairwise(told)]
        findings = Findings(total, total / (ended - counted), total / max(count, 1))
        findings.first_p50, findings.first_p99 = _percentiles(known)
        findings.gap_p50, findings.gap_p99 = _percentiles(gaps)
        findings.num_first, findings.client_share = len(known), busy
        findings.slowest_per_s = min((sum(n for _, n in told) for told in inside), default=0) / (ended - counted)
        if used and total:
            findings.cpu_us_per_item = 1e6 * sum(used.values()) / total
            findings.cpu_main_us_per_item = 1e6 * sum(used.get(str(pid), 0.0) for pid in self.plan.pids) / total
        return findings


class _Body:
    """Collects the body of a response piece by piece with the time of each."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.now = 0.0
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, when: float, piece: bytes) -> None:
        self.now = when
        self._parser.feed_data(piece)

    def on_body(self, body: bytes) -> None:
        self.pieces.append((self.now, body))

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())


def _told(request: _Request) -> list[tuple[float, int]]:
    """When each event of a stream came and how many items it told; those that tell none are left out.

    Raises:
        LoadError: it is no stream, or one that ends in an error.
    """
    body = _Body()
    for when, piece in request.came:
        body.feed(when, piece)
    if not request.came and not request.has_ended:
        return []  # the load was over before its turn came
    if not request.came or body.status != 200:
        raise LoadError(f"a stream was answered with {b''.join(piece for _, piece in request.came)[:300]!r}")
    told, rest = [], b""
    for when, piece in body.pieces:
        *whole, rest = (rest + piece).split(b"\n\n")
        told += [(when, items) for event in whole if (items := _num_items(event))]
    return told


def _num_items(event: bytes) -> int:
    """How many characters or points an event tells."""
    for line in event.split(b"\n"):
        if not line.startswith(b"data: ") or line == b"data: [DONE]":
            continue
        told = orjson.loads(line[6:])
        if "error" in told:
            raise LoadError(f"a stream ended with {told['error']}")
        return len(told["x"]) if "x" in told else sum(len(choice["text"]) for choice in told.get("choices", ()))
    return 0


def _first_ms(request: _Request) -> float | None:
    """From before the connection to the first item; None if it had not come."""
    told = _told(request)
    return 1000 * (told[0][0] - request.began) if told else None


def _percentiles(values: Iterable[float]) -> tuple[float | None, float | None]:
    known = list(values)
    if not known:
        return None, None
    return float(np.percentile(known, 50)), float(np.percentile(known, 99))


def _cpu_s(pids: Iterable[int]) -> dict[str, float]:
    """Seconds each thread of some processes has had a core for; empty where the system does not tell."""
    spent = {}
    for task in (task for pid in pids for task in Path(f"/proc/{pid}/task").glob("*")):
        fields = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        spent[task.name] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return spent


def _main() -> None:
    plan = Plan(**json.load(sys.stdin))
    if plan.core >= 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {plan.core})
    json.dump(asdict(_Client(plan).carry_out()), sys.stdout)


if __name__ == "__main__":
    _main()
