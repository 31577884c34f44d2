"""What is wrong with a request is told in OpenAI's error object, by field and limit, without a word of the input."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service.live_server import Server, problem, running

SECRET = "hunter2-do-not-repeat"  # noqa: S105 - it is what must not come back
COMPLETION = {"model": "small-text", "prompt": "a", "max_tokens": 2}

# path, field, the last value that is served, the first that is not, what the message must say
LIMITS: list[tuple[str, str, Any, Any, str]] = [
    ("completions", "max_tokens", 1, -1, "greater than or equal to 0"),
    ("completions", "max_tokens", 1, 0, "only allowed with echo"),
    ("completions", "temperature", 0, -0.001, "greater than or equal to 0"),
    ("completions", "temperature", 2, 2.001, "less than or equal to 2"),
    ("completions", "top_p", 0, -0.001, "greater than or equal to 0"),
    ("completions", "top_p", 1, 1.001, "less than or equal to 1"),
    ("completions", "top_k", 0, -1, "greater than or equal to 0"),
    ("completions", "top_k", 65_536, 65_537, "less than or equal to 65536"),
    ("completions", "seed", 2**63 - 1, 2**63, f"less than or equal to {2**63 - 1}"),
    ("completions", "seed", -(2**63), -(2**63) - 1, f"greater than or equal to {-(2**63)}"),
    ("completions", "stop", ["x"] * 4, ["x"] * 5, "at most 4"),
    ("completions", "stop", ["x" * 64], ["x" * 65], "at most 64"),
    ("completions", "stop", "x" * 64, "x" * 65, "at most 64"),
    ("completions", "stop", ["x"], [""], "at least 1"),
    ("completions", "user", "u" * 256, "u" * 257, "at most 256"),
    ("completions", "n", 1, 0, "greater than or equal to 1"),
    ("completions", "n", 16, 17, "at most 16 choices"),
    ("completions", "best_of", 1, 2, "only the value of n"),
    ("completions", "best_of", None, 0, "greater than or equal to 1"),
    ("completions", "logprobs", 0, -1, "greater than or equal to 0"),
    ("completions", "logprobs", 5, 6, "less than or equal to 5"),
    ("completions", "suffix", None, SECRET, "only null"),
    ("completions", "suffix", None, "", "only null"),
    ("completions", "logit_bias", {"73": -100}, {"74": 1}, "ids 0 to 73"),
    ("completions", "logit_bias", {"0": 100}, {"0": 100.1}, "less than or equal to 100"),
    ("completions", "logit_bias", {"0": -100}, {"0": -101}, "greater than or equal to -100"),
    ("completions", "logit_bias", {"0": 0}, {"00": 0}, "pattern"),
    ("completions", "logit_bias", {}, {"-1": 0}, "pattern"),
    ("completions", "logit_bias", {}, {str(10**9): 0}, "pattern"),
    ("completions", "logit_bias", {}, {str(token): 0 for token in range(1025)}, "at most 1024"),
    ("completions", "presence_penalty", 2, 2.1, "less than or equal to 2"),
    ("completions", "presence_penalty", -2, -2.1, "greater than or equal to -2"),
    ("completions", "frequency_penalty", 2, 3, "less than or equal to 2"),
    ("completions", "frequency_penalty", -2, -3, "greater than or equal to -2"),
    ("completions", "prompt", [0, 73], [0, 74], "ids 0 to 73"),
    ("completions", "prompt", [[0]], [[-1]], "ids 0 to 73"),
    ("completions", "prompt", [[5], [6]], [[5], [10**30]], "ids 0 to 73"),
    ("completions", "prompt", ["a"] * 16, ["a"] * 17, "at most 16 choices"),
    ("handwriting", "max_points", 1, 0, "greater than or equal to 1"),
    ("handwriting", "bias", 0, -0.001, "greater than or equal to 0"),
    ("handwriting", "bias", 5, 5.001, "less than or equal to 5"),
    ("handwriting", "format", "svg", SECRET, "'strokes', 'svg'"),
]
# The operator's own: small ones for the sake of the test.
CONFIGURED: list[tuple[str, str, Any, Any, str]] = [
    ("completions", "max_tokens", 50, 51, "at most 50"),
    ("completions", "prompt", "é" * 100, "é" * 101, "at most 100 characters"),
    ("completions", "prompt", ["é" * 60, "a" * 40], ["é" * 60, "a" * 41], "at most 100 characters"),
    ("completions", "prompt", [1] * 100, [1] * 101, "at most 100 characters"),
    ("completions", "n", 3, 4, "at most 3 choices"),
    ("completions", "prompt", ["a", "b", ""], ["a", "b", "", "c"], "at most 3 choices"),
    ("handwriting", "max_points", 70, 71, "at most 70"),
]
WRONG_TYPES: list[tuple[str, Any]] = [
    ("prompt", 5),
    ("prompt", []),
    ("prompt", [[]]),
    ("prompt", [[1], []]),
    ("prompt", [SECRET, 5]),
    ("prompt", [5, SECRET]),
    ("prompt", [1, 2.5]),
    ("prompt", [True]),
    ("prompt", [[1], "a"]),
    ("prompt", [[[1]]]),
    ("prompt", {"text": SECRET}),
    ("prompt", None),
    ("n", True),
    ("n", 1.5),
    ("n", "2"),
    ("echo", 0),
    ("logprobs", True),
    ("logprobs", False),
    ("logprobs", "1"),
    ("logit_bias", [1]),
    ("logit_bias", {"1": "1"}),
    ("logit_bias", {"1": True}),
    ("logit_bias", {SECRET: 1}),
    ("presence_penalty", "0"),
    ("frequency_penalty", True),
    ("model", 5),
    ("model", None),
    ("max_tokens", "16"),
    ("max_tokens", 1.5),
    ("max_tokens", True),
    ("temperature", "1"),
    ("temperature", False),
    ("top_p", [1]),
    ("seed", 1e300),
    ("seed", SECRET),
    ("stop", 5),
    ("stop", [SECRET, 5]),
    ("stop", {SECRET: 1}),
    ("stream", 1),
    ("stream", "true"),
    ("boundaries", 0),
    ("stream_options", True),
    ("stream_options", {"include_usage": 1}),
    ("stream_options", {SECRET: True}),
]


def body_for(path: str, field: str, value: Any) -> dict[str, Any]:
    """A small request with one field set."""
    return {**(COMPLETION if path == "completions" else {"max_points": 2}), field: value}


@pytest.mark.parametrize(("path", "field", "good", "bad", "words"), LIMITS)
def test_each_limit_at_n_and_beyond(server: Server, path: str, field: str, good: Any, bad: Any, words: str) -> None:
    """The last allowed value is served; the next is refused by the name of the field and the limit."""
    assert server.post(f"/v1/{path}", **body_for(path, field, good)).status_code == 200
    response = server.post(f"/v1/{path}", **body_for(path, field, bad))
    assert response.status_code == 400
    error = problem(response)
    assert error["type"] == "invalid_request_error"
    assert error["param"].split("[")[0] == field
    assert field in error["message"]
    assert words in error["message"]
    assert SECRET not in response.text


def test_the_operators_limits_at_n_and_beyond(small_limits: Server) -> None:
    """Limits set in the environment hold, are named in the refusal, and stand in the OpenAPI description."""
    for path, field, good, bad, words in CONFIGURED:
        assert small_limits.post(f"/v1/{path}", **body_for(path, field, good)).status_code == 200
        response = small_limits.post(f"/v1/{path}", **body_for(path, field, bad))
        assert response.status_code == 400
        assert problem(response)["param"] in (field, "n")
        assert words in problem(response)["message"]
    for prompt, n, max_tokens, status in (("a", 3, 40, 200), (["a", "b", "c"], 1, 41, 400), ("a", 3, 41, 400)):
        response = small_limits.post("/v1/completions", model="small-text", prompt=prompt, n=n, max_tokens=max_tokens)
        assert response.status_code == status
        if status == 400:
            assert problem(response)["param"] == "max_tokens"
            assert "at most 120 symbols" in problem(response)["message"]
    schemas = small_limits.client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"][0]["maxLength"] == 100
    assert schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"][3]["maxItems"] == 3
    assert schemas["HandwritingRequest"]["properties"]["max_points"]["anyOf"][0]["maximum"] == 70


@pytest.mark.parametrize(("field", "value"), WRONG_TYPES)
def test_types_are_strict(server: Server, field: str, value: Any) -> None:
    """Nothing is coerced: a value of another type is refused by the field's name, and not repeated."""
    response = server.post("/v1/completions", **body_for("completions", field, value))
    assert response.status_code == 400
    assert problem(response)["param"].split("[")[0] == field
    assert SECRET not in problem(response)["message"] or field == "stream_options"


def test_a_whole_number_may_have_a_point(server: Server) -> None:
    """JSON does not tell 1.0 from 1, and some languages write it so."""
    fields = {"n": 2, "seed": 1, "max_tokens": 3, "logprobs": 1, "top_k": 5, "prompt": [1, 2]}
    raw = json.dumps({"model": "small-text", **fields})
    pointed = re.sub(r"\b(\d+)\b(?=[,\]}])", r"\1.0", raw)
    assert pointed.count(".0") == 7
    response = server.client.post("/v1/completions", content=pointed, headers={"content-type": "application/json"})
    assert response.json()["choices"] == server.complete(**fields)["choices"]


def test_the_default_is_never_beyond_the_limit(bundles: Path) -> None:
    """Where fewer are served than a request asks for by default, one that does not say gets as many as there are."""
    with running(bundles, max_tokens=3, max_points=4) as server:
        assert server.complete()["usage"]["completion_tokens"] == 3
        assert server.draw()["usage"]["points"] == 4
        schemas = server.client.get("/openapi.json").json()["components"]["schemas"]
        assert schemas["CompletionRequest"]["properties"]["max_tokens"]["default"] == 3
        assert schemas["HandwritingRequest"]["properties"]["max_points"]["default"] == 4
        assert server.complete(max_tokens=4)["error"]["param"] == "max_tokens"


def test_many_lists_of_stop_strings_are_none(server: Server) -> None:
    """An empty list of stop strings, which some clients send, is no stop string."""
    assert server.complete(stop=[], seed=1)["choices"] == server.complete(seed=1)["choices"]


@pytest.mark.parametrize("field", ["best", "min_p", "Max_tokens", "state", "__class__", "x" * 500, "a\nb\x00"])
def test_unknown_fields_are_refused_by_name(server: Server, field: str) -> None:
    """A field that is not supported is never ignored; its name is shortened and made printable."""
    response = server.post("/v1/completions", **COMPLETION, **{field: SECRET})
    assert response.status_code == 400
    error = problem(response)
    assert error["param"] == "".join(letter if letter.isprintable() else "?" for letter in field[:64])
    assert SECRET not in response.text


@pytest.mark.parametrize("missing", ["model", "prompt"])
def test_required_fields_are_named(server: Server, missing: str) -> None:
    """What must be there and is not is named."""
    body = {name: value for name, value in COMPLETION.items() if name != missing}
    response = server.post("/v1/completions", **body)
    assert response.status_code == 400
    assert problem(response) == {
        "message": f"{missing} is required.",
        "type": "invalid_request_error",
        "param": missing,
        "code": None,
    }


def test_null_means_the_default(server: Server) -> None:
    """A field that may be left out may be null."""
    fields = ("max_tokens", "temperature", "top_p", "top_k", "stop", "stream", "stream_options", "boundaries", "n")
    reply = server.post("/v1/completions", model="small-text", prompt="a", seed=1, **dict.fromkeys(fields))
    assert (
        reply.json()["choices"]
        == server.post("/v1/completions", model="small-text", prompt="a", seed=1).json()["choices"]
    )
    others = ("model", "text", "max_points", "bias", "stream", "format")
    assert len(server.draw(**dict.fromkeys(others))["x"]) == 600


def test_stream_options_need_a_stream(server: Server) -> None:
    """Options of a stream without one are refused."""
    response = server.post("/v1/completions", **COMPLETION, stream_options={"include_usage": True})
    assert response.status_code == 400
    assert problem(response)["param"] == "stream_options"


@pytest.mark.parametrize(
    ("path", "model", "status", "words"),
    [
        ("completions", "nobody", 404, "small-text"),
        ("completions", "../small-text", 404, "small-text"),
        ("completions", "", 404, "small-text"),
        ("completions", "small-ink", 404, "/v1/handwriting"),
        ("handwriting", "nobody", 404, "small-ink"),
        ("handwriting", "small-text", 404, "/v1/completions"),
        ("completions", "x" * 65, 400, "at most 64"),
    ],
)
def test_models_that_are_not_there(server: Server, path: str, model: str, status: int, words: str) -> None:
    """An unknown model is 404 and the message lists those there are; one of the other kind is told where it works."""
    response = server.post(f"/v1/{path}", **body_for(path, "model", model))
    assert response.status_code == status
    error = problem(response)
    assert error["param"] == "model"
    assert words in error["message"]
    assert error["code"] == ("model_not_found" if status == 404 else None)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"model": "small-text", "prompt": "a", "temperature": NaN}',
        b'{"model": "small-text", "prompt": "a", "temperature": 1e999}',
        b'{"model": "small-text", "prompt": "a", "top_p": -Infinity}',
        b'{"model": "small-text", "prompt": "a", "logit_bias": {"1": NaN}}',
        b'{"model": "small-text", "prompt": "a", "presence_penalty": NaN}',
        b'{"model": "small-text", "prompt": [1e999]}',
        b'{"model": "small-text", "prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model": "small-text", "prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "small-text", "prompt": "\xff"}',
        b'{"model": "small-text", "prompt": "a", "stop": "\\ud800"}',
        b"[" * 100_000,
        b"[]",
        b"null",
        b'"hunter2-do-not-repeat"',
        b"5",
        "{}".encode("utf-16"),
    ],
)
def test_broken_bodies_are_the_clients_fault(server: Server, raw: bytes) -> None:
    """No body, however odd, is a fault of the service."""
    response = server.client.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert problem(response)["type"] == "invalid_request_error"
    assert SECRET not in response.text


def test_a_lone_surrogate_is_an_unknown_character(server: Server) -> None:
    """JSON can hold half a character; the codec's policy takes it as any it does not know."""
    raw = b'{"model": "small-text", "prompt": "\\ud800", "seed": 1}'
    response = server.client.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert response.json()["choices"] == server.complete(prompt="\N{SNOWMAN}", seed=1)["choices"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["completions", "handwriting"]),
    st.dictionaries(
        st.sampled_from(
            [
                "prompt",
                "temperature",
                "top_p",
                "top_k",
                "seed",
                "stop",
                "stream",
                "boundaries",
                "bias",
                "format",
                "n",
                "text",
                "echo",
                "logprobs",
                "logit_bias",
                "presence_penalty",
            ]
        ),
        JSON,
        max_size=3,
    ),
)
def test_fuzzed_fields_never_break_the_service(server: Server, path: str, fields: dict[str, Any]) -> None:
    """Any JSON in any field is served or refused with the error object; the engine never fails."""
    body = {**(COMPLETION if path == "completions" else {"max_points": 2}), **fields}
    raw = json.dumps(body)
    response = server.client.post(f"/v1/{path}", content=raw, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        assert problem(response)["message"]
    assert server.gauges()["failures"] == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["/tokenize", "/detokenize", "/v1/segment"]),
    st.dictionaries(st.sampled_from(["model", "prompt", "tokens", "text", "add_special_tokens", "stream"]), JSON),
)
def test_fuzzed_texts_and_ids_never_break_the_service(server: Server, path: str, fields: dict[str, Any]) -> None:
    """Any JSON to the routes of the codec and of segments is served or refused with the error object."""
    raw = json.dumps(fields)
    response = server.client.post(path, content=raw, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400, 404)
    if response.status_code != 200:
        assert problem(response)["message"]


@pytest.mark.parametrize(("path", "field"), [("/tokenize", "prompt"), ("/v1/segment", "text")])
def test_half_a_character_is_read_as_one_unknown(server: Server, path: str, field: str) -> None:
    """A lone surrogate is one symbol everywhere."""
    raw = b'{"%s": "a\\ud800b"}' % field.encode()
    response = server.client.post(path, content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert len(response.json()["tokens" if field == "prompt" else "char"]) == 3


def test_paths_and_methods_that_are_not_there(server: Server) -> None:
    """Routing's own refusals have the same shape."""
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/../etc/passwd", 404),
        ("GET", "/app.js/..%2f..%2fsettings.py", 404),
    ):
        response = server.client.request(method, path)
        assert response.status_code == status
        assert problem(response)["type"] == "invalid_request_error"


def test_an_empty_list_of_stop_strings_is_none(server: Server) -> None:
    """Some clients send an empty list for no stop strings."""
    assert server.complete(stop=[], seed=1)["choices"] == server.complete(seed=1)["choices"]


def test_best_of_is_accepted_at_n(server: Server) -> None:
    """What asks for no more than is given anyway is served."""
    assert len(server.complete(n=3, best_of=3, seed=1)["choices"]) == 3
    response = server.post("/v1/completions", **COMPLETION, n=3, best_of=4)
    assert (response.status_code, problem(response)["param"]) == (400, "best_of")


def test_a_refused_character_in_a_list_is_found(odd_server: Server) -> None:
    """Of several prompts the refusal names the one it is about."""
    response = odd_server.post("/v1/completions", model="strict", prompt=["abc", "ab\N{SNOWMAN}"])
    assert (response.status_code, problem(response)["param"]) == (400, "prompt[1]")
    assert "U+2603 at position 2" in problem(response)["message"]
