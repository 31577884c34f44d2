"""One layer, one step, one row, written literally with branches in float64: the judge of every other version.

Eqs. 2-9 of arXiv 1609.01704v7 in NumPy, one row at a time, so that nothing is shared with the code it judges.
Where the paper is silent: where z below is 0, z is 0 too ("nested") or read from the detector ("recompute"); LayerNorm
takes its statistics over the 4H gate pre-activations and applies them to the detector's column too (docs/adr).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
COPY, UPDATE, FLUSH = 0, 1, 2
NORM_EPSILON = 1e-5


@dataclass
class RowState:
    """h (H,), c (H,) and z of one layer of one row."""

    h: Array
    c: Array
    z: float = 0.0


@dataclass(frozen=True)
class RowStep:
    """What one layer did: its new state, the operation, and the detector's logit (NaN where none was read)."""

    state: RowState
    operation: int
    logit: float


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def operation(z_prev: float, z_below: float) -> int:
    """FLUSH after a boundary of one's own, else UPDATE at a boundary below, else COPY."""
    if z_prev == 1:
        return FLUSH
    return UPDATE if z_below == 1 else COPY


def step_layer(
    weights: Mapping[str, Array],
    size: int,
    previous: RowState,
    h_above: Array | None,
    h_below: Array | None,
    z_below: float,
    source: Array | None = None,
    copy_boundary: str = "nested",
    read: Callable[[Array], Array] = np.asarray,
) -> RowStep:
    """Return one layer's step.

    Args:
        weights: "weight" (K, N), "bias" (N,), and with LayerNorm "gain" (N,), laid out as in model.cell.Layer.
        size: H.
        previous: this layer at the previous step.
        h_above: h of the layer above at the previous step, None on top.
        h_below: h of the layer below at this step, None for layer 1.
        z_below: 0 or 1; 1 for layer 1.
        source: the embedded input's share of s (N,), layer 1 only.
        copy_boundary: "nested" or "recompute".
        read: what a product sees of an h; as it is, unless a file rounds it.
    """
    chosen = operation(previous.z, z_below)
    if chosen == COPY and (copy_boundary == "nested" or h_above is None):
        return RowStep(RowState(previous.h.copy(), previous.c.copy(), 0.0), COPY, float("nan"))

    weight = weights["weight"]
    s = read(previous.h) @ weight[:size]
    if h_above is not None and previous.z == 1:
        s = s + read(h_above) @ weight[size : size + len(h_above)]
    if h_below is not None and z_below == 1:
        s = s + read(h_below) @ weight[-len(h_below) :]
    if source is not None:
        s = s + source
    if "gain" in weights:
        gates = s[: 4 * size]
        s = (s - gates.mean()) / np.sqrt(gates.var() + NORM_EPSILON) * weights["gain"]
    s = s + weights["bias"]

    has_detector = h_above is not None
    logit = float(s[4 * size]) if has_detector else float("nan")
    nested = copy_boundary == "nested" and z_below == 0
    z = 1.0 if has_detector and logit > 0 and not nested else 0.0
    if chosen == COPY:
        return RowStep(RowState(previous.h.copy(), previous.c.copy(), z), COPY, logit)
    f, i, o = sigmoid(s[:size]), sigmoid(s[size : 2 * size]), sigmoid(s[2 * size : 3 * size])
    g = np.tanh(s[3 * size : 4 * size])
    c = f * previous.c + i * g if chosen == UPDATE else i * g
    return RowStep(RowState(o * np.tanh(c), c, z), chosen, logit)


@dataclass(frozen=True)
class Reference:
    """A whole network, one row, step by step: the stack and the gated output module (Eqs. 2-12).

    Attributes:
        layers: for each layer its arrays, float64, as `step_layer` takes them; layer 1 also "input" (E, N).
        embedding: (V, E) table for text; for ink (3, E), with `embedding_bias` (E,).
        gate, project: output module, (sum H, L) and (sum H, O).
        head, head_bias: (O, outputs) and (outputs,).
        text: whether the input is a symbol's id (else a pen offset).
        lstm: the control: every layer UPDATEs at every step.
        read: what a product sees of an h.
    """

    layers: Sequence[Mapping[str, Array]]
    hidden: tuple[int, ...]
    embedding: Array
    embedding_bias: Array | None
    gate: Array
    project: Array
    head: Array
    head_bias: Array
    text: bool = True
    lstm: bool = False
    copy_boundary: str = "nested"
    read: Callable[[Array], Array] = np.asarray

    def zeros(self) -> list[RowState]:
        """The state before the first step."""
        return [RowState(np.zeros(size), np.zeros(size)) for size in self.hidden]

    def step(self, x: int | Array, states: Sequence[RowState]) -> tuple[Array, list[RowStep]]:
        """Return the head's raw output (outputs,) and what every layer did."""
        embedded = self.embedding[x] if self.embedding_bias is None else x @ self.embedding + self.embedding_bias
        steps: list[RowStep] = []
        z_below, h_below = 1.0, None
        for number, (weights, previous) in enumerate(zip(self.layers, states, strict=True)):
            top = number == len(self.layers) - 1
            done = step_layer(
                weights,
                self.hidden[number],
                previous,
                None if top or self.lstm else states[number + 1].h,
                h_below,
                z_below,
                embedded @ weights["input"] if number == 0 else None,
                self.copy_boundary,
                self.read,
            )
            steps.append(done)
            z_below, h_below = (1.0 if self.lstm else done.state.z), done.state.h
        return self.output([done.state.h for done in steps]), steps

    def output(self, h: Sequence[Array]) -> Array:
        """Eqs. 11-12: h^e = ReLU(sum over layers of sigmoid(w . h) W h), then the head."""
        seen = [self.read(values) for values in h]
        gates = sigmoid(np.concatenate(seen) @ self.gate)
        summed = np.zeros(self.project.shape[1])
        for gate, values, rows in zip(gates, seen, np.split(self.project, np.cumsum(self.hidden)[:-1]), strict=True):
            summed = summed + gate * (values @ rows)
        return np.maximum(summed, 0) @ self.head + self.head_bias


@dataclass(frozen=True)
class TextRead:
    """One step of the window over a text: positions (K,), the vector read (E,) and the share of each character (U,)."""

    position: Array
    vector: Array
    shares: Array


def read_text(weights: Mapping[str, Array], h: Array, position: Array, text: Sequence[int], stride: float) -> TextRead:
    """Return one step of the window over a text, for one row.

    Args:
        weights: "embedding.weight" (V, E), "neighbours" (3E, E), "weight" (H, 3K), "bias" (3K,).
        h: of layer 1 at this step (H,).
        position: of the K bumps at the step before.
        text: ids, without anything after the end.
        stride: divides a step forward.
    """
    weight, sharpness, forward = np.split(h @ weights["weight"] + weights["bias"], 3)
    weight = np.exp(weight) / np.exp(weight).sum()
    sharpness = np.log1p(np.exp(sharpness))
    position = position + np.log1p(np.exp(forward)) / stride
    table = weights["embedding.weight"]
    nothing = np.zeros(table.shape[1])
    shares, vector = [], np.zeros(table.shape[1])
    for u, character in enumerate(text):
        before = table[text[u - 1]] if u > 0 else nothing
        after = table[text[u + 1]] if u + 1 < len(text) else nothing
        meaning = table[character] + np.concatenate([before, table[character], after]) @ weights["neighbours"]
        share = 0.0
        for a, b, m in zip(weight, sharpness, position, strict=True):
            upto = 1 / (1 + np.exp(-b * (u + 0.5 - m)))
            share += a * (upto - (1 / (1 + np.exp(-b * (u - 0.5 - m))) if u > 0 else 0.0))
        shares.append(share)
        vector = vector + share * meaning
    return TextRead(position, vector, np.array(shares))
