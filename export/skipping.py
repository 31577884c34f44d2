"""Two promises of the step graph, measured on the file itself: COPY costs nothing, and company changes nothing.

That a COPY is skipped is read from ONNX Runtime's own profile: how many rows every matrix product was really given.
That a row does not depend on the rows beside it is shown bit for bit, over batch sizes, orders and neighbours, for the
state, the output and what is drawn, and with a row alone run by the graph for one row.
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

from export.runtime import OnnxPrompt, OnnxStep
from export.trace import Trace
from export.weights import input_spec, output_spec, state_specs
from model.config import ModelConfig

Array = NDArray[Any]

COPY, UPDATE, FLUSH = 0, 1, 2
PROFILED_STEPS = 256
BATCH_SIZES = (1, 2, 3, 5, 8, 16, 31, 64)
BATCH_STEPS = 48


@dataclass(frozen=True)
class Skipping:
    """Rows given to each product over some steps.

    Attributes:
        steps, rows: of the trace.
        multiplied: rows by product, counted by ONNX Runtime.
        needed: rows by product that had to be multiplied, from the boundaries.
    """

    steps: int
    rows: int
    multiplied: Mapping[str, int]
    needed: Mapping[str, int]

    def faults(self) -> list[str]:
        """Return which products ran on other rows than the boundaries called for."""
        return [
            f"{product} multiplied {self.multiplied.get(product, 0)} rows, but {needed} were needed"
            for product, needed in self.needed.items()
            if self.multiplied.get(product, 0) != needed
        ]

    def report(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "measured": "rows given to each matrix product, from ONNX Runtime's profile",
            "row_steps": self.steps * self.rows,
            "rows_multiplied": dict(self.multiplied),
            "rows_needed": dict(self.needed),
        }


@dataclass(frozen=True)
class BatchInvariance:
    """Whether rows of a batch equal themselves run alone.

    Attributes:
        sizes: batch sizes tried.
        compared: rows times steps compared bit for bit.
        different: those that differ in any bit of output, state or what was drawn.
    """

    sizes: tuple[int, ...]
    compared: int
    different: int

    def faults(self) -> list[str]:
        """Return the sentence to say when a row depends on its neighbours."""
        if not self.different:
            return []
        return [f"{self.different} of {self.compared} row-steps change their bits with the rows beside them"]

    def report(self) -> dict[str, Any]:
        """Return the figures."""
        return {"batch_sizes": list(self.sizes), "row_steps": self.compared, "different": self.different}


def operations(before: Mapping[str, Array], after: Mapping[str, Array], num_layers: int) -> Array:
    """Return what each layer of an HM-LSTM did at a step, (B, L): 0 COPY, 1 UPDATE, 2 FLUSH.

    Args:
        before: the state given to the step. after: the state it gave.
        num_layers: L.
    """
    rows = len(before["h1"])
    done = np.zeros((rows, num_layers), np.int64)
    z_below: Array = np.ones(rows)
    for layer in range(num_layers):
        name = f"z{layer + 1}"
        flushed = before[name] == 1 if name in before else np.zeros(rows, bool)
        done[:, layer] = np.where(flushed, FLUSH, np.where(z_below == 1, UPDATE, COPY))
        z_below = after.get(name, z_below)
    return done


def rows_multiplied(graph: bytes, config: ModelConfig, trace: Trace, *, single: bool = False) -> Skipping:
    """Run the beginning of a trace under ONNX Runtime's profiler and count the rows of every matrix product.

    Args:
        graph: the ONNX file.
        config: of the network in it.
        trace: what to feed.
        single: whether the file is for one row: only the trace's first row is fed.
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


def batch_invariance(step: OnnxStep, single: OnnxStep, trace: Trace) -> BatchInvariance:
    """Run rows alone, and then in batches of several sizes, orders and neighbours, and compare every bit.

    Args:
        step: the graph for any number of rows.
        single: the graph for one row, which runs the rows alone.
        trace: where the rows come from; each draws in a way of its own.
    """
    pool = _pool(trace)
    count = pool.shape[1]
    wishes = wishes_of(step, len(pool), count, np.random.default_rng(1))
    if trace.lines is not None:
        given = trace.lines.rows(np.arange(count) % trace.rows).given
        wishes = [{**now, **given} for now in wishes]
    alone = [_run(single, pool[:, row : row + 1], _rows(wishes, [row])) for row in range(count)]
    generator = np.random.default_rng(0)
    compared = different = 0
    for size in BATCH_SIZES:
        chosen = generator.choice(count, size, replace=size > count)
        together = _run(step, pool[:, chosen], _rows(wishes, chosen))
        for place, row in enumerate(chosen):
            same = [
                all(np.array_equal(mine[place], solo[0]) for mine, solo in zip(now, then, strict=True))
                for now, then in zip(together, alone[row], strict=True)
            ]
            compared += len(same)
            different += len(same) - sum(same)
    return BatchInvariance(BATCH_SIZES, compared, different)


def wishes_of(step: OnnxStep, steps: int, rows: int, generator: np.random.Generator) -> list[dict[str, Array]]:
    """Return for every step how its rows are to be drawn: each row with wishes of its own, and fresh noise."""
    uniform = generator.random((steps, rows))
    if step.input.dtype != "int64":
        bias = generator.choice([0.0, 0.5, 2.0], rows).astype(np.float32)
        normal = generator.standard_normal((steps, rows, 2))
        noise = np.concatenate([uniform[..., None], normal, generator.random((steps, rows, 1))], 2)
        return [{"bias": bias, "noise": now} for now in noise]
    shape = step.output.shape_for(rows)
    barred = np.where(generator.random(shape) < 0.05, -np.inf, generator.normal(size=shape))
    fixed = {
        "temperature": generator.choice([1e-20, 0.6, 1.0, 1.5], rows).astype(np.float32),
        "top_p": generator.choice([0.0, 0.5, 0.95, 1.0], rows).astype(np.float32),
        "top_k": generator.choice([0, 0, 1, 3], rows),
        "logit_bias": barred.astype(np.float32),
    }
    return [{**fixed, "noise": now} for now in uniform]


@dataclass(frozen=True)
class Reading:
    """Whether inputs that are read in one go leave what steps leave.

    Attributes:
        compared: rows that were read.
        steps: of each.
        different: rows whose state or boundaries differ in any bit.
    """

    compared: int
    steps: int
    different: int

    def faults(self) -> list[str]:
        """Return the sentence to say when it is not so."""
        if not self.different:
            return []
        return [f"{self.different} of {self.compared} rows that are read in one go are not as steps leave them"]

    def report(self) -> dict[str, Any]:
        """Return the figures."""
        return {"rows": self.compared, "steps": self.steps, "different": self.different}


def read_in_one_go(single: OnnxStep, prompt: OnnxPrompt, trace: Trace) -> Reading:
    """Read the beginning of every row of a trace in one go, and by steps, and compare every bit."""
    steps = min(trace.steps, PROFILED_STEPS)
    different = 0
    for row in range(trace.rows):
        inputs = trace.inputs[:steps, row]
        lines = trace.lines.rows([row]) if trace.lines else None
        state, fired = single.zeros(1), []
        boundaries, left = prompt.read(inputs, state, {} if lines is None else lines.given)
        for x in inputs:
            _, state = single.step(x[None], state, lines)
            fired.append([state[name][0] for name in sorted(state) if name[0] == "z"])
        same = all(np.array_equal(left[name], values) for name, values in state.items())
        different += not (same and np.array_equal(boundaries, np.reshape(fired, (steps, -1))))
    return Reading(trace.rows, steps, different)


def _rows(wishes: list[dict[str, Array]], rows: Any) -> list[dict[str, Array]]:
    return [{name: values[rows] for name, values in now.items()} for now in wishes]


def _pool(trace: Trace) -> Array:
    """Cut a trace into pieces that serve as independent rows, (BATCH_STEPS, rows, ...); at most 64."""
    pieces = min(trace.steps // BATCH_STEPS, max(1, max(BATCH_SIZES) // trace.rows))
    cut = [trace.inputs[piece * BATCH_STEPS : (piece + 1) * BATCH_STEPS] for piece in range(pieces)]
    return np.concatenate(cut, axis=1)


def _run(step: OnnxStep, inputs: Array, wishes: list[dict[str, Array]]) -> list[list[Array]]:
    """Return what was drawn, output and states of every step, as bytes of each row."""
    state = step.zeros(inputs.shape[1])
    seen = []
    for x, wish in zip(inputs, wishes, strict=True):
        drawn, output, state = step.draw(x, state, wish)
        seen.append([values.view(np.uint8).reshape(len(x), -1) for values in (drawn, output, *state.values())])
    return seen


def _needed(before: Mapping[str, Array], after: Mapping[str, Array], config: ModelConfig) -> Counter[str]:
    """Return how many rows each product of a step has to see."""
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
