"""A network that writes given texts, served: the real bundle, the real server, random weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model.codec import REPLACEMENT, HandwritingCodec, InkCodec, TextCodec
from tests.programs import PATIENCE_S
from tests.service.contract.test_cancel import Client
from tests.service.live_server import Server, running

pytest.importorskip("torch", reason="bundles are built with PyTorch, which is not installed here")

SYMBOLS = tuple("abcdefghijklmnopqrstuvwxyzT .," + REPLACEMENT)
CODEC = HandwritingCodec(InkCodec((8.2, 0.1), (42.0, 37.0)), TextCodec(SYMBOLS, "replace"), tuple(range(40, 49)))
HANDS = [
    {"name": f"tree-{number}", "writer": number, "description": "random", "scale": 1.0, "advance": 2.0}
    for number in range(1, 9)
]
TEXT = "The fox ran home"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one such bundle, with named hands and a recogniser."""
    from export.build import Facts, Writing, compile_network, sampled, ship
    from export.graphs.recogniser import build_recogniser
    from model.recogniser.network import Recogniser, RecogniserConfig
    from tests.service.networks import written_network

    folder: Path = tmp_path_factory.mktemp("written")
    compiled = compile_network(written_network(CODEC), "int8")
    recogniser = Recogniser(RecogniserConfig(channels=4, hidden=5), CODEC).eval()
    writing = Writing(HANDS, build_recogniser(recogniser), CODEC, {"cer": 1.0})
    data = {"name": "none: the weights are random", "licence": "CC0-1.0", "use": "non-commercial research"}
    steps = sampled(compiled, CODEC, 2, 130)
    ship(compiled, CODEC, folder / "scribe", "scribe", Facts("Random.", data), steps, writing)
    return folder


@pytest.fixture(scope="module")
def scribe(folder: Path) -> Iterator[Server]:
    """A server of it."""
    with running(folder) as started:
        yield started


def written(server: Server, **wish: Any) -> dict[str, Any]:
    """The reply to a request for handwriting."""
    reply = server.client.post("/v1/handwriting", json={"text": TEXT, "model": "scribe", "seed": 3, **wish})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def events(server: Server, **wish: Any) -> list[dict[str, Any]]:
    """The events of a stream."""
    body = {"text": TEXT, "model": "scribe", "seed": 3, "stream": True, **wish}
    lines = server.client.post("/v1/handwriting", json=body).text.splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(event) for event in data[:-1]]


def test_a_text_is_written_with_all_its_columns(scribe: Server) -> None:
    """Every point has a character of the text, a word, a line, and what the layers did on reading it."""
    found = written(scribe)
    count = len(found["x"])
    assert count == found["usage"]["points"] > 0
    columns = [found[name] for name in ("y", "t", "pen", "character", "word", "line")]
    assert {len(column) for column in [*columns, *found["z"], *found["op"], *found["segment"]]} == {count}
    assert found["character"] == sorted(found["character"])
    assert 0 <= found["character"][0] <= found["character"][-1] < len(TEXT)
    assert found["style"] == "tree-1"
    assert found["finish_reason"] == "stop"
    assert found["substituted"] == []
    (line,) = found["lines"]
    assert line["line"] == 0
    assert line["written"] in (4, 8)
    assert line["nats"] > 0


def test_one_line_is_the_same_bytes_alone_and_in_company(scribe: Server) -> None:
    """Same seed, text and style: the whole reply, byte for byte, while others write, and again after them."""
    from concurrent.futures import ThreadPoolExecutor

    body = {"text": TEXT, "model": "scribe", "seed": 11, "style": "tree-2", "candidates": 2}
    alone = scribe.client.post("/v1/handwriting", json=body).content
    others = [
        {**body, "seed": seed, "text": "another text, " * 3, "style": f"tree-{1 + seed % 8}"} for seed in range(6)
    ]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda each: scribe.client.post("/v1/handwriting", json=each).content, [*others, body]))
    assert replies[-1] == alone
    assert len(set(replies)) == 7


def test_seed_hand_bias_and_text_all_count(scribe: Server) -> None:
    """Each of them changes the ink."""
    inks = [
        written(scribe, candidates=1, **change)["x"]
        for change in ({}, {"seed": 4}, {"style": "tree-5"}, {"bias": 2.0}, {"text": "A fox ran home"})
    ]
    assert len({tuple(ink) for ink in inks}) == 5


def test_a_hand_names_its_network(scribe: Server) -> None:
    """Without a model, a style says who writes; without either, the copybook does."""
    reply = scribe.client.post("/v1/handwriting", json={"text": TEXT, "style": "tree-3", "seed": 3, "candidates": 1})
    assert reply.json()["model"] == "scribe"
    assert reply.json()["x"] == written(scribe, style="tree-3", candidates=1)["x"]
    assert scribe.client.post("/v1/handwriting", json={"text": TEXT}).json()["model"] == "copybook"


def test_several_lines_with_what_the_network_does_not_know(scribe: Server) -> None:
    """Lines wrap and pages fill; digits come from a font, accents are composed, and what was replaced is told."""
    text = "f\u00fcr 7 foxes, they ran\u2026\n\nand ran " + "home " * 12
    found = written(scribe, text=text, page="a6", x_height_mm=2, candidates=1)
    assert max(found["line"]) >= 4
    assert {found["character"][0], max(found["character"])} <= set(range(len(text)))
    told = {(each["index"], each["code_point"], each["drawn"]) for each in found["substituted"]}
    assert told == {(4, "U+0037", "7"), (text.index("\u2026"), "U+2026", "...")}
    assert 1 in found["character"]
    assert 4 in found["character"]
    assert [line["line"] for line in found["lines"]] == sorted({*found["line"]})
    assert (found["t"]) == sorted(found["t"])


def test_a_ranked_stream_is_the_whole_reply_in_pieces(scribe: Server) -> None:
    """With several candidates a stream tells line after line exactly what one reply holds."""
    text = "the fox ran home and the fox ran home and stayed there until the end"
    whole = written(scribe, text=text, candidates=2, line_width_mm=80)
    parts = events(scribe, text=text, candidates=2, line_width_mm=80)
    for column in ("x", "y", "t", "pen", "character", "line"):
        assert [value for part in parts for value in part[column]] == whole[column]
    assert parts[-1]["lines"] == whole["lines"]
    assert parts[-1]["usage"] == whole["usage"]


def test_a_live_stream_tells_points_as_they_are_drawn(scribe: Server) -> None:
    """One candidate: the first event is the first letter, and the points are the same whenever it is asked again."""
    first, again = events(scribe), events(scribe)
    assert len(first) > 2
    assert set(first[0]["character"]) == {0}
    joined = [[value for part in told for value in part["x"]] for told in (first, again)]
    assert joined[0] == joined[1]
    assert first[-1]["usage"]["points"] == len(joined[0])
    assert first[-1]["lines"][0]["written"] == 1


def test_a_cut_stream_goes_on_where_it_was(scribe: Server) -> None:
    """With resume_at what was told before is passed over, and the rest is the same."""
    whole = [value for part in events(scribe, candidates=1) for value in part["x"]]
    rest = [value for part in events(scribe, candidates=1, resume_at=50) for value in part["x"]]
    assert rest == whole[50:]


def test_ink_of_ones_own_is_read_first(scribe: Server) -> None:
    """A prime with what it says changes the hand, is not told itself, and read twice it is the same ink."""
    prime = {
        "x": [float(3 * index) for index in range(40)],
        "y": [float(9 * (index % 4)) for index in range(40)],
        "pen": [int(index % 8 == 7) for index in range(40)],
    }
    primed = written(scribe, prime=prime, prime_text="fox", candidates=1)
    assert primed["x"] != written(scribe, candidates=1)["x"]
    assert primed["x"] == written(scribe, prime=prime, prime_text="fox", candidates=1)["x"]
    assert primed["character"] == sorted(primed["character"])
    assert primed["character"][-1] < len(TEXT)


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"style": "plain"}, "style"),
        ({"candidates": 9}, "candidates"),
        ({"prime_text": "fox"}, "prime_text"),
        ({"text": "caf\u20ac", "unsupported": "error"}, "text"),
        ({"model": "copybook", "candidates": 2}, "candidates"),
        ({"prime": {"x": [0, 1], "y": [0, 1], "pen": [0, 1]}, "prime_text": "a"}, "prime"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(scribe: Server, wish: dict[str, Any], field: str) -> None:
    """With a sentence that names the field."""
    reply = scribe.client.post("/v1/handwriting", json={"text": TEXT, "model": "scribe", **wish})
    assert reply.status_code in (400, 422)
    assert field in reply.text


def test_it_does_not_write_freely(scribe: Server) -> None:
    """A network that writes texts asks for one."""
    reply = scribe.client.post("/v1/handwriting", json={"model": "scribe"})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "text"


def test_every_hand_has_its_card(scribe: Server) -> None:
    """Eight hands, with what they may be used for, and a picture of what they write."""
    cards = [each for each in scribe.client.get("/v1/handwriting/styles").json()["data"] if each["model"] == "scribe"]
    assert [each["id"] for each in cards] == [hand["name"] for hand in HANDS]
    assert {each["use"] for each in cards} == {"non-commercial research"}
    assert all(each["preview"].startswith("<svg") and "<path" in each["preview"] for each in cards)
    assert len({each["preview"] for each in cards}) == 8


@pytest.mark.parametrize("kind", ["svg", "png", "pdf", "inkml", "gcode"])
def test_every_format_takes_its_ink(scribe: Server, kind: str) -> None:
    """A network's document is a document like any other."""
    body = {"text": TEXT, "model": "scribe", "seed": 1, "format": kind, "candidates": 1}
    reply = scribe.client.post("/v1/handwriting", json=body)
    assert reply.status_code == 200
    assert len(reply.content) > 500


def test_a_network_that_writes_has_a_heartbeat(folder: Path) -> None:
    """Live and line by line, comments come while the network writes, and the events are the same without them."""
    body = {"text": TEXT * 3, "model": "scribe", "seed": 3, "stream": True, "line_width_mm": 40}
    with running(folder, heartbeat_s=0.001) as restless:
        for candidates in (1, 2):
            content = restless.post("/v1/handwriting", **body, candidates=candidates).content
            assert b": ping\n" in content
            assert content.replace(b": ping\n", b"").endswith(b"\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize("candidates", [1, 2])
@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_reader_that_leaves_ends_the_writing(scribe: Server, candidates: int, is_streamed: bool) -> None:
    """Nothing of the text is written on for a client that is gone."""
    body = {"text": "the fox ran home and " * 80, "model": "scribe", "seed": 3, "candidates": candidates}
    with Client(scribe, "/v1/handwriting", **body, stream=is_streamed) as client:
        if is_streamed:
            client.read_until(b'"pen":')
        scribe.gauges_when(lambda gauges: gauges["running"] > 0)
    after = scribe.gauges_when(lambda gauges: gauges["running"] == gauges["waiting"] == 0)
    assert after["cancelled"] > 0


def test_a_full_queue_refuses_a_prime_before_the_stream_begins(folder: Path) -> None:
    """A request whose prime finds no place gets a 429, and never a stream that ends with that error."""
    prime = {
        "x": [float(3 * n) for n in range(40)],
        "y": [float(9 * (n % 4)) for n in range(40)],
        "pen": [0] * 39 + [1],
    }
    body = {"text": TEXT, "model": "scribe", "candidates": 1, "stream": True, "prime": prime}
    refused = 0
    with running(folder, rows=1, queue=7, processes=1) as full:
        long = {"text": "the quick brown fox jumps over it " * 60, "model": "scribe", "candidates": 8, "stream": True}
        with full.client.stream("POST", "/v1/handwriting", json=long, timeout=PATIENCE_S) as busy:
            assert busy.status_code == 200
            for attempt in range(200):
                # Each says something else, so that no cache spares it the prime.
                words = f"fox {'ab'[attempt % 2] * (1 + attempt // 2 % 9)}"
                reply = full.client.post("/v1/handwriting", json={**body, "prime_text": words}, timeout=PATIENCE_S)
                assert "queue_full" not in reply.text or reply.status_code == 429
                refused += reply.status_code == 429
                if refused:
                    break
    assert refused
