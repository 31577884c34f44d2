"""Skipping: rows that COPY must reach no matrix product, counted on the file itself.

ONNX Runtime's own profile says how many rows every matrix product was given; the boundaries say how many it had to be.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checks.traces import Trace
from export.graphs.specs import input_spec, output_spec, state_specs
from export.runtime import OnnxStep
from model.config import ModelConfig

Array = NDArray[Any]

COPY, UPDATE, FLUSH = 0, 1, 2
PROFILED_STEPS = 256


@dataclass(frozen=True)
class Skipping:
    """Rows given to each product over some steps.

    Attributes:
        steps: of the trace.
        rows: of the trace.
        multiplied: rows that each product was given, counted by ONNX Runtime.
        needed: rows that each product had to be given, from the boundaries.
    """

    steps: int
    rows: int
    multiplied: Mapping[str, int]
    needed: Mapping[str, int]

    def faults(self) -> list[str]:
        """Return what is wrong, one sentence for each product that was given more or fewer rows than it needed."""
        return [
            f"{product} multiplied {self.multiplied.get(product, 0)} rows, but {needed} were needed"
            for product, needed in self.needed.items()
            if self.multiplied.get(product, 0) != needed
        ]

    def report(self) -> dict[str, Any]:
        """Return the figures as parity.json has them."""
        return {
            "measured": "rows given to each matrix product, from ONNX Runtime's profile",
            "row_steps": self.steps * self.rows,
            "rows_multiplied": dict(self.multiplied),
            "rows_needed": dict(self.needed),
        }


def operations(before: Mapping[str, Array], after: Mapping[str, Array], num_layers: int) -> Array:
    """Return what each layer of an HM-LSTM did at a step, (B, L): 0 COPY, 1 UPDATE, 2 FLUSH.

    Args:
        before: the state before the step.
        after: the state after it.
        num_layers: L.
    """
    # The truth table (Eqs. 2-3): FLUSH where the layer's own boundary fired a step ago, else UPDATE where the one below
    # fires now, else COPY.
    rows = len(before["h1"])
    done = np.zeros((rows, num_layers), np.int64)
    z_below: Array = np.ones(rows)
    for layer in range(num_layers):
        name = f"z{layer + 1}"
        flushed = before[name] == 1 if name in before else np.zeros(rows, bool)
        done[:, layer] = np.where(flushed, FLUSH, np.where(z_below == 1, UPDATE, COPY))
        z_below = after.get(name, z_below)
    return done


def check_skipping(graph: bytes, config: ModelConfig, trace: Trace, *, single: bool = False) -> Skipping:
    """Run the beginning of a trace under ONNX Runtime's profiler and count the rows of every matrix product.

    Args:
        graph: the ONNX file.
        config: of the network in it.
        trace: what to feed.
        single: whether the file is for one row; then only the trace's first row is fed.
    """
    inputs = trace.inputs[:PROFILED_STEPS, :1] if single else trace.inputs[:PROFILED_STEPS]
    lines = trace.lines.rows([0]) if single and trace.lines else trace.lines
    rows = inputs.shape[1]
    needed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        step = OnnxStep(
            graph, input_spec(config), output_spec(config), state_specs(config), profile=str(Path(folder) / "profile")
        )
        state = step.zeros(rows)
        for x in inputs:
            before = state
            _, state = step.step(x, before, lines)
            needed.update(_needed(before, state, config))
        profile = Path(step.session.end_profiling())
        multiplied = _profiled_rows(json.loads(profile.read_text(encoding="utf-8")), set(needed))
    return Skipping(len(inputs), rows, multiplied, dict(sorted(needed.items())))


def _needed(before: Mapping[str, Array], after: Mapping[str, Array], config: ModelConfig) -> Counter[str]:
    """Return how many rows each product of a step has to be given."""
    rows = len(before["h1"])
    lstm = config.cell == "lstm"
    done = np.ones((rows, config.num_layers), np.int64) if lstm else operations(before, after, config.num_layers)
    count: Counter[str] = Counter()
    for layer in range(config.num_layers):
        active = int((done[:, layer] != COPY).sum())
        count[f"layer{layer + 1}.own"] += active
        count[f"layer{layer + 1}.e.rows"] += active
        if config.has_detector(layer):
            count[f"layer{layer + 1}.above.product"] += int((done[:, layer] == FLUSH).sum())
    return count


def _profiled_rows(events: list[dict[str, Any]], products: set[str]) -> dict[str, int]:
    """Add up, for each named product, the rows of its first operand over all of its runs."""
    rows: Counter[str] = Counter()
    for event in events:
        name = str(event.get("name", "")).removesuffix("_kernel_time")
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and name in products:
            (shape,) = event["args"]["input_type_shape"][0].values()
            rows[name] += int(shape[0])
    return {product: rows[product] for product in sorted(products)}
