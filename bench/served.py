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

ROOT = Path(__file__).parents[1]
PATIENCE_S = 120.0


class ServerError(Exception):
    """The server did not start; the message holds its last words."""


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
        """Its process and those it started, as far as the system tells."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [self.pid, *(map(int, children.read_text("ascii").split()) if children.exists() else ())]

    def peak_mb(self) -> float:
        """The most memory that its processes ever held, added up; 0 where the system does not tell."""
        return sum(map(_peak_mb, self.pids))


@contextmanager
def serving(bundles: Path, cores: list[int], **settings: Any) -> Iterator[Served]:
    """Run `python -m service` for as long as the block.

    Args:
        bundles: folder to serve.
        cores: it may run on; none leaves it to the system.
        settings: environment variables without COPYIST_, in lower case; without `processes` it is one.

    Raises:
        ServerError: it did not come up.
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
        process.wait(PATIENCE_S)
        reader.join(PATIENCE_S)


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
    """Where a server listens, once all of its processes do."""
    seen = []
    while line := lines.get(timeout=PATIENCE_S):
        seen.append(line.strip())
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        processes -= entry.get("event") == "listening"
        if not processes:
            return f"http://{entry['host']}:{entry['port']}"
    raise ServerError("the server did not start: " + " ".join(seen[-3:]))
