"""Batch invariance: the result of a row must not depend on the other rows of its batch.

Rows are run alone, by the graph for one row, and then in batches of several sizes, orders and neighbours. Output, state
and what is drawn are compared bit for bit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checks.traces import Trace
from export.runtime import OnnxStep

Array = NDArray[Any]

BATCH_SIZES = (1, 2, 3, 5, 8, 16, 31, 64)
BATCH_STEPS = 48


@dataclass(frozen=True)
class BatchInvariance:
    """Whether rows of a batch equal the same rows run alone.

    Attributes:
        sizes: batch sizes tried.
        compared: rows times steps compared bit for bit.
        different: those of which a bit of the output, the state or the draw differs.
    """

    sizes: tuple[int, ...]
    compared: int
    different: int

    def faults(self) -> list[str]:
        """Return what is wrong, if anything, in one sentence."""
        if not self.different:
            return []
        return [f"{self.different} of {self.compared} row-steps change their bits with the rows beside them"]

    def report(self) -> dict[str, Any]:
        """Return the figures as parity.json has them."""
        return {"batch_sizes": list(self.sizes), "row_steps": self.compared, "different": self.different}


def check_batch_invariance(step: OnnxStep, single: OnnxStep, trace: Trace) -> BatchInvariance:
    """Run rows alone and in batches, and compare every bit.

    Args:
        step: the graph for any number of rows.
        single: the graph for one row, which runs the rows alone.
        trace: where the rows come from; each gets sampling parameters of its own.
    """
    # Every row alone, with its own sampling inputs.
    pool = _pool(trace)
    count = pool.shape[1]
    sampling_inputs = sampling_inputs_for(step, len(pool), count, np.random.default_rng(1))
    if trace.lines is not None:
        text = trace.lines.rows(np.arange(count) % trace.rows).inputs
        sampling_inputs = [{**now, **text} for now in sampling_inputs]
    alone = [_run(single, pool[:, row : row + 1], _rows(sampling_inputs, [row])) for row in range(count)]
    # The same rows together, in batches drawn at random.
    generator = np.random.default_rng(0)
    compared = different = 0
    for size in BATCH_SIZES:
        chosen = generator.choice(count, size, replace=size > count)
        together = _run(step, pool[:, chosen], _rows(sampling_inputs, chosen))
        for place, row in enumerate(chosen):
            same = [
                all(np.array_equal(mine[place], solo[0]) for mine, solo in zip(now, then, strict=True))
                for now, then in zip(together, alone[row], strict=True)
            ]
            compared += len(same)
            different += len(same) - sum(same)
    return BatchInvariance(BATCH_SIZES, compared, different)


def sampling_inputs_for(
    step: OnnxStep, steps: int, rows: int, generator: np.random.Generator
) -> list[dict[str, Array]]:
    """Return random sampling inputs for every step: each row keeps its own parameters and gets fresh noise.

    Args:
        step: the graph they are for.
        steps: T.
        rows: B.
        generator: to draw them with.
    """
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


def _rows(sampling_inputs: list[dict[str, Array]], rows: Any) -> list[dict[str, Array]]:
    return [{name: values[rows] for name, values in now.items()} for now in sampling_inputs]


def _pool(trace: Trace) -> Array:
    """Return a trace cut into pieces that serve as independent rows, (BATCH_STEPS, rows, ...), about 64 at most."""
    pieces = min(trace.steps // BATCH_STEPS, max(1, max(BATCH_SIZES) // trace.rows))
    cut = [trace.inputs[piece * BATCH_STEPS : (piece + 1) * BATCH_STEPS] for piece in range(pieces)]
    return np.concatenate(cut, axis=1)


def _run(step: OnnxStep, inputs: Array, sampling_inputs: list[dict[str, Array]]) -> list[list[Array]]:
    """Return the draw, the output and the states of every step, each as the bytes of its rows (B, bytes)."""
    state = step.zeros(inputs.shape[1])
    seen = []
    for x, sampling in zip(inputs, sampling_inputs, strict=True):
        drawn, output, state = step.draw(x, state, sampling)
        seen.append([values.view(np.uint8).reshape(len(x), -1) for values in (drawn, output, *state.values())])
    return seen
