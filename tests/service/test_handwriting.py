"""Free writing over HTTP: columns of points, in pieces or whole, and pictures of the same."""

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from service.schemas import HandwritingReply
from tests.service.server import Server, problem

COLUMNS = ("x", "y", "pen")
SVG = "{http://www.w3.org/2000/svg}"


def test_a_whole_drawing_has_everything(server: Server) -> None:
    """As many points as asked, from the origin on, with every layer's columns; counts agree."""
    reply = server.draw(max_points=150, seed=2)
    HandwritingReply.model_validate(reply)
    assert reply["object"] == "handwriting"
    assert (reply["start"], reply["seed"], reply["finish_reason"]) == (0, 2, "length")
    assert all(len(reply[name]) == 150 for name in COLUMNS)
    assert (reply["x"][0], reply["y"][0]) == (0, 0)
    assert set(reply["pen"]) == {0, 1}
    assert [len(column) for column in reply["z"]] == [150] * 2
    assert [len(column) for column in reply["op"]] == [150] * 3
    usage = reply["usage"]
    assert (usage["points"], usage["steps"]) == (150, 150)
    assert usage["layer_updates"] == [sum(letter != "C" for letter in letters) for letters in reply["op"]]
    assert all(abs(value * 100 - round(value * 100)) < 1e-6 for value in reply["x"])


def test_a_stream_is_the_whole_in_pieces(server: Server) -> None:
    """Pieces follow one another without a gap, and together are the drawing answered whole."""
    whole = server.draw(max_points=300, seed=9, bias=0.2)
    events = server.events("/v1/handwriting", max_points=300, seed=9, bias=0.2)
    assert len(events) > 2
    told = 0
    for event in events:
        HandwritingReply.model_validate(event)
        assert event["object"] == "handwriting.chunk"
        assert event["start"] == told
        told += len(event["x"])
    for name in COLUMNS:
        assert [value for event in events for value in event[name]] == whole[name]
    for layer in range(2):
        assert [bit for event in events for bit in event["z"][layer]] == whole["z"][layer]
    for layer in range(3):
        assert "".join(event["op"][layer] for event in events) == whole["op"][layer]
    assert [event["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["length"]
    assert events[-1]["usage"] == whole["usage"]
    assert len(events[0]["x"]) == 1, "the first point comes alone, at once"


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


@pytest.mark.parametrize("body", [{"format": "svg"}, {"format": "strokes"}])
def test_the_same_request_is_the_same_bytes(server: Server, body: dict[str, Any]) -> None:
    """A drawing answered whole has nothing in it but what the request settles."""
    replies = {server.post("/v1/handwriting", max_points=120, seed=3, **body).content for _ in range(3)}
    assert len(replies) == 1


def test_bias_makes_it_neater(server: Server) -> None:
    """More bias, less scatter from step to step."""

    def scatter(bias: float) -> float:
        reply = server.draw(max_points=2000, seed=1, bias=bias)
        return float(np.hypot(np.diff(reply["x"]), np.diff(reply["y"])).std())

    assert scatter(0) > scatter(1) > scatter(3)


@pytest.mark.parametrize("count", [1, 2])
def test_the_shortest_drawings(server: Server, count: int) -> None:
    """A drawing of one point is where the pen is set down, as JSON and as a picture."""
    assert len(server.draw(max_points=count)["x"]) == count
    assert "<path" in server.post("/v1/handwriting", max_points=count, format="svg").text


def test_a_picture_is_not_streamed(server: Server) -> None:
    """An SVG in events is refused by the field's name."""
    response = server.post("/v1/handwriting", format="svg", stream=True)
    assert response.status_code == 400
    assert problem(response)["param"] == "stream"


def test_text_is_refused_for_now(server: Server) -> None:
    """What a bundle for free writing cannot do is refused, not ignored."""
    response = server.post("/v1/handwriting", text="Dear Sir")
    assert response.status_code == 400
    assert problem(response)["param"] == "text"


def test_without_an_ink_bundle_there_is_no_handwriting(odd_server: Server) -> None:
    """A server of text bundles says that none writes ink."""
    response = odd_server.post("/v1/handwriting", max_points=5)
    assert response.status_code == 404
    assert problem(response)["code"] == "model_not_found"
