"""The test of batch invariance that every bundle passes before it is served, on the processor that serves it.

The promise "same seed, same bytes, whoever else is served" depends on code that ONNX Runtime or our kernel chooses for
the processor. So it is tested at the start: random rows, each with its own sampling inputs, are stepped all together,
then alone and in smaller batches of another order. Outputs, draws, trace bytes and states are compared bit for bit.
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
ALONE = 4  # rows that are also stepped alone and prefilled
BATCH_SIZES = (2, 3, 7, 31, MAX_ROWS)

Inputs = list[tuple[Any, dict[str, Any]]]  # for every step the inputs of all rows and their sampling inputs


class BatchVarianceError(Exception):
    """A row's result depends on the other rows of its batch, or an output is not finite; the message says where."""


@dataclass(frozen=True)
class SelfTestReport:
    """What the test has compared.

    Attributes:
        sizes: batch sizes, ascending.
        row_steps: number of steps of single rows that were compared bit for bit.
        ms: duration of the test.
    """

    sizes: list[int]
    row_steps: int
    ms: int


def check_batch_invariance(bundle: Bundle, runner: Runner) -> SelfTestReport:
    """Test that a row's result does not depend on the other rows of its batch, nor on being prefilled.

    Args:
        bundle: a checked bundle.
        runner: a runner of this bundle that is not in use; its rows are cleared afterwards.

    Raises:
        BatchVarianceError: a row's bits depend on the others or on prefill, or an output is not finite.
    """
    began = time.perf_counter()
    random = np.random.default_rng(0)
    # Step all rows together: one more than fit into one run of ONNX Runtime, if there are so many.
    count = min(runner.capacity, MAX_ROWS + 1)
    inputs = _inputs(bundle, count, random)
    wanted = _run(runner, inputs, np.arange(count))
    batches = [np.array([row]) for row in range(min(ALONE, count))]
    batches += [random.permutation(count)[:size] for size in BATCH_SIZES if size <= count]
    # Step single rows and smaller batches, and compare them with that.
    for rows in batches:
        for step, (found, all_of_them) in enumerate(zip(_run(runner, inputs, rows), wanted, strict=True)):
            for place, row in enumerate(rows):
                if found[place] != all_of_them[row]:
                    raise BatchVarianceError(
                        f"step {step} of a row has other bits in a batch of {len(rows)} than in one of {count}: on "
                        "this processor a row's result depends on the other rows"
                    )
    for row in range(min(ALONE, count)):
        # Prefilled inputs must leave the same state and trace bytes as steps.
        if _prefill(runner, inputs, row) != [wanted[-1][row], *(step[row][-1] for step in wanted[:-1])]:
            raise BatchVarianceError("prefilled inputs leave other bits than steps that read them")
    for row in range(count):
        runner.clear(row)
    sizes = sorted({count, *(len(rows) for rows in batches)})
    return SelfTestReport(sizes, STEPS * sum(map(len, batches)), round(1000 * (time.perf_counter() - began)))


def _inputs(bundle: Bundle, count: int, random: np.random.Generator) -> Inputs:
    """Return random inputs and sampling inputs of all rows for every step."""
    shape = (STEPS, count)
    if bundle.kind == "ink":
        bias = random.choice([0.0, 1.0], count)
        noise = np.concatenate(
            [random.random((*shape, 1)), random.normal(size=(*shape, 2)), random.random((*shape, 1))], 2
        )
        # A bundle that writes texts also takes the text and the hand; any values will do.
        others = [spec for spec in bundle.draws if spec.name not in ("bias", "noise")]
        fixed = {"bias": bias, **{spec.name: random.normal(size=spec.shape_for(count)) for spec in others}}
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
    """Step some of the rows together from zeros.

    Returns:
        For each step and row output, draw and trace byte as bytes; then, as one more entry, the state of each row.
    """
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
    """Prefill the inputs of a row from zeros; return its state after them, and the trace bytes."""
    runner.clear(0)
    for name, values in inputs[0][1].items():
        runner.sampling_inputs[name][0] = values[row]
    codes = runner.prefill(0, [x[row] for x, _ in inputs])
    return [runner.save(0), *codes.tolist()]
