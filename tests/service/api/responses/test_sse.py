"""Every stream is framed in one way: a heartbeat, an end when the client leaves, an error as the last event."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent
from starlette.types import Message
from structlog.contextvars import clear_contextvars, get_contextvars

from model.codec import TextCodec
from service.api.responses.choices import ChoicesReply, StreamedReply
from service.api.responses.sse import DONE, PING, Event, EventStream, WholeReply
from service.engine.executor import TextExecutor
from service.engine.loop import Engine, FlushPolicy
from service.engine.sequences.base import Delta, End
from service.engine.sequences.text import TextParams, TextSequence
from service.engine.streams import Choices, submit_all
from service.errors import CopyistError, EngineFailureError, QueueFullError
from tests.service.fakes import CountingRunner
from tests.service.live_server import Server, running

QUIET_S = 3600.0
CODEC = TextCodec(tuple("abcdefghijk"), "error")
FAILURE = EngineFailureError("It failed.")
Step = Event | Exception | asyncio.Event


@dataclass
class Script:
    """A reply that does what is written down: sends an event, raises an error, or waits."""

    steps: list[Step]
    media_type: str = "application/json"
    closed: int = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        """Take the steps."""
        for step in self.steps:
            if isinstance(step, Event):
                yield step
            elif isinstance(step, asyncio.Event):
                await step.wait()
            else:
                raise step

    async def whole(self) -> bytes:
        """Take the steps and join what they send."""
        return b"".join([event.data async for event in self.events()])

    async def close(self) -> None:
        """Count how often the work was ended."""
        await asyncio.sleep(0)  # what ends an engine's work has to wait for it
        self.closed += 1


@dataclass
class Client:
    """The other end of a response."""

    leaves: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[Message] = field(default_factory=list)
    got_some: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> Message:
        """Say that the client left, once it has."""
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the response."""
        assert not self.is_complete, "nothing comes after the end"
        self.sent.append(message)
        self.got_some.set()

    async def get(self, response: EventStream | WholeReply) -> bytes:
        """Call a response and return the body it sent."""
        async with asyncio.timeout(60):
            await response({"type": "http"}, self.receive, self.send)
        return self.body

    @property
    def body(self) -> bytes:
        """What came so far."""
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def is_complete(self) -> bool:
        """Whether the last part has come."""
        return bool(self.sent) and self.sent[-1]["type"].endswith("body") and not self.sent[-1].get("more_body")

    def events(self) -> list[ServerSentEvent]:
        """What a client's own parser makes of the body."""
        response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=self.body)
        return list(EventSource(response).iter_sse())


async def test_events_are_framed_and_done() -> None:
    """Each event is a line of data; [DONE] comes with the last part, and nothing says how long the whole is."""
    client, reply = Client(), Script([Event(b"1", 1), Event(b"2", 2, is_last=True)])
    assert await client.get(EventStream(reply, QUIET_S, {"x-seed": "1"})) == b"data: 1\n\ndata: 2\n\n" + DONE
    assert client.is_complete
    headers = dict(client.sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert (headers[b"x-seed"], headers[b"cache-control"], headers[b"x-accel-buffering"]) == (b"1", b"no-cache", b"no")
    assert b"content-length" not in headers
    assert reply.closed == 1


async def test_ids_say_where_to_resume() -> None:
    """For browsers: the pause before coming back once, the position of each event that has one, `end` at the end."""
    client, reply = Client(), Script([Event(b"1", 7), Event(b"2"), Event(b"3", 9, is_last=True)])
    body = await client.get(EventStream(reply, QUIET_S, {}, has_ids=True))
    assert body == b"retry: 1000\nid: 7\ndata: 1\n\ndata: 2\n\nid: end\ndata: 3\n\n" + DONE
    assert [(event.id, event.data) for event in client.events()][:3] == [("7", "1"), ("7", "2"), ("end", "3")]


async def test_a_silent_stream_gets_heartbeats() -> None:
    """Comments come for as long as nothing else does, and no client takes them for events."""
    waits = asyncio.Event()
    client, reply = Client(), Script([Event(b"1"), waits, Event(b"2")])
    task = asyncio.create_task(client.get(EventStream(reply, 0.001, {})))
    async with asyncio.timeout(60):
        while client.body.count(PING) < 3:  # noqa: ASYNC110 - the test looks on
            await asyncio.sleep(0)
    waits.set()
    await task
    assert [event.data for event in client.events()] == ["1", "2", "[DONE]"]
    assert client.body.endswith(b"data: 2\n\n" + DONE)


async def test_a_busy_stream_gets_no_heartbeat() -> None:
    """A comment is only sent when nothing else was for that long."""
    client, reply = Client(), Script([Event(b"%d" % number) for number in range(100)])
    assert PING not in await client.get(EventStream(reply, QUIET_S, {}))


@pytest.mark.parametrize("steps", [[], [Event(b"1")]], ids=["before the first event", "between events"])
async def test_a_client_that_leaves_ends_the_work(steps: list[Step]) -> None:
    """The wait for the next event is given up, the work is closed, and nothing more is sent."""
    client, reply = Client(), Script([*steps, asyncio.Event()])
    task = asyncio.create_task(client.get(EventStream(reply, QUIET_S, {})))
    await client.got_some.wait()
    client.leaves.set()
    await task
    assert not client.is_complete
    assert DONE not in client.body
    assert reply.closed == 1


async def test_a_client_that_takes_nothing_and_leaves_ends_the_work() -> None:
    """Even when the very first part of the response is never taken."""

    class Sleeper(Client):
        async def send(self, _: Message) -> None:
            self.got_some.set()
            await asyncio.Event().wait()

    client, reply = Sleeper(), Script([Event(b"1")])
    task = asyncio.create_task(client.get(EventStream(reply, QUIET_S, {})))
    await client.got_some.wait()
    client.leaves.set()
    await task
    assert reply.closed == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(FAILURE, b"engine_failure"), (QueueFullError("Full."), b"queue_full"), (OSError("no"), b"engine_failure")],
)
async def test_an_error_is_the_last_event(error: Exception, code: bytes) -> None:
    """What came before it stands; whatever went wrong has the shape of every error, and [DONE] follows."""
    client, reply = Client(), Script([Event(b"1", 1), error, Event(b"2", 2)])
    await client.get(EventStream(reply, QUIET_S, {}, has_ids=True))
    first, last, done = client.events()
    assert (first.data, done.data) == ("1", "[DONE]")
    assert last.json()["error"].keys() == {"message", "type", "param", "code"}
    assert last.json()["error"]["code"].encode() == code
    assert last.id == "1", "a browser that comes back resumes where the error came"
    assert client.is_complete
    assert reply.closed == 1


async def test_a_whole_reply_is_one_body() -> None:
    """Its length is known and its type is the reply's."""
    client, reply = Client(), Script([Event(b"[1,"), Event(b"2]")])
    assert await client.get(WholeReply(reply, {"x-seed": "1"})) == b"[1,2]"
    headers = dict(client.sent[0]["headers"])
    assert (headers[b"content-length"], headers[b"content-type"]) == (b"5", b"application/json")
    assert reply.closed == 1


async def test_a_whole_reply_is_given_up_when_the_client_leaves() -> None:
    """Nothing is sent, and the work is closed."""
    client, reply = Client(), Script([asyncio.Event()])
    task = asyncio.create_task(client.get(WholeReply(reply, {})))
    await asyncio.sleep(0)
    client.leaves.set()
    await task
    assert not client.sent
    assert reply.closed == 1


async def test_a_whole_reply_that_fails_raises() -> None:
    """So that the error becomes the response."""
    client, reply = Client(), Script([FAILURE])
    with pytest.raises(EngineFailureError):
        await client.get(WholeReply(reply, {}))
    assert not client.sent
    assert reply.closed == 1


class Letters:
    """Renders choices as their text."""

    media_type = "text/plain"

    def __init__(self) -> None:
        self._whole = b""

    def event(self, delta: Delta) -> list[bytes]:
        """Return the text of a delta that was not sent before."""
        return ["".join(delta.unseen.items).encode() + b"." * (delta.end is not None)]

    def whole(self, delta: Delta, end: End) -> bytes | None:
        """Return the text so far."""
        assert end is delta.end
        self._whole += "".join(delta.items).encode()
        return self._whole


@dataclass
class Rig:
    """An engine on a counting runner."""

    engine: Engine
    runner: CountingRunner
    executor: TextExecutor

    def submit(self, count: int, *, n: int = 1, whole: bool = False) -> Choices:
        """Submit a completion of so many characters, n times."""
        params = TextParams(seed=1, max_tokens=count)
        sequences = [TextSequence(CODEC, [1], 0, params, whole=whole, choice=choice) for choice in range(n)]
        return submit_all(self.engine, self.executor, sequences)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """An engine that takes a step only when it is let, and sends each character by itself."""
    clear_contextvars()
    runner = CountingRunner(4, is_gated=True)
    executor = TextExecutor("counting", runner, CODEC)
    engine = Engine([executor], FlushPolicy(items=1, interval_s=0.0), 100)
    engine.start()
    yield Rig(engine, runner, executor)
    runner.open()
    engine.stop()


def text_of(count: int) -> bytes:
    """What the counting runner writes."""
    return CODEC.decode(CountingRunner.expected([1], count)).encode()


async def test_choices_are_streamed_from_a_position(rig: Rig) -> None:
    """Characters come as events whose ids count on from what was sent before; the log hears how it ended."""
    rig.runner.open()
    client = Client()
    reply = StreamedReply(rig.submit(5), Letters(), position=10)
    await client.get(EventStream(reply, QUIET_S, {}, has_ids=True))
    events = client.events()[:-1]
    assert "".join(event.data for event in events) == (text_of(5) + b".").decode()
    assert [event.id for event in events][-1] == "end"
    assert [int(event.id) for event in events[:-1]] == [10 + count for count in range(1, len(events))]
    assert get_contextvars()["finish_reason"] == "length"
    assert get_contextvars()["steps"] == 5


async def test_a_slow_reader_misses_nothing(rig: Rig) -> None:
    """What the engine writes while an event is being sent comes with the next one."""

    class Slow(Client):
        async def send(self, message: Message) -> None:
            await super().send(message)
            await asyncio.sleep(0.002)

    rig.runner.open()
    counts = (8, 200)  # the first one ends while an event is being sent
    sequences = [
        TextSequence(CODEC, [1], 0, TextParams(seed=1, max_tokens=count), choice=choice)
        for choice, count in enumerate(counts)
    ]
    client, choices = Slow(), submit_all(rig.engine, rig.executor, sequences)
    await client.get(EventStream(StreamedReply(choices, Letters()), QUIET_S, {}))
    sent = b"".join(event.data.encode() for event in client.events()[:-1])
    assert sorted(sent) == sorted(text_of(8) + text_of(200) + b"..")


async def test_choices_of_a_client_that_left_end_and_are_logged(rig: Rig) -> None:
    """All choices are cancelled, the engine's confirmation is awaited, and the log line says so."""
    client = Client()
    choices = rig.submit(100, n=2)
    task = asyncio.create_task(_logged(client, EventStream(StreamedReply(choices, Letters()), QUIET_S, {})))
    rig.runner.let(3)
    await client.got_some.wait()
    client.leaves.set()
    rig.runner.open()
    assert (await task)["finish_reason"] == "cancelled"
    assert choices.is_over
    assert rig.engine.num_open == 0
    assert rig.engine.gauges.cancelled == 2


async def _logged(client: Client, response: EventStream) -> dict[str, Any]:
    """What a response adds to the log line of the request that it runs in."""
    await client.get(response)
    return get_contextvars()


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_failed_step_is_the_last_event_or_the_error(rig: Rig, is_whole: bool) -> None:
    """What the engine had written before a failed step is sent; a whole reply becomes the error."""
    client = Client()
    rig.runner.broken_rows_at = {sum(CountingRunner.expected([1], 2)) + 4}  # the third character cannot be drawn
    choices = rig.submit(9, whole=is_whole)
    rig.runner.open()
    if is_whole:
        with pytest.raises(CopyistError):
            await client.get(WholeReply(ChoicesReply(choices, Letters()), {}))
    else:
        await client.get(EventStream(StreamedReply(choices, Letters()), QUIET_S, {}))
        *events, error, _ = [event.data for event in client.events()]
        assert "".join(events).encode() == text_of(2)
        assert "engine_failure" in error
    assert get_contextvars()["finish_reason"] == "error"


async def test_whole_choices_are_joined(rig: Rig) -> None:
    """Every choice is rendered, on another thread where that takes long; the last one gives the body."""
    rig.runner.open()
    for in_thread in (False, True):
        reply = ChoicesReply(rig.submit(4, n=3, whole=True), Letters(), in_thread=in_thread)
        assert await Client().get(WholeReply(reply, {})) == text_of(4) * 3


@pytest.fixture(scope="module")
def restless(bundles: Path) -> Iterator[Server]:
    """A server whose streams get a comment after a millisecond of silence."""
    with running(bundles, heartbeat_s=0.001) as started:
        yield started


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "small-text", "prompt": "a", "max_tokens": 4000}),
        ("/v1/handwriting", {"max_points": 4000}),
        ("/v1/handwriting", {"text": "all the words of a long letter " * 60}),
    ],
    ids=["completion", "free ink", "copybook"],
)
def test_each_kind_of_stream_has_a_heartbeat(restless: Server, path: str, body: dict[str, Any]) -> None:
    """Whoever writes: comments come between the events, which are the same without them."""
    content = restless.post(path, seed=1, stream=True, **body).content
    assert PING in content
    assert content.replace(PING, b"").endswith(b"\n\n" + DONE)
    events = restless.events(path, seed=1, **body)
    assert events[-1]["choices" if path == "/v1/completions" else "finish_reason"]
