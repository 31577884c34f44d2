"""The operations and boundaries of every layer at every step, from one trace byte per step.

For a network of L layers the trace byte of a step is `z before | z after`, L-1 bits each, layer 1 lowest. Boundaries,
operations and the number of computed layers are functions of that byte. So they are tabulated once, and a column of an
event is one translation of a byte string.
"""

from collections.abc import Sequence as Seq

import numpy as np

MAX_LAYERS = 5
UPDATE, COPY, FLUSH = "U", "C", "F"


class Hierarchy:
    """Decodes the trace bytes of a network.

    Args:
        num_layers: L, from 1 to MAX_LAYERS.
        has_detectors: False for an LSTM, whose layers are all computed at every step.
        hidden: units of each layer, from layer 1 up; without them all layers count as equally large.

    Raises:
        ValueError: the network has so many layers that a step does not fit in a byte.
    """

    def __init__(self, num_layers: int, *, has_detectors: bool = True, hidden: Seq[int] = ()) -> None:
        if not 1 <= num_layers <= MAX_LAYERS:
            raise ValueError(f"networks of 1 to {MAX_LAYERS} layers can be served, not of {num_layers}")
        self.num_layers = num_layers
        self.num_detectors = num_layers - 1 if has_detectors else 0
        codes = range(256)
        self._digits = [
            bytes(ord("01"[self._after(code, layer)]) for code in codes) for layer in range(self.num_detectors)
        ]
        self._letters = [bytes(ord(self._operation(code, layer)) for code in codes) for layer in range(num_layers)]
        self._hidden = tuple(hidden) or (1,) * num_layers
        self._spared = np.array([self._spared_by(code) for code in codes])

    def boundaries(self, trace: bytes) -> list[str]:
        """Return z of each layer with a detector, from layer 1 up, as strings with a digit 0 or 1 per step."""
        return [trace.translate(table).decode("ascii") for table in self._digits]

    def operations(self, trace: bytes) -> list[str]:
        """Return the operations of each layer, from layer 1 up, as strings with a letter U, C or F per step."""
        return [trace.translate(table).decode("ascii") for table in self._letters]

    def updates(self, trace: bytes) -> list[int]:
        """Return for each layer at how many steps it was computed, that is, did not COPY."""
        return [len(trace) - row.count(COPY) for row in self.operations(trace)]

    def counts(self, trace: bytes) -> dict[str, list[int]]:
        """Return for each operation, by its letter, at how many steps each layer did it."""
        operations = self.operations(trace)
        return {letter: [row.count(letter) for row in operations] for letter in (UPDATE, COPY, FLUSH)}

    def work_spared(self, trace: bytes) -> float:
        """Return the share, 0 to 1, of the cells' multiplications in a dense network that these steps do not need.

        A layer's own recurrence is needed unless it COPYs; layer 1 never does. The product with the layer below is
        needed where that layer has a boundary, the one with the layer above at a FLUSH. Layer 1's input counts
        nothing, because it is a row of a table.
        """
        if not trace:
            return 0.0
        steps = np.bincount(np.frombuffer(trace, np.uint8), minlength=256)
        return float(steps @ self._spared / len(trace))

    def columns(self, trace: bytes) -> str:
        """Return `"z":[[..],..],"op":["..",..]`, the members of a JSON object that describe the steps."""
        z = "],[".join(",".join(digits) for digits in self.boundaries(trace))
        op = '","'.join(self.operations(trace))
        return f'"z":[[{z}]],"op":["{op}"]' if self.num_detectors else f'"z":[],"op":["{op}"]'

    def _spared_by(self, code: int) -> float:
        """Return the share of the dense work that a step with this trace byte does not need."""
        needed = dense = 0
        for layer, size in enumerate(self._hidden):
            operation = self._operation(code, layer)
            columns = 4 * size + (layer < self.num_detectors)  # four gates and the detector
            # Products of this layer as (rows of the weight matrix, whether the step needs it): with its own state,
            # with the layer above and with the layer below.
            parts = [(size, operation != COPY)]
            if layer < self.num_layers - 1 and self.num_detectors:
                parts.append((self._hidden[layer + 1], operation == FLUSH))
            if layer:
                parts.append((self._hidden[layer - 1], not self.num_detectors or self._after(code, layer - 1)))
            needed += sum(rows * columns for rows, is_needed in parts if is_needed)
            dense += sum(rows * columns for rows, _ in parts)
        return 1.0 - needed / dense

    def _after(self, code: int, layer: int) -> bool:
        """Return the boundary of a layer, counted from 0, after the step; the top layer has none."""
        return layer < self.num_detectors and bool(code >> layer & 1)

    def _before(self, code: int, layer: int) -> bool:
        """Return the boundary of a layer before the step."""
        return layer < self.num_detectors and bool(code >> self.num_detectors + layer & 1)

    def _operation(self, code: int, layer: int) -> str:
        """Return the operation (Eq. 2): FLUSH after an own boundary, else UPDATE after one below, else COPY.

        Layer 1 always counts as having a boundary below.
        """
        if self._before(code, layer):
            return FLUSH
        is_due = layer == 0 or not self.num_detectors or self._after(code, layer - 1)
        return UPDATE if is_due else COPY
