"""The boundaries of given text and ink over HTTP: columns with an entry per step, and the tree of segments."""

from typing import Any

import pytest

from service.api.schemas.segments import InkSegmentation, TextSegmentation
from tests.service.api.responses.test_segments import all_of
from tests.service.live_server import Server, problem

TEXT = "It was a dark and stormy night; the rain fell in torrents."


def segmented(server: Server, **body: Any) -> dict[str, Any]:
    """What the service says of a text."""
    reply: dict[str, Any] = server.post("/v1/segment", **body).raise_for_status().json()
    (InkSegmentation if "ink" in body else TextSegmentation).model_validate(reply)
    return reply


def test_is_what_a_completion_says_of_its_prompt(server: Server) -> None:
    """Columns and work are those of the same text echoed, and the only text bundle need not be named."""
    reply = segmented(server, text=TEXT)
    echoed = server.complete(prompt=TEXT, echo=True, max_tokens=0, boundaries=True)
    assert (reply["z"], reply["op"]) == (echoed["choices"][0]["z"], echoed["choices"][0]["op"])
    assert reply["char"] == list(range(len(TEXT)))
    usage = reply["usage"]
    assert usage == {name: echoed["usage"][name] for name in usage}
    assert usage["steps"] == len(TEXT)
    assert [sum(each) for each in zip(*usage["operations"].values(), strict=True)] == [len(TEXT)] * 3
    assert [len(TEXT) - copies for copies in usage["operations"]["C"]] == usage["layer_updates"]
    assert 0 < usage["work_spared"] < 1
    assert reply == segmented(server, text=TEXT, model="small-text")


def test_the_tree_is_made_of_the_columns(server: Server) -> None:
    """Each layer's segments end where its z is 1, within the segments of the layer above."""
    text = TEXT * 4
    reply = segmented(server, text=text)
    root = reply["tree"]
    assert (root["layer"], root["start"], root["end"]) == (3, 0, len(text))
    for layer in (1, 2):
        segments = [node for node in all_of(root) if node["layer"] == layer]
        ends = [step + 1 for step, fired in enumerate(reply["z"][layer - 1]) if fired]
        assert len(ends) > 1, "the network of the test finds segments"
        assert [node["end"] for node in segments if node["complete"]] == ends
        assert "".join(text[node["start"] : node["end"]] for node in segments) == text


@pytest.mark.parametrize("model", ["bytes", "deep", "control"])
def test_any_script_and_any_network(odd_server: Server, model: str) -> None:
    """Chinese, Arabic and symbols beyond the basic plane get offsets in characters and in UTF-8."""
    text = "春眠不觉晓，处处闻啼鸟。 مرحبا \N{PILE OF POO}a"
    reply = segmented(odd_server, model=model, text=text)
    whole = text.encode()
    assert reply["char"][-1] == len(text) - 1
    assert reply["usage"]["steps"] == len(reply["char"]) == (len(whole) if model == "bytes" else len(text))
    root = reply["tree"]
    assert (root["end"], root["utf8_end"]) == (len(text), len(whole))
    leaves = [node for node in all_of(root) if not node.get("segments")]
    assert b"".join(whole[node["utf8_start"] : node["utf8_end"]] for node in leaves) == whole
    if model == "control":
        assert (leaves, reply["usage"]["work_spared"]) == ([root], 0)
    else:
        assert len(leaves) > 1


def test_what_is_refused(odd_server: Server, small_limits: Server) -> None:
    """No text, too much of it, an unknown character and an unnamed model are refused by the field's name."""
    for server, body, param, words in (
        (small_limits, {"text": ""}, "text", "at least 1"),
        (small_limits, {"text": "é" * 101}, "text", "at most 100 characters"),
        (small_limits, {"text": ["a"]}, "text", "string"),
        (small_limits, {"text": "a", "stream": True}, "stream", "not a field"),
        (odd_server, {"text": "a"}, "model", "bytes, control, deep, strict"),
        (odd_server, {"text": "abc\N{SNOWMAN}", "model": "strict"}, "text", "U+2603 at position 3"),
    ):
        response = server.post("/v1/segment", **body)
        assert response.status_code == 400
        assert problem(response)["param"] == param
        assert words in problem(response)["message"]
    assert small_limits.post("/v1/segment", text="é" * 100).status_code == 200
    other = small_limits.post("/v1/segment", text="a", model="small-ink")
    assert (other.status_code, problem(other)["param"]) == (404, "model")


@pytest.fixture(scope="module")
def letter(server: Server) -> dict[str, Any]:
    """Ink, as it comes back from the service."""
    drawn = server.draw(text="Dear Sir", seed=1)
    return {name: drawn[name] for name in ("x", "y", "pen")}


def test_ink_is_cut_into_segments_of_its_points(server: Server, letter: dict[str, Any]) -> None:
    """Columns tell where the network was and what it did there; each layer's segments cover the given points."""
    reply = segmented(server, ink=letter)
    assert (reply["model"], reply["usage"]["steps"]) == ("small-ink", len(reply["x"]))
    steps, points = len(reply["x"]), len(letter["x"])
    assert all(len(column) == steps for column in (*reply["z"], *reply["op"], reply["y"], reply["pen"]))
    assert sum(reply["pen"]) == sum(letter["pen"])
    ends = [index for index, lifted in enumerate(letter["pen"]) if lifted]
    assert [point for point, lifted in zip(reply["point"], reply["pen"], strict=True) if lifted] == ends
    for step in range(steps):
        if reply["pen"][step]:
            assert abs(reply["x"][step] - letter["x"][reply["point"][step]]) < 1e-6
    root = reply["tree"]
    assert (root["start"], root["end"], root["step_start"], root["step_end"]) == (0, points, 0, steps)
    for layer in (1, 2):
        segments = [node for node in all_of(root) if node["layer"] == layer]
        assert len(segments) > 1, "the network of the test finds segments"
        fired = [step + 1 for step, bit in enumerate(reply["z"][layer - 1]) if bit]
        assert [node["step_end"] for node in segments if node["complete"]] == fired
        for start, end in (("start", "end"), ("step_start", "step_end")):
            assert [node[start] for node in segments] == [0, *(node[end] for node in segments[:-1])]
        assert all(node["end"] == reply["point"][node["step_end"] - 1] + 1 for node in segments)


def test_ink_is_read_as_before_writing_on(server: Server, letter: dict[str, Any]) -> None:
    """InkML is the same ink, and what was read is what a prime costs: every step of it, and no point is drawn."""
    reply = segmented(server, ink=letter)
    inkml = server.post("/v1/handwriting", text="Dear Sir", seed=1, format="inkml").text
    assert segmented(server, ink=inkml, model="small-ink") == reply
    primed = server.draw(max_points=1, seed=1, prime=letter)
    assert primed["usage"]["steps"] == reply["usage"]["steps"] + 1
    assert {letter for row in reply["op"] for letter in row} <= set("UCF")


def test_ink_that_is_none_is_refused(server: Server, small_limits: Server, odd_server: Server) -> None:
    """Nonsense is a 400 for the field that says what is wrong with it; so are both text and ink, and neither."""
    wave = {"x": list(range(60)), "y": [index % 5 for index in range(60)], "pen": [0] * 59 + [1]}
    for server_, body, status, param, words in (
        (server, {"ink": "hello"}, 400, "ink", "well-formed"),
        (server, {"ink": "<ink/>"}, 400, "ink", "0 points"),
        (server, {"ink": {**wave, "pen": [1]}}, 400, "ink", "one length"),
        (server, {"ink": {**wave, "y": [1] * 60}}, 400, "ink", "no height"),
        (server, {"ink": {**wave, "pen": [2] * 60}}, 400, "ink", "less than or equal to 1"),
        (server, {"ink": 5}, 400, "ink", ""),
        (server, {"ink": wave, "text": "a"}, 400, "text", "not both"),
        (server, {}, 400, "text", "either this or ink"),
        (server, {"ink": wave, "model": "small-text"}, 404, "model", "writes text"),
        (odd_server, {"ink": wave}, 404, "model", "writes ink"),
        (small_limits, {"ink": {name: [*column, 1] for name, column in wave.items()}}, 400, "ink", "at most 60"),
    ):
        response = server_.post("/v1/segment", **body)
        assert response.status_code == status, body
        assert problem(response)["param"].partition("[")[0] == param
        assert words in problem(response)["message"]
