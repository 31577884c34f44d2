"""Whose a token is and how long it is good for, over HTTP, with real keys and several servers."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.live_server import Server, problem, running

OLD, NEW = "old-secret-" * 4, "new-secret-" * 4
BODY: dict[str, Any] = {"model": "small-text", "prompt": "It ", "max_tokens": 5, "seed": 1, "return_state": True}
INK: dict[str, Any] = {"max_points": 5, "seed": 1, "return_state": True}


def entries(*names_and_keys: str) -> str:
    """What lets in keys, given as name:key."""
    pairs = (each.split(":") for each in names_and_keys)
    return ",".join(f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in pairs)


@pytest.fixture(scope="module")
def before(bundles: Path) -> Iterator[Server]:
    """A replica as it was: the old secret, and a key each for Ann and Bob."""
    with running(bundles, state_keys=OLD, api_keys=entries("ann:first", "bob:bobs")) as started:
        yield started


@pytest.fixture(scope="module")
def between(bundles: Path) -> Iterator[Server]:
    """A replica while keys and secrets are replaced: the new secret seals, and Ann has two keys."""
    keys = entries("ann:first", "ann:second", "bob:bobs")
    with running(bundles, state_keys=f"{NEW},{OLD}", api_keys=keys) as started:
        yield started


@pytest.fixture(scope="module")
def after(bundles: Path) -> Iterator[Server]:
    """A replica afterwards: the new secret alone, Bob is gone, and tokens are over as soon as they are made."""
    with running(bundles, state_keys=NEW, state_ttl_s=1e-3, api_keys=entries("ann:second")) as started:
        yield started


def post(server: Server, key: str, path: str, body: dict[str, Any]) -> Any:
    """The answer to a request with a key."""
    return server.client.post(path, json=body, headers={"authorization": f"Bearer {key}"})


def completed(server: Server, key: str, **more: Any) -> dict[str, Any]:
    """The choice of a completion."""
    response = post(server, key, "/v1/completions", BODY | more)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def refusal(server: Server, key: str, state: str) -> str:
    """Why a state is refused."""
    response = post(server, key, "/v1/completions", BODY | {"state": state, "prompt": ""})
    assert response.status_code == 400
    assert problem(response)["param"] == "state"
    return str(problem(response)["code"]).removeprefix("invalid_token_")


def test_a_state_is_its_clients_own(before: Server, between: Server) -> None:
    """Another client's is refused at every replica; either key of one client takes up what the other began."""
    whole = completed(before, "first", max_tokens=10)["text"]
    begun = completed(before, "first")
    assert refusal(before, "bobs", begun["state"]) == refusal(between, "bobs", begun["state"]) == "tenant"
    for server, key in ((before, "first"), (between, "first"), (between, "second")):
        assert begun["text"] + completed(server, key, prompt="", state=begun["state"])["text"] == whole
    ink = post(before, "first", "/v1/handwriting", INK).json()["state"]
    stolen = post(before, "bobs", "/v1/handwriting", INK | {"state": ink})
    assert (stolen.status_code, problem(stolen)["code"]) == (400, "invalid_token_tenant")
    assert post(between, "second", "/v1/handwriting", INK | {"state": ink}).status_code == 200


def test_secrets_are_replaced_without_a_gap(before: Server, between: Server, after: Server) -> None:
    """What the old secret sealed is good until the old one is dropped; what the new one sealed, where it is known."""
    old, new = completed(before, "first")["state"], completed(between, "first")["state"]
    assert completed(between, "first", prompt="", state=old)
    assert refusal(before, "first", new) == "unknown_key"
    assert refusal(after, "second", old) == "unknown_key"
    assert completed(after, "second", prompt="", state=new)["text"]


def test_a_token_ends(after: Server) -> None:
    """Past its time a state is a 400 and a stream a 404, each with its reason."""
    assert refusal(after, "second", completed(after, "second")["state"]) == "expired"
    made = post(after, "second", "/v1/streams", {"completion": BODY}).json()
    gone = after.client.get(made["url"])
    assert (gone.status_code, problem(gone)["code"]) == (404, "invalid_token_expired")


def test_a_stream_needs_no_key_as_long_as_its_maker_has_one(between: Server, after: Server) -> None:
    """Its URL is the key, the log says whose, and it ends with the maker's last key."""
    urls = {name: post(between, key, "/v1/streams", {"completion": BODY}).json()["url"]
            for name, key in (("ann", "second"), ("bob", "bobs"))}  # fmt: skip
    for name, url in urls.items():
        assert between.client.get(url, headers={"x-request-id": f"stream-of-{name}"}).status_code == 200
        assert between.wait_for("request", request_id=f"stream-of-{name}")["key"] == name
    assert after.client.get(urls["ann"]).status_code == 200
    gone = after.client.get(urls["bob"])
    assert (gone.status_code, problem(gone)["code"]) == (404, "invalid_token_tenant")
    token = urls["ann"].rpartition("/")[2]
    assert not any(token in str(entry) for server in (between, after) for entry in server.log)


def test_a_state_from_a_browsers_stream_is_the_makers(between: Server) -> None:
    """What a stream ends in belongs to whoever made it, not to whoever read it."""
    url = post(between, "second", "/v1/streams", {"completion": BODY}).json()["url"]
    events = between.client.get(url).text
    state = events.partition('"state":"')[2].partition('"')[0]
    assert refusal(between, "bobs", state) == "tenant"
    assert completed(between, "first", prompt="", state=state)["text"]
