"""The serving image, built and run for real: locked down, streaming text and ink, stopping cleanly.

Needs a container engine: the client named by DOCKER (default ``docker``) and the engine it reaches, by DOCKER_HOST or
its own default. Build and run share the host's network, so that an engine without a bridge will do.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.programs import PATIENCE_S, started

ROOT = Path(__file__).parents[1]
CLIENT = os.environ.get("DOCKER") or "docker"
BUILD_S = 1800
PIP_SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")

INSPECT_INSIDE = """
import importlib.util, json
status = dict(line.rstrip().split(":\\t", 1) for line in open("/proc/1/status") if ":\\t" in line)
def writable(path):
    try:
        open(path, "w").close()
    except OSError:
        return False
    return True
print(json.dumps({
    "uid": status["Uid"].split(), "capabilities": int(status["CapEff"], 16), "no_new_privileges": status["NoNewPrivs"],
    "writes_root": writable("/planted"), "writes_environment": writable("/opt/venv/planted"),
    "writes_tmp": writable("/tmp/planted"), "torch": importlib.util.find_spec("torch") is not None,
    "redis": importlib.util.find_spec("redis") is not None,
    "otel": importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None}))
"""

# One worker runs all of them: they share a container, and the last one stops it.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("docker"), pytest.mark.timeout(BUILD_S)]


def engine(*arguments: str, check: bool = True) -> str:
    """Give the client a command and return what it prints."""
    result = subprocess.run(
        [CLIENT, *arguments], capture_output=True, text=True, timeout=BUILD_S, check=False, cwd=ROOT
    )
    assert result.returncode == 0 or not check, (
        f"{CLIENT} {arguments[0]}: {result.stdout[-2000:]}{result.stderr[-4000:]}"
    )
    return result.stdout.strip()


def free_port() -> int:
    """Return a port that nobody on this machine listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(container: str, since: str) -> None:
    """Return when the engine's own health check has passed; fail with the container's log when it does not."""
    command = [CLIENT, "events", "--since", since, "--filter", f"container={container}", "--format", "{{.Status}}"]
    with started(command, stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        for event in events.stdout:
            if event.startswith(("health_status", "die")):
                events.kill()
                assert event.strip() == "health_status: healthy", engine("logs", container)
                return
    pytest.fail(f"no events of the container: {engine('logs', container)}")


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image built from this tree; removed at the end."""
    if shutil.which(CLIENT) is None:
        pytest.skip(f"no container client {CLIENT!r} here (set DOCKER)")
    if subprocess.run([CLIENT, "info"], capture_output=True, check=False, timeout=PATIENCE_S).returncode != 0:
        pytest.skip(f"{CLIENT} reaches no container engine (set DOCKER_HOST)")
    tag = f"copyist-test:{os.getpid()}"
    settings = [word for name in PIP_SETTINGS if name in os.environ for word in ("--build-arg", name)]
    engine("build", "--network", "host", *settings, "-f", "docker/serve.Dockerfile", "-t", tag, ".")
    yield tag
    engine("rmi", "--force", tag, check=False)


@pytest.fixture(scope="module")
def service(image: str) -> Iterator[tuple[str, str]]:
    """A healthy container with no capability and no writable disk, as (its id, the URL of its service)."""
    port, since = free_port(), str(int(time.time()))
    container = engine(
        *("run", "--detach", "--network", "host", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--memory", "1g", "--pids-limit", "128"),
        *("--env", "COPYIST_HOST=127.0.0.1", "--env", f"COPYIST_PORT={port}", image),
    )
    try:
        wait_until_healthy(container, since)
        yield container, f"http://127.0.0.1:{port}"
    finally:
        engine("rm", "--force", container, check=False)


@pytest.fixture(scope="module")
def models(service: tuple[str, str]) -> list[dict[str, Any]]:
    """The entries of GET /v1/models."""
    entries: list[dict[str, Any]] = (
        httpx.get(f"{service[1]}/v1/models", timeout=PATIENCE_S).raise_for_status().json()["data"]
    )
    return entries


def stream(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """POST a request for a stream and return its events, having seen the end mark."""
    with httpx.stream("POST", url, json={**body, "stream": True}, timeout=PATIENCE_S) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        frames = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert frames[-1] == "[DONE]"
    return [json.loads(frame) for frame in frames[:-1]]


def test_it_runs_locked_down(service: tuple[str, str]) -> None:
    """The process is a plain user without capabilities, on a disk it cannot write, with the extras and no PyTorch."""
    inside = json.loads(engine("exec", service[0], "python", "-c", INSPECT_INSIDE))
    assert inside == {
        "uid": ["10001"] * 4,
        "capabilities": 0,
        "no_new_privileges": "1",
        "writes_root": False,
        "writes_environment": False,
        "writes_tmp": True,
        "torch": False,
        "redis": True,
        "otel": True,
    }


def test_it_is_healthy_and_ready(service: tuple[str, str]) -> None:
    """Liveness, readiness and the first page answer from inside the image."""
    for path in ("/healthz", "/readyz", "/"):
        assert httpx.get(service[1] + path, timeout=PATIENCE_S).status_code == 200, path


def test_it_carries_the_shipped_bundles(models: list[dict[str, Any]]) -> None:
    """Every bundle of the repository is inside the image and is served, beside the copybook, which has none."""
    shipped = {path.parent.name for path in (ROOT / "service" / "bundles").glob("*/bundle.json")}
    assert shipped
    assert {entry["id"] for entry in models} == shipped | {"copybook"}


def test_it_streams_text(service: tuple[str, str]) -> None:
    """A completion arrives piece by piece, each character with the boundaries and the operations of the layers."""
    body = {"model": "prose", "prompt": "It was", "max_tokens": 4000, "seed": 1, "boundaries": True}
    choices = [event["choices"][0] for event in stream(f"{service[1]}/v1/completions", body)]
    written = len("".join(choice["text"] for choice in choices))
    assert len(choices) > 1
    assert written > 0
    for row in zip(*(choice["z"] for choice in choices), strict=True):
        assert sum(map(len, row)) == written
    assert len({len(choice["op"]) for choice in choices}) == 1
    assert choices[-1]["finish_reason"] == "length"


def test_it_streams_ink(service: tuple[str, str]) -> None:
    """Free writing arrives piece by piece, in columns that join to as many points as were asked for."""
    events = stream(f"{service[1]}/v1/handwriting", {"model": "ink-free", "max_points": 4000, "seed": 1})
    assert len(events) > 1
    for column in ("x", "y", "pen"):
        assert sum(len(event[column]) for event in events) == 4000
    assert events[-1]["finish_reason"] == "length"


def test_it_stops_cleanly(service: tuple[str, str]) -> None:
    """Asked to stop, the service ends by itself with exit code 0: it is not killed when patience runs out."""
    engine("stop", "--time", "30", service[0])
    assert engine("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", service[0]) == "0 false"
