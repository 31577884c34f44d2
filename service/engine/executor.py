"""One bundle at work: its rows, who sits in them, and how an output becomes the next input."""

from abc import ABC, abstractmethod
from collections.abc import Sequence as Seq
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.codec import REPLACEMENT, TextCodec
from service.engine import sampling
from service.engine.sampling import COLDEST
from service.engine.scheduler import Scheduler
from service.engine.sequences.base import Reason, Score, Sequence
from service.engine.sequences.free_ink import InkSequence
from service.engine.sequences.ink_lines import LineSequence
from service.engine.sequences.text import TextSequence

S = TypeVar("S", bound=Sequence)

# Inputs that are read ahead before a step: so many for a row alone, its share of them beside others, and at least so
# many. One read alone costs three to four times what it does in a full batch, but with few at a time nobody waits for
# it. Where more than a quarter of the rows have something to read, and more than so many, it is sooner read by steps.
MAX_PREFILL, MIN_PREFILL, MAX_PREFILLING = 128, 8, 4


class Stepper(Protocol):
    """What an executor needs of a runner."""

    stepper: str
    capacity: int
    inputs: NDArray[Any]
    sampling_inputs: dict[str, NDArray[Any]]
    drawn: NDArray[Any]
    codes: NDArray[np.uint8]

    @property
    def row_bytes(self) -> int:
        """Size of a saved row."""
        ...

    def step(self, count: int) -> NDArray[np.float32]:
        """Run one step of the first rows, leave what they draw in `drawn` and return their outputs."""
        ...

    def prefill(self, row: int, inputs: Seq[Any]) -> NDArray[np.uint8]:
        """Have a row read inputs of which nothing is drawn and return their trace bytes."""
        ...

    def clear(self, row: int) -> None:
        """Set a row to zeros and its sampling inputs to neutral ones."""
        ...

    def move(self, source: int, target: int) -> None:
        """Copy a row over another."""
        ...

    def save(self, row: int) -> bytes:
        """Return what a row holds."""
        ...

    def restore(self, row: int, saved: bytes) -> None:
        """Set a row to what another held."""
        ...

    def check(self, saved: bytes) -> None:
        """Raise ValueError unless `restore` would take it."""
        ...


class Executor(ABC, Generic[S]):
    """Steps the sequences of one bundle together; they join and leave at any step.

    Args:
        name: of the bundle.
        runner: owns the rows.

    Attributes:
        scheduler: who runs and who waits.
        num_failures: steps that failed, one after the other, until now.
        num_prefilled: prompt inputs that were prefilled just before the last step.
    """

    def __init__(self, name: str, runner: Stepper) -> None:
        self.name = name
        self.runner = runner
        self.scheduler: Scheduler[S] = Scheduler(runner.capacity)
        self.num_failures = 0
        self.num_prefilled = 0
        self._prefilling: list[S] = []

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        return bool(self.scheduler.rows or self.scheduler.waiting)

    def admit(self, now: float) -> None:
        """Seat waiting sequences in free rows, each with a fresh state or the one it goes on from."""
        admitted = self.scheduler.admit()
        for sequence in admitted:
            start = sequence.begin()
            if start and start.row:
                self.runner.restore(sequence.row, start.row)
            else:
                self.runner.clear(sequence.row)
            self.runner.inputs[sequence.row] = sequence.next_input
            self._set_sampling(sequence)
            if sequence.must_save:
                sequence.take_saved_row(self.runner.save(sequence.row))
            sequence.times.admitted = now
            self._prefilling.append(sequence)
        if admitted:
            self._on_rows_changed()

    def step(self) -> list[S]:
        """Run one step of every row and return the sequences that it was for, ended ones included."""
        rows = list(self.scheduler.rows)
        self._prefill()
        self._prepare([sequence.draw() for sequence in rows])
        outputs = self.runner.step(len(rows))
        choices = self.runner.drawn[: len(rows)].tolist()
        self._use_outputs(outputs, choices)
        codes = self.runner.codes[: len(rows)].tolist()
        for sequence, code, choice in zip(rows, codes, choices, strict=True):
            sequence.advance(code, choice)
            if sequence.must_save:
                sequence.take_saved_row(self.runner.save(sequence.row))
        self.runner.inputs[: len(rows)] = [sequence.next_input for sequence in rows]
        self.num_failures = 0
        return rows

    def remove(self, sequence: S) -> None:
        """Free what a sequence occupies, a row or a place in the queue."""
        move = self.scheduler.remove(sequence)
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        if move:
            self.runner.move(*move)
        self._on_rows_changed()

    def end_all(self, reason: Reason, *, waiting: bool) -> list[S]:
        """End the running sequences, and the waiting ones too if so told, and return them."""
        ended = [*self.scheduler.rows, *(self.scheduler.waiting if waiting else ())]
        for sequence in ended:
            sequence.finish(reason)
        return ended

    def _prefill(self) -> None:
        """Read prompts in one go, the first come first, as far as that holds up nobody."""
        self.num_prefilled = 0
        self._prefilling = [sequence for sequence in self._prefilling if sequence.prefillable(1)]
        rows = len(self.scheduler.rows)
        if len(self._prefilling) > max(MAX_PREFILLING, rows // 4):
            return
        left = max(MIN_PREFILL, MAX_PREFILL // rows)
        for sequence in self._prefilling:
            inputs = sequence.prefillable(left)
            sequence.take_prefilled(self.runner.prefill(sequence.row, inputs).tolist())
            self.runner.inputs[sequence.row] = sequence.next_input
            if sequence.must_save:
                sequence.take_saved_row(self.runner.save(sequence.row))
            self.num_prefilled += len(inputs)
            left -= len(inputs)
            if not left:
                return

    @abstractmethod
    def _set_sampling(self, sequence: S) -> None:
        """Tell the runner how a sequence that was just seated draws."""

    @abstractmethod
    def _prepare(self, draws: Seq[Any]) -> None:
        """Tell the runner what is new at this step: at least the noise, as the sequences drew it."""

    def _use_outputs(self, outputs: NDArray[np.float32], choices: Seq[Any]) -> None:
        """See what the step gave before the sequences take it in."""

    def _on_rows_changed(self) -> None:
        """Take note that other sequences sit in the rows now, or sit elsewhere."""


class InkExecutor(Executor[InkSequence]):
    """Free writing."""

    def _set_sampling(self, sequence: InkSequence) -> None:
        self.runner.sampling_inputs["bias"][sequence.row] = sequence.params.bias

    def _prepare(self, draws: Seq[Seq[float]]) -> None:
        self.runner.sampling_inputs["noise"][: len(draws)] = draws


class LineExecutor(Executor[LineSequence]):
    """Writes lines of given texts."""

    def _set_sampling(self, sequence: LineSequence) -> None:
        sampling_inputs: dict[str, Any] = self.runner.sampling_inputs
        sampling_inputs["bias"][sequence.row] = sequence.bias
        for name, values in sequence.line.given.items():
            sampling_inputs[name][sequence.row] = values

    def _prepare(self, draws: Seq[Seq[float]]) -> None:
        self.runner.sampling_inputs["noise"][: len(draws)] = draws


class TextExecutor(Executor[TextSequence]):
    """Completions.

    Args:
        name: of the bundle.
        runner: owns the rows.
        codec: of the bundle; its replacement symbol stands for what it does not know, so it is never drawn.
    """

    def __init__(self, name: str, runner: Stepper, codec: TextCodec) -> None:
        super().__init__(name, runner)
        self._barred = np.zeros(codec.size, np.float32)
        if REPLACEMENT in codec.symbols:
            self._barred[codec.symbols.index(REPLACEMENT)] = -np.inf

    def _set_sampling(self, sequence: TextSequence) -> None:
        sampling_inputs, row, params = self.runner.sampling_inputs, sequence.row, sequence.params
        sampling_inputs["temperature"][row] = max(params.temperature, COLDEST)
        sampling_inputs["top_p"][row] = params.top_p
        sampling_inputs["top_k"][row] = params.top_k
        sampling_inputs["logit_bias"][row] = self._barred

    def _on_rows_changed(self) -> None:
        self._biased = [sequence for sequence in self.scheduler.rows if sequence.bias is not None]
        self._scored = [sequence for sequence in self.scheduler.rows if sequence.params.logprobs is not None]

    def _prepare(self, draws: Seq[float]) -> None:
        self.runner.sampling_inputs["noise"][: len(draws)] = draws
        for sequence in self._biased:  # penalties change it with every symbol
            if sequence.bias is not None:
                self.runner.sampling_inputs["logit_bias"][sequence.row] = self._barred + sequence.bias

    def _use_outputs(self, outputs: NDArray[np.float32], choices: Seq[Any]) -> None:
        if self._scored:
            self._score(outputs, choices)

    def _score(self, outputs: NDArray[np.float32], ids: Seq[int]) -> None:
        """Tell the sequences that asked for it how likely their next symbols were."""
        wanting = [each for each in self._scored if each.wants_score and ids[each.row] != sampling.FAILED]
        if not wanting:
            return
        scores = sampling.log_likelihoods(outputs[[sequence.row for sequence in wanting]])
        best = sampling.likeliest(scores, max(sequence.params.logprobs or 0 for sequence in wanting))
        for sequence, row, order in zip(wanting, scores, best.tolist(), strict=True):
            token = sequence.upcoming(ids[sequence.row])
            top = [(each, float(row[each])) for each in order[: sequence.params.logprobs]]
            sequence.score = Score(token, float(row[token]), top)
