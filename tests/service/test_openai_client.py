"""OpenAI's official client reads us as it reads anyone."""

from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.service.server import PATIENCE_S, Server


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


def test_models(client: openai.OpenAI) -> None:
    """Models are listed and found, with their facts."""
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {"small-text", "small-ink"}
    one = client.models.retrieve("small-text")
    assert one.model_extra is not None
    assert one.model_extra["data"]["licence"] == "CC0-1.0"
    assert one.model_extra["metrics"]["z_rates"] == [0.3, 0.1]
