"""What Prometheus is told is true, well formed, and no client can make it grow."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.service.live_server import PATIENCE_S, Server, running

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]
BASE_UNITS = re.compile(
    r"_(milli|micro|nano)?(ms|us|ns|minutes|hours|milliseconds|microseconds|kilobytes|percent)(_|$)"
)


@pytest.fixture(scope="module")
def counted(bundles: Path) -> Iterator[Server]:
    """A server that nobody else asks anything."""
    with running(bundles, max_tokens=1_000_000) as started:
        yield started


def families(server: Server) -> list[Metric]:
    """What a scrape finds, parsed by Prometheus' own client."""
    return list(text_string_to_metric_families(server.client.get("/metrics").text))


def values(server: Server) -> Values:
    """Every sample by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(server)
        for sample in family.samples
    }


class Difference:
    """What changed between two scrapes."""

    def __init__(self, before: Values, after: Values) -> None:
        self._before, self._after = before, after

    def __call__(self, name: str, **labels: str) -> float:
        """By how much a sample grew; one that is not there has not."""
        key = f"copyist_{name}", frozenset(labels.items())
        return self._after.get(key, 0) - self._before.get(key, 0)


def test_a_completion_is_counted_once(counted: Server) -> None:
    """Symbols, steps, operations and boundaries grow by exactly what the reply itself reports."""
    before = values(counted)
    reply = counted.complete(prompt="abcdefg", max_tokens=30, seed=3, boundaries=True)
    grew = Difference(before, values(counted))
    usage, choice = reply["usage"], reply["choices"][0]
    assert grew("requests_finished_total", model="small-text", reason="length") == 1
    assert grew("requests_finished_total", model="small-text", reason="cancelled") == 0
    assert grew("prompt_tokens_total", model="small-text") == usage["prompt_tokens"] == 7
    assert grew("generation_tokens_total", model="small-text") == usage["completion_tokens"] == 30
    assert grew("engine_rows_total") == grew("request_steps_sum", model="small-text") == usage["steps"]
    for layer, computed in enumerate(usage["layer_updates"], 1):
        counts = {
            op: grew("layer_updates_total", model="small-text", layer=str(layer), op=op)
            for op in ("UPDATE", "COPY", "FLUSH")
        }
        assert counts["UPDATE"] + counts["FLUSH"] == computed
        assert sum(counts.values()) == usage["steps"]
        told = choice["op"][layer - 1]
        assert counts["FLUSH"] >= told.count("F")
    for layer, digits in enumerate(choice["z"], 1):
        assert grew("boundaries_total", model="small-text", layer=str(layer)) >= sum(digits)
    assert grew("e2e_request_latency_seconds_count", model="small-text") == 1
    assert grew("request_queue_time_seconds_count", model="small-text") == 1
    assert grew("http_requests_total", method="POST", route="/v1/completions", status="200") == 1


def test_a_stream_tells_its_times(counted: Server) -> None:
    """The first character and the time between characters are recorded for streams, once each, and add up."""
    before = values(counted)
    counted.events("/v1/completions", model="small-text", prompt="a", max_tokens=50)
    grew = Difference(before, values(counted))
    assert grew("time_to_first_token_seconds_count", model="small-text") == 1
    assert grew("inter_token_latency_seconds_count", model="small-text") == 1
    between, first = (
        grew(f"{name}_seconds_sum", model="small-text") for name in ("inter_token_latency", "time_to_first_token")
    )
    whole = grew("e2e_request_latency_seconds_sum", model="small-text")
    assert first + 49 * between == pytest.approx(whole)
    assert 1 < grew("events_total") <= 51
    assert 0 < grew("engine_busy_seconds_total") <= whole


def test_ink_and_leaving_are_counted(counted: Server) -> None:
    """Points are counted as such, and a client that leaves as cancelled."""
    before = values(counted)
    counted.draw(max_points=12)
    endless = {"model": "small-text", "prompt": "a", "max_tokens": 1_000_000, "stream": True}
    with counted.client.stream("POST", "/v1/completions", json=endless) as response:
        pieces = response.iter_bytes()  # it hangs up when nobody holds it
        next(pieces)
        during = values(counted)
        assert during["copyist_requests_running", frozenset({("model", "small-text")})] == 1
    counted.gauges_when(lambda gauges: gauges["running"] == 0)
    after = values(counted)
    grew = Difference(before, after)
    assert grew("stroke_points_total", model="small-ink") == 12
    assert grew("requests_finished_total", model="small-text", reason="cancelled") == 1
    assert after["copyist_requests_running", frozenset({("model", "small-text")})] == 0
    assert after["copyist_ready", frozenset()] == 1


def test_refusals_are_counted_by_their_code(counted: Server) -> None:
    """A request that is refused shows by its status, and by its code where it has one."""
    before = values(counted)
    counted.complete(model="nobody")
    counted.post("/v1/completions", prompt=5)
    counted.client.post("/v1/completions", content=b"x", headers={"content-type": "text/plain"})
    grew = Difference(before, values(counted))
    for status, route in (("404", "/v1/completions"), ("400", "/v1/completions"), ("415", "other")):
        assert grew("http_requests_total", method="POST", route=route, status=status) == 1
    assert grew("refusals_total", code="model_not_found") == 1
    assert grew("refusals_total", code="unsupported_media_type") == 1


def test_given_ink_is_no_drawn_ink(counted: Server) -> None:
    """Points that were read are counted apart from those that were drawn, also where none is drawn."""
    prime = {"x": list(range(60)), "y": [index % 5 for index in range(60)], "pen": [0] * 59 + [1]}
    before = values(counted)
    read = counted.post("/v1/segment", ink=prime).json()["usage"]["steps"]
    counted.draw(max_points=3, prime=prime)
    grew = Difference(before, values(counted))
    assert grew("stroke_points_total", model="small-ink") == 3
    assert grew("prompt_tokens_total", model="small-ink") == 2 * read > 20
    assert grew("requests_finished_total", model="small-ink", reason="length") == 2


def test_tokens_are_counted(counted: Server) -> None:
    """Those that were handed out by their purpose, those that were refused by the reason."""
    before = values(counted)
    body = {"model": "small-text", "prompt": "a", "max_tokens": 2}
    token = counted.complete(**body, n=2, return_state=True)["choices"][1]["state"]
    counted.complete(**body, state=token)
    url = counted.post("/v1/streams", completion=body).json()["url"]
    counted.complete(**body, state=token[:-1] + ("A" if token[-1] != "A" else "E"))
    counted.client.get(f"/v1/streams/{token[:2000]}")
    counted.complete(**body, state=url.rpartition("/")[2])
    grew = Difference(before, values(counted))
    assert grew("sealed_tokens_total", purpose="state") == 2
    assert grew("sealed_tokens_total", purpose="stream") == 1
    assert grew("refusals_total", code="invalid_token_purpose") == 2
    assert sum(grew("refusals_total", code=f"invalid_token_{why}") for why in ("damaged", "malformed")) == 1


def test_no_client_makes_it_grow(counted: Server) -> None:
    """Made-up paths, methods, models, keys and ids add at most one series each, whatever they are."""

    def annoy(word: str) -> None:
        counted.client.get(f"/{word}")
        counted.client.get(f"/v1/models/{word}", headers={"x-request-id": word, "authorization": f"Bearer {word}"})
        counted.client.request(word.upper(), "/v1/models")
        counted.complete(model=word)
        values(counted)  # asking for them is counted too

    annoy("first")
    before = set(values(counted))
    for index in range(20):
        annoy(f"word{chr(97 + index)}")
    assert set(values(counted)) == before


def test_it_is_well_formed(counted: Server) -> None:
    """Names, units, suffixes, help and buckets follow Prometheus' rules for them."""
    counted.events("/v1/completions", model="small-text", prompt="a", max_tokens=5)
    found = families(counted)
    assert len({family.name for family in found}) == len(found)
    for family in found:
        assert re.fullmatch(r"(copyist|process)_[a-z][a-z0-9_]*", family.name)
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert not BASE_UNITS.search(family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert not {"le", "quantile"} & set(sample.labels) or family.type == "histogram"
            assert all(re.fullmatch(r"[a-z][a-z_]*", label) for label in sample.labels)
        if family.type == "histogram":
            bounds = [float(each.labels["le"]) for each in family.samples if each.name.endswith("_bucket")]
            assert bounds[-1] == float("inf")
    kind = counted.client.get("/metrics").headers["content-type"]
    assert kind.startswith("text/plain; version=")
    open_metrics = counted.client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")


def test_promtool_has_nothing_to_say(counted: Server) -> None:
    """Prometheus' own linter finds no fault."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool here (Debian package prometheus)")
    text = counted.client.get("/metrics").text
    checked = subprocess.run(
        [program, "check", "metrics"], input=text, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
