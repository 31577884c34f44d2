"""A real server in a process of its own, on chosen cores."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120.0


class ServerError(Exception):
    """The server did not start; the message has the last lines of its log."""


@dataclass(frozen=True)
class Served:
    """A server that listens.

    Attributes:
        url: http://HOST:PORT.
        pid: of its process, or of the parent of those that serve.
    """

    url: str
    pid: int

    @property
    def pids(self) -> list[int]:
        """Its process and those it started, where the system lists them."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [self.pid, *(map(int, children.read_text("ascii").split()) if children.exists() else ())]

    def peak_mb(self) -> float:
        """Return the peak memory of its processes, added up, in MB; 0 where the system does not count it."""
        return sum(map(_peak_mb, self.pids))


@contextmanager
def serving(bundles: Path, cores: list[int], **settings: Any) -> Iterator[Served]:
    """Run `python -m service` for as long as the block.

    Args:
        bundles: folder to serve.
        cores: that it may run on; an empty list leaves that to the system.
        settings: environment variables without COPYIST_, in lower case; `processes` is 1 unless it is among them.

    Raises:
        ServerError: the server did not start.
    """
    given = {"bundles": bundles, "port": 0, "log_format": "json", "log_level": "info", "processes": 1, **settings}
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
        yield Served(_address(lines, given["processes"]), process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(TIMEOUT_S)
        reader.join(TIMEOUT_S)


def _drain(process: subprocess.Popen[str], lines: "queue.SimpleQueue[str]") -> None:
    """Read the log so that it never blocks the server; only its beginning is kept."""
    assert process.stderr is not None
    with process.stderr as log:
        for line in log:
            if lines.qsize() < 1000:
                lines.put(line)
    lines.put("")


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    facts = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
    return int(facts["VmHWM"].split()[0]) / 1024


def _address(lines: "queue.SimpleQueue[str]", processes: int) -> str:
    """Return where a server listens, once all of its processes do."""
    seen = []
    while line := lines.get(timeout=TIMEOUT_S):
        seen.append(line.strip())
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        processes -= entry.get("event") == "listening"
        if not processes:
            return f"http://{entry['host']}:{entry['port']}"
    raise ServerError("the server did not start: " + " ".join(seen[-3:]))
