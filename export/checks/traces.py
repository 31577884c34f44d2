"""Traces: inputs of many steps and rows to compare engines on, from real data or sampled from the network itself.

A network that samples from itself stays close to its training data, so its boundaries are those it has in service.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import TraceError
from export.graphs.specs import TEXT_SLOTS
from export.runtime import Lines, OnnxStep, TextEncoder
from model.codec import END, NUM_SENTINELS, START, HandwritingCodec

Array = NDArray[Any]


@dataclass(frozen=True)
class Trace:
    """Inputs of T steps of B rows.

    Attributes:
        inputs: (T, B) int64 symbols or (T, B, 3) float32 offsets.
        source: where they come from, one line for the report.
        lines: what the rows write, if the network writes texts.
    """

    inputs: Array
    source: str
    lines: Lines | None = None

    @property
    def steps(self) -> int:
        """T."""
        return int(self.inputs.shape[0])

    @property
    def rows(self) -> int:
        """B."""
        return int(self.inputs.shape[1])


def sampled(step: OnnxStep, rows: int, steps: int, seed: int, lines: Lines | None = None) -> Trace:
    """Return a trace that the network samples from itself.

    Args:
        step: the network, as ONNX Runtime runs it.
        rows: B.
        steps: T.
        seed: of the draws.
        lines: what the rows write, if the network writes texts.
    """
    generator = np.random.default_rng(seed)
    text = step.input.dtype == "int64"
    shape = (steps, rows) if text else (steps, rows, 3)
    inputs = np.zeros(shape, np.int64 if text else np.float32)
    state = step.zeros(rows)
    x = generator.integers(0, step.output.shape_for(rows)[1], rows) if text else inputs[0]
    for now in range(steps):
        inputs[now] = x
        output, state = step.step(inputs[now], state, lines)
        x = draw_symbols(output, generator) if text else draw_offsets(output, generator)
    return Trace(inputs, f"{rows} rows of {steps} steps sampled from the network itself, seed {seed}", lines)


def random_lines(encoder: TextEncoder, codec: HandwritingCodec, rows: int, seed: int) -> Lines:
    """Return a random text of the greatest length and a random hand for each row."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(NUM_SENTINELS, codec.num_characters, (rows, TEXT_SLOTS))
    ids[:, 0] = START
    ids[:, -1] = END
    return Lines.encode(encoder, ids, generator.integers(0, codec.num_hands, rows))


def text_rows(ids: Array, rows: int, steps: int, name: str) -> Trace:
    """Return a trace of `rows` pieces of a text, evenly spread over it.

    Raises:
        TraceError: the text is shorter than one piece.
    """
    if len(ids) < steps:
        raise TraceError(f"a trace needs at least {steps} characters, but {name} has {len(ids)}")
    starts = np.linspace(0, len(ids) - steps, rows).astype(np.int64)
    inputs = ids[starts + np.arange(steps)[:, None]].astype(np.int64)
    return Trace(inputs, f"{rows} pieces of {steps} characters of {name}")


def ink_rows(lines: list[Array], rows: int, steps: int, name: str) -> Trace:
    """Return a trace whose rows are filled with lines of ink, one after the other, until each has enough points.

    Raises:
        TraceError: there is no line.
    """
    if not lines:
        raise TraceError(f"a trace needs at least one line of ink, but {name} has none")
    queue = 0
    inputs = np.zeros((steps, rows, 3), np.float32)
    for row in range(rows):
        filled = 0
        while filled < steps:
            piece = lines[queue % len(lines)][: steps - filled]
            inputs[filled : filled + len(piece), row] = piece
            filled, queue = filled + len(piece), queue + 1
    return Trace(inputs, f"{rows} rows of {steps} points of {name}")


def draw_symbols(logits: Array, generator: np.random.Generator) -> Array:
    """Return a symbol (B,) int64 drawn from the softmax of logits (B, V)."""
    weights = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    total = weights.cumsum(1)
    chosen: Array = (total > generator.random((len(logits), 1)) * total[:, -1:]).argmax(1)
    return chosen


def draw_offsets(mixture: Array, generator: np.random.Generator) -> Array:
    """Return an offset (B, 3) float32 drawn from mixture parameters (B, 6M + 1); what follows them is ignored."""
    count = (mixture.shape[1] - 1) // 6
    mixture = mixture[:, : 6 * count + 1]
    parts = mixture[:, :-1].astype(np.float64).reshape(len(mixture), 6, count)
    chosen = draw_symbols(parts[:, 0], generator)
    _, mean_x, mean_y, log_x, log_y, correlation = parts[np.arange(len(parts)), :, chosen].T
    first, second = generator.standard_normal((2, len(parts)))
    dx = mean_x + np.exp(log_x) * first
    dy = mean_y + np.exp(log_y) * (correlation * first + np.sqrt(1 - correlation**2) * second)
    pen_up = generator.random(len(parts)) < 1 / (1 + np.exp(-mixture[:, -1].astype(np.float64)))
    return np.stack([dx, dy, pen_up], 1).astype(np.float32)
