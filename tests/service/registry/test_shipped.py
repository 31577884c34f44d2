"""The bundles that ship: each is served, writes, and keeps the promises made for every bundle."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from model.codec import REPLACEMENT
from tests.service.live_server import ROOT, Server, running

FOLDER = ROOT / "service" / "bundles"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/bundle.json"))

pytestmark = [
    pytest.mark.skipif(not NAMES, reason="no bundle ships yet in service/bundles"),
    pytest.mark.xdist_group("service"),
]


@pytest.fixture(scope="module")
def shipped() -> Iterator[Server]:
    """The service as it ships."""
    with running(FOLDER) as started:
        yield started


@pytest.fixture(scope="module")
def cards(shipped: Server) -> dict[str, Any]:
    """The facts of each bundle by name, and whether it has hands to write a given text in."""
    writers = {style["model"] for style in shipped.client.get("/v1/handwriting/styles").json()["data"]}
    found = shipped.client.get("/v1/models").json()["data"]
    return {card["id"]: card | {"has_hands": card["id"] in writers} for card in found}


def request_of(card: dict[str, Any], seed: int) -> tuple[str, dict[str, Any]]:
    """A request that a bundle can answer."""
    if card["has_hands"]:
        return "/v1/handwriting", {"model": card["id"], "text": "It was a dark night.", "candidates": 2, "seed": seed}
    if card["kind"] == "ink":
        return "/v1/handwriting", {"model": card["id"], "max_points": 200, "seed": seed}
    body = {"prompt": "It was a dark and stormy night", "max_tokens": 200, "boundaries": True, "temperature": 0.8}
    return "/v1/completions", {"model": card["id"], "seed": seed, **body}


def told(server: Server, card: dict[str, Any], seed: int) -> dict[str, Any]:
    """What a whole reply says, without its id and date."""
    path, body = request_of(card, seed)
    reply = server.post(path, **body).raise_for_status().json()
    return {name: value for name, value in reply.items() if name not in ("id", "created")}


def test_all_are_served(cards: dict[str, Any]) -> None:
    """Every folder is served under its own name, with a licence and a use."""
    assert sorted(cards) == sorted([*NAMES, "copybook"])
    assert all(card["data"]["licence"] and card["data"]["use"] for card in cards.values())


@pytest.mark.parametrize("name", NAMES)
def test_boundaries_are_alive(shipped: Server, cards: dict[str, Any], name: str) -> None:
    """In what a bundle writes each detector fires, and no more often than 0.9 of the steps."""
    reply = told(shipped, cards[name], 1)
    z = reply["z"] if "z" in reply else reply["choices"][0]["z"]
    assert z
    assert all(0 < sum(column) < 0.9 * len(column) for column in z)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bytes_in_company(shipped: Server, cards: dict[str, Any], name: str) -> None:
    """Sixteen requests at once get what each gets alone."""
    alone = [told(shipped, cards[name], seed) for seed in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda seed: told(shipped, cards[name], seed), range(16))) == alone


@pytest.mark.parametrize("name", NAMES)
def test_unknown_characters_are_no_trouble(shipped: Server, cards: dict[str, Any], name: str) -> None:
    """A text bundle reads what it does not know and never writes the sign for it."""
    if cards[name]["kind"] != "text":
        pytest.skip("this one writes ink")
    body = {"model": name, "prompt": "\N{SNOWMAN}日本\0", "max_tokens": 300, "temperature": 1.5, "seed": 2}
    assert REPLACEMENT not in shipped.post("/v1/completions", **body).json()["choices"][0]["text"]
