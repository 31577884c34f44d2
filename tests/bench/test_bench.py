"""The commands run from end to end at tiny sizes and end with one JSON object that has the promised keys."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.programs import PATIENCE_S

ROOT = Path(__file__).parents[2]

KEYS = [
    *(f"b{batch}_vs_lstm_{precision}" for batch in (1, 64, 256) for precision in ("f32", "int8")),
    "skip_vs_dense_b64",
    "two_engines",
    "e2e_share_64",
    "first_char_idle_p99_ms",
    "first_char_64_p99_ms",
    "int8_cost_bpc",
    "ink_points_per_s",
    "floor",
    "memory",
]
HTTP_KEYS = ["http_us_per_char", "graph_us_per_char", "http_us_per_char_one_char_per_event", "first_char_100_p50_ms"]


def last_line(*arguments: str) -> dict[str, Any]:
    """Run a command at tiny sizes and return its last line."""
    command = [sys.executable, "-m", "bench", *arguments, "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=4 * PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return results


@pytest.mark.slow
@pytest.mark.xdist_group("bench")
def test_the_engine_is_measured_whole() -> None:
    """Every key that is promised is there and holds a figure where this machine can have one."""
    results = last_line()
    assert set(KEYS) <= set(results)
    needs_two_cores = {"two_engines"}
    assert all(results[key] is not None for key in KEYS if key not in needs_two_cores)
    assert {one["batch"] for one in results["wide"]} == {one["batch"] for one in results["shipped"]} == {1, 8, 64, 256}


@pytest.mark.slow
@pytest.mark.xdist_group("bench")
def test_http_is_measured() -> None:
    """Cost per character with both flushing policies, and the time to the first character."""
    results = last_line("http")
    assert all(results[key] is not None for key in HTTP_KEYS)
    assert results["server_us_per_char"] > results["event_loop_us_per_char"] > 0
    assert results["chars_per_event_one_char_per_event"] < results["chars_per_event"]


@pytest.mark.slow
@pytest.mark.xdist_group("bench")
def test_cores_are_measured() -> None:
    """Every way to use several cores, in steps and over HTTP, for text and ink."""
    results = last_line("cores")
    for kind in ("text", "ink"):
        assert all(rate > 0 for batch in (1, 8, 64, 256) for rate in results[f"{kind}_steps_{batch}"].values())
        assert set(results[f"{kind}_http"]) == {"1", "64"}
        assert all(rate > 0 for ways in results[f"{kind}_http"].values() for rate in ways.values())
