"""OpenAI's official client reads us as it reads anyone."""

import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from export.bundle.folder import load, write
from tests.service.conftest import TEXT
from tests.service.graphs import constants
from tests.service.live_server import PATIENCE_S, Server, running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    """The synchronous client."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE_S, max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    """The asynchronous client."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE_S) as made:
        yield made


def test_whole(client: openai.OpenAI) -> None:
    """A completion with everything the client knows, and what is ours beside it."""
    reply = client.completions.create(
        model="small-text", prompt="It ", max_tokens=30, temperature=0.8, top_p=0.9, seed=4, stop=["\N{SNOWMAN}"],
        extra_body={"boundaries": True, "top_k": 40},
    )  # fmt: skip
    assert len(reply.choices[0].text) == 30
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.total_tokens == 33
    ours = reply.choices[0].model_extra
    assert ours is not None
    assert [len(column) for column in ours["z"]] == [30, 30]
    assert reply._request_id


def test_streamed(client: openai.OpenAI) -> None:
    """A stream is read to its end, with usage last, and is the text of the whole reply."""
    body = {"model": "small-text", "prompt": "It ", "max_tokens": 120, "seed": 4}
    whole = client.completions.create(**body)  # type: ignore[call-overload]
    with client.completions.create(**body, stream=True, stream_options={"include_usage": True}) as stream:  # type: ignore[call-overload]
        events = list(stream)
    assert "".join(event.choices[0].text for event in events if event.choices) == whole.choices[0].text
    assert events[-1].usage.completion_tokens == 120


def test_likelihoods_choices_and_lists(client: openai.OpenAI) -> None:
    """What OpenAI's own fields give arrives in the client's own types."""
    reply = client.completions.create(
        model="small-text", prompt=["It ", "So "], n=2, best_of=2, max_tokens=9, seed=1, echo=True, logprobs=2,
        logit_bias={"0": -100}, presence_penalty=0.5, frequency_penalty=-0.5, suffix=None, user="someone",
    )  # fmt: skip
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    for choice in reply.choices:
        found = choice.logprobs
        assert found is not None
        assert found.tokens is not None
        assert found.token_logprobs is not None
        assert found.top_logprobs is not None
        assert "".join(found.tokens) == choice.text
        assert found.text_offset == list(range(12))
        assert len(found.top_logprobs) == 12
        assert all(value < 0 for value in found.token_logprobs[1:])
    ids = client.completions.create(model="small-text", prompt=[[2, 3], [4, 5, 6]], max_tokens=1)
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 5


def test_closing_a_stream_early_cancels_it(client: openai.OpenAI, server: Server) -> None:
    """Leaving the client's own context ends the sequence."""
    before = server.gauges()["cancelled"]
    for _ in range(20):
        with client.completions.create(model="small-text", prompt="a", max_tokens=4096, stream=True) as stream:
            assert next(iter(stream)).choices[0].text
        if server.gauges_when(lambda gauges: gauges["running"] == 0)["cancelled"] > before:
            return
    raise AssertionError("the streams were all over before they could be cancelled")


async def test_asynchronous(async_client: openai.AsyncOpenAI) -> None:
    """The asynchronous client streams too."""
    stream = await async_client.completions.create(model="small-text", prompt="a", max_tokens=40, stream=True)
    assert len("".join([event.choices[0].text async for event in stream])) == 40


def test_refusals_are_its_exceptions(client: openai.OpenAI) -> None:
    """Errors arrive as the classes its users catch, with message, field and code."""
    with pytest.raises(openai.BadRequestError) as refusal:
        client.completions.create(model="small-text", prompt="a", n=17)
    assert refusal.value.param == "n"
    assert refusal.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as absence:
        client.completions.create(model="nobody", prompt="a")
    assert absence.value.code == "model_not_found"


@pytest.fixture(scope="module")
def frail(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of one row and no queue, with a bundle that breaks on reading a Z."""
    folder = tmp_path_factory.mktemp("frail")
    shutil.copytree(bundles / "small-text", folder / "small-text")
    export_broken(bundles / "small-text", folder / "broken", "Z")
    with running(folder, rows=1, queue=0, max_tokens=1_000_000) as started:
        yield started


class TestErrors:
    """Each class of error that its users catch, with all that the class carries."""

    @pytest.fixture
    def caller(self, frail: Server) -> Iterator[openai.OpenAI]:
        """The synchronous client, which tries again by itself where it may."""
        with openai.OpenAI(base_url=f"{frail.url}/v1", api_key="none", timeout=PATIENCE_S) as made:
            yield made

    def check(self, error: openai.APIStatusError, status: int, code: str | None, param: str | None) -> None:
        """All four keys, the id of the request, and the status."""
        assert error.status_code == status
        assert isinstance(error.body, dict)
        assert set(error.body) == {"message", "type", "param", "code"}
        assert (error.code, error.param) == (code, param)
        assert error.request_id == error.response.headers["x-request-id"]
        assert error.type

    def test_requests_that_cannot_be_served(self, caller: openai.OpenAI) -> None:
        """400, 404 and 413 are what they are."""
        with pytest.raises(openai.BadRequestError) as refusal:
            caller.completions.create(model="small-text", prompt="a", best_of=2)
        self.check(refusal.value, 400, None, "best_of")
        with pytest.raises(openai.NotFoundError) as absence:
            caller.completions.create(model="nobody", prompt="a")
        self.check(absence.value, 404, "model_not_found", "model")
        with pytest.raises(openai.APIStatusError) as excess:
            caller.completions.create(model="small-text", prompt="a" * 300_000)
        self.check(excess.value, 413, "body_too_large", None)

    def test_a_failure_is_not_tried_again(self, caller: openai.OpenAI, frail: Server) -> None:
        """A step that fails is a 500 which says that trying again does not help, so it is asked for once only."""
        before = frail.gauges()["finished"]
        with pytest.raises(openai.InternalServerError) as failure:
            caller.completions.create(model="broken", prompt="aZ", max_tokens=5)
        self.check(failure.value, 500, "engine_failure", None)
        assert failure.value.response.headers["x-should-retry"] == "false"
        assert frail.gauges()["finished"] == before + 1

    def test_a_failure_within_a_stream(self, caller: openai.OpenAI) -> None:
        """What was written before a failure is read, then the error is raised, and nothing comes after it."""
        bias = {str(TEXT.encode("Z").item()): 100}
        stream = caller.completions.create(model="broken", prompt="a", max_tokens=9, stream=True, logit_bias=bias)
        texts: list[str] = []
        with pytest.raises(openai.APIError) as failure:
            texts.extend(event.choices[0].text for event in stream)
        assert texts == ["Z"]
        assert (failure.value.code, failure.value.type) == ("engine_failure", "server_error")

    def test_a_failure_of_one_choice_ends_the_request(self, frail: Server) -> None:
        """Of several choices the first to fail is told, and the others are let go."""
        response = frail.post("/v1/completions", model="broken", prompt=["aZ"], max_tokens=5)
        assert response.status_code == 500
        assert frail.gauges_when(lambda gauges: gauges["running"] + gauges["waiting"] == 0)

    def test_a_full_house(self, caller: openai.OpenAI, frail: Server) -> None:
        """429 says when to come back; a client that may try again gets its turn when the place is free."""
        long = {"model": "small-text", "prompt": "a", "max_tokens": 1_000_000, "stream": True}
        with frail.client.stream("POST", "/v1/completions", json=long) as stream:
            pieces = stream.iter_bytes()  # to be kept: httpx leaves with the last reader of a stream
            assert next(pieces)
            with pytest.raises(openai.RateLimitError) as refusal:
                caller.with_options(max_retries=0).completions.create(model="small-text", prompt="a")
            self.check(refusal.value, 429, "queue_full", None)
            assert int(refusal.value.response.headers["retry-after"]) >= 1
        assert caller.completions.create(model="small-text", prompt="a", max_tokens=3).choices[0].text

    async def test_asynchronous(self, frail: Server) -> None:
        """The asynchronous client raises the same classes, before a stream and within it."""
        async with openai.AsyncOpenAI(base_url=f"{frail.url}/v1", api_key="none", timeout=PATIENCE_S) as caller:
            with pytest.raises(openai.BadRequestError) as refusal:
                await caller.completions.create(model="small-text", prompt="a", n=99, stream=True)
            self.check(refusal.value, 400, None, "n")
            with pytest.raises(openai.InternalServerError):
                await caller.completions.create(model="broken", prompt="Z")
            bias = {str(TEXT.encode("Z").item()): 100}
            stream = await caller.completions.create(model="broken", prompt="a", stream=True, logit_bias=bias)
            with pytest.raises(openai.APIError, match="failed at a step"):
                await read(stream)

    def test_a_service_that_stops(self, bundles: Path) -> None:
        """503 says when to come back."""
        with (
            running(bundles, drain_s=0.2, max_tokens=1_000_000) as server,
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE_S, max_retries=0) as caller,
            ThreadPoolExecutor(1) as pool,
        ):
            call = pool.submit(caller.completions.create, model="small-text", prompt="a", max_tokens=1_000_000)
            server.gauges_when(lambda gauges: gauges["running"] == 1)
            server.process.terminate()
            with pytest.raises(openai.InternalServerError) as refusal:
                call.result(PATIENCE_S)
            self.check(refusal.value, 503, "shutting_down", None)
            assert refusal.value.response.headers["retry-after"] == "1"
            assert server.ended() == 0


async def read(stream: Any) -> list[Any]:
    """Read a stream to its end."""
    return [event async for event in stream]


def export_broken(source: Path, target: Path, letter: str) -> None:
    """Write a copy of a bundle whose outputs are not finite once it has read a letter."""
    onnx = pytest.importorskip("onnx", reason="a graph is damaged with onnx")
    sound = load(source)
    files = dict(sound.files)
    for graph_file in [file for file in files if file.endswith(".onnx")]:
        graph = onnx.load_from_string(files[graph_file])
        (weights,) = [each for each in constants(graph.graph) if each.name.startswith("embedding")]
        values = onnx.numpy_helper.to_array(weights).copy()
        values[TEXT.encode(letter)] = np.nan
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        files[graph_file] = graph.SerializeToString()
    facts = {name: value for name, value in sound.manifest.items() if name not in ("format", "files", "fingerprint")}
    write(target, {**facts, "name": "broken"}, files)


def test_models(client: openai.OpenAI) -> None:
    """Models are listed and found, with their facts."""
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {"small-text", "small-ink", "copybook"}
    one = client.models.retrieve("small-text")
    assert one.model_extra is not None
    assert one.model_extra["data"]["licence"] == "CC0-1.0"
    assert one.model_extra["metrics"]["z_rates"] == [0.3, 0.1]
