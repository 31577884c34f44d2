"""Each key has a budget of steps per window; headers say what is left, and refused requests cost nothing."""

import hashlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from pydantic import SecretStr, ValidationError

from service.settings import Settings
from tests.programs import started
from tests.service.live_server import PATIENCE_S, Server, problem, running

KEYS = {"ann": "key-of-ann", "bob": "key-of-bob"}
ENTRIES = ",".join(f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items())
LIMIT = 100


def complete(server: Server, steps: int, key: str = "none", **body: object) -> httpx.Response:
    """Request a completion of at most this many steps: five for the prompt, the rest to write."""
    request = {"model": "small-text", "prompt": "abcde", "max_tokens": steps - 5, **body}
    return server.client.post("/v1/completions", json=request, headers={"authorization": f"Bearer {key}"})


def left(response: httpx.Response) -> int:
    """Return the steps that are left, from the headers."""
    assert response.headers["ratelimit-policy"] == f'"steps";q={LIMIT};w=3600'
    name, remaining, reset = response.headers["ratelimit"].split(";")
    assert name == '"steps"'
    assert 0 < int(reset.removeprefix("t=")) <= 3602
    return int(remaining.removeprefix("r="))


@pytest.fixture(scope="module")
def limited(bundles: Path) -> Iterator[Server]:
    """A server with 100 steps per hour for each key."""
    with running(bundles, rate_limit=f"{LIMIT}/hour", api_keys=ENTRIES) as started:
        yield started


def test_a_key_may_ask_for_so_many_steps(limited: Server) -> None:
    """n steps are served over several requests, the next is a 429, and another key has its own budget."""
    key = KEYS["ann"]
    assert left(complete(limited, 60, key)) == 40
    refused = complete(limited, 41, key)
    assert refused.status_code == 429
    assert problem(refused)["code"] == "rate_limited"
    assert "40 steps are left" in problem(refused)["message"]
    assert refused.headers["x-should-retry"] == "true"
    assert 0 < int(refused.headers["retry-after"]) <= 3602
    assert left(refused) == 40
    assert left(complete(limited, 40, key)) == 0
    ink = limited.client.post("/v1/handwriting", json={"max_points": 1}, headers={"authorization": f"Bearer {key}"})
    assert ink.status_code == 429
    assert left(complete(limited, 10, KEYS["bob"])) == 90


def test_what_is_refused_costs_nothing(limited: Server) -> None:
    """A bad request, an unknown model and a request above the whole budget leave the budget as it was."""
    key = KEYS["bob"]
    before = left(complete(limited, 6, key))
    assert complete(limited, 20, key, temperature=9).status_code == 400
    assert complete(limited, 20, key, model="nobody").status_code == 404
    never = complete(limited, LIMIT + 1, key)
    assert (never.status_code, never.headers["x-should-retry"]) == (429, "false")
    assert "retry-after" not in never.headers
    assert f"{LIMIT} steps at most" in problem(never)["message"]
    assert left(complete(limited, 6, key)) == before - 6


def test_what_asks_for_nothing_is_not_counted(limited: Server) -> None:
    """Models, metrics and probes cost nothing and have no RateLimit headers."""
    for path in ("/v1/models", "/metrics", "/healthz"):
        response = limited.client.get(path, headers={"authorization": f"Bearer {KEYS['ann']}"})
        assert response.status_code == 200
        assert "ratelimit" not in response.headers


def test_everything_that_steps_the_network_is_charged(bundles: Path) -> None:
    """Given ink costs its points, choices share the cost of a prompt, and a stream is charged to its maker."""
    ink = {"x": list(range(60)), "y": [index % 5 for index in range(60)], "pen": [0] * 59 + [1]}
    ann = {"authorization": f"Bearer {KEYS['ann']}"}
    with running(bundles, rate_limit=f"{LIMIT * 1000}/hour", api_keys=ENTRIES) as server:
        rest = LIMIT * 1000

        def cost(response: httpx.Response) -> int:
            nonlocal rest
            assert response.status_code == 200, response.text
            before, rest = rest, int(response.headers["ratelimit"].split(";")[1].removeprefix("r="))
            return before - rest

        def post(path: str, body: dict[str, object]) -> httpx.Response:
            return server.client.post(path, json=body, headers=ann)

        body = {"model": "small-text", "prompt": "abcde", "max_tokens": 7}
        assert cost(post("/v1/completions", {**body, "n": 3})) == 5 + 3 * 7
        assert cost(post("/v1/completions", {**body, "n": 3, "echo": True})) == 3 * 5 + 3 * 7
        assert cost(post("/v1/completions", {**body, "prompt": ["ab", "c"], "n": 2})) == 2 + 1 + 4 * 7
        read = post("/v1/segment", {"ink": ink})
        assert cost(read) == read.json()["usage"]["steps"] > 10
        primed = post("/v1/handwriting", {"prime": ink, "max_points": 4})
        assert cost(primed) == primed.json()["usage"]["steps"] > 10
        made = post("/v1/streams", {"completion": body})
        assert "ratelimit" not in made.headers, "nothing is written before it is read"
        for _ in range(2):
            assert cost(server.client.get(made.json()["url"])) == 5 + 7
        bob = server.client.post(
            "/v1/completions", json={**body, "max_tokens": 1}, headers={"authorization": f"Bearer {KEYS['bob']}"}
        )
        assert f"r={LIMIT * 1000 - 6};" in bob.headers["ratelimit"]


def test_a_full_queue_gives_steps_back(bundles: Path) -> None:
    """A request that is refused because the queue is full is not charged."""
    settings = {"rows": 1, "queue": 0, "max_tokens": 1_000_000, "rate_limit": f"{LIMIT * 10**6}/hour"}
    endless = {"model": "small-text", "prompt": "a", "max_tokens": 1_000_000, "stream": True}
    with (
        running(bundles, **settings) as server,
        server.client.stream("POST", "/v1/completions", json=endless) as response,
    ):
        rest = response.headers["ratelimit"].split(";")[1]
        refused = server.post("/v1/completions", **endless)
        assert problem(refused)["code"] == "queue_full"
        assert refused.headers["ratelimit"].split(";")[1] == rest


def test_after_retry_after_it_is_served(bundles: Path) -> None:
    """A client that waits for Retry-After is served; OpenAI's client waits by itself."""
    with running(bundles, rate_limit="20 per 1 second") as server:
        for _ in range(2):
            while (refused := complete(server, 20)).status_code == 200:
                pass
            time.sleep(int(refused.headers["retry-after"]))
            assert complete(server, 20).status_code == 200
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=5) as client:
            for _ in range(3):
                assert client.completions.create(model="small-text", prompt="abcde", max_tokens=15).choices


def test_without_a_limit_nothing_is_counted(server: Server) -> None:
    """By default there are no limits and no RateLimit headers."""
    assert "ratelimit" not in server.post("/v1/completions", model="small-text", prompt="a").headers


@pytest.mark.parametrize("rate", ["", "many", "10", "10/eon", "-5/minute"])
def test_a_rate_that_is_none_is_refused(rate: str) -> None:
    """The service does not start with a malformed rate."""
    with pytest.raises(ValidationError, match="a rate is like"):
        Settings(rate_limit=rate)


def test_a_store_that_is_not_known_is_refused() -> None:
    """Only memory and Redis are stores; the error does not show a password in the address."""
    with pytest.raises(ValidationError) as caught:
        Settings(rate_store=SecretStr("mongodb://user:secret-word@host"))
    assert "secret-word" not in str(caught.value)


class TestRedis:
    @pytest.fixture
    def redis(self, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        """A real Redis on a socket of its own, as (its address, its process)."""
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("no redis-server here (Debian package redis-server)")
        path = tmp_path / "redis.sock"
        options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
        with started([program, *options], 4 * PATIENCE_S, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert any(b"eady to accept connections" in line for line in process.stdout)
            yield f"unix://{path}", process
            process.kill()

    def test_replicas_share_what_is_left(self, redis: tuple[str, subprocess.Popen[bytes]], bundles: Path) -> None:
        """Replicas share the budget; when the store dies, both continue to serve and log a warning."""
        settings = {"rate_limit": f"{LIMIT}/hour", "rate_store": redis[0], "api_keys": ENTRIES}
        first, second = Server(bundles, **settings), Server(bundles, **settings)
        try:
            ann, bob = KEYS.values()
            assert left(complete(first, 60, ann)) == 40
            assert left(complete(second, 30, ann)) == 10
            refused = complete(first, 11, ann)
            assert (refused.status_code, left(refused)) == (429, 10)
            assert left(complete(first, 50, bob)) == 50
            redis[1].kill()
            redis[1].wait(PATIENCE_S)
            for server in (first, second):
                response = complete(server, 60, ann)
                assert response.status_code == 200
                assert "ratelimit" not in response.headers
                assert server.wait_for("rates are not counted")["level"] == "warning"
        finally:
            first.stop()
            second.stop()
        for server in (first, second):
            assert {entry["event"] for entry in server.complaints()} == {"rates are not counted"}
