"""A real server in a process of its own, and what tests ask of it."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from httpx_sse import connect_sse

from tests import programs

ROOT = Path(__file__).parents[2]
PATIENCE_S = programs.PATIENCE_S
DONE = "[DONE]"


class Server:
    """`python -m service` on a free port, in one process unless the settings say otherwise.

    Args:
        bundles: folder to serve.
        settings: environment variables without COPYIST_, in lower case.

    Attributes:
        url: where it answers.
        process: it.
        log: lines of its log as JSON, those that were read so far.
    """

    def __init__(self, bundles: Path, **settings: Any) -> None:
        given = {"bundles": bundles, "port": 0, "log_format": "json", "log_level": "debug", "processes": 1, **settings}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COPYIST_")}
        environment |= {f"COPYIST_{name.upper()}": str(value) for name, value in given.items()}
        environment["PYTHONWARNINGS"] = "default"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        self.log: list[dict[str, Any]] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        listening = self.wait_for("listening")
        self.url = f"http://{listening['host']}:{listening['port']}"
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")

    def wait_for(self, event: str, **facts: Any) -> dict[str, Any]:
        """Return the next line of the log that tells of an event with these facts."""
        while entry := self._next_entry():
            if entry["event"] == event and all(entry.get(name) == value for name, value in facts.items()):
                return entry
        raise AssertionError(f"the server ended without {event!r}: {self.log}")

    def _next_entry(self) -> dict[str, Any] | None:
        """Return the next line of the log, or None when there will be no more."""
        line = self._lines.get(timeout=PATIENCE_S)
        if not line:
            self._lines.put("")
            return None
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            entry = {"event": "no JSON", "line": line}
        self.log.append(entry)
        return entry

    def post(self, path: str, **body: Any) -> httpx.Response:
        """POST JSON."""
        return self.client.post(path, json=body)

    def complete(self, **body: Any) -> dict[str, Any]:
        """Return a whole completion of the small text bundle."""
        reply: dict[str, Any] = self.post("/v1/completions", **{"model": "small-text", "prompt": "It ", **body}).json()
        return reply

    def draw(self, **body: Any) -> dict[str, Any]:
        """Return a whole drawing of the small ink bundle."""
        reply: dict[str, Any] = self.post("/v1/handwriting", **body).json()
        return reply

    def events(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """Return the events of a stream, having seen its end mark."""
        with connect_sse(self.client, "POST", path, json={**body, "stream": True}) as source:
            assert source.response.status_code == 200, source.response.read()
            data = [event.data for event in source.iter_sse()]
        assert data[-1] == DONE
        assert DONE not in data[:-1]
        return [json.loads(event) for event in data[:-1]]

    def gauges(self) -> dict[str, Any]:
        """Return what the engine counts."""
        gauges: dict[str, Any] = self.client.get("/healthz").json()
        return gauges

    def gauges_when(self, is_true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for the gauges until something holds of them."""
        give_up_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_at:
            gauges = self.gauges()
            if is_true(gauges):
                return gauges
        raise AssertionError(f"never came true: {gauges}")

    def stop(self, *, close: bool = True) -> int:
        """Ask it to stop and return its exit code; our connection is closed by it, or by us."""
        self.process.terminate()
        code = self.process.wait(PATIENCE_S) if not close else 0
        return self.ended() or code

    def kill(self) -> None:
        """End it without asking."""
        self.process.kill()
        self.ended()

    def complaints(self) -> list[dict[str, Any]]:
        """Return what it logged in its life of severity warning and above, or in another form than JSON."""
        while self._next_entry():
            pass
        return [entry for entry in self.log if entry.get("level") not in ("debug", "info")]

    def ended(self) -> int:
        """Wait for its end and return its exit code."""
        self.client.close()
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code


@contextmanager
def running(bundles: Path, **settings: Any) -> Iterator[Server]:
    """Run a server for as long as the block, in which it must have nothing to complain of."""
    server = Server(bundles, **settings)
    try:
        yield server
    finally:
        server.kill()
    complaints = server.complaints()
    assert not complaints, complaints


def problem(response: httpx.Response) -> dict[str, Any]:
    """Return the error of a response after checking that it is OpenAI's object and nothing else."""
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = body["error"]
    return error
