"""Completions over HTTP: streamed and whole, with boundaries, stops, seeds and usage."""

import json
from typing import Any, ClassVar

import pytest

from model.codec import REPLACEMENT
from service.api.schemas.completions import CompletionReply
from tests.service.live_server import Server, problem


def joined(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Put the pieces of a stream's only choice together."""
    choices = [event["choices"][0] for event in events if event["choices"]]
    whole: dict[str, Any] = {
        "text": "".join(choice["text"] for choice in choices),
        "finish_reason": choices[-1]["finish_reason"],
    }
    assert all(choice["finish_reason"] is None for choice in choices[:-1])
    if "z" in choices[0]:
        whole["z"] = [
            [bit for choice in choices for bit in choice["z"][layer]] for layer in range(len(choices[0]["z"]))
        ]
        whole["op"] = ["".join(choice["op"][layer] for choice in choices) for layer in range(len(choices[0]["op"]))]
    return whole


def test_a_whole_reply_has_everything(server: Server) -> None:
    """The reply follows the published schema, and its counts agree with its text and columns."""
    reply = server.complete(max_tokens=40, seed=3, boundaries=True)
    CompletionReply.model_validate(reply)
    choice, usage = reply["choices"][0], reply["usage"]
    assert len(choice["text"]) == 40
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert reply["seed"] == 3
    assert [len(column) for column in choice["z"]] == [40, 40]
    assert [len(column) for column in choice["op"]] == [40, 40, 40]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 40, 43)
    assert usage["steps"] == 43
    updates = usage["layer_updates"]
    assert updates[0] == 43 > updates[1] >= updates[2] > 0
    for layer in range(3):
        told = sum(letter != "C" for letter in choice["op"][layer])
        assert told <= updates[layer] <= told + 3


def test_boundaries_and_operations_obey_the_equations(server: Server) -> None:
    """z nests, a FLUSH follows an own boundary and only that, an UPDATE needs one below, the rest is COPY."""
    choice = server.complete(max_tokens=300, seed=8, boundaries=True)["choices"][0]
    z, op = choice["z"], choice["op"]
    for step in range(1, 300):
        assert z[1][step] <= z[0][step]
        for layer in range(3):
            was_boundary = layer < 2 and z[layer][step - 1]
            is_due = layer == 0 or z[layer - 1][step]
            assert op[layer][step] == ("F" if was_boundary else "U" if is_due else "C")
    assert [set(letters) for letters in op] == [set("UF"), set("UCF"), set("UC")]


@pytest.mark.parametrize("boundaries", [False, True])
def test_a_stream_is_the_whole_in_pieces(server: Server, boundaries: bool) -> None:
    """Text, columns and reason of a stream put together are those of the same request answered whole."""
    body = {"max_tokens": 200, "seed": 5, "temperature": 0.9, "boundaries": boundaries}
    whole = server.complete(**body)["choices"][0]
    events = server.events("/v1/completions", model="small-text", prompt="It ", **body)
    assert len(events) > 1
    for event in events:
        CompletionReply.model_validate(event)
        assert event["object"] == "text_completion"
        assert event["id"] == events[0]["id"]
    expected = {name: whole[name] for name in ("text", "finish_reason", *(("z", "op") if boundaries else ()))}
    assert joined(events) == expected
    assert [event["seed"] for event in events if "seed" in event] == [5]
    assert len(events[0]["choices"][0]["text"]) == 1, "the first character comes alone, at once"


def test_usage_comes_last_when_asked(server: Server) -> None:
    """With include_usage every event has a null usage but the last, which has no choices and all of it."""
    body = {"model": "small-text", "prompt": "abc", "max_tokens": 30, "seed": 1, "boundaries": True}
    events = server.events("/v1/completions", stream_options={"include_usage": True}, **body)
    assert all(event["usage"] is None for event in events[:-1])
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == server.post("/v1/completions", **body).json()["usage"]
    assert all("usage" not in event for event in server.events("/v1/completions", **body))


def test_headers_suit_streams_and_proxies(server: Server) -> None:
    """A stream says what it is, is not to be stored or collected, and carries the request's id and seed."""
    body = {"model": "small-text", "prompt": "a", "max_tokens": 2, "stream": True, "seed": 77}
    with server.client.stream("POST", "/v1/completions", json=body, headers={"x-request-id": "my-id_1.x"}) as response:
        response.read()
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"] == "my-id_1.x"
    assert response.headers["x-seed"] == "77"
    assert response.text.endswith("\n\ndata: [DONE]\n\n")
    assert '"id":"cmpl-my-id_1.x"' in response.text


@pytest.mark.parametrize("given", ["has space", "x" * 65, "naïve", ""])
def test_odd_request_ids_are_replaced(server: Server, given: str) -> None:
    """An id that is no plain word is not repeated anywhere."""
    response = server.client.get("/v1/models", headers=[(b"x-request-id", given.encode())])
    assert len(response.headers["x-request-id"]) == 24


class TestStops:
    BODY: ClassVar = {"model": "small-text", "prompt": "It ", "max_tokens": 200, "seed": 11}

    def text(self, server: Server, **more: Any) -> Any:
        """A completion's only choice."""
        return server.post("/v1/completions", **self.BODY, **more).json()["choices"][0]

    @pytest.mark.parametrize("length", [1, 2, 7, 64])
    @pytest.mark.parametrize("boundaries", [False, True])
    def test_ends_before_the_stop_string(self, server: Server, length: int, boundaries: bool) -> None:
        """The text ends right before the stop string, whole or in events of any size, with columns to match."""
        full = self.text(server)["text"]
        stop = full[50 : 50 + length]
        expected = full[: full.find(stop)]
        choice = self.text(server, stop=stop, boundaries=boundaries)
        assert choice["text"] == expected
        assert choice["finish_reason"] == "stop"
        if boundaries:
            assert [len(column) for column in choice["z"]] == [len(expected)] * 2
        streamed = joined(server.events("/v1/completions", **self.BODY, stop=[stop], boundaries=boundaries))
        assert streamed["text"] == expected
        assert streamed["finish_reason"] == "stop"

    def test_straddles_events(self, odd_server: Server) -> None:
        """With an event per character, no piece of a stop string is ever told, and what only began as one is."""
        body = {"model": "deep", "prompt": "It ", "max_tokens": 200, "seed": 2}
        full = odd_server.post("/v1/completions", **body).json()["choices"][0]["text"]
        nearly = full[20:26] + "\N{SNOWMAN}"
        stop = full[120:128]
        events = odd_server.events("/v1/completions", **body, stop=[nearly, stop])
        pieces = [event["choices"][0]["text"] for event in events]
        assert "".join(pieces) == full[: full.find(stop)]
        told = ""
        for piece in pieces:
            told += piece
            assert full.startswith(told)
            assert len(told) <= full.find(stop)

    def test_of_several_the_first_to_be_complete_ends_it(self, server: Server) -> None:
        """Four stop strings may be given; the one that is complete first counts."""
        full = self.text(server)["text"]
        stops = [full[90:99], full[60:63], "\N{SNOWMAN}", full[61:70]]
        assert self.text(server, stop=stops)["text"] == full[: full.find(full[60:63])]

    def test_usage_counts_what_was_drawn(self, server: Server) -> None:
        """The stop string's own characters were drawn, so they are counted."""
        full = self.text(server)["text"]
        stop = full[30:34]
        usage = server.post("/v1/completions", **self.BODY, stop=stop).json()["usage"]
        assert usage["completion_tokens"] == full.find(stop) + len(stop)


class TestDrawing:
    def test_temperature_0_is_the_same_for_every_seed(self, server: Server) -> None:
        """Without chance the seed does not matter."""
        texts = {server.complete(max_tokens=50, temperature=0, seed=seed)["choices"][0]["text"] for seed in range(4)}
        assert len(texts) == 1

    def test_top_k_1_and_top_p_0_are_the_likeliest(self, server: Server) -> None:
        """The smallest sets hold the likeliest symbol alone."""
        greedy = server.complete(max_tokens=50, temperature=0)["choices"][0]["text"]
        for narrow in ({"top_k": 1}, {"top_p": 0}):
            assert server.complete(max_tokens=50, seed=9, **narrow)["choices"][0]["text"] == greedy

    def test_seeds_matter_and_are_told(self, server: Server) -> None:
        """Other seeds give other texts; a seed made up by the server is told and gives the same text again."""
        first = server.complete(max_tokens=60)
        second = server.complete(max_tokens=60)
        assert first["seed"] != second["seed"]
        assert first["choices"][0]["text"] != second["choices"][0]["text"]
        assert 0 <= first["seed"] < 2**53
        assert server.complete(max_tokens=60, seed=first["seed"])["choices"] == first["choices"]

    @pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
    def test_all_seeds_are_served(self, server: Server, seed: int) -> None:
        """The whole int64 range works."""
        assert len(server.complete(max_tokens=5, seed=seed)["choices"][0]["text"]) == 5


class TestPrompts:
    @pytest.mark.parametrize(
        "prompt", ["", "a", "\N{SNOWMAN}" * 9, "\0\x01", "\N{PILE OF POO}", REPLACEMENT, "\r\n\t", "日本語"]
    )
    def test_any_prompt_is_continued(self, server: Server, prompt: str) -> None:
        """Empty, single, unknown and odd characters give a text, never an error, and U+FFFD is never written."""
        reply = server.complete(prompt=prompt, max_tokens=200, temperature=2, seed=1)
        text = reply["choices"][0]["text"]
        assert len(text) == 200
        assert REPLACEMENT not in text
        assert reply["usage"]["prompt_tokens"] == len(prompt)

    def test_bytes_are_written_as_characters(self, odd_server: Server) -> None:
        """A bundle of bytes reads any text byte by byte, and its columns have one entry per character written."""
        body = {"model": "bytes", "prompt": "日本\N{SNOWMAN}", "max_tokens": 300, "seed": 4, "boundaries": True}
        reply = odd_server.post("/v1/completions", **body).json()
        choice = reply["choices"][0]
        assert reply["usage"]["prompt_tokens"] == 9
        assert reply["usage"]["completion_tokens"] == 300
        assert len(choice["z"][0]) == len(choice["op"][0]) == len(choice["text"]) <= 300
        assert joined(odd_server.events("/v1/completions", **body)) == {
            name: choice[name] for name in ("text", "finish_reason", "z", "op")
        }

    def test_a_codec_may_refuse(self, odd_server: Server) -> None:
        """A bundle whose codec refuses unknown characters answers 400 with the code point and its place."""
        response = odd_server.post("/v1/completions", model="strict", prompt="abc\N{SNOWMAN}", max_tokens=5)
        assert response.status_code == 400
        error = problem(response)
        assert error["param"] == "prompt"
        assert "U+2603 at position 3" in error["message"]
        assert "\N{SNOWMAN}" not in response.text

    def test_one_layer_and_five_and_the_control_are_served(self, odd_server: Server) -> None:
        """Networks of other depths tell as many columns as they have layers; the control computes all of them."""
        for model, detectors, layers in (("strict", 0, 1), ("deep", 4, 5), ("control", 0, 3)):
            body = {"model": model, "prompt": "a", "max_tokens": 50, "seed": 1, "boundaries": True}
            choice = odd_server.post("/v1/completions", **body).json()["choices"][0]
            assert [len(column) for column in choice["z"]] == [50] * detectors
            assert [len(column) for column in choice["op"]] == [50] * layers
            if model == "control":
                assert choice["op"] == ["U" * 50] * 3


def test_text_is_plain_utf_8_json(server: Server) -> None:
    """Events are one line each, valid JSON, and newlines in the text are escaped."""
    body = {"model": "small-text", "prompt": "a", "max_tokens": 400, "seed": 6, "stream": True, "temperature": 1.5}
    raw = server.post("/v1/completions", **body).content
    frames = raw.split(b"\n\n")
    assert frames.pop() == b""
    assert frames.pop() == b"data: [DONE]"
    texts = [json.loads(frame.removeprefix(b"data: "))["choices"][0]["text"] for frame in frames]
    assert "\n" in "".join(texts)
