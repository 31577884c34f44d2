"""Executors: each steps the sequences of one bundle together on the rows of its runner."""

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

# Prompts are prefilled in chunks before a step: MAX_PREFILL inputs divided by the number of running rows, but at least
# MIN_PREFILL, are taken from the oldest prompts first. A prefilled input costs three to four times what it costs in a
# full batch, but small chunks do not stall the running streams. If more than MAX_PREFILLING sequences and more than a
# quarter of the rows have a prompt to read, common steps get through the prompts sooner, and nothing is prefilled.
MAX_PREFILL = 128
MIN_PREFILL = 8
MAX_PREFILLING = 4


class Stepper(Protocol):
    """What an executor needs of a runner; see `Runner`."""

    stepper: str
    capacity: int
    inputs: NDArray[Any]
    sampling_inputs: dict[str, NDArray[Any]]
    drawn: NDArray[Any]
    codes: NDArray[np.uint8]

    @property
    def row_bytes(self) -> int:
        """Size of a saved row in bytes."""
        ...

    def step(self, count: int) -> NDArray[np.float32]:
        """Run one step of the first `count` rows, leave their draws in `drawn` and return their outputs."""
        ...

    def prefill(self, row: int, inputs: Seq[Any]) -> NDArray[np.uint8]:
        """Feed a row inputs whose outputs nobody needs and return the trace bytes of these steps."""
        ...

    def clear(self, row: int) -> None:
        """Set a row to zeros and its sampling inputs to neutral ones."""
        ...

    def move(self, source: int, target: int) -> None:
        """Copy a row over another."""
        ...

    def save(self, row: int) -> bytes:
        """Return the state of a row."""
        ...

    def restore(self, row: int, saved: bytes) -> None:
        """Set a row to a saved state."""
        ...

    def check(self, saved: bytes) -> None:
        """Raise ValueError unless `restore` would accept the state."""
        ...


class Executor(ABC, Generic[S]):
    """Steps the sequences of one bundle together; they join and leave at any step.

    Args:
        name: name of the bundle.
        runner: owns the rows and steps them.

    Attributes:
        scheduler: knows which sequences run and which wait.
        num_failures: steps in a row that failed, up to now.
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
        """Whether there are sequences, running or waiting."""
        return bool(self.scheduler.rows or self.scheduler.waiting)

    def admit(self, now: float) -> None:
        """Give free rows to waiting sequences, each with a fresh state or the one it continues from.

        Args:
            now: monotonic seconds, noted as the time of admission.
        """
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
        """Run one step of every row and return the sequences that were stepped, ended ones included."""
        rows = list(self.scheduler.rows)
        self._prefill()
        # Step all rows with the random numbers of their sequences.
        self._prepare([sequence.draw() for sequence in rows])
        outputs = self.runner.step(len(rows))
        choices = self.runner.drawn[: len(rows)].tolist()
        self._use_outputs(outputs, choices)
        # Hand each sequence its result, and save the rows that a snapshot needs before they are stepped again.
        codes = self.runner.codes[: len(rows)].tolist()
        for sequence, code, choice in zip(rows, codes, choices, strict=True):
            sequence.advance(code, choice)
            if sequence.must_save:
                sequence.take_saved_row(self.runner.save(sequence.row))
        self.runner.inputs[: len(rows)] = [sequence.next_input for sequence in rows]
        self.num_failures = 0
        return rows

    def remove(self, sequence: S) -> None:
        """Free the row or the place in the queue that a sequence occupies."""
        move = self.scheduler.remove(sequence)
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        if move:
            self.runner.move(*move)
        self._on_rows_changed()

    def end_all(self, reason: Reason, *, waiting: bool) -> list[S]:
        """End the running sequences, and with `waiting` the waiting ones too, and return them."""
        ended = [*self.scheduler.rows, *(self.scheduler.waiting if waiting else ())]
        for sequence in ended:
            sequence.finish(reason)
        return ended

    def _prefill(self) -> None:
        """Prefill a chunk of the prompts, in order of arrival, so small that running streams do not stall."""
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
        """Write the sampling inputs of a sequence that was just admitted into its row."""

    @abstractmethod
    def _prepare(self, draws: Seq[Any]) -> None:
        """Write the sampling inputs that change at every step: at least the noise, one entry per row."""

    def _use_outputs(self, outputs: NDArray[np.float32], choices: Seq[Any]) -> None:
        """Look at the outputs of a step before the sequences advance; by default nothing is needed of them.

        Args:
            outputs: (B, V), (B, 6M+1), or (B, 6M+2) where a text is written, float32.
            choices: what each row drew.
        """

    def _on_rows_changed(self) -> None:
        """Update what depends on which sequence has which row; called after sequences were admitted or removed."""


class InkExecutor(Executor[InkSequence]):
    """Executor of a bundle that draws freely."""

    def _set_sampling(self, sequence: InkSequence) -> None:
        self.runner.sampling_inputs["bias"][sequence.row] = sequence.params.bias

    def _prepare(self, draws: Seq[Seq[float]]) -> None:
        self.runner.sampling_inputs["noise"][: len(draws)] = draws


class LineExecutor(Executor[LineSequence]):
    """Executor of a bundle that writes lines of given texts."""

    def _set_sampling(self, sequence: LineSequence) -> None:
        sampling_inputs: dict[str, Any] = self.runner.sampling_inputs
        sampling_inputs["bias"][sequence.row] = sequence.bias
        for name, values in sequence.line.given.items():
            sampling_inputs[name][sequence.row] = values

    def _prepare(self, draws: Seq[Seq[float]]) -> None:
        self.runner.sampling_inputs["noise"][: len(draws)] = draws


class TextExecutor(Executor[TextSequence]):
    """Executor of a text bundle.

    Args:
        name: name of the bundle.
        runner: owns the rows and steps them.
        codec: codec of the bundle. Its replacement symbol stands for unknown characters, so it is never drawn.
    """

    def __init__(self, name: str, runner: Stepper, codec: TextCodec) -> None:
        super().__init__(name, runner)
        self._barred = np.zeros(codec.size, np.float32)
        if REPLACEMENT in codec.symbols:
            self._barred[codec.symbols.index(REPLACEMENT)] = -np.inf

    def _set_sampling(self, sequence: TextSequence) -> None:
        sampling_inputs = self.runner.sampling_inputs
        row, params = sequence.row, sequence.params
        sampling_inputs["temperature"][row] = max(params.temperature, COLDEST)
        sampling_inputs["top_p"][row] = params.top_p
        sampling_inputs["top_k"][row] = params.top_k
        sampling_inputs["logit_bias"][row] = self._barred

    def _on_rows_changed(self) -> None:
        self._biased = [sequence for sequence in self.scheduler.rows if sequence.bias is not None]
        self._scored = [sequence for sequence in self.scheduler.rows if sequence.params.logprobs is not None]

    def _prepare(self, draws: Seq[float]) -> None:
        self.runner.sampling_inputs["noise"][: len(draws)] = draws
        for sequence in self._biased:  # at every step, because penalties change the bias with every symbol
            if sequence.bias is not None:
                self.runner.sampling_inputs["logit_bias"][sequence.row] = self._barred + sequence.bias

    def _use_outputs(self, outputs: NDArray[np.float32], choices: Seq[Any]) -> None:
        if self._scored:
            self._score(outputs, choices)

    def _score(self, outputs: NDArray[np.float32], ids: Seq[int]) -> None:
        """Set the score of their next symbol for the sequences whose client asked for logprobs."""
        wanting = [each for each in self._scored if each.wants_score and ids[each.row] != sampling.FAILED]
        if not wanting:
            return
        scores = sampling.log_likelihoods(outputs[[sequence.row for sequence in wanting]])
        best = sampling.likeliest(scores, max(sequence.params.logprobs or 0 for sequence in wanting))
        for sequence, row, order in zip(wanting, scores, best.tolist(), strict=True):
            token = sequence.upcoming(ids[sequence.row])
            top = [(each, float(row[each])) for each in order[: sequence.params.logprobs]]
            sequence.score = Score(token, float(row[token]), top)
