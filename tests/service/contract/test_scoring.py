"""A text scored over HTTP is the text scored offline, and the codec is there for whoever scores."""

import math
from typing import Any

import pytest

from model.codec import REPLACEMENT
from service.api.schemas.models import TokenizerInfo
from tests.service.conftest import TEXT
from tests.service.live_server import ROOT, Server, problem

PROSE = (ROOT / "tests" / "fixtures" / "text.txt").read_text()[:2400]


def offline_bpc(ids: Any, streams: int) -> float:
    """Bits per character as the evaluation of a training run counts them, on the network of the small text bundle."""
    torch = pytest.importorskip("torch", reason="the offline evaluation needs PyTorch")
    from model.data.batches import evaluation_text
    from model.data.corpus import Window
    from model.network.fast.window import WindowOptions
    from model.training.evaluate import evaluate
    from model.training.metrics import bits_per_symbol
    from tests.service.networks import network

    inputs, targets, weight = map(torch.from_numpy, evaluation_text(ids, streams))
    windows = [
        Window(inputs[at], targets[at], weight[at], torch.full((streams,), at.start == 0))
        for at in (slice(start, start + 100) for start in range(0, len(inputs), 100))
    ]
    found = evaluate(network(TEXT, (32, 24, 40)), windows, WindowOptions())
    assert found["steps"] == len(ids) - 1
    return bits_per_symbol(found["nats_per_step"])


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_bits_per_character_are_those_of_the_evaluation(server: Server, max_tokens: int) -> None:
    """Echo and likelihoods of the same streams, each from a fresh state, give the evaluation's figure to 1e-4.

    The first symbol of a stream is read and not scored: nothing comes before it. Every other is scored once, given all
    of its stream before it; a stream begins with the symbol that the one before it scored last.
    """
    ids, streams = TEXT.encode(PROSE), 3
    length = -(-(len(ids) - 1) // streams)
    prompts = [ids[start : start + length + 1].tolist() for start in range(0, len(ids) - 1, length)]
    reply = server.complete(prompt=prompts, echo=True, max_tokens=max_tokens, temperature=0, logprobs=1)
    scored: list[float] = []
    for prompt, choice in zip(prompts, reply["choices"], strict=True):
        column = choice["logprobs"]["token_logprobs"]
        assert len(column) == len(prompt) + max_tokens
        assert column[0] is None
        scored += column[1 : len(prompt)]
    assert len(scored) == len(ids) - 1
    over_http = -sum(scored) / len(scored) / math.log(2)
    assert over_http == pytest.approx(offline_bpc(ids, streams), abs=1e-4)
    assert max(scored) - min(scored) > 3, "a network without opinions would be scored right by any"


def test_a_long_text_may_be_scored_in_pieces(server: Server) -> None:
    """What is scored of a beginning does not depend on what comes after it."""
    whole = server.complete(prompt=PROSE, echo=True, max_tokens=0, logprobs=0)["choices"][0]["logprobs"]
    part = server.complete(prompt=PROSE[:500], echo=True, max_tokens=0, logprobs=0)["choices"][0]["logprobs"]
    assert part["token_logprobs"] == whole["token_logprobs"][:500]


class TestTokenizer:
    def test_is_the_bundles_codec(self, server: Server) -> None:
        """Ids there and back, as the codec gives them, with or without the wish for special symbols."""
        text = "It was\n\N{SNOWMAN}!"
        for more in ({}, {"add_special_tokens": True}, {"add_special_tokens": False, "model": "small-text"}):
            reply = server.post("/tokenize", prompt=text, **more).json()
            assert reply == {"model": "small-text", "count": 9, "tokens": TEXT.encode(text).tolist()}
        back = server.post("/detokenize", tokens=reply["tokens"]).json()
        assert back == {"model": "small-text", "prompt": text.replace("\N{SNOWMAN}", REPLACEMENT)}
        assert server.post("/tokenize", prompt="").json()["tokens"] == []
        assert server.post("/detokenize", tokens=[]).json()["prompt"] == ""

    def test_tells_its_symbols(self, server: Server, odd_server: Server) -> None:
        """Every symbol by its id; what an empty prompt reads is told as text that turns into that very id."""
        info = server.client.get("/tokenizer_info").json()
        TokenizerInfo.model_validate(info)
        assert "".join(info["vocabulary"]) == "".join(TEXT.symbols)
        assert (info["bos_token"], info["eos_token"]) == ("\n", None)
        info = odd_server.client.get("/tokenizer_info", params={"model": "bytes"}).json()
        assert info["vocabulary"][:4] == ["a", "b", "c", "\0"]
        assert (info["bos_token"], info["unknown"]) == ("\n", "bytes")
        assert len(set(info["vocabulary"])) == len(info["vocabulary"]) == 259
        empty = odd_server.post("/v1/completions", model="bytes", prompt="", seed=1).json()["choices"]
        assert empty == odd_server.post("/v1/completions", model="bytes", prompt="\n", seed=1).json()["choices"]

    def test_reads_bytes(self, odd_server: Server) -> None:
        """A byte codec takes any text apart and puts it together, and broken bytes become U+FFFD."""
        text = "日本\N{SNOWMAN}a"
        reply = odd_server.post("/tokenize", model="bytes", prompt=text).json()
        assert reply["count"] == len(text.encode())
        assert odd_server.post("/detokenize", model="bytes", tokens=reply["tokens"]).json()["prompt"] == text
        broken = odd_server.post("/detokenize", model="bytes", tokens=reply["tokens"][:2]).json()["prompt"]
        assert broken == REPLACEMENT

    def test_refuses_by_name(self, server: Server, odd_server: Server, small_limits: Server) -> None:
        """Unknown ids and characters, models that are not named where several are, and large bodies are refused."""
        for response, status, param in (
            (server.post("/detokenize", tokens=[74]), 400, "tokens"),
            (server.post("/detokenize", tokens=[-1]), 400, "tokens"),
            (server.post("/detokenize", tokens=[10**30]), 400, "tokens"),
            (server.post("/detokenize", tokens=[0, True]), 400, "tokens[1]"),
            (server.post("/detokenize", tokens="0"), 400, "tokens"),
            (server.post("/tokenize", prompt=["a"]), 400, "prompt"),
            (server.post("/tokenize"), 400, "prompt"),
            (server.post("/tokenize", prompt="a", other=1), 400, "other"),
            (server.post("/tokenize", prompt="a", model="nobody"), 404, "model"),
            (server.client.get("/tokenizer_info", params={"model": "nobody"}), 404, "model"),
            (server.client.get("/tokenizer_info", params={"model": "x" * 65}), 400, "model"),
            (odd_server.post("/tokenize", prompt="a"), 400, "model"),
            (odd_server.client.get("/tokenizer_info"), 400, "model"),
            (odd_server.post("/tokenize", model="strict", prompt="x"), 400, "prompt"),
            (small_limits.post("/tokenize", prompt="a" * 2000), 413, None),
        ):
            assert (response.status_code, problem(response)["param"]) == (status, param)


def test_the_description_lists_all_routes(server: Server) -> None:
    """Each route and its schema stands in the OpenAPI description, with examples that work."""
    description = server.client.get("/openapi.json").json()
    for path, ours in (
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [1]}),
        ("/v1/segment", {"text": "a"}),
    ):
        content = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        schema = description["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        for example in (*schema["examples"], ours):
            assert server.post(path, **example).status_code == 200
        assert "400" in description["paths"][path]["post"]["responses"]
    text = description["components"]["schemas"]["SegmentRequest"]["properties"]["text"]["anyOf"][0]["anyOf"][0]
    assert text == {"type": "string", "maxLength": 8192}
    assert description["paths"]["/tokenizer_info"]["get"]["parameters"][0]["name"] == "model"
