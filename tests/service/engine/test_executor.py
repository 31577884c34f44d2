"""An executor with sequences that come, go, branch, stop and go on, on a fake runner and on real ones.

The rules of the state machine are what clients do; what must hold is checked after each: no row has two owners, the
order of arrival is kept, everyone finishes, and every client gets the same text as without the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from export.bundle import folder as bundles_of
from model.codec import TextCodec, codec_from_json
from service.engine.executor import MAX_PREFILL, MIN_PREFILL, Executor, InkExecutor, TextExecutor
from service.engine.runners.onnx import OnnxRunner
from service.engine.sequences.base import Delta, End, Sequence, Status
from service.engine.sequences.free_ink import InkParams, InkSequence
from service.engine.sequences.snapshot import Snapshot, StreamPart
from service.engine.sequences.text import TextParams, TextSequence
from tests.service.fakes import NUM_SYMBOLS, CountingRunner

CODEC = TextCodec(tuple("abcdefghijk"), "error")
STEPS_AT_MOST = 1000


def drive(executor: Executor[Any], sequences: list[Any]) -> list[Delta]:
    """Run sequences together to their ends and return the items of each, with its end."""
    written = [Delta() for _ in sequences]
    for sequence in sequences:
        executor.scheduler.add(sequence)
    for _ in range(STEPS_AT_MOST):
        executor.admit(0.0)
        if not executor.scheduler.rows:
            break
        for sequence in executor.step():
            if sequence.reason:
                executor.remove(sequence)
            written[sequences.index(sequence)].extend(sequence.take().unseen)
    assert all(delta.end for delta in written)
    return written


def end_of(delta: Delta) -> End:
    """How something ended, which it has."""
    assert delta.end is not None
    return delta.end


def snapshot_of(delta: Delta) -> Snapshot:
    """What to go on from, which there is."""
    found = end_of(delta).snapshot
    assert found is not None
    return found


@dataclass
class Model:
    """A real bundle's executor and how to make sequences for it."""

    executor: Executor[Any]
    codec: Any
    num_rows: int = 3
    kinds: tuple[str, ...] = field(default=("plain", "boundaries"))

    def sequence(
        self, length: int, part: StreamPart, *, prompt: str = "", boundaries: bool = True, **params: Any
    ) -> Any:
        """Return a text or a drawing of so many symbols or points."""
        if isinstance(self.executor, InkExecutor):
            return InkSequence((0.0, 0.0, 0.0), InkParams(seed=7, max_points=length, bias=0.5), part=part)
        ids = self.codec.encode(prompt).tolist()
        given = TextParams(seed=7, max_tokens=length, **params)
        return TextSequence(self.codec, ids, 0, given, boundaries=boundaries, part=part)

    def write(self, length: int, part: StreamPart, **given: Any) -> Delta:
        """Return the items of such a sequence, which runs beside two others."""
        others = [self.sequence(3 + length % 5, StreamPart(), prompt="ab") for _ in range(self.num_rows - 1)]
        return drive(self.executor, [*others, self.sequence(length, part, **given)])[-1]


@pytest.fixture(params=["small-text", "small-ink", "bytes", "control"])
def model(request: pytest.FixtureRequest, bundles: Path, odd_bundles: Path) -> Model:
    """Each of some real bundles."""
    name = request.param
    bundle = bundles_of.load((bundles if name.startswith("small") else odd_bundles) / name)
    runner = OnnxRunner(bundle, 3)
    codec = codec_from_json(dict(bundle.codec))
    executor = TextExecutor(name, runner, codec) if isinstance(codec, TextCodec) else InkExecutor(name, runner)
    return Model(executor, codec)


@pytest.mark.parametrize("stops", [(), ("ab", "e"), tuple("aeiou")])
@pytest.mark.parametrize("boundaries", [True, False])
def test_a_text_in_two_parts_is_the_text(model: Model, boundaries: bool, stops: tuple[str, ...]) -> None:
    """Split after any symbol or point, the two parts joined are the whole, trace, stop strings and bytes included."""
    if isinstance(model.executor, InkExecutor) and (stops or not boundaries):
        pytest.skip("ink has neither")
    length = 24
    given: dict[str, Any] = {"prompt": "ba", "boundaries": boundaries, "stop": stops}
    given |= {"frequency_penalty": 0.7, "presence_penalty": -0.3} if stops else {}
    whole = model.write(length, StreamPart(), **given)
    for position in range(1, length):
        first = model.write(position, StreamPart(keeps=True), **given)
        if end_of(first).reason == "stop":
            assert (first.items, first.trace) == (whole.items, whole.trace)
            assert end_of(whole).reason == "stop"
            break
        second = model.write(length - position, StreamPart(snapshot_of(first)), **{**given, "prompt": ""})
        first.extend(second)
        assert first.items == whole.items
        assert first.trace == whole.trace
        assert end_of(second).reason == end_of(whole).reason


def test_a_text_in_many_parts_is_the_text(model: Model) -> None:
    """One symbol or point at a time, each from the snapshot of the one before."""
    whole = model.write(12, StreamPart(), prompt="ba")
    joined = model.write(1, StreamPart(keeps=True), prompt="ba")
    for number in range(11):
        joined.extend(model.write(1, StreamPart(snapshot_of(joined), keeps=number < 10)))
    assert (joined.items, joined.trace) == (whole.items, whole.trace)


@pytest.mark.parametrize("boundaries", [True, False])
def test_a_stream_is_taken_up_at_any_position(model: Model, boundaries: bool) -> None:
    """Items that the client already has are not sent again, and the rest does not change."""
    given: dict[str, Any] = {"prompt": "ba", "boundaries": boundaries, "stop": ("zz",)}
    whole = model.write(15, StreamPart(), **given)
    count = len(whole.items)
    for position in range(count + 3):
        rest = model.write(15, StreamPart(skip=position), **given)
        assert rest.items == whole.items[position:]
        assert rest.trace == whole.trace[position:]
        assert end_of(rest).trace == end_of(whole).trace


def test_a_prompt_after_a_state_is_read_as_if_it_stood_there(model: Model) -> None:
    """A text, then a prompt, then a text again: as if all before had been one prompt."""
    if isinstance(model.executor, InkExecutor) or model.codec.unknown == "bytes":
        pytest.skip("needs symbols that are characters")
    first = model.write(9, StreamPart(keeps=True), prompt="ba", temperature=0.0)
    second = model.write(9, StreamPart(snapshot_of(first)), prompt=" abc", temperature=0.0)
    expected = model.write(9, StreamPart(), prompt="ba" + "".join(first.items) + " abc", temperature=0.0)
    assert second.items == expected.items
    assert second.trace == expected.trace


def test_choices_share_a_prompt_and_are_what_they_are_alone(model: Model) -> None:
    """The prompt is read once, the branches read its last symbol and what they draw; each is as if it were alone."""
    if isinstance(model.executor, InkExecutor):
        pytest.skip("ink has no choices")
    ids, params = model.codec.encode("abcabcabcabc").tolist(), TextParams(seed=3, max_tokens=6)
    alone = [
        drive(model.executor, [TextSequence(model.codec, ids, 0, params, boundaries=True, choice=choice)])[0]
        for choice in range(5)
    ]
    leader = TextSequence(model.codec, ids, 0, params, boundaries=True, shares=True)
    others = [
        TextSequence(model.codec, ids, 0, params, boundaries=True, choice=choice, leader=leader)
        for choice in range(1, 5)
    ]
    together = drive(model.executor, [leader, *others])
    assert [(one.items, one.trace) for one in together] == [(one.items, one.trace) for one in alone]
    assert [len(end_of(one).trace) for one in together] == [12 + 6, *[1 + 6] * 4]
    assert [end_of(one).num_prompt for one in together] == [12] * 5


def test_branches_of_a_state_differ_from_their_first_symbol(model: Model) -> None:
    """Another seed draws anew from the very first symbol or point on, and the same seed does not."""
    if isinstance(model.executor, InkExecutor):
        start = snapshot_of(model.write(5, StreamPart(keeps=True)))
        params = [InkParams(seed=seed, max_points=2, bias=0.5) for seed in (7, 7, 8)]
        written = drive(model.executor, [InkSequence((0.0, 0.0, 0.0), one, part=StreamPart(start)) for one in params])
        assert written[0].items == written[1].items
        assert written[0].items[0] != written[2].items[0]
        return
    start = snapshot_of(model.write(5, StreamPart(keeps=True), prompt="ba"))
    texts = {
        seed: "".join(
            drive(model.executor, [TextSequence(model.codec, [], 0, TextParams(seed, 12), part=StreamPart(start))])[
                0
            ].items
        )
        for seed in range(6)
    }
    assert len(set(texts.values())) > 1


def test_a_row_that_is_not_finite_ends_alone(model: Model) -> None:
    """A row that turns to NaN ends its own sequence; its neighbour and the next sequence on that row are unchanged."""
    runner: Any = model.executor.runner
    clean = [model.write(9, StreamPart(), prompt="ba") for _ in range(2)]
    poisoned, neighbour = (model.sequence(9, StreamPart(), prompt="ba") for _ in range(2))
    for sequence in (poisoned, neighbour):
        model.executor.scheduler.add(sequence)
    written = {poisoned: Delta(), neighbour: Delta()}
    for step in range(STEPS_AT_MOST):
        model.executor.admit(0.0)
        if not model.executor.scheduler.rows:
            break
        if step == 4:
            for tensor in runner._now.values():
                tensor[poisoned.row] = np.nan
        for sequence in model.executor.step():
            if sequence.reason:
                model.executor.remove(sequence)
            written[sequence].extend(sequence.take())
    assert end_of(written[poisoned]).reason == "error"
    assert end_of(written[poisoned]).snapshot is None
    assert (written[neighbour].items, written[neighbour].trace) == (clean[0].items, clean[0].trace)
    after = model.write(9, StreamPart(), prompt="ba")
    assert (after.items, after.trace) == (clean[0].items, clean[0].trace)
    assert clean[0].items == clean[1].items


@dataclass(eq=False)
class Client:
    """What a client asked for, and what it has received so far."""

    prompt: list[int]
    count: int
    sequence: TextSequence
    expected: list[int]
    received: Delta = field(default_factory=Delta)
    is_gone: bool = False


class Machine(RuleBasedStateMachine):
    """Clients of an executor of three rows: they come, branch, leave, end with a state and go on from it."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = CountingRunner(3)
        self.executor = TextExecutor("counting", self.runner, CODEC)
        self.clients: list[Client] = []
        self.order: list[Sequence] = []
        self.num_cancelled = 0

    def _come(self, prompt: list[int], count: int, expected: list[int], **given: Any) -> Client:
        params = TextParams(seed=1, max_tokens=count)
        sequence = TextSequence(CODEC, prompt, 0, params, **given)
        self.clients.append(Client(prompt, count, sequence, expected))
        self.executor.scheduler.add(sequence)
        return self.clients[-1]

    @rule(
        prompt=st.lists(st.integers(0, NUM_SYMBOLS - 1), min_size=1, max_size=6),
        count=st.integers(1, 5),
        keeps=st.booleans(),
        boundaries=st.booleans(),
    )
    def come(self, prompt: list[int], count: int, keeps: bool, boundaries: bool) -> None:
        """Someone asks for a text."""
        expected = CountingRunner.expected(prompt, count)
        self._come(prompt, count, expected, part=StreamPart(keeps=keeps), boundaries=boundaries)

    @rule(
        prompt=st.lists(st.integers(0, NUM_SYMBOLS - 1), min_size=1, max_size=6),
        count=st.integers(1, 5),
        n=st.integers(2, 4),
    )
    def branch(self, prompt: list[int], count: int, n: int) -> None:
        """Someone asks for several texts from one prompt."""
        expected = CountingRunner.expected(prompt, count)
        leader = self._come(prompt, count, expected, shares=True)
        for choice in range(1, n):
            self._come(prompt, count, expected, choice=choice, leader=leader.sequence)

    @precondition(lambda self: self._saved())
    @rule(data=st.data(), count=st.integers(1, 5), more=st.lists(st.integers(0, NUM_SYMBOLS - 1), max_size=3))
    def go_on(self, data: st.DataObject, count: int, more: list[int]) -> None:
        """Someone goes on from where a text ended, with or without a prompt."""
        before = data.draw(st.sampled_from(self._saved()))
        expected = CountingRunner.expected([*before.prompt, *before.expected, *more], count)
        client = self._come(more, count, expected, part=StreamPart(snapshot_of(before.received), keeps=True))
        client.prompt = [*before.prompt, *before.expected, *more]

    def _saved(self) -> list[Client]:
        return [client for client in self.clients if client.received.end and client.received.end.snapshot]

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Someone leaves, waiting, running or done: what they occupied is free at once."""
        client = data.draw(st.sampled_from(self.clients))
        if client.received.end:
            return
        client.sequence.finish("cancelled")
        self.executor.remove(client.sequence)
        client.received.extend(client.sequence.take())
        client.is_gone = True
        assert client.sequence not in self.executor.scheduler.rows
        assert client.sequence not in self.executor.scheduler.waiting

    @rule()
    def step(self) -> None:
        """The executor takes a step: who is ready is seated in the order of arrival, and all rows are stepped."""
        waiting = [sequence for sequence in self.executor.scheduler.waiting if sequence.is_ready]
        self.executor.admit(0.0)
        seated = [sequence for sequence in waiting if sequence.status is Status.RUNNING]
        assert seated == waiting[: len(seated)]
        assert len(self.executor.scheduler.rows) == 3 or len(seated) == len(waiting)
        if not self.executor.scheduler.rows:
            return
        stepped = self.executor.step()
        assert self.runner.counts[-1] == len(stepped)
        for sequence in stepped:
            client = next(client for client in self.clients if client.sequence is sequence)
            if sequence.reason:
                self.executor.remove(sequence)
            client.received.extend(sequence.take())

    @invariant()
    def rows_have_one_owner(self) -> None:
        """Running sequences own rows 0 .. n-1, one each, and none of them has left or ended."""
        rows = self.executor.scheduler.rows
        assert [sequence.row for sequence in rows] == list(range(len(rows)))
        assert all(sequence.reason is None for sequence in rows)

    @invariant()
    def everyone_reads_their_own(self) -> None:
        """What a client has received is the beginning of its expected text; at the end it is all of it."""
        for client in self.clients:
            text, expected = "".join(client.received.items), CODEC.decode(client.expected)
            assert expected.startswith(text)
            if client.received.end and not client.is_gone:
                assert text == expected

    def teardown(self) -> None:
        """Without new clients every sequence finishes, within as many steps as the lengths allow."""
        bound = sum(len(client.sequence._inputs) + client.count + 1 for client in self.clients)
        for _ in range(bound):
            self.step()
        assert not self.executor.has_work
        assert all(client.received.end for client in self.clients)
        self.everyone_reads_their_own()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=25)


def test_a_long_prompt_does_not_delay_others() -> None:
    """Beside a prompt of 2,000 symbols a running stream gets a symbol at each step, and so does one that joins.

    The number of inputs that are prefilled in between is bounded.
    """
    executor = TextExecutor("counting", CountingRunner(4), CODEC)
    running, joining = (TextSequence(CODEC, [1], 0, TextParams(1, 500)) for _ in range(2))
    reading = TextSequence(CODEC, [number % NUM_SYMBOLS for number in range(2000)], 0, TextParams(1, 1))
    executor.scheduler.add(running)
    prefilled = 0
    for step in range(1, 501):
        if step == 100:
            executor.scheduler.add(reading)
        if step == 200:
            executor.scheduler.add(joining)
        executor.admit(0.0)
        for sequence in executor.step():
            if sequence.reason:
                executor.remove(sequence)
        assert running._num_drawn == step
        assert joining._num_drawn == max(0, step - 199)
        assert executor.num_prefilled <= MAX_PREFILL // (2 if step < 200 else 3)
        prefilled += executor.num_prefilled
    assert reading.reason == "length"
    assert len(reading._trace) == 2000
    assert prefilled > 1900


def _firsts(executor: Executor[Any], sequences: list[Any]) -> Iterator[int]:
    """Steps after which each sequence had drawn something."""
    seen: set[int] = set()
    for step in range(STEPS_AT_MOST):
        executor.admit(0.0)
        if not executor.scheduler.rows:
            return
        for sequence in executor.step():
            if sequence.reason:
                executor.remove(sequence)
            number = sequences.index(sequence)
            if sequence._num_drawn and number not in seen:
                seen.add(number)
                yield step


def test_no_sequence_starves() -> None:
    """However many come, they begin in the order in which they came, and the last one waits for its turn only."""
    executor = TextExecutor("counting", CountingRunner(3), CODEC)
    sequences = [TextSequence(CODEC, [number % 11], 0, TextParams(1, 1 + number * 5 % 9)) for number in range(40)]
    for sequence in sequences:
        executor.scheduler.add(sequence)
    firsts = list(_firsts(executor, sequences))
    assert len(firsts) == 40
    assert all(earlier <= later for earlier, later in pairwise(firsts))
    assert firsts[-1] <= sum(sequence.params.max_tokens for sequence in sequences) / 3 + 9


@pytest.mark.parametrize("neighbours", [0, 2])
@pytest.mark.parametrize("given", [{}, {"echo": True}, {"echo": True, "logprobs": 2}, {"max_tokens": 0}])
def test_a_prefilled_prompt_is_as_one_read_by_steps(
    model: Model, given: dict[str, Any], neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefilled or read step by step, alone or beside others, a prompt gives the same text, trace and state."""
    prompt = "abba " * 60 if not isinstance(model.executor, InkExecutor) else ""
    prime = np.random.default_rng(3).normal(size=(300, 3)).tolist()

    def write() -> tuple[Delta, int]:
        others = [model.sequence(400, StreamPart()) for _ in range(neighbours)]
        if isinstance(model.executor, InkExecutor):
            read: Any = InkSequence((0.0, 0.0, 0.0), InkParams(7, given.get("max_tokens", 9)), prime=prime)
        else:
            params = {"max_tokens": 9, **given}
            read = TextSequence(
                model.codec,
                model.codec.encode(prompt).tolist(),
                0,
                TextParams(seed=7, **params),
                part=StreamPart(keeps=True),
            )
        prefilled = 0
        delta = Delta()
        for sequence in (*others, read):
            model.executor.scheduler.add(sequence)
        while not read.reason:
            model.executor.admit(0.0)
            model.executor.step()
            prefilled += model.executor.num_prefilled
            delta.extend(read.take())
        for sequence in (*others, read):
            model.executor.remove(sequence)
        return delta, prefilled

    quick, prefilled = write()
    monkeypatch.setattr(type(model.sequence(1, StreamPart())), "prefillable", lambda *_: [])
    slow, none = write()
    assert none == 0
    if "logprobs" in given and not isinstance(model.executor, InkExecutor):
        assert prefilled == 0
    else:
        assert 280 < prefilled < 300
    assert (quick.items, quick.trace, quick.scores) == (slow.items, slow.trace, slow.scores)
    assert (end_of(quick).trace, end_of(quick).snapshot) == (end_of(slow).trace, end_of(slow).snapshot)


@pytest.mark.parametrize(
    ("rows", "reading", "expected"),
    [
        (1, 1, MAX_PREFILL),
        (4, 4, MAX_PREFILL // 4),
        (5, 5, 0),
        (16, 4, MIN_PREFILL),
        (64, 16, MIN_PREFILL),
        (64, 17, 0),
    ],
)
def test_prefill_chunks_shrink_with_the_batch(rows: int, reading: int, expected: int) -> None:
    """The chunk shrinks with the number of rows, in order of arrival; with many prompts nothing is prefilled."""
    executor = TextExecutor("counting", CountingRunner(rows), CODEC)
    prompts = [[1] * 500 if number < reading else [1] for number in range(rows)]
    sequences = [TextSequence(CODEC, prompt, 0, TextParams(1, 9)) for prompt in prompts]
    for sequence in sequences:
        executor.scheduler.add(sequence)
    executor.admit(0.0)
    executor.step()
    assert executor.num_prefilled == expected
    assert [len(sequence._trace) for sequence in sequences] == [expected + 1, *[1] * (rows - 1)]


def test_prefill_begins_when_few_prompts_are_left() -> None:
    """While too many sequences read prompts they step, until so few are left that these are prefilled."""
    executor = TextExecutor("counting", CountingRunner(6), CODEC)
    for length in (3, 3, 40, 40, 40, 40):
        executor.scheduler.add(TextSequence(CODEC, [1] * length, 0, TextParams(1, 99)))
    executor.admit(0.0)
    prefilled = []
    for _ in range(4):
        executor.step()
        prefilled.append(executor.num_prefilled)
    assert prefilled == [0, 0, MAX_PREFILL // 6, MAX_PREFILL // 6]
