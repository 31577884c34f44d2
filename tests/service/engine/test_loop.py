"""The engine on a runner with known outputs: joining, leaving, cancelling, failing, stopping, and slow readers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from model.codec import TextCodec
from service.engine.executor import TextExecutor
from service.engine.loop import Engine, FlushPolicy
from service.engine.sequences.base import Delta
from service.engine.sequences.text import TextParams, TextSequence
from service.engine.streams import Choices, Stream
from service.errors import QueueFullError, ShuttingDownError
from tests.programs import PATIENCE_S
from tests.service.fakes import NUM_SYMBOLS, CountingRunner

CODEC = TextCodec(tuple("abcdefghijk"), "error")
EVERY_ITEM = FlushPolicy(items=1, interval_s=0.0)
AT_THE_END = FlushPolicy(items=10**9, interval_s=10**9)


@dataclass
class Rig:
    """An engine with one executor on a counting runner."""

    engine: Engine
    runner: CountingRunner
    executor: TextExecutor
    clock: list[float]

    def submit(self, prompt: list[int], count: int, *, whole: bool = False, stop: tuple[str, ...] = ()) -> Stream:
        """Submit a completion."""
        params = TextParams(seed=1, max_tokens=count, stop=stop)
        return self.engine.submit(self.executor, TextSequence(CODEC, prompt, 0, params, whole=whole))

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Give the event loop turns until something holds."""
        async with asyncio.timeout(60):
            while not is_true():  # noqa: ASYNC110 - counters of another thread have no event to wait for
                await asyncio.sleep(0)


async def take(stream: Stream) -> Delta:
    """Take the next delta of a stream."""
    delta = await Choices([stream]).take()
    assert delta is not None
    return delta


async def read(stream: Stream) -> Delta:
    """Take all deltas of a stream and join them."""
    whole = Delta()
    while whole.end is None:
        whole.extend(await take(stream))
    return whole


def text_of(prompt: list[int], count: int) -> str:
    """What the counting runner writes after a prompt."""
    return CODEC.decode(CountingRunner.expected(prompt, count))


Build = Callable[..., Rig]


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    """Makes rigs and stops them at the end."""
    rigs: list[Rig] = []

    def make(capacity: int = 4, waiting: int = 100, policy: FlushPolicy = EVERY_ITEM, *, is_gated: bool = False) -> Rig:
        runner, clock = CountingRunner(capacity, is_gated=is_gated), [0.0]
        executor = TextExecutor("counting", runner, CODEC)
        engine = Engine([executor], policy, waiting, stall_s=5.0, clock=lambda: clock[0])
        engine.start()
        rigs.append(Rig(engine, runner, executor, clock))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.runner.open()
        rig.engine.stop()


@pytest.mark.parametrize("policy", [EVERY_ITEM, FlushPolicy(items=7, interval_s=0.001), AT_THE_END])
async def test_everyone_gets_what_they_get_alone(build: Build, policy: FlushPolicy) -> None:
    """Sequences of all lengths share rows, join and leave, and each reads its own text, whatever the flushing."""
    rig = build(capacity=4, policy=policy)
    cases = [([number % NUM_SYMBOLS] * (1 + number % 5), 1 + (number * 7) % 23) for number in range(60)]
    streams = [rig.submit(prompt, count, whole=number % 3 == 0) for number, (prompt, count) in enumerate(cases)]
    replies = await asyncio.gather(*(read(stream) for stream in streams))
    for (prompt, count), reply in zip(cases, replies, strict=True):
        assert "".join(reply.items) == text_of(prompt, count)
        assert reply.end is not None
        assert reply.end.reason == "length"
    assert max(rig.runner.counts) == 4
    assert rig.engine.num_open == 0
    assert rig.engine.gauges.finished == 60


async def test_prompts_are_read_beside_running_rows(build: Build) -> None:
    """A long prompt does not hold up a stream that is already decoding: both advance in the same steps."""
    rig = build()
    first, second = rig.submit([1], 30), rig.submit([2] * 30, 1)
    await asyncio.gather(read(first), read(second))
    assert len(rig.runner.counts) < 60
    assert rig.engine.gauges.row_steps == 60


async def test_the_first_item_is_published_at_once(build: Build) -> None:
    """However lazy the policy, the first character does not wait for more."""
    rig = build(policy=AT_THE_END, is_gated=True)
    stream = rig.submit([1], 10)
    rig.runner.let(1)
    delta = await take(stream)
    assert "".join(delta.items) == text_of([1], 1)
    assert delta.end is None


@pytest.mark.parametrize(("rows", "steps"), [(2, 3), (64, 3), (128, 6)])
async def test_a_large_batch_publishes_less_often(build: Build, rows: int, steps: int) -> None:
    """Up to 64 streams get a delta after each interval; for more the interval grows, and the events stay as many."""
    rig = build(rows, policy=FlushPolicy(items=1000, interval_s=3.0), is_gated=True)
    rig.submit([1], 100)
    await rig.until(lambda: rig.engine.num_running == 1)
    streams = [rig.submit([1], 100) for _ in range(rows - 1)]
    rig.runner.let(2)  # the first step is of the first stream alone
    for stream in streams:
        assert len((await take(stream)).items) == 1
    waiting = [asyncio.create_task(take(stream)) for stream in streams]
    for step in range(1, steps + 1):
        assert not any(task.done() for task in waiting)
        rig.clock[0] += 1.0
        rig.runner.let(1)
        await rig.until(lambda taken=step + 2: rig.engine.gauges.steps == taken)  # type: ignore[misc]
        await asyncio.sleep(0)
    assert {len(delta.items) for delta in await asyncio.gather(*waiting)} == {steps}


async def test_a_slow_reader_gets_longer_pieces_and_no_queue(build: Build) -> None:
    """While a reader is away nothing is handed over; what it missed comes in one piece."""
    rig = build(is_gated=True)
    slow, quick = rig.submit([1], 40), rig.submit([2], 40)
    rig.runner.let(1)
    whole = [await take(slow), await take(quick)]
    for _ in range(20):
        waiting = asyncio.create_task(take(quick))
        await asyncio.sleep(0)
        rig.runner.let(1)
        assert len((await waiting).items) == 1
        assert slow._pending is None
    waiting = asyncio.create_task(take(slow))
    await asyncio.sleep(0)
    rig.runner.let(1)
    late = await waiting
    assert len(late.items) == 21
    rig.runner.open()
    rest = await read(slow)
    assert "".join(whole[0].items + late.items + rest.items) == text_of([1], 40)


@pytest.mark.parametrize("where", ["queued", "in the prompt", "decoding"])
async def test_cancelling_frees_the_row_within_one_step(build: Build, where: str) -> None:
    """A client that leaves is out before the next step but one, wherever its sequence stands."""
    rig = build(capacity=1, is_gated=True)
    if where == "queued":
        running = rig.submit([1], 100)
    stream = rig.submit([1] * (50 if where == "in the prompt" else 1), 100)
    rig.runner.let(10)
    await rig.until(lambda: rig.engine.gauges.steps == 10)
    assert rig.engine.num_open == (2 if where == "queued" else 1)
    before = rig.engine.gauges.steps
    stream.cancel()
    rig.runner.let(1)
    end = (await read(stream)).end
    assert end is not None
    assert end.reason == "cancelled"
    assert rig.engine.gauges.steps - before <= 1
    assert rig.engine.gauges.cancel_steps_max <= 1
    assert rig.engine.gauges.cancelled == 1
    assert rig.engine.num_running == (1 if where == "queued" else 0)
    assert rig.engine.num_waiting == 0
    if where == "queued":
        rig.runner.open()
        assert "".join((await read(running)).items) == text_of([1], 100)


async def test_cancelling_half_leaves_the_other_half_alone(build: Build) -> None:
    """Whoever leaves, those who stay read what they would have read."""
    rig = build(capacity=8, is_gated=True)
    prompts = [[number % NUM_SYMBOLS] for number in range(16)]
    streams = [rig.submit(prompt, 60) for prompt in prompts]
    rig.runner.let(15)
    await rig.until(lambda: rig.engine.gauges.steps == 15)
    for stream in streams[::2]:
        stream.cancel()
    rig.runner.open()
    for prompt, stream in list(zip(prompts, streams, strict=True))[1::2]:
        assert "".join((await read(stream)).items) == text_of(prompt, 60)
    assert rig.engine.gauges.cancelled == 8


async def test_cancelling_after_the_end_does_nothing(build: Build) -> None:
    """An order to cancel that comes after the end changes nothing."""
    rig = build()
    stream = rig.submit([1], 1)
    await read(stream)
    stream.cancel()
    assert "".join((await read(rig.submit([1], 3))).items) == text_of([1], 3)
    assert rig.engine.gauges.cancelled == 0


@pytest.mark.parametrize("waiting", [0, 3])
async def test_admission_is_bounded(build: Build, waiting: int) -> None:
    """Rows plus queue are taken, one more is refused with a time to come back, and a place freed is a place."""
    rig = build(capacity=2, waiting=waiting, is_gated=True)
    streams = [rig.submit([1], 5) for _ in range(2 + waiting)]
    with pytest.raises(QueueFullError) as refusal:
        rig.submit([1], 5)
    assert 1 <= refusal.value.retry_after_s <= 60
    rig.runner.open()
    for stream in streams:
        assert "".join((await read(stream)).items) == text_of([1], 5)
    await read(rig.submit([1], 5))


async def test_a_failed_step_ends_its_rows_and_nothing_else(build: Build) -> None:
    """Running sequences end with the error, the waiting ones run on fresh rows, and the engine goes on."""
    rig = build(capacity=2, is_gated=True)
    running, waiting = [rig.submit([1], 9) for _ in range(2)], rig.submit([3], 9)
    rig.runner.let(3)
    await rig.until(lambda: rig.engine.gauges.steps == 3)
    rig.runner.fails = 1
    rig.runner.open()
    for stream in running:
        end = (await read(stream)).end
        assert end is not None
        assert end.reason == "error"
    assert "".join((await read(waiting)).items) == text_of([3], 9)
    assert rig.engine.unready_reason is None
    assert rig.engine.gauges.failures == 1


async def test_repeated_failures_make_it_unready_until_a_step_works(build: Build) -> None:
    """After three failed steps in a row the engine is not ready; a step that succeeds makes it ready again."""
    rig = build()
    rig.runner.fails = 3
    for _ in range(3):
        await read(rig.submit([1], 1))
    assert rig.engine.unready_reason is not None
    await read(rig.submit([1], 1))
    assert rig.engine.unready_reason is None


async def test_a_broken_row_ends_alone(build: Build) -> None:
    """A row that is not finite ends with an error; its neighbours and its successor on the row do not notice."""
    rig = build(capacity=2)
    rig.runner.broken_rows_at = {11}
    broken, good = rig.submit([10], 5), rig.submit([2], 5)
    end = (await read(broken)).end
    assert end is not None
    assert end.reason == "error"
    assert "".join((await read(good)).items) == text_of([2], 5)
    assert "".join((await read(rig.submit([2], 5))).items) == text_of([2], 5)


async def test_readiness_watches_progress(build: Build) -> None:
    """An idle engine is ready; one with work but no step for too long is not, until its next step."""
    rig = build(is_gated=True)
    rig.clock[0] = 1000.0
    assert rig.engine.unready_reason is None
    stream = rig.submit([1], 2)
    assert rig.engine.unready_reason is None
    rig.clock[0] += 5.1
    assert "took no step" in str(rig.engine.unready_reason)
    rig.runner.let(1)
    await rig.until(lambda: rig.engine.gauges.steps == 1)
    assert rig.engine.unready_reason is None
    rig.runner.open()
    await read(stream)


async def test_draining_refuses_new_work_and_finishes_old(build: Build) -> None:
    """What runs or waits is finished, what comes is refused."""
    rig = build(capacity=1, is_gated=True)
    streams = [rig.submit([1], 5), rig.submit([2], 5)]
    rig.engine.drain()
    with pytest.raises(ShuttingDownError):
        rig.submit([3], 5)
    assert rig.engine.unready_reason is not None
    rig.runner.open()
    assert "".join((await read(streams[1])).items) == text_of([2], 5)


@pytest.mark.parametrize("how", ["end_all", "stop"])
async def test_whatever_runs_gets_an_end(build: Build, how: str) -> None:
    """At the end of patience running and waiting sequences end with the reason shutdown."""
    rig = build(capacity=1, is_gated=True)
    streams = [rig.submit([1], 10**6), rig.submit([2], 10**6)]
    rig.runner.let(3)
    await rig.until(lambda: rig.engine.gauges.steps == 3)
    if how == "end_all":
        rig.engine.end_all()
        rig.runner.open()
    else:
        rig.runner.open()
        rig.engine.stop()
        assert not rig.engine.is_alive
    for stream in streams:
        end = (await read(stream)).end
        assert end is not None
        assert end.reason == "shutdown"
    assert rig.engine.num_open == 0


async def test_a_reader_waits_until_there_is_more(build: Build) -> None:
    """A delta that was there before the reader came is taken once, and the next wait lasts until there is more."""
    rig = build(is_gated=True)
    stream = rig.submit([1], 2)
    choices = Choices([stream])
    rig.runner.let(1)
    await rig.until(lambda: stream._pending is not None)
    first = await choices.take()
    waiting = asyncio.create_task(choices.take())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    rig.runner.open()
    rest = await waiting
    assert "".join(first.items + rest.items) == text_of([1], 2)


async def test_a_thousand_random_cancels_leak_nothing(build: Build) -> None:
    """After many clients that left at some moment no row, no place and no stream is left behind."""
    rig = build(capacity=3, waiting=2000)
    streams = [rig.submit([number % NUM_SYMBOLS], 1 + number % 9) for number in range(1000)]
    for number, stream in enumerate(streams):
        if number % 7 < 4:
            stream.cancel()
        if number % 13 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*(read(stream) for stream in streams))
    assert (rig.engine.num_open, rig.engine.num_running, len(rig.engine._streams)) == (0, 0, 0)
    assert rig.engine.gauges.finished == 1000
    assert rig.engine.gauges.cancel_steps_max <= 1


async def test_several_streams_are_read_as_one(build: Build) -> None:
    """The streams of one request are read together, and each delta says which choice it belongs to."""
    rig = build(capacity=2)
    params = [TextParams(seed=1, max_tokens=30 + number) for number in range(5)]
    sequences = [TextSequence(CODEC, [number], 0, each, choice=number) for number, each in enumerate(params)]
    choices = Choices([rig.engine.submit(rig.executor, sequence) for sequence in sequences])
    texts = [Delta() for _ in sequences]
    while not choices.is_over:
        delta = await asyncio.wait_for(choices.take(), PATIENCE_S)
        texts[delta.choice].extend(delta)
    for number, whole in enumerate(texts):
        assert whole.end is not None
        assert "".join(whole.items) == text_of([number], 30 + number)


async def test_likelihoods_come_with_what_was_read_and_drawn(build: Build) -> None:
    """Each sequence that asks for them gets the log-probabilities of its own symbols only, the prompt's too."""
    rig = build(capacity=4)
    asks = TextParams(seed=1, max_tokens=5, echo=True, logprobs=2)
    plain = rig.submit([1, 2], 5)
    scored = rig.engine.submit(rig.executor, TextSequence(CODEC, [3, 4, 5], 0, asks))
    whole = await read(scored)
    symbols = [3, 4, 5, *CountingRunner.expected([3, 4, 5], 5)]
    assert "".join(whole.items) == CODEC.decode(symbols)
    scores = [score for item in whole.scores for score in item]
    assert [score.token for score in scores] == symbols
    assert (scores[0].logprob, scores[0].top) == (None, [])
    # The counting runner is sure of one symbol: 100 nats above each of the others.
    assert [score.logprob for score in scores[1:3]] == pytest.approx([0 if each == 3 + 1 else -100 for each in (4, 5)])
    for score in scores[3:]:
        assert score.logprob == pytest.approx(0)
        assert score.top[0] == (score.token, score.logprob)
        assert len(score.top) == 2
    assert (await read(plain)).scores == []


async def test_a_bias_belongs_to_its_row(build: Build) -> None:
    """A bias large enough decides its own sequence and leaves its neighbour alone, also when rows move."""
    rig = build(capacity=3)
    params = TextParams(seed=1, max_tokens=20, logit_bias=((2, 100.0), (0, -100.0)), temperature=0)
    short, plain = rig.submit([1], 3), rig.submit([1, 2], 20)
    biased = rig.engine.submit(rig.executor, TextSequence(CODEC, [7], 0, params))
    whole = await read(biased)
    # 100 for the one and 100 against the likeliest: "c" ties with it, and of equals the lower id counts.
    total, expected = 8, []
    for _ in range(20):
        best = total % NUM_SYMBOLS
        expected.append(min(best, 2) if best != 0 else 2)
        total += expected[-1] + 1
    assert "".join(whole.items) == CODEC.decode(expected)
    assert "".join((await read(plain)).items) == text_of([1, 2], 20)
    assert "".join((await read(short)).items) == text_of([1], 3)


async def test_bundles_share_the_thread_fairly() -> None:
    """While two bundles have work, each takes a step a round, however many rows the other has."""
    order: list[str] = []

    class Noted(CountingRunner):
        """Writes down whose step it was."""

        def __init__(self, name: str, capacity: int) -> None:
            super().__init__(capacity)
            self.name = name

        def step(self, count: int) -> NDArray[np.float32]:
            """Note the step and take it."""
            order.append(self.name)
            return super().step(count)

    executors = [TextExecutor(name, Noted(name, capacity), CODEC) for name, capacity in (("wide", 16), ("narrow", 1))]
    engine = Engine(executors, AT_THE_END, 100, clock=lambda: 0.0)
    engine.start()
    try:
        many = [
            engine.submit(executors[0], TextSequence(CODEC, [1] * 50, 0, TextParams(1, 300), whole=True))
            for _ in range(40)
        ]
        one = engine.submit(executors[1], TextSequence(CODEC, [1], 0, TextParams(1, 200), whole=True))
        await asyncio.gather(read(one), *(read(stream) for stream in many))
    finally:
        engine.stop()
    first = order.index("narrow")
    both = order[first : len(order) - order[::-1].index("narrow")]
    assert both == ["narrow", "wide"] * 199 + ["narrow"]


async def test_ten_thousand_joins_and_cancels_leak_nothing(build: Build) -> None:
    """After clients came and left at random, no sequence is left in a row, in the queue or in the counts."""
    rig, chance = build(capacity=8, waiting=200), np.random.default_rng(1)
    streams: list[Stream] = []
    for _ in range(10_000):
        if len(streams) == 100:
            stream = streams.pop(int(chance.integers(100)))
            if chance.random() < 0.7:
                stream.cancel()
            else:
                assert (await read(stream)).end is not None
        await rig.until(lambda: rig.engine.num_open < 200)
        streams.append(rig.submit([1] * int(chance.integers(1, 10)), int(chance.integers(1, 13))))
    for stream in streams:
        stream.cancel()
    await rig.until(lambda: rig.engine.num_open == 0)
    assert rig.engine.gauges.finished == 10_000
    assert rig.engine.gauges.cancel_steps_max <= 1
    assert not rig.engine._streams
    assert not rig.engine._published
    assert not rig.executor.has_work
    assert "".join((await read(rig.submit([1], 9))).items) == text_of([1], 9)
