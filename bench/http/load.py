"""A load client in a process of its own that asks for many streams at once and is never the bottleneck.

During the load it only takes bytes and notes when they came, in one loop over raw sockets. What the bytes say, how many
characters are in each event and when the first of a stream came, is worked out afterwards.

A `Plan` comes as JSON on standard input, and the `Findings` go as JSON to standard output.
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

ROOT = Path(__file__).parents[2]
PIECE = 2**18
TIMEOUT_S = 60.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Plan:
    """What to ask a server for.

    Attributes:
        url: http://HOST:PORT.
        path: of the endpoint.
        body: of each stream's request; each gets a seed of its own.
        streams: to hold open, all begun at once; when `seconds` are over they are dropped, as by a page that is closed.
        seconds: to count for, after `warm_s`; 0 waits until every stream has ended by itself and counts everything.
        warm_s: seconds before the count begins.
        probe: body of a request whose first item is timed, or None.
        probes: how many of those requests at most; the load ends with the last of them.
        probe_gap_s: from the end of one probe to the start of the next.
        pids: of the server's processes, whose processor time is counted.
        core: to run on; -1 leaves that to the system.
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
    """What a load measured; times are in milliseconds unless the name says otherwise.

    Attributes:
        num_items: characters or points, over all streams.
        items_per_s: over all streams.
        items_per_event: on average.
        first_p50, first_p99: from before the connection to the first item, of the probes if there are any, else of the
            streams.
        gap_p50, gap_p99: between events of one stream.
        num_first: how many first items were timed.
        cpu_us_per_item: processor time of the whole server.
        cpu_main_us_per_item: that of the main threads of its processes, which talk to clients.
        client_share: share of a core that this client used.
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
    """The server did not answer with a stream; the message shows its answer."""


def run(plan: Plan) -> Findings:
    """Carry out a plan in a process of its own.

    Raises:
        LoadError: a stream was refused or broke.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.http.load"],
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
    """One open request: when it began, what came back and when, and whether the server closed the connection."""

    socket: socket.socket
    began: float
    has_ended: bool = False
    came: list[tuple[float, bytes]] = field(default_factory=list)


class _Client:
    """Carries out a plan with one loop over all sockets."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        address = urlsplit(plan.url)
        self._address = (address.hostname or "127.0.0.1", address.port or 80)
        self._selector = selectors.DefaultSelector()
        self._running: set[_Request] = set()
        self.streams: list[_Request] = []
        self.probes: list[_Request] = []

    def carry_out(self) -> Findings:
        """Load the server, then return what was measured."""
        self.streams = [self._ask(self.plan.body | {"seed": number}) for number in range(self.plan.streams)]
        began = time.perf_counter()
        self._take_until(began + self.plan.warm_s)
        counted = time.perf_counter()
        server = _cpu_s(self.plan.pids)
        client = time.process_time()
        if self.plan.probe is not None and not self.plan.streams:
            self._probe_until(counted + TIMEOUT_S)
        elif self.plan.probe is not None:
            self._probe_until(counted + self.plan.seconds)
        elif self.plan.seconds:
            self._take_until(counted + self.plan.seconds)
        else:
            self._take_until(counted + 10 * TIMEOUT_S, is_over=lambda: not self._running)
        ended = time.perf_counter()
        used = {name: spent - server.get(name, 0.0) for name, spent in _cpu_s(self.plan.pids).items()}
        busy = (time.process_time() - client) / max(ended - counted, 1e-9)
        for request in list(self._running):
            self._close(request)
        return self._findings(counted, ended, used, busy)

    def _ask(self, body: dict[str, Any]) -> _Request:
        """Connect and send a request."""
        began = time.perf_counter()
        content = orjson.dumps(body)
        head = (
            f"POST {self.plan.path} HTTP/1.1\r\nHost: {self._address[0]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        connection = socket.create_connection(self._address, TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head.encode() + content)
        connection.setblocking(False)
        request = _Request(connection, began)
        self._selector.register(connection, selectors.EVENT_READ, request)
        self._running.add(request)
        return request

    def _take_until(self, deadline: float, is_over: Any = lambda: False) -> None:
        """Take what comes until a time, or until `is_over` says so."""
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
        """Send probes one after the other, with a pause between them."""
        while len(self.probes) < self.plan.probes and time.perf_counter() < deadline:
            probe = self._ask((self.plan.probe or {}) | {"seed": len(self.probes)})
            self.probes.append(probe)
            self._take_until(deadline, is_over=lambda probe=probe: probe not in self._running)
            self._take_until(min(deadline, time.perf_counter() + self.plan.probe_gap_s))

    def _close(self, request: _Request) -> None:
        self._running.discard(request)
        self._selector.unregister(request.socket)
        request.socket.close()

    def _findings(self, counted: float, ended: float, used: dict[str, float], busy: float) -> Findings:
        """Return what came between two times, given the processor time of each thread and of this client."""
        events = [_events(request) for request in self.streams]
        inside = [[(when, items) for when, items in stream if counted <= when <= ended] for stream in events]
        if not self.plan.seconds:
            inside = events
        total = sum(items for stream in inside for _, items in stream)
        count = sum(len(stream) for stream in inside)
        timed = self.probes or self.streams
        firsts = [_first_ms(request) for request in timed]
        known = [first for first in firsts if first is not None]
        gaps = [1000 * (then[0] - now[0]) for stream in inside for now, then in pairwise(stream)]
        findings = Findings(total, total / (ended - counted), total / max(count, 1))
        findings.first_p50, findings.first_p99 = _percentiles(known)
        findings.gap_p50, findings.gap_p99 = _percentiles(gaps)
        findings.num_first = len(known)
        findings.client_share = busy
        findings.slowest_per_s = min((sum(n for _, n in stream) for stream in inside), default=0) / (ended - counted)
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


def _events(request: _Request) -> list[tuple[float, int]]:
    """Return when each event of a stream came and how many items were in it; events without any are left out.

    Raises:
        LoadError: the answer is not a stream, or the stream ends with an error.
    """
    body = _Body()
    for when, piece in request.came:
        body.feed(when, piece)
    if not request.came and not request.has_ended:
        return []  # the load was over before its turn came
    if not request.came or body.status != 200:
        raise LoadError(f"a stream was answered with {b''.join(piece for _, piece in request.came)[:300]!r}")
    events, rest = [], b""
    for when, piece in body.pieces:
        *whole, rest = (rest + piece).split(b"\n\n")
        events += [(when, items) for event in whole if (items := _num_items(event))]
    return events


def _num_items(event: bytes) -> int:
    """Return how many characters or points are in an event."""
    for line in event.split(b"\n"):
        if not line.startswith(b"data: ") or line == b"data: [DONE]":
            continue
        data = orjson.loads(line[6:])
        if "error" in data:
            raise LoadError(f"a stream ended with {data['error']}")
        return len(data["x"]) if "x" in data else sum(len(choice["text"]) for choice in data.get("choices", ()))
    return 0


def _first_ms(request: _Request) -> float | None:
    """Return the milliseconds from before the connection to the first item; None if there was none."""
    events = _events(request)
    return 1000 * (events[0][0] - request.began) if events else None


def _percentiles(values: Iterable[float]) -> tuple[float | None, float | None]:
    known = list(values)
    if not known:
        return None, None
    return float(np.percentile(known, 50)), float(np.percentile(known, 99))


def _cpu_s(pids: Iterable[int]) -> dict[str, float]:
    """Return the processor seconds of each thread of some processes; empty where the system does not count them."""
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
