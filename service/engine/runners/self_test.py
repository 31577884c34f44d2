"""Before anything is served: does a row keep its bits in any company, on this processor, with this very bundle?

The promise "same seed, same bytes, whoever else is served" rests on code that is chosen by the processor it finds,
ONNX Runtime's or our own. So it is not believed but tried: random rows with sampling inputs of their own are stepped
all together, then again alone and in smaller batches of another order, and everything a step leaves behind is
compared bit for bit.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.bundle.folder import Bundle
from service.engine.runners.base import Runner
from service.engine.runners.onnx import MAX_ROWS
from service.engine.sampling import COLDEST

STEPS = 12
ALONE = 4
BATCH_SIZES = (2, 3, 7, 31, MAX_ROWS)

Inputs = list[tuple[Any, dict[str, Any]]]


class BatchVarianceError(Exception):
    """A row depends on the rows beside it, or has an output that is not finite; the message says where."""


@dataclass(frozen=True)
class SelfTestReport:
    """What was tried.

    Attributes:
        sizes: numbers of rows that were stepped together.
        row_steps: steps of single rows that were compared bit for bit.
        ms: how long that took.
    """

    sizes: list[int]
    row_steps: int
    ms: int


def check_batch_invariance(bundle: Bundle, runner: Runner) -> SelfTestReport:
    """Try a runner that nobody uses yet; it is left with cleared rows.

    Raises:
        BatchVarianceError: a row's bits depend on the others, or an output is not finite.
    """
    began = time.perf_counter()
    random = np.random.default_rng(0)
    # One row more than fit into one run, where there is room for it.
    count = min(runner.capacity, MAX_ROWS + 1)
    inputs = _inputs(bundle, count, random)
    wanted = _run(runner, inputs, np.arange(count))
    batches = [np.array([row]) for row in range(min(ALONE, count))]
    batches += [random.permutation(count)[:size] for size in BATCH_SIZES if size <= count]
    for rows in batches:
        for step, (found, all_of_them) in enumerate(zip(_run(runner, inputs, rows), wanted, strict=True)):
            for place, row in enumerate(rows):
                if found[place] != all_of_them[row]:
                    raise BatchVarianceError(
                        f"step {step} of a row among {len(rows)} rows has other bits than among {count}: on this "
                        "processor rows are not treated alike"
                    )
    for row in range(min(ALONE, count)):
        if _prefill(runner, inputs, row) != [wanted[-1][row], *(step[row][-1] for step in wanted[:-1])]:
            raise BatchVarianceError("inputs that are read in one go leave other bits than steps that read them")
    for row in range(count):
        runner.clear(row)
    sizes = sorted({count, *(len(rows) for rows in batches)})
    return SelfTestReport(sizes, STEPS * sum(map(len, batches)), round(1000 * (time.perf_counter() - began)))


def _inputs(bundle: Bundle, count: int, random: np.random.Generator) -> Inputs:
    """Return for every step what the rows read and how they draw."""
    shape = (STEPS, count)
    if bundle.kind == "ink":
        bias = random.choice([0.0, 1.0], count)
        noise = np.concatenate(
            [random.random((*shape, 1)), random.normal(size=(*shape, 2)), random.random((*shape, 1))], 2
        )
        # What a bundle that writes texts takes besides, what the row writes and in whose hand, is of any values.
        others = [wish for wish in bundle.draws if wish.name not in ("bias", "noise")]
        fixed = {"bias": bias, **{wish.name: random.normal(size=wish.shape_for(count)) for wish in others}}
        return [(x, {**fixed, "noise": now}) for x, now in zip(random.normal(size=(*shape, 3)), noise, strict=True)]
    size = bundle.model["vocabulary"]
    sampling_inputs = {
        "temperature": random.choice([COLDEST, 0.7, 1.0], count),
        "top_p": random.choice([0.8, 1.0], count),
        "top_k": random.choice([0, 5], count),
        "logit_bias": np.where(random.random((count, size)) < 0.1, -np.inf, 0.0),
    }
    tokens, noise = random.integers(0, size, shape), random.random(shape)
    return [(x, {**sampling_inputs, "noise": now}) for x, now in zip(tokens, noise, strict=True)]


def _run(runner: Runner, inputs: Inputs, rows: Any) -> list[list[bytes]]:
    """Step some of the rows together from a fresh state; return all that each step leaves of each row."""
    count = len(rows)
    for place in range(count):
        runner.clear(place)
    seen = []
    for x, sampling_inputs in inputs:
        runner.inputs[:count] = x[rows]
        for name, values in sampling_inputs.items():
            runner.sampling_inputs[name][:count] = values[rows]
        outputs = runner.step(count)
        if not np.isfinite(outputs).all():
            raise BatchVarianceError("an output is not finite")
        seen.append(
            [
                outputs[place].tobytes() + runner.drawn[place].tobytes() + bytes([runner.codes[place]])
                for place in range(count)
            ]
        )
    seen.append([runner.save(place) for place in range(count)])
    return seen


def _prefill(runner: Runner, inputs: Inputs, row: int) -> list[Any]:
    """Read in one go what a row reads at all steps; return its state after them, and the trace bytes."""
    runner.clear(0)
    for name, values in inputs[0][1].items():
        runner.sampling_inputs[name][0] = values[row]
    codes = runner.prefill(0, [x[row] for x, _ in inputs])
    return [runner.save(0), *codes.tolist()]
