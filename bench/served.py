"""A real server in a process of its own, on chosen cores."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
PATIENCE_S = 120.0


class ServerError(Exception):
    """The server did not start; the message holds its last words."""


@dataclass(frozen=True)
class Served:
    """A server that listens.

    Attributes:
        url: http://HOST:PORT.
        pid: of its process.
    """

    url: str
    pid: int

    def peak_mb(self) -> float:
        """The most memory it ever held, 0 where the system does not tell."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():
            return 0.0
        facts = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
        return int(facts["VmHWM"].split()[0]) / 1024


@contextmanager
def serving(bundles: Path, cores: list[int], **settings: Any) -> Iterator[Served]:
    """Run `python -m service` for as long as the block.

    Args:
        bundles: folder to serve.
        cores: it may run on; none leaves it to the system.
        settings: environment variables without COPYIST_, in lower case.

    Raises:
        ServerError: it did not come up.
    """
    given = {"bundles": bundles, "port": 0, "log_format": "json", "log_level": "info", **settings}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COPYIST_")}
    environment |= {f"COPYIST_{name.upper()}": str(value) for name, value in given.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "service"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, cores)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_drain, args=(process, lines), daemon=True)
    reader.start()
    try:
        yield Served(_address(lines), process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
        reader.join(PATIENCE_S)


@contextmanager
def sharing_a_port(bundles: Path, cores: list[int], count: int, **settings: Any) -> Iterator[Served]:
    """Run several processes of the service on one port; the kernel deals connections out to them.

    Args:
        bundles: folder to serve.
        cores: they may run on, each on one of its own as far as there are so many.
        count: number of processes.
        settings: as of `serving`.

    Raises:
        ServerError: one did not come up.
    """
    with ExitStack() as stack:
        port, servers = 0, []
        for number in range(count):
            own = [cores[number % len(cores)]] if cores else []
            given = {**settings, "port": port, "share_port": True}
            servers.append(stack.enter_context(serving(bundles, own, **given)))
            port = urlsplit(servers[0].url).port or 0
        yield servers[0]


def _drain(process: subprocess.Popen[str], lines: "queue.SimpleQueue[str]") -> None:
    """Read the log so that it never blocks the server; only its beginning is kept."""
    assert process.stderr is not None
    with process.stderr as log:
        for line in log:
            if lines.qsize() < 1000:
                lines.put(line)
    lines.put("")


def _address(lines: "queue.SimpleQueue[str]") -> str:
    seen = []
    while line := lines.get(timeout=PATIENCE_S):
        seen.append(line.strip())
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("event") == "listening":
            return f"http://{entry['host']}:{entry['port']}"
    raise ServerError("the server did not start: " + " ".join(seen[-3:]))
