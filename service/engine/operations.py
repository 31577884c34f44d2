"""What every layer did at every step, one byte per step.

For a network of L layers a step's byte is `z before | z after`, L-1 bits each, layer 1 lowest. Everything that is told
about a step (boundaries, operations, the number of layers computed) is a function of that byte, so it is looked up
and never worked out again: a column of an event is one translation of a byte string.
"""

from collections.abc import Sequence as Seq

import numpy as np

MAX_LAYERS = 5
UPDATE, COPY, FLUSH = "U", "C", "F"


class Hierarchy:
    """Reads trace bytes of a network with so many layers.

    Args:
        num_layers: L, from 1 to MAX_LAYERS.
        has_detectors: False for an LSTM, whose layers are all computed at every step.
        hidden: units of each layer, from layer 1 up; without them all layers count as equally large.

    Raises:
        ValueError: a step of a network that deep does not fit a byte.
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
        """Return z of each layer with a detector, from layer 1 up: a digit 0 or 1 per step."""
        return [trace.translate(table).decode("ascii") for table in self._digits]

    def operations(self, trace: bytes) -> list[str]:
        """Return the operations of each layer, from layer 1 up: a letter U, C or F per step."""
        return [trace.translate(table).decode("ascii") for table in self._letters]

    def updates(self, trace: bytes) -> list[int]:
        """Return at how many steps each layer was computed, that is, did not COPY."""
        return [len(trace) - row.count(COPY) for row in self.operations(trace)]

    def counts(self, trace: bytes) -> dict[str, list[int]]:
        """Return at how many steps each layer did an UPDATE, a COPY and a FLUSH, by their letters."""
        operations = self.operations(trace)
        return {letter: [row.count(letter) for row in operations] for letter in (UPDATE, COPY, FLUSH)}

    def work_spared(self, trace: bytes) -> float:
        """Return the share, 0 to 1, of a dense network's multiplications in its cells that these steps do not need.

        Layer 1's own recurrence is always needed; an upper layer's where it does not COPY; the product with the layer
        below where that one fires, with the layer above at a FLUSH. Layer 1's input is a row of a table.
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
        """Share of the dense work that a step does not need."""
        needed = dense = 0
        for layer, size in enumerate(self._hidden):
            operation = self._operation(code, layer)
            columns = 4 * size + (layer < self.num_detectors)  # four gates and the detector
            parts = [(size, operation != COPY)]
            if layer < self.num_layers - 1 and self.num_detectors:
                parts.append((self._hidden[layer + 1], operation == FLUSH))
            if layer:
                parts.append((self._hidden[layer - 1], not self.num_detectors or self._after(code, layer - 1)))
            needed += sum(rows * columns for rows, is_needed in parts if is_needed)
            dense += sum(rows * columns for rows, _ in parts)
        return 1.0 - needed / dense

    def _after(self, code: int, layer: int) -> bool:
        """Boundary of a layer, counted from 0, after the step; the top layer has none."""
        return layer < self.num_detectors and bool(code >> layer & 1)

    def _before(self, code: int, layer: int) -> bool:
        return layer < self.num_detectors and bool(code >> self.num_detectors + layer & 1)

    def _operation(self, code: int, layer: int) -> str:
        """Eq. 2: FLUSH after an own boundary, else UPDATE on one below, else COPY; layer 1 sees one below always."""
        if self._before(code, layer):
            return FLUSH
        is_due = layer == 0 or not self.num_detectors or self._after(code, layer - 1)
        return UPDATE if is_due else COPY
