"""What nobody would send on purpose, and what the published description says may be sent, is answered as described."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.service.fuzz import Malformer, fault, fuzz
from tests.service.server import PATIENCE_S, Server, running

KEY = "key-of-the-fuzzer"
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


@pytest.mark.slow
def test_schemathesis_finds_nothing(brief: Server, tmp_path: Path) -> None:
    """An outside fuzzer over every route finds no 5xx, nothing that is not as described, and no ignored key.

    Methods that are not there are tested elsewhere.
    That every request the schema allows is served is not asked: a model's name, or the symbols that a model
    knows, are no matter of the schema.
    """
    program = Path(sys.executable).parent / "schemathesis"
    if shutil.which(program) is None:
        pytest.skip("schemathesis is not installed here")
    command = [
        *(str(program), "run", f"{brief.url}/openapi.json", "--header", f"Authorization: Bearer {KEY}"),
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance,unsupported_method"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "1", "--generation-deterministic"),
        *("--no-color", "--request-timeout", str(PATIENCE_S)),
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert brief.gauges()["failures"] == 0
