"""One layer, one step, one row, written literally with branches in float64: every other version is compared with it.

Eqs. 2-9 of arXiv 1609.01704v7 in NumPy, one row at a time. Nothing is shared with the code that it checks.
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
    """What one layer did: its new state, the operation, and the detector's logit (NaN where it was not computed)."""

    state: RowState
    operation: int
    logit: float


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def operation(z_prev: float, z_below: float) -> int:
    """FLUSH after the layer's own boundary, else UPDATE at a boundary below, else COPY."""
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
        weights: "weight" (K, N), "bias" (N,), and with LayerNorm "gain" (N,), laid out as in model.network.cell.Layer.
        size: H.
        previous: this layer at the previous step.
        h_above: h of the layer above at the previous step, None on top.
        h_below: h of the layer below at this step, None for layer 1.
        z_below: 0 or 1; 1 for layer 1.
        source: the embedded input's share of s (N,), layer 1 only.
        copy_boundary: "nested" or "recompute".
        read: applied to h before each product, for files that store h rounded.
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
class TextRead:
    """One step of the window over a text: positions (K,), the vector read (E,) and the share of each character (U,)."""

    position: Array
    vector: Array
    shares: Array


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
        read: applied to h before each product.
        window: arrays of the window over a text that is written, and "hands" (W, E); None where none is.
        stride: divides a step of the window forward.
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
    window: Mapping[str, Array] | None = None
    stride: float = 1.0

    def zeros(self) -> list[RowState]:
        """The state before the first step."""
        return [RowState(np.zeros(size), np.zeros(size)) for size in self.hidden]

    def step(self, x: int | Array, states: Sequence[RowState]) -> tuple[Array, list[RowStep]]:
        """Return the head's raw output (outputs,) and what every layer did."""
        embedded = self.embedding[x] if self.embedding_bias is None else x @ self.embedding + self.embedding_bias
        steps = self._layers(embedded @ self.layers[0]["input"], states)
        return self.output([done.state.h for done in steps]), steps

    def write(
        self, x: Array, states: Sequence[RowState], text: Sequence[int], hand: int, place: TextRead | None
    ) -> tuple[Array, list[RowStep], TextRead]:
        """Return the same for a network that writes a text, and its place in the text.

        Args:
            x: offset (3,).
            states: of the layers.
            text: ids, without anything after the end.
            hand: number of the writer's vector.
            place: of the step before, None before the first.
        """
        assert self.window is not None, "this network writes freely"
        assert self.embedding_bias is not None, "pen offsets have a bias"
        first = self.layers[0]
        mixtures, width = self.window["bias"].size // 3, self.window["embedding.weight"].shape[1]
        place = place or TextRead(np.zeros(mixtures), np.zeros(width), np.zeros(len(text)))
        embedded = x @ self.embedding + self.embedding_bias + self.window["hands"][hand]
        # The vector read from the text takes the place of h of a layer below, but it is never rounded.
        steps = self._layers(embedded @ first["input"] + place.vector @ first["weight"][-width:], states)
        h = [done.state.h for done in steps]
        place = read_text(self.window, h[0], place.position, text, self.stride)
        return self.output(h, place.vector), steps, place

    def _layers(self, source: Array, states: Sequence[RowState]) -> list[RowStep]:
        """Every layer's step; `source` (N,) is added to s of layer 1."""
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
                source if number == 0 else None,
                self.copy_boundary,
                self.read,
            )
            steps.append(done)
            z_below, h_below = (1.0 if self.lstm else done.state.z), done.state.h
        return steps

    def output(self, h: Sequence[Array], vector: Array | None = None) -> Array:
        """Eqs. 11-12: h^e = ReLU(sum over layers of sigmoid(w . h) W h), then the head.

        The vector read from a text, if any, counts as one more layer.
        """
        seen = [self.read(values) for values in h] + ([] if vector is None else [vector])
        gates = sigmoid(np.concatenate(seen) @ self.gate)
        summed = np.zeros(self.project.shape[1])
        ends = np.cumsum([len(values) for values in seen])[:-1]
        for gate, values, rows in zip(gates, seen, np.split(self.project, ends), strict=True):
            summed = summed + gate * (values @ rows)
        return np.maximum(summed, 0) @ self.head + self.head_bias


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
    edges = np.arange(len(text)) + 0.5
    upto = weight @ (0.5 + 0.5 * np.tanh(0.5 * sharpness[:, None] * (edges - position[:, None])))  # a sigmoid
    shares = np.diff(upto, prepend=0.0)
    return TextRead(position, shares @ meanings(weights, text), shares)


def meanings(weights: Mapping[str, Array], text: Sequence[int]) -> Array:
    """Return the vector of each character (U, E): its own embedding plus a product of it and its neighbours."""
    table = weights["embedding.weight"]
    framed = np.pad(table[list(text)], ((1, 1), (0, 0)))
    own = framed[1:-1]
    return own + np.concatenate([framed[:-2], own, framed[2:]], axis=1) @ weights["neighbours"]
