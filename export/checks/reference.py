"""The reference run: `model/network/reference.py` over a batch, row by row, in float64 and with branches.

All engines are compared with it. In int8 the exported files round h before every product, and so does the reference: it
multiplies the very weights of the files with multiples of 1/63. Where a value of h lies so close to the middle between
two multiples that float32 may round it to the other side, the row is marked as tied.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checks.engines import State
from export.graphs.quantisation import Precision, distance_to_tie, round_hidden
from export.runtime import Lines
from model.ink import CORRELATION_LIMIT, LOG_SCALE_CEILING, LOG_SCALE_FLOOR
from model.network.attention import NOTHING
from model.network.reference import Reference, RowState, RowStep, TextRead
from model.network.stack import Network

Array = NDArray[Any]

TIE = 1e-6  # float32 engines and the reference differ by less than this in any h after one step


@dataclass(frozen=True)
class ReferenceStep:
    """One step of a batch as the reference computes it, float64.

    Attributes:
        output: (B, outputs).
        state: by name, as engines return it.
        logits: detector logits (B, L - 1), NaN where a detector was not computed.
        operations: (B, L): 0 COPY, 1 UPDATE, 2 FLUSH.
        tied: (B,), True where float32 may round some h to the other side.
    """

    output: Array
    state: State
    logits: Array
    operations: Array
    tied: NDArray[np.bool_]


class ReferenceRun:
    """Steps a batch with the reference and keeps its state.

    Args:
        network: with the weights that are in the files.
        rows: B.
        precision: of the files; in int8 products take a rounded h.
        lines: what the rows write, if the network writes texts.
    """

    def __init__(
        self, network: Network, rows: int, precision: Precision = "float32", lines: Lines | None = None
    ) -> None:
        reference: Reference = network.reference()
        self._reference = replace(reference, read=self._round) if precision == "int8" else reference
        self._nearest_tie = np.inf
        self._text = network.config.kind == "text"
        self._gated = network.config.cell == "hmlstm"
        widths = np.cumsum(network.config.output_sources)[:-1]
        self._num_layers = network.config.num_layers
        self._writer = [] if lines is None else lines.writer.tolist()
        self._texts = [] if lines is None else [row[row != NOTHING].tolist() for row in lines.ids]
        self._windows: list[TextRead | None] = [None] * rows
        if network.config.writes_text:
            config = network.config
            self._start = TextRead(np.zeros(config.window_mixtures), np.zeros(config.character_width), np.zeros(0))
        self._out = np.split(np.concatenate([self._reference.gate, self._reference.project], 1), widths)
        self._rows: list[list[RowState]] = [self._reference.zeros() for _ in range(rows)]

    def state(self) -> State:
        """Return the state of all rows by name, with `e` computed from h."""
        named: State = {}
        for layer in range(self._num_layers):
            number = layer + 1
            h = np.stack([row[layer].h for row in self._rows])
            named[f"h{number}"] = h
            named[f"c{number}"] = np.stack([row[layer].c for row in self._rows])
            if self._gated and number < self._num_layers:
                named[f"z{number}"] = np.array([row[layer].z for row in self._rows])
            if self._gated and layer:
                named[f"e{number}"] = self._reference.read(h) @ self._out[layer]
        if self._texts:
            named["window_position"] = np.stack([(window or self._start).position for window in self._windows])
            named["window_vector"] = np.stack([(window or self._start).vector for window in self._windows])
        return named

    def step(self, x: Array) -> ReferenceStep:
        """Take one step on every row."""
        outputs: list[Array] = []
        done: list[list[RowStep]] = []
        tied = np.zeros(len(self._rows), bool)
        for row, states in enumerate(self._rows):
            self._nearest_tie = np.inf
            output, steps = self._take(int(x[row]) if self._text else x[row].astype(np.float64), row, states)
            outputs.append(output if self._text else pack(output))
            done.append(steps)
            tied[row] = self._nearest_tie < TIE
        self._rows = [[step.state for step in steps] for steps in done]
        return ReferenceStep(
            output=np.stack(outputs),
            state=self.state(),
            logits=np.array([[step.logit for step in steps[:-1]] for steps in done]).reshape(len(done), -1),
            operations=np.array([[step.operation for step in steps] for steps in done]),
            tied=tied,
        )

    def _take(self, x: int | Array, row: int, states: list[RowState]) -> tuple[Array, list[RowStep]]:
        """Return output and layers of one step of one row."""
        if not self._texts:
            return self._reference.step(x, states)
        assert not isinstance(x, int), "texts are written with a pen"
        output, steps, self._windows[row] = self._reference.write(
            x, states, self._texts[row], self._writer[row], self._windows[row]
        )
        return output, steps

    def _round(self, h: Array) -> Array:
        """Round h for a product, and note how close it came to the middle between two multiples."""
        self._nearest_tie = min(self._nearest_tie, distance_to_tie(h))
        return round_hidden(h)


def pack(raw: Array) -> Array:
    """Turn one row of raw outputs (6M + 1,) into mixture parameters, term by term (Graves 2013, Eqs. 18-22).

    The logit of the line being over, which may follow them, stays as it is.
    """
    count = (len(raw) - 1) // 6
    weight, means, scales, correlation, pen_up = np.split(raw, np.cumsum([count, 2 * count, 2 * count, count]))
    log_weight = weight - weight.max() - np.log(np.exp(weight - weight.max()).sum())
    bounded = np.clip(scales, LOG_SCALE_FLOOR, LOG_SCALE_CEILING)
    return np.concatenate([log_weight, means, bounded, np.tanh(correlation) * CORRELATION_LIMIT, pen_up])
