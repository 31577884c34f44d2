"""Several choices of several prompts, prompts as ids, echo, likelihoods, bias and penalties, over HTTP."""

import math
from typing import Any, ClassVar

import pytest

from service.api.schemas.completions import CompletionReply
from tests.service.conftest import TEXT
from tests.service.live_server import Server, problem


def choices_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the pieces of each choice of a stream together, as a whole reply has them."""
    whole: dict[int, dict[str, Any]] = {}
    for event in events:
        for choice in event["choices"]:
            index = choice["index"]
            if index not in whole:
                whole[index] = choice
                continue
            assert whole[index]["finish_reason"] is None, "nothing comes after the end of a choice"
            whole[index] |= {"text": whole[index]["text"] + choice["text"], "finish_reason": choice["finish_reason"]}
            for name, columns in (choice["logprobs"] or {}).items():
                whole[index]["logprobs"][name] += columns
            for layer, column in enumerate(choice.get("z", ())):
                whole[index]["z"][layer] += column
            for layer, letters in enumerate(choice.get("op", ())):
                whole[index]["op"][layer] += letters
    return [whole[index] for index in sorted(whole)]


class TestChoices:
    BODY: ClassVar = {"model": "small-text", "max_tokens": 40, "seed": 3, "boundaries": True}

    def test_are_numbered_through_all_prompts(self, server: Server) -> None:
        """Choices come in order, differ from each other, and each is drawn by its own index alone."""
        reply = server.post("/v1/completions", **self.BODY, prompt=["It ", "So "], n=3).json()
        CompletionReply.model_validate(reply)
        choices = reply["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2, 3, 4, 5]
        assert len({choice["text"] for choice in choices}) == 6
        fewer = server.post("/v1/completions", **self.BODY, prompt="It ", n=2).json()["choices"]
        assert fewer == choices[:2]
        longer = server.post("/v1/completions", **{**self.BODY, "max_tokens": 60}, prompt="It ", n=4).json()["choices"]
        assert [choice["text"][:40] for choice in longer[:3]] == [choice["text"] for choice in choices[:3]]

    def test_usage_counts_a_prompt_once(self, server: Server) -> None:
        """A prompt counts once however many choices go on from it; what was drawn and run counts each time."""
        usage = server.post("/v1/completions", **self.BODY, prompt=["It ", "Soon"], n=3).json()["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (7, 240, 247)
        assert usage["layer_updates"][0] == usage["steps"]

    @pytest.mark.parametrize("more", [{}, {"echo": True, "logprobs": 2}])
    def test_stream_as_they_come(self, server: Server, more: dict[str, Any]) -> None:
        """Events of all choices are mixed, each names its choice, and put together they are the whole reply."""
        body = {**self.BODY, "prompt": ["It ", "So "], "n": 2, "max_tokens": 150, **more}
        whole = server.post("/v1/completions", **body).json()
        events = server.events("/v1/completions", stream_options={"include_usage": True}, **body)
        for event in events:
            CompletionReply.model_validate(event)
        assert choices_of(events) == whole["choices"]
        indices = [event["choices"][0]["index"] for event in events[:-1]]
        assert sorted(set(indices[:8])) == [0, 1, 2, 3], "each choice tells its first character at once"
        assert indices != sorted(indices), "choices do not wait for each other"
        assert events[-1]["choices"] == []
        assert events[-1]["usage"] == whole["usage"]
        assert all(event["usage"] is None for event in events[:-1])
        assert [event["seed"] for event in events if "seed" in event] == [3] * 4

    def test_end_each_for_itself(self, server: Server) -> None:
        """A stop string ends the choice it is found in; the others go on."""
        body = {"model": "small-text", "prompt": "It ", "n": 4, "max_tokens": 80, "seed": 5}
        texts = [choice["text"] for choice in server.post("/v1/completions", **body).json()["choices"]]
        stop = texts[2][30:34]
        expected = [text[: text.find(stop)] if stop in text else text for text in texts]
        for choices in (
            server.post("/v1/completions", **body, stop=stop).json()["choices"],
            choices_of(server.events("/v1/completions", **body, stop=stop)),
        ):
            assert [choice["text"] for choice in choices] == expected
            assert [choice["finish_reason"] for choice in choices] == [
                "stop" if stop in text else "length" for text in texts
            ]

    def test_are_admitted_all_or_none(self, bundles: Any) -> None:
        """Where there is no place for all choices, the request gets a 429 and takes no place; fewer are served."""
        from tests.service.live_server import running

        with running(bundles, rows=2, queue=1, max_tokens=1_000_000) as small:
            response = small.post("/v1/completions", model="small-text", prompt="a", n=4)
            assert response.status_code == 400
            assert "at most 3 choices" in problem(response)["message"]
            body = {"model": "small-text", "prompt": "a", "max_tokens": 1_000_000, "stream": True}
            with small.client.stream("POST", "/v1/completions", json=body) as stream:
                pieces = stream.iter_bytes()  # to be kept: httpx leaves with the last reader of a stream
                assert next(pieces)
                refused = small.post("/v1/completions", model="small-text", prompt="a", n=3)
                assert refused.status_code == 429
                assert int(refused.headers["retry-after"]) >= 1
                assert len(small.complete(n=2)["choices"]) == 2
            gauges = small.gauges_when(lambda each: each["running"] + each["waiting"] == 0)
            assert gauges["failures"] == 0
            assert len(small.complete(n=3)["choices"]) == 3


class TestIds:
    def test_are_the_text(self, server: Server) -> None:
        """A prompt of ids is the text they spell, alone and in a list."""
        texts = ["It was ", "\N{SNOWMAN}so"]
        ids = [TEXT.encode(text).tolist() for text in texts]
        body = {"model": "small-text", "max_tokens": 30, "seed": 4, "boundaries": True, "echo": True}
        of_texts = server.post("/v1/completions", **body, prompt=texts).json()
        of_ids = server.post("/v1/completions", **body, prompt=ids).json()
        assert of_ids["choices"] == of_texts["choices"]
        assert of_ids["usage"] == of_texts["usage"]
        alone = server.post("/v1/completions", **body, prompt=ids[0]).json()["choices"]
        assert alone == of_texts["choices"][:1]


class TestEcho:
    def test_comes_before_the_text(self, server: Server) -> None:
        """The prompt as it was read, then the text of the same request without echo, with columns for both."""
        body = {"prompt": "It was \N{SNOWMAN} ", "max_tokens": 30, "seed": 2, "boundaries": True}
        plain = server.complete(**body)["choices"][0]
        reply = server.complete(**body, echo=True)
        choice = reply["choices"][0]
        assert choice["text"] == "It was \N{REPLACEMENT CHARACTER} " + plain["text"]
        assert [len(column) for column in choice["z"]] == [39] * 2
        assert [column[9:] for column in choice["op"]] == plain["op"]
        updates = reply["usage"]["layer_updates"]
        assert updates == [len(column) - column.count("C") for column in choice["op"]]

    def test_alone_with_no_tokens(self, server: Server) -> None:
        """max_tokens 0 tells the prompt, its columns and its likelihoods, and draws nothing."""
        body = {"prompt": "It was a dark", "boundaries": True, "echo": True, "logprobs": 1}
        reply = server.complete(**body, max_tokens=0)
        choice, usage = reply["choices"][0], reply["usage"]
        assert (choice["text"], choice["finish_reason"]) == ("It was a dark", "length")
        assert (usage["completion_tokens"], usage["steps"]) == (0, 13)
        assert len(choice["op"][0]) == 13
        longer = server.complete(**body, max_tokens=5)["choices"][0]
        for name, column in choice["logprobs"].items():
            assert column == longer["logprobs"][name][:13]
        assert [column[:13] for column in longer["z"]] == choice["z"]
        assert server.complete(prompt="", echo=True, max_tokens=0)["choices"][0]["text"] == ""
        events = server.events("/v1/completions", model="small-text", **body, max_tokens=0)
        assert choices_of(events) == [choice]


class TestLogprobs:
    BODY: ClassVar = {"prompt": "It was ", "max_tokens": 60, "seed": 6, "temperature": 0.8}

    def test_have_the_form_openai_gave_them(self, server: Server) -> None:
        """Columns of equal length: symbols, likelihoods below 0, the likeliest with the symbol itself, and offsets."""
        choice = server.complete(**self.BODY, logprobs=3, echo=True)["choices"][0]
        columns = choice["logprobs"]
        assert list(columns) == ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
        assert {len(column) for column in columns.values()} == {67}
        assert "".join(columns["tokens"]) == choice["text"]
        assert columns["text_offset"] == list(range(67))
        assert (columns["token_logprobs"][0], columns["top_logprobs"][0]) == (None, None)
        for token, logprob, top in zip(
            columns["tokens"][1:], columns["token_logprobs"][1:], columns["top_logprobs"][1:], strict=True
        ):
            assert top[token] == logprob < 0
            ranked = sorted(top.values(), reverse=True)
            assert list(top.values())[:3] == ranked[:3]
            assert len(top) == (3 if logprob >= ranked[2] else 4)

    @pytest.mark.parametrize("count", [0, 1, 5])
    def test_as_many_as_asked_and_the_same_each_time(self, server: Server, count: int) -> None:
        """0 tells the symbol alone; more add the likeliest and change nothing of the rest."""
        choice = server.complete(**self.BODY, logprobs=count)["choices"][0]
        full = server.complete(**self.BODY, logprobs=5)["choices"][0]
        assert choice["text"] == full["text"] == server.complete(**self.BODY)["choices"][0]["text"]
        assert choice["logprobs"]["token_logprobs"] == full["logprobs"]["token_logprobs"]
        assert choice["logprobs"]["text_offset"] == list(range(60))
        for top in choice["logprobs"]["top_logprobs"]:
            assert count <= len(top) <= count + 1

    def test_are_the_networks_own(self, server: Server) -> None:
        """Bias, penalties and temperature steer the draw; the likelihoods are those without them."""
        text = server.complete(**self.BODY)["choices"][0]["text"]
        scored = server.complete(prompt="It was " + text, max_tokens=0, echo=True, logprobs=0)["choices"][0]
        drawn = server.complete(**self.BODY, logprobs=0)["choices"][0]
        assert scored["logprobs"]["token_logprobs"][7:] == drawn["logprobs"]["token_logprobs"]
        greedy = server.complete(prompt="It was ", max_tokens=1, temperature=0, logprobs=5)["choices"][0]["logprobs"]
        banned = TEXT.encode(greedy["tokens"][0]).item()
        other = server.complete(
            prompt="It was ", max_tokens=1, temperature=0, logprobs=5, logit_bias={str(banned): -100}
        )["choices"][0]["logprobs"]
        assert other["tokens"][0] == list(greedy["top_logprobs"][0])[1]
        assert other["top_logprobs"] == greedy["top_logprobs"]

    def test_sum_to_one(self, server: Server) -> None:
        """Every symbol's likelihood after one prompt, asked one by one, adds up to certainty."""
        prompts = [[*TEXT.encode("It ").tolist(), token] for token in range(TEXT.size)]
        total = 0.0
        for start in range(0, len(prompts), 15):
            body = {"prompt": prompts[start : start + 15], "max_tokens": 0, "echo": True, "logprobs": 0}
            for choice in server.complete(**body)["choices"]:
                total += math.exp(choice["logprobs"]["token_logprobs"][3])
        assert total == pytest.approx(1, abs=1e-9)

    def test_of_bytes_share_their_character(self, odd_server: Server) -> None:
        """The bytes of one character are told together, with its offset, and by OpenAI's name for a lone byte."""
        body = {"model": "bytes", "prompt": "a\N{SNOWMAN}A", "max_tokens": 0, "echo": True, "logprobs": 1}
        choice = odd_server.post("/v1/completions", **body).json()["choices"][0]
        assert choice["text"] == "a\N{SNOWMAN}A"
        assert choice["logprobs"]["tokens"] == ["a", "bytes:\\xe2", "bytes:\\x98", "bytes:\\x83", "A"]
        assert choice["logprobs"]["text_offset"] == [0, 1, 1, 1, 2]
        drawn = {**body, "max_tokens": 120, "seed": 2}
        whole = odd_server.post("/v1/completions", **drawn).json()["choices"]
        assert choices_of(odd_server.events("/v1/completions", **drawn)) == whole
        assert len(whole[0]["logprobs"]["tokens"]) == 125
        assert all(0 <= offset < len(whole[0]["text"]) for offset in whole[0]["logprobs"]["text_offset"])


class TestBias:
    def test_bans_and_forces(self, server: Server) -> None:
        """-100 is never drawn, 100 always, whatever the temperature."""
        ids = {letter: str(TEXT.encode(letter).item()) for letter in "aeiou "}
        text = server.complete(max_tokens=200, seed=1, logit_bias=dict.fromkeys(ids.values(), -100))
        assert not set("aeiou ") & set(text["choices"][0]["text"])
        forced = server.complete(max_tokens=20, seed=1, temperature=2, logit_bias={ids["e"]: 100})
        assert forced["choices"][0]["text"] == "e" * 20

    def test_penalties_make_for_variety(self, server: Server) -> None:
        """A frequency penalty spreads the symbols drawn, a negative one gathers them, and 0 changes nothing."""
        body = {"max_tokens": 300, "seed": 1}
        plain = server.complete(**body)["choices"][0]["text"]
        assert server.complete(**body, frequency_penalty=0, presence_penalty=0.0)["choices"][0]["text"] == plain
        spread = server.complete(**body, frequency_penalty=2)["choices"][0]["text"]
        gathered = server.complete(**body, frequency_penalty=-2)["choices"][0]["text"]
        assert len(set(spread)) > len(set(gathered))
        assert max(map(spread.count, set(spread))) < max(map(plain.count, set(plain)))
        first = server.complete(max_tokens=TEXT.size - 1, temperature=0, frequency_penalty=2, presence_penalty=2)
        assert len(set(first["choices"][0]["text"])) > len(
            set(server.complete(max_tokens=74, temperature=0)["choices"][0]["text"])
        )
