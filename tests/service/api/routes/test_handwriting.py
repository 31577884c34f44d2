"""Handwriting over HTTP: free writing and texts, in pieces or whole, and pictures of the same."""

import io
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pypdfium2
import pytest
from PIL import Image
from svgpathtools import svgstr2paths

from service.api.schemas.handwriting import HandwritingReply, StyleList
from service.handwriting.copybook.writer import STYLES
from service.handwriting.drawing.formats import MEDIA_TYPES, PICTURES
from tests.programs import PATIENCE_S
from tests.service.live_server import Server, problem

FREE = ("x", "y", "t", "pen", "line")
TEXT = (*FREE, "character", "word")
SVG = "{http://www.w3.org/2000/svg}"
DEAR = "Dear Ada,\nit works."


def test_a_whole_drawing_has_everything(server: Server) -> None:
    """As many points as asked, from the origin on, with every layer's columns; counts agree."""
    reply = server.draw(max_points=150, seed=2)
    HandwritingReply.model_validate(reply)
    assert reply["object"] == "handwriting"
    assert (reply["start"], reply["seed"], reply["finish_reason"]) == (0, 2, "length")
    assert all(len(reply[name]) == 150 for name in FREE)
    assert (reply["x"][0], reply["y"][0], reply["t"][0]) == (0, 0, 0)
    assert set(reply["pen"]) == {0, 1}
    assert [len(column) for column in reply["z"]] == [150] * 2
    assert [len(column) for column in reply["op"]] == [150] * 3
    for z, segment in zip(reply["z"], reply["segment"], strict=True):
        assert segment == [0, *np.cumsum(z)[:-1].tolist()]
    usage = reply["usage"]
    assert (usage["points"], usage["steps"]) == (150, 150)
    assert usage["strokes"] == sum(reply["pen"]) + (reply["pen"][-1] == 0)
    assert usage["layer_updates"] == [sum(letter != "C" for letter in letters) for letters in reply["op"]]
    assert all(abs(value * 100 - round(value * 100)) < 1e-6 for value in reply["x"])
    (page,) = reply["pages"]
    assert page["left"] == pytest.approx(min(reply["x"]) - 4, abs=0.01)
    assert page["width"] == pytest.approx(max(reply["x"]) - min(reply["x"]) + 8, abs=0.011)


@pytest.mark.parametrize("body", [{}, {"page": "a6", "x_height_mm": 6, "margin_mm": 10}])
def test_a_stream_is_the_whole_in_pieces(server: Server, body: dict[str, Any]) -> None:
    """Pieces follow one another without a gap, and together are the drawing answered whole, on any paper."""
    body = {
        **body,
        "max_points": 2000,
        "seed": 9,
        "bias": 0.2,
    }  # so many outlast a moment in which the event loop has no core
    whole, events = server.draw(**body), server.events("/v1/handwriting", **body)
    assert len(events) > 2
    check_pieces(events, whole, FREE, "length")
    for layer in range(2):
        for name in ("z", "segment"):
            assert [bit for event in events for bit in event[name][layer]] == whole[name][layer]
    for layer in range(3):
        assert "".join(event["op"][layer] for event in events) == whole["op"][layer]
    assert len(events[0]["x"]) < 1000, "the first points come at once"
    if "page" in body:
        assert max(whole["line"]) > 0


def check_pieces(events: list[dict[str, Any]], whole: dict[str, Any], columns: tuple[str, ...], reason: str) -> None:
    """Assert that events are a whole reply in pieces."""
    told = 0
    for event in events:
        HandwritingReply.model_validate(event)
        assert event["object"] == "handwriting.chunk"
        assert event["start"] == told
        told += len(event["x"])
    for name in columns:
        assert [value for event in events for value in event[name]] == whole[name]
    assert [event["finish_reason"] for event in events] == [None] * (len(events) - 1) + [reason]
    for name in ("usage", "seed", "pages"):
        assert events[-1][name] == whole[name]


def test_a_picture_shows_the_same_points(server: Server) -> None:
    """The SVG has one path per stroke, with the very coordinates of the JSON."""
    body = {"max_points": 200, "seed": 4}
    points = server.draw(**body)
    response = server.post("/v1/handwriting", **body, format="svg")
    assert response.headers["content-type"] == "image/svg+xml"
    paths = [path.attrib["d"] for path in ET.fromstring(response.text).iter(f"{SVG}path")]  # noqa: S314 - our own
    assert len(paths) == sum(points["pen"]) + (points["pen"][-1] == 0)
    text = " ".join(paths).replace("h0", "").replace("M", " ").replace("L", " ")
    drawn = [tuple(float(value) for value in pair.split(",")) for pair in text.split()]
    assert drawn == list(zip(points["x"], points["y"], strict=True))


@pytest.mark.parametrize("body", [{"max_points": 80}, {"text": DEAR}], ids=["free", "text"])
def test_every_format_is_served_and_the_same_bytes_again(server: Server, body: dict[str, Any]) -> None:
    """Each format comes with its media type and opens in a reader of it; the same request is the same bytes."""
    for name, media_type in MEDIA_TYPES.items():
        replies = [server.post("/v1/handwriting", seed=3, format=name, **body) for _ in range(2)]
        assert replies[0].status_code == 200, name
        assert replies[0].headers["content-type"] == media_type
        assert replies[0].headers["x-seed"] == "3"
        assert replies[0].content == replies[1].content
        content = replies[0].content
        if name.startswith("svg"):
            assert svgstr2paths(content.decode())[0]
        elif name == "png":
            Image.open(io.BytesIO(content)).verify()
        elif name == "pdf":
            assert len(pypdfium2.PdfDocument(content)) == 1
        elif name == "inkml":
            assert ET.fromstring(content).tag == "{http://www.w3.org/2003/InkML}ink"  # noqa: S314 - our own
        elif name == "gcode":
            assert content.decode().splitlines()[-1] == "M2"


def test_a_text_is_written(server: Server) -> None:
    """Without a model the copybook writes: every visible character has its points, in order, in two lines."""
    reply = server.draw(text=DEAR, seed=1)
    HandwritingReply.model_validate(reply)
    assert (reply["model"], reply["style"], reply["finish_reason"], reply["seed"]) == ("copybook", "plain", "stop", 1)
    assert len({len(reply[name]) for name in TEXT}) == 1
    assert {DEAR[index] for index in reply["character"]} == set(DEAR) - set(" \n")
    assert [DEAR.split()[word][0] for word in sorted(set(reply["word"]))] == ["D", "A", "i", "w"]
    assert set(reply["line"]) == {0, 1}
    assert reply["t"] == sorted(reply["t"])
    assert reply["substituted"] == []
    assert (reply["z"], reply["op"], reply["segment"]) == ([], [], [])
    assert reply["usage"]["strokes"] == sum(reply["pen"])


def test_a_streamed_text_is_the_whole_in_pieces(server: Server) -> None:
    """Events together are the reply at once; the first is the first letter alone."""
    body = {"text": DEAR * 3 + " 你", "seed": 5, "style": "quick", "page": "a6", "align": "justify"}
    whole = server.draw(**body)
    events = server.events("/v1/handwriting", **body)
    assert len(events) > 3
    check_pieces(events, whole, TEXT, "stop")
    assert events[-1]["substituted"] == whole["substituted"] != []
    assert set(events[0]["character"]) == {0}


def test_the_same_text_is_the_same_bytes_under_load(server: Server) -> None:
    """Sixteen at a time, among free writing, each reply is what it is alone."""
    body = {"text": DEAR, "seed": 11, "style": "school"}
    alone = server.post("/v1/handwriting", **body).content
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(server.post, "/v1/handwriting", max_points=60, seed=index) for index in range(8)]
        texts = list(pool.map(lambda _: server.post("/v1/handwriting", **body).content, range(16)))
        assert all(other.result(PATIENCE_S).status_code == 200 for other in others)
    assert set(texts) == {alone}
    assert server.post("/v1/handwriting", **body | {"seed": 12}).content != alone


def test_what_cannot_be_written_is_told(server: Server) -> None:
    """Substituted, skipped or refused, as wished; listed in the reply, and beside a picture in a header."""
    text = "a…b你\U0001f642\x07"
    listed = server.draw(text=text)["substituted"]
    assert [(each["index"], each["code_point"], each["drawn"]) for each in listed] == [
        (1, "U+2026", "..."),
        (3, "U+4F60", "□"),
        (4, "U+1F642", "□"),
        (5, "U+0007", ""),
    ]
    skipped = server.draw(text=text, unsupported="skip")
    assert {each["drawn"] for each in skipped["substituted"]} == {""}
    assert set(skipped["character"]) == {0, 2}
    refused = server.post("/v1/handwriting", text=text, unsupported="error")
    assert refused.status_code == 400
    assert problem(refused)["param"] == "text"
    assert "U+2026 at position 1" in problem(refused)["message"]
    picture = server.post("/v1/handwriting", text=text, format="svg")
    assert picture.headers["x-substituted"] == "4 1=U+2026 3=U+4F60 4=U+1F642 5=U+0007"


def test_half_a_character_is_refused(server: Server) -> None:
    """JSON can hold a lone surrogate, which is no character; it is a 400 for the text, not a fault."""
    content, headers = b'{"text": "a\\ud800b"}', {"content-type": "application/json"}
    response = server.client.post("/v1/handwriting", content=content, headers=headers)
    assert response.status_code == 400
    assert problem(response)["param"] == "text"


def test_styles_are_listed_with_previews(server: Server) -> None:
    """Each hand is shown by an SVG and says what it may be used for; each writes, and differently."""
    listed = server.client.get("/v1/handwriting/styles").json()
    StyleList.model_validate(listed)
    assert [card["id"] for card in listed["data"]] == list(STYLES)
    assert len({card["preview"] for card in listed["data"]}) == len(STYLES) >= 8
    for card in listed["data"]:
        assert len(svgstr2paths(card["preview"])[0]) > 5
        assert "commercial" in card["use"]
        assert server.draw(text="Hi", style=card["id"], seed=1)["style"] == card["id"]


def test_paper_and_layout_are_as_asked(server: Server) -> None:
    """A page by name or by size, lines within its margins, aligned, at the height and pitch asked for."""
    body: dict[str, Any] = {"text": "words and " * 30, "seed": 1, "margin_mm": 15, "wobble": 0, "bias": 5}
    reply = server.draw(**body, page=[90, 60], x_height_mm=2, line_spacing=1.5, align="right")
    assert [(page["width"], page["height"]) for page in reply["pages"]] == [(90, 60)] * len(reply["pages"])
    assert len(reply["pages"]) > 1
    assert min(reply["x"]) > 10
    assert max(reply["x"]) <= 75.01
    x, line = np.array(reply["x"]), np.array(reply["line"])
    ends = [x[line == row].max() for row in range(line.max() + 1)]
    assert np.allclose(ends, 75, atol=0.02)
    letter = server.draw(**body, page="letter")
    assert letter["pages"][0] == {"left": 0, "top": 0, "width": 215.9, "height": 279.4}
    big, small = (np.ptp(server.draw(text="x", seed=1, x_height_mm=size)["y"]) for size in (20, 2))
    assert big == pytest.approx(10 * small, rel=0.02)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"text": "a", "format": "svg", "stream": True}, "stream", "whole"),
    ({"format": "svg", "stream": True}, "stream", "whole"),
    ({"text": ""}, "text", "at least 1"),
    ({"text": "a", "model": "small-ink"}, "text", "copybook"),
    ({"model": "copybook"}, "text", "needs one"),
    ({"text": "a", "max_points": 5}, "max_points", "free writing"),
    ({"style": "plain"}, "style", "only with text"),
    ({"align": "right"}, "align", "only with text"),
    ({"text": "a", "style": "nobody"}, "style", "plain, draft"),
    ({"text": "a", "page": "a99"}, "page", "a4"),
    ({"text": "a", "page": [100]}, "page", ""),
    ({"text": "a", "page": [100, 10]}, "page", ""),
    ({"text": "a", "page": "a6", "margin_mm": 48}, "margin_mm", "9 mm"),
    ({"text": "a", "page": "a6", "margin_mm": 20, "line_width_mm": 66}, "line_width_mm", "65 mm"),
    ({"text": "a", "page": [100, 20], "margin_mm": 8}, "x_height_mm", "too low"),
    ({"text": "a", "color": "red"}, "color", "pattern"),
    ({"text": "a", "color": "#12345g"}, "color", "pattern"),
    ({"text": "a", "format": "png", "page": [1000, 1000], "dpi": 150}, "dpi", "pixels"),
    ({"max_points": 5, "format": "png", "page": [1000, 1000], "dpi": 150}, "dpi", "pixels"),
    ({"text": "a\n" * 600 + "b", "format": "pdf"}, "page", "5080"),
    ({"text": "a", "unsupported": "shout"}, "unsupported", "'skip'"),
]


@pytest.mark.parametrize(("body", "field", "words"), REFUSED, ids=range(len(REFUSED)))
def test_impossible_wishes_are_refused_by_name(server: Server, body: dict[str, Any], field: str, words: str) -> None:
    """Each is a 400 that names the field and says what is possible."""
    response = server.post("/v1/handwriting", **body)
    assert response.status_code == 400
    assert problem(response)["param"] == field
    assert words in problem(response)["message"]


def test_defaults_may_be_said(server: Server) -> None:
    """A client that sends every field, at the value it would have anyway, asks for nothing that cannot be."""
    said = {"align": "left", "wobble": 1, "unsupported": "substitute", "style": None, "text": None, "max_points": 9}
    assert server.draw(**said, seed=1) == server.draw(max_points=9, seed=1)
    assert server.draw(text="a", seed=1, max_points=600) == server.draw(text="a", seed=1)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("x_height_mm", [0.5, 50], [0.49, 50.1]),
        ("line_spacing", [0.4, 5], [0.39, 5.01]),
        ("wobble", [0, 5], [-0.01, 5.01]),
        ("margin_mm", [0, 500], [-0.1, 500.1]),
        ("line_width_mm", [10, 5000], [9.9, 5000.1]),
        ("page", [[20, 20], [5000, 5000]], [[19.9, 20], [5000, 5000.1]]),
        ("pen_mm", [0.05, 5], [0.049, 5.01]),
        ("dpi", [30, 1200], [29, 1201]),
        ("feed_mm_min", [10, 30_000], [9, 30_001]),
        ("style", ["plain"], ["p" * 65]),
        ("model", ["copybook"], ["c" * 65]),
    ],
)
def test_each_limit_at_n_and_beyond(server: Server, field: str, good: list[Any], bad: list[Any]) -> None:
    """The last allowed values are served; the next are refused by the name of the field."""
    body: dict[str, Any] = {"text": "a", "seed": 1, "x_height_mm": 0.5, "margin_mm": 1}
    for value in good:
        assert server.post("/v1/handwriting", **body | {field: value}).status_code == 200, value
    for value in bad:
        response = server.post("/v1/handwriting", **body | {field: value})
        assert response.status_code == 400, value
        assert problem(response)["param"].partition("[")[0] == field


def test_the_operators_limits_at_n_and_beyond(small_limits: Server) -> None:
    """Texts may be so long in a reply, longer in a stream, and fill so many pages; one more is refused."""
    assert small_limits.post("/v1/handwriting", text="a" * 40).status_code == 200
    refused = small_limits.post("/v1/handwriting", text="a" * 41)
    assert (refused.status_code, problem(refused)["param"]) == (400, "text")
    assert "at most 40 characters" in problem(refused)["message"]
    assert "60 in a stream" in problem(refused)["message"]
    assert small_limits.events("/v1/handwriting", text="a" * 60)[-1]["finish_reason"] == "stop"
    refused = small_limits.post("/v1/handwriting", text="a" * 61, stream=True)
    assert (refused.status_code, problem(refused)["param"]) == (400, "text")
    pages: dict[str, Any] = {"page": [100, 50], "margin_mm": 20}  # a line to a page
    assert len(small_limits.draw(text="a\nb", **pages)["pages"]) == 2
    refused = small_limits.post("/v1/handwriting", text="a\nb\nc", **pages)
    assert (refused.status_code, problem(refused)["param"]) == (400, "text")
    assert "3 pages; at most 2" in problem(refused)["message"]
    schemas = small_limits.client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["HandwritingRequest"]["properties"]["text"]["anyOf"][0]["anyOf"][0]["maxLength"] == 60


def wave(count: int) -> dict[str, list[Any]]:
    """Ink of so many points as columns, which the network reads as about 25."""
    x = [round(index / count, 3) for index in range(count)]
    y = [round(float(10 * np.sin(2 * np.pi * index / count)), 3) for index in range(count)]
    return {"x": x, "y": y, "pen": [0] * (count - 1) + [1]}


def test_a_prime_is_read_first(server: Server) -> None:
    """The network reads all of the user's ink, then draws another line than without it, from the origin on."""
    letter = server.draw(text="Dear Sir", seed=1)
    columns = {name: letter[name] for name in ("x", "y", "pen")}
    primed = server.draw(max_points=60, seed=5, prime=columns)
    plain = server.draw(max_points=60, seed=5)
    assert (primed["usage"]["points"], len(primed["x"])) == (60, 60)
    assert primed["usage"]["steps"] > 60 + len(columns["x"]) / 3
    assert (primed["x"][0], primed["y"][0]) == (0, 0)
    assert primed["x"] != plain["x"]
    assert server.draw(max_points=60, seed=5, prime=columns) == primed
    inkml = server.post("/v1/handwriting", text="Dear Sir", seed=1, format="inkml").text
    assert server.draw(max_points=60, seed=5, prime=inkml) == primed
    events = server.events("/v1/handwriting", max_points=60, seed=5, prime=columns)
    check_pieces(events, primed, FREE, "length")


@pytest.mark.parametrize(
    ("prime", "words"),
    [
        ("hello", "well-formed"),
        ('<!DOCTYPE i [<!ENTITY a "1 2,">]><ink><trace>&a;</trace></ink>', "entities"),
        ("<ink/>", "0 points"),
        (wave(9), "9 points"),
        ({"x": [1], "y": [1, 2], "pen": [1]}, "one length"),
        ({"x": [1e9] * 20, "y": [1] * 20, "pen": [0] * 20}, "beyond"),
        ({"x": [1] * 20, "y": [1] * 20, "pen": [0] * 20}, "no height"),
        ({"x": [1], "y": [1], "pen": [2]}, "less than or equal to 1"),
        ({"x": ["1"], "y": [1], "pen": [1]}, "number"),
        ({"x": [1], "y": [1]}, "required"),
        (5, ""),
    ],
)
def test_nonsense_ink_is_refused(server: Server, prime: Any, words: str) -> None:
    """What is no ink is a 400 for the field that says what is wrong."""
    response = server.post("/v1/handwriting", max_points=5, prime=prime)
    assert response.status_code == 400
    assert problem(response)["param"].partition("[")[0] == "prime"
    assert words in problem(response)["message"]
    assert server.post("/v1/handwriting", text="a", prime=wave(20)).status_code == 400


def test_a_prime_may_be_so_long(small_limits: Server) -> None:
    """As many points as the operator allows are read; one more is refused."""
    assert small_limits.post("/v1/handwriting", max_points=5, prime=wave(60)).status_code == 200
    refused = small_limits.post("/v1/handwriting", max_points=5, prime=wave(61))
    assert (refused.status_code, problem(refused)["param"]) == (400, "prime")
    assert "61 points; at most 60" in problem(refused)["message"]


def test_bias_makes_it_neater(server: Server) -> None:
    """More bias, less scatter from step to step."""

    def scatter(bias: float) -> float:
        reply = server.draw(max_points=2000, seed=1, bias=bias)
        return float(np.hypot(np.diff(reply["x"]), np.diff(reply["y"])).std())

    assert scatter(0) > scatter(1) > scatter(3)


@pytest.mark.parametrize("count", [1, 2])
def test_the_shortest_drawings(server: Server, count: int) -> None:
    """A drawing of one point is where the pen is set down, as JSON and in every picture."""
    assert len(server.draw(max_points=count)["x"]) == count
    for picture in PICTURES:
        assert server.post("/v1/handwriting", max_points=count, format=picture).status_code == 200
    assert "<path" in server.post("/v1/handwriting", max_points=count, format="svg").text


def test_a_reader_that_leaves_a_text_is_no_fault(server: Server) -> None:
    """A client may leave in the middle of a streamed text; the server has nothing to complain of and goes on."""
    body = {"text": "and so on " * 300, "stream": True, "seed": 1}
    with server.client.stream("POST", "/v1/handwriting", json=body) as response:
        assert next(response.iter_lines()).startswith("data: {")
    assert server.draw(text="on")["finish_reason"] == "stop"
    assert isinstance(response, httpx.Response)


def test_without_an_ink_bundle_only_texts_are_written(odd_server: Server) -> None:
    """A server of text bundles says that none writes freely; the copybook is always there."""
    response = odd_server.post("/v1/handwriting", max_points=5)
    assert response.status_code == 404
    assert problem(response)["code"] == "model_not_found"
    assert odd_server.draw(text="Hi")["finish_reason"] == "stop"
