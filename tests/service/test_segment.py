"""The boundaries of given text over HTTP: the columns of completions, and the tree of segments over them."""

from typing import Any

import pytest

from service.schemas import SegmentReply
from tests.service.server import Server, problem
from tests.service.test_segments import all_of

TEXT = "It was a dark and stormy night; the rain fell in torrents."


def segmented(server: Server, **body: Any) -> dict[str, Any]:
    """What the service says of a text."""
    reply: dict[str, Any] = server.post("/v1/segment", **body).raise_for_status().json()
    SegmentReply.model_validate(reply)
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
        (small_limits, {"text": "a", "model": "small-ink"}, "model", "ink"),
        (small_limits, {"text": "a", "stream": True}, "stream", "not a field"),
        (odd_server, {"text": "a"}, "model", "bytes, control, deep, strict"),
        (odd_server, {"text": "abc\N{SNOWMAN}", "model": "strict"}, "text", "U+2603 at position 3"),
    ):
        response = server.post("/v1/segment", **body)
        assert response.status_code == 400
        assert problem(response)["param"] == param
        assert words in problem(response)["message"]
    assert small_limits.post("/v1/segment", text="é" * 100).status_code == 200
