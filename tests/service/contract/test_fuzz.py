"""What nobody would send on purpose, and what the published description says may be sent, is answered as described."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.service.contract.fuzz import Malformer, fault, fuzz
from tests.service.live_server import PATIENCE_S, Server, running

KEY = "key-of-the-fuzzer"
BEARER = {"authorization": f"Bearer {KEY}"}
COUNT = 3500


@pytest.fixture(scope="module")
def brief(bundles: Path) -> Iterator[Server]:
    """A server behind a key that writes little at a time, however much is asked for."""
    limits = {"max_tokens": 4, "max_points": 4, "max_prompt_chars": 64, "max_header_bytes": 2**20}
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    with running(bundles, api_keys=f"fuzzer:{digest}", **limits) as started:
        yield started


def test_wrong_bodies_are_told_so(server: Server) -> None:
    """Thousands of them, of every kind at every route, are 4xx in the error's shape, and the service serves on."""
    before = server.complete(seed=5)["choices"]
    finished = server.gauges()["finished"]
    tally = fuzz(server, COUNT, seed=1)
    assert tally.total() == COUNT
    assert len({name.partition(" ")[0] for name in tally}) == 7
    assert server.gauges()["finished"] == finished
    assert server.gauges()["failures"] == 0
    assert server.complete(seed=5)["choices"] == before


def test_the_same_seed_makes_the_same_bodies(server: Server) -> None:
    """What was found once can be found again."""
    description = server.client.get("/openapi.json").json()
    first, again, other = (list(islice(Malformer(description, seed), 70)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (200, "application/json", b"{}"),
        (500, "application/json", b'{"error":{"message":"m","type":"t","param":null,"code":null}}'),
        (400, "text/plain", b'{"error":{"message":"m","type":"t","param":null,"code":null}}'),
        (400, "application/json", b'{"error":{"message":"m","type":"t","param":null}}'),
        (400, "application/json", b'{"detail":[]}'),
        (400, "application/json", b"[]"),
        (400, "application/json", b"Bad Request"),
    ],
)
def test_the_judge_can_say_no(status: int, kind: str, body: bytes) -> None:
    """Any other answer than the error object with a 4xx is a fault."""
    assert fault(status, kind, body)
    assert fault(404, "application/json", b'{"error":{"message":"m","type":"t","param":null,"code":null}}') is None


# What JSON Schema cannot say of these four, and so schemathesis cannot know of a request that it makes: which state
# tokens were sealed here, what is ink, which fields exclude each other or go together only, what their product may be.
# `test_what_the_schema_allows_is_served` says it, and then asks of them what schemathesis asks of all others.
CONFIG = """
[[operations]]
include-name = ["POST /v1/completions", "POST /v1/handwriting", "POST /v1/segment", "POST /v1/streams"]
checks.positive_data_acceptance.enabled = false
"""


@pytest.mark.slow
def test_schemathesis_finds_nothing(brief: Server, tmp_path: Path) -> None:
    """An outside fuzzer over every route finds no 5xx, nothing that is not as described, and no ignored key."""
    program = Path(sys.executable).parent / "schemathesis"
    if shutil.which(program) is None:
        pytest.skip("schemathesis is not installed here")
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [
        *(str(program), "run", f"{brief.url}/openapi.json", "--header", f"Authorization: Bearer {KEY}"),
        # All checks are made, as none is named; naming them here would overrule the file.
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "1", "--generation-deterministic"),
        *("--no-color", "--request-timeout", str(PATIENCE_S)),
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=4 * PATIENCE_S, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert f"Tested: {sum(map(len, description_of(brief)['paths'].values()))}" in run.stdout
    assert brief.gauges()["failures"] == 0


def description_of(server: Server) -> dict[str, Any]:
    """What the service says of itself."""
    found: dict[str, Any] = server.client.get("/openapi.json", headers=BEARER).json()
    return found


def within_64_bits(seed: int | None) -> int | None:
    """A seed; the generator compares as floating-point numbers do, for which 2^63 is no more than 2^63 - 1."""
    return seed if seed is None else max(min(seed, 2**63 - 1), -(2**63))


def possible_completion(body: dict[str, Any]) -> dict[str, Any]:
    """A completion that its schema allows, made to heed what no schema can say."""
    body = body | {"model": "small-text", "state": None, "best_of": None, "resume_at": 0}
    body["seed"] = within_64_bits(body.get("seed"))
    if not body.get("stream"):
        body["stream_options"] = None
    if body.get("max_tokens") == 0:
        body["echo"] = True
    if isinstance(body["prompt"], list) and not isinstance(body["prompt"][0], int):
        body |= {"prompt": body["prompt"][:1], "n": None}
    body["logit_bias"] = {token: bias for token, bias in (body.get("logit_bias") or {}).items() if len(token) == 1}
    return body


def possible_handwriting(body: dict[str, Any]) -> dict[str, Any]:
    """A drawing, in the same way."""
    sheet = {"page": "fit", "margin_mm": None, "line_width_mm": None, "dpi": 100}
    body = body | sheet | {"model": None, "state": None, "resume_at": 0}
    body |= dict.fromkeys(("prime", "prime_text", "candidates"))  # for networks that write a given text
    body["seed"] = within_64_bits(body.get("seed"))
    if body.get("text") is None:
        body |= dict.fromkeys(("style", "unsupported", "align", "wobble"))
    else:
        body |= {"style": "quick", "unsupported": "skip", "max_points": None, "return_state": False}
    if body.get("stream") or body.get("return_state"):
        body["format"] = "strokes"
    return body


def possible_segment(body: dict[str, Any]) -> dict[str, Any]:
    """A text or ink to be segmented."""
    if body.get("text") is not None:
        return body | {"model": "small-text"}
    return {"ink": {"x": list(range(60)), "y": [index % 5 for index in range(60)], "pen": [0] * 60}}


def possible_stream(body: dict[str, Any]) -> dict[str, Any]:
    """A stream of one of them."""
    if body.get("completion") is not None:
        return {"completion": possible_completion(body["completion"] | {"prompt": "a", "n": 1})}
    return {"handwriting": possible_handwriting(body["handwriting"] | {"format": "strokes"})}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "possible"),
    [
        ("/v1/completions", possible_completion),
        ("/v1/handwriting", possible_handwriting),
        ("/v1/segment", possible_segment),
        ("/v1/streams", possible_stream),
    ],
)
def test_what_the_schema_allows_is_served(
    brief: Server, path: str, possible: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Any body that obeys the published schema, and the few rules beside it that are spelt out here, gets a 200."""
    schemathesis = pytest.importorskip("schemathesis")
    bodies = schemathesis.openapi.from_dict(description_of(brief))[path]["POST"].as_strategy()

    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
    @given(bodies.map(lambda case: possible(case.body)))
    def served(body: dict[str, Any]) -> None:
        response = brief.client.post(path, json=body, headers=BEARER)
        assert response.status_code == 200, (body, response.text)

    served()
    assert brief.gauges()["failures"] == 0
