"""A runner whose outputs are known, and which takes a step only when it is let."""

import threading
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_SYMBOLS = 11


class CountingRunner:
    """Draws of a row depend on all it has read and on nothing else: the next symbol is the sum so far, modulo V.

    Args:
        capacity: number of rows.
        is_gated: whether each step waits for `let`.

    Attributes:
        broken_rows_at: symbol sums at which a row's output is not finite.
        fails: number of coming steps that raise.
        counts: rows of each step so far.
    """

    stepper = "sums"

    def __init__(self, capacity: int, *, is_gated: bool = False) -> None:
        self.capacity = capacity
        self.inputs: NDArray[Any] = np.zeros(capacity, np.int64)
        self.codes = np.zeros(capacity, np.uint8)
        self.drawn: NDArray[Any] = np.zeros(capacity, np.int64)
        self.sampling_inputs: dict[str, NDArray[Any]] = {
            "temperature": np.ones(capacity, np.float32),
            "top_p": np.ones(capacity, np.float32),
            "top_k": np.zeros(capacity, np.int64),
            "logit_bias": np.zeros((capacity, NUM_SYMBOLS), np.float32),
            "noise": np.zeros(capacity),
        }
        self.broken_rows_at: set[int] = set()
        self.fails = 0
        self.counts: list[int] = []
        self._sums = np.zeros(capacity, np.int64)
        self._gate = threading.Semaphore(0)
        self._is_gated = is_gated

    def let(self, steps: int = 1) -> None:
        """Allow so many steps more."""
        self._gate.release(steps)

    def open(self) -> None:
        """Allow all steps from now on."""
        self._is_gated = False
        self._gate.release()

    def step(self, count: int) -> NDArray[np.float32]:
        """Add each row's input to its sum and return logits (count, V) that have one likely symbol."""
        if self._is_gated:
            self._gate.acquire()
        if self.fails:
            self.fails -= 1
            raise RuntimeError("a step that fails")
        self.counts.append(count)
        sums = self._sums[:count]
        sums += self.inputs[:count] + 1
        self.codes[:count] = sums % 16
        logits = np.full((count, NUM_SYMBOLS), -50, np.float32)
        logits[np.arange(count), sums % NUM_SYMBOLS] = 50
        broken = np.isin(sums, list(self.broken_rows_at))
        logits[broken] = np.nan
        biased = logits + self.sampling_inputs["logit_bias"][:count]
        self.drawn[:count] = np.where(broken, -1, np.where(broken[:, None], 0, biased).argmax(1))
        return logits

    def prefill(self, row: int, inputs: Seq[int]) -> NDArray[np.uint8]:
        """Add inputs to a row's sum, one after the other."""
        sums = self._sums[row] + np.cumsum(np.array(inputs) + 1)
        self._sums[row] = sums[-1]
        codes: NDArray[np.uint8] = (sums % 16).astype(np.uint8)
        return codes

    def clear(self, row: int) -> None:
        """Start a row's sum at 0."""
        self._sums[row] = 0

    def move(self, source: int, target: int) -> None:
        """Copy a row over another."""
        self._sums[target] = self._sums[source]
        self.inputs[target] = self.inputs[source]

    def save(self, row: int) -> bytes:
        """Return a row's sum."""
        saved: bytes = self._sums[row].tobytes()
        return saved

    row_bytes = 8

    def check(self, saved: bytes) -> None:
        """Refuse what has another size."""
        if len(saved) != self.row_bytes:
            raise ValueError("not a row")

    def restore(self, row: int, saved: bytes) -> None:
        """Set a row's sum."""
        self._sums[row] = np.frombuffer(saved, np.int64)[0]

    @staticmethod
    def expected(prompt: list[int], count: int) -> list[int]:
        """Return the symbols that follow a prompt."""
        total, drawn = sum(prompt) + len(prompt), []
        for _ in range(count):
            drawn.append(total % NUM_SYMBOLS)
            total += drawn[-1] + 1
        return drawn
