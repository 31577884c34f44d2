"""With API keys set, everything but the probes and the page needs one, and the service never reveals a key."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.service.live_server import PATIENCE_S, Server, problem, running

KEYS = {"ann": "key-of-ann", "bob": "key-of-bob"}
OPEN = ("/healthz", "/readyz", "/", "/app.js", "/ink.js", "/style.css", "/icon.svg")
REQUEST = {"model": "small-text", "prompt": "a", "max_tokens": 2}


@pytest.fixture(scope="module")
def guarded(bundles: Path) -> Iterator[Server]:
    """A server with two valid keys."""
    entries = ",".join(f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items())
    with running(bundles, api_keys=entries) as started:
        yield started


def bearer(key: str) -> dict[str, str]:
    """Return the header that carries a key."""
    return {"authorization": f"Bearer {key}"}


def test_every_declared_path_but_the_probes_needs_a_key(guarded: Server) -> None:
    """Without a key, every operation of the API description and the description itself answer 401; open paths not."""
    assert guarded.client.get("/openapi.json").status_code == 401
    description = guarded.client.get("/openapi.json", headers=bearer(KEYS["ann"])).json()
    assert description["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            response = guarded.client.request(method, path, json=REQUEST if method == "post" else None)
            is_guarded = path not in OPEN and not path.startswith("/v1/streams/")  # its token is its key
            assert (response.status_code == 401) == is_guarded, (method, path)
            assert ("security" in operation) == ("401" in operation["responses"]) == is_guarded
    assert {"/metrics", "/v1/models", "/v1/completions"} < set(description["paths"])
    for path in OPEN:
        assert guarded.client.get(path).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer wrong")],
        [("Authorization", "Basic key-of-ann")],
        [("Authorization", "key-of-ann")],
        [("Authorization", "Bearer key-of-ann,key-of-bob")],
        [("Authorization", "Bearer key-of-ann"), ("Authorization", "Bearer key-of-ann")],
        [("X-Api-Key", "key-of-ann")],
        [("Cookie", "key-of-ann")],
    ],
)
def test_without_a_known_key_it_is_401(guarded: Server, headers: list[tuple[str, str]]) -> None:
    """A refusal is the error object with a challenge, whether or not the path exists."""
    for path in ("/v1/models", "/v1/nothing", "/metrics"):
        response = guarded.client.get(path, headers=headers)
        assert response.status_code == 401
        assert problem(response)["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    "path",
    [
        "//healthz",
        "/healthz/../v1/models",
        "/healthz/",
        "/HEALTHZ",
        "/healthz%2f..",
        "/%2e",
        "/v1/streams/",
        "/v1/streams",
    ],
)
def test_no_spelling_of_a_path_opens_it(guarded: Server, path: str) -> None:
    """Paths are compared as they are routed; a path that only resembles an open one needs a key."""
    response = guarded.client.get(httpx.URL(guarded.url).copy_with(raw_path=path.encode()))
    assert response.status_code == 401


def test_a_known_key_is_let_in_and_named_in_the_log(guarded: Server) -> None:
    """Both keys work, in any case of the scheme; the log line has the name of the key, and no line has a key."""
    for name, key in KEYS.items():
        headers = {"authorization": f"bearer  {key}", "x-request-id": f"by-{name}"}
        assert guarded.client.post("/v1/completions", json=REQUEST, headers=headers).status_code == 200
        assert guarded.wait_for("request", request_id=f"by-{name}")["key"] == name
    guarded.client.get("/v1/models", headers=bearer("mistyped-key"))
    refused = guarded.wait_for("request", status=401, error="invalid_api_key")
    assert "key" not in refused
    for secret in (*KEYS.values(), "mistyped-key"):
        assert secret not in str(guarded.log)


def test_a_body_is_not_read_without_a_key(guarded: Server) -> None:
    """A large body without a key is refused after its headers, and the connection is closed."""
    response = httpx.post(f"{guarded.url}/v1/completions", content=b" " * 1000, timeout=PATIENCE_S)
    assert response.status_code == 401
    assert response.headers["connection"] == "close"


def test_the_openai_client_understands(guarded: Server) -> None:
    """OpenAI's client works with its key, and raises its AuthenticationError for a wrong one."""
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=KEYS["bob"], max_retries=0) as client:
        assert client.models.list().data
    with (
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_without_keys_everyone_is_let_in(server: Server) -> None:
    """By default no key is needed, a key that is sent is ignored, and the API description asks for none."""
    assert server.client.get("/v1/models", headers=bearer("any")).status_code == 200
    description = server.client.get("/openapi.json").json()
    assert "securitySchemes" not in description["components"]
    assert not any("401" in each["responses"] for path in description["paths"].values() for each in path.values())


ORIGIN = "https://desk.example"


@pytest.fixture(scope="module")
def shared(bundles: Path) -> Iterator[Server]:
    """A server that pages of one other origin may call, with a key."""
    digest = hashlib.sha256(KEYS["ann"].encode()).hexdigest()
    with running(bundles, cors_origins=ORIGIN, api_keys=f"ann:{digest}") as started:
        yield started


class TestCors:
    def test_off_by_default(self, server: Server) -> None:
        """By default, pages of other origins may not read anything."""
        for method, headers in (("GET", {}), ("OPTIONS", {"access-control-request-method": "GET"})):
            response = server.client.request(method, "/v1/models", headers={"origin": ORIGIN, **headers})
            assert not any(name.startswith("access-control") for name in response.headers)

    def test_a_listed_origin_may_ask(self, shared: Server) -> None:
        """The preflight needs no key and allows sending one; the page can read refusals."""
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
        preflight = shared.client.options("/v1/completions", headers={"origin": ORIGIN, **asks})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in preflight.headers
        refused = shared.client.get("/v1/models", headers={"origin": ORIGIN})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == ORIGIN
        assert "retry-after" in refused.headers["access-control-expose-headers"]

    def test_another_origin_may_not(self, shared: Server) -> None:
        """An origin that is not listed gets no permission, even if it resembles a listed one."""
        for origin in ("https://other.example", ORIGIN + ".evil.example", "null"):
            headers = {"origin": origin, **bearer(KEYS["ann"])}
            assert "access-control-allow-origin" not in shared.client.get("/v1/models", headers=headers).headers
