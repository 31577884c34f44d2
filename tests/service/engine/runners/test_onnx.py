"""The runner on real bundles: rows are private, and what it says of a step is what the graph says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.bundle import folder as bundles_of
from export.bundle.folder import Bundle
from export.checks.invariance import sampling_inputs_for
from export.runtime import OnnxStep
from service.engine.kernel.library import library
from service.engine.operations import Hierarchy
from service.engine.runners.base import Runner, detectors
from service.engine.runners.kernel import KernelRunner
from service.engine.runners.onnx import OnnxRunner

NAMES = ["small-text", "small-ink", "deep", "control", "bytes", "strict"]
IN_BYTES = ["small-ink", "deep"]  # what the kernel runs

Opened = tuple[Bundle, Callable[[Bundle, int], Runner]]


@pytest.fixture(params=[*(f"{name} by graphs" for name in NAMES), *(f"{name} by kernel" for name in IN_BYTES)])
def opened(request: pytest.FixtureRequest, bundles: Path, odd_bundles: Path) -> Opened:
    """Each of the bundles there are, and each way in which its rows can be stepped."""
    name, _, stepper = request.param.partition(" by ")
    if stepper == "kernel" and library() is None:
        pytest.skip("no kernel was built here")
    folder = bundles if name.startswith("small") else odd_bundles
    return bundles_of.load(folder / name), KernelRunner if stepper == "kernel" else OnnxRunner


@pytest.fixture(params=NAMES)
def bundle(request: pytest.FixtureRequest, bundles: Path, odd_bundles: Path) -> Bundle:
    """Each of the bundles there are."""
    folder = bundles if request.param.startswith("small") else odd_bundles
    return bundles_of.load(folder / request.param)


def inputs_of(bundle: Bundle, steps: int, rows: int, seed: int = 0) -> Any:
    """Random inputs (steps, rows[, 3])."""
    random = np.random.default_rng(seed)
    if bundle.kind == "ink":
        return random.normal(size=(steps, rows, 3)).astype(np.float32)
    return random.integers(0, bundle.model["vocabulary"], (steps, rows))


def run(runner: Runner, inputs: Any) -> tuple[Any, Any]:
    """Step all rows through their inputs and return outputs (T, B, V) and trace bytes (T, B)."""
    steps, rows = inputs.shape[:2]
    outputs, codes = [], []
    for step in range(steps):
        runner.inputs[:rows] = inputs[step]
        outputs.append(runner.step(rows).copy())
        codes.append(runner.codes[:rows].copy())
    return np.array(outputs), np.array(codes)


def test_a_row_has_the_same_bits_alone_and_in_a_batch(opened: Opened) -> None:
    """Outputs and trace bytes of a row do not depend on how many rows there are, bit for bit.

    One row has a graph of its own, and more than 64 are run in parts, of which the last may be of one row.
    """
    bundle, make = opened
    inputs = inputs_of(bundle, 24, 130)
    outputs, codes = run(make(bundle, 130), inputs)
    for rows in (1, 2, 5, 64, 65, 129):
        some_outputs, some_codes = run(make(bundle, 130), inputs[:, :rows])
        assert some_outputs.tobytes() == outputs[:, :rows].tobytes()
        assert np.array_equal(some_codes, codes[:, :rows])


def test_steps_are_those_of_the_graph(bundle: Bundle) -> None:
    """State written in place computes what a plain loop over the graph computes, and z and operations agree."""
    inputs = inputs_of(bundle, 60, 3)
    runner, alone = OnnxRunner(bundle, 3), OnnxRunner(bundle, 1)
    outputs, codes = run(runner, inputs)
    by_itself, _ = run(alone, inputs[:, :1])
    assert by_itself.tobytes() == outputs[:, :1].tobytes()
    plain = OnnxStep.of(bundle)
    state = plain.zeros(3)
    z: list[Any] = []
    for step in range(60):
        output, state = plain.step(inputs[step], state)
        assert output.tobytes() == outputs[step].tobytes()
        z.append([state[name] for name in detectors(bundle)])
    for row in range(3):
        assert runner.save(row) == b"".join(state[spec.name][row].tobytes() for spec in bundle.states)
    assert alone.save(0) == runner.save(0)
    hierarchy = Hierarchy(len(bundle.hidden), has_detectors=bool(detectors(bundle)))
    for row in range(3):
        boundaries = hierarchy.boundaries(bytes(codes[:, row].tolist()))
        expected = ["".join(str(int(layers[layer][row])) for layers in z) for layer in range(hierarchy.num_detectors)]
        assert boundaries == expected
        if bundle.name == "small-text":
            assert all(0 < column.count("1") < 60 for column in boundaries), (
                "detectors of the test bundle should fire at times"
            )


def test_prefilled_inputs_are_steps(opened: Opened) -> None:
    """A row that reads many inputs at once has the state and the trace bytes of one that steps; others keep theirs."""
    bundle, make = opened
    inputs = inputs_of(bundle, 40, 3)
    stepped, reading = make(bundle, 3), make(bundle, 3)
    _, codes = run(stepped, inputs)
    others = [reading.save(0), reading.save(2)]
    found = [
        *reading.prefill(1, list(inputs[:7, 1])),
        *reading.prefill(1, list(inputs[7:8, 1])),
        *reading.prefill(1, inputs[8:, 1]),
    ]
    assert found == codes[:, 1].tolist()
    assert reading.save(1) == stepped.save(1)
    assert [reading.save(0), reading.save(2)] == others
    more = inputs_of(bundle, 5, 3, seed=4)
    assert run(stepped, more)[0][:, 1].tobytes() == run(reading, more)[0][:, 1].tobytes()


def test_a_cleared_row_starts_afresh(opened: Opened) -> None:
    """A row that was used and cleared gives what a fresh one gives, even after NaN passed through it."""
    bundle, make = opened
    inputs = inputs_of(bundle, 10, 2)
    fresh, codes = run(make(bundle, 2), inputs)
    runner = make(bundle, 2)
    run(runner, inputs_of(bundle, 7, 2, seed=1))
    for tensor in runner._now.values():
        tensor[0] = np.nan
    for row in range(2):
        runner.clear(row)
    again, again_codes = run(runner, inputs)
    assert again.tobytes() == fresh.tobytes()
    assert np.array_equal(again_codes, codes)


@settings(max_examples=25)
@given(data=st.data())
def test_moved_rows_go_on_as_if_nothing_happened(bundles: Path, data: st.DataObject) -> None:
    """Rows that leave and rows moved into their places, at any step: each sequence reads what it reads alone."""
    bundle = bundles_of.load(bundles / "small-text")
    inputs = inputs_of(bundle, 30, 5)
    alone, alone_codes = run(OnnxRunner(bundle, 5), inputs)
    runner = OnnxRunner(bundle, 5)
    seats = list(range(5))
    for step in range(30):
        if len(seats) > 1 and data.draw(st.booleans()):
            gap = data.draw(st.integers(0, len(seats) - 1))
            last = seats.pop()
            if gap < len(seats):
                runner.move(len(seats), gap)
                seats[gap] = last
        runner.inputs[: len(seats)] = inputs[step, seats]
        outputs = runner.step(len(seats))
        assert outputs.tobytes() == alone[step, seats].tobytes()
        assert np.array_equal(runner.codes[: len(seats)], alone_codes[step, seats])


def test_a_saved_row_goes_on_elsewhere(opened: Opened) -> None:
    """Saved at any position and restored in another runner, row and batch, a row goes on bit for bit, trace too."""
    bundle, make = opened
    inputs = inputs_of(bundle, 24, 3)
    first, second = make(bundle, 3), make(bundle, 3)
    saved, outputs, codes = [], [], []
    for step in range(24):
        saved.append(first.save(1))
        output, code = run(first, inputs[step : step + 1])
        outputs.append(output[0, 1].tobytes())
        codes.append(code[0, 1])
    assert {len(state) for state in saved} == {first.row_bytes}
    for position in range(20):
        num_rows = 1 + position % 3
        there = position // 3 % num_rows  # the other rows hold what the round before has left in them
        second.restore(there, saved[position])
        assert second.save(there) == saved[position]
        rest = np.repeat(inputs[position : position + 4, 1:2], num_rows, axis=1)
        again, again_codes = run(second, rest)
        assert [output.tobytes() for output in again[:, there]] == outputs[position : position + 4]
        assert again_codes[:, there].tolist() == codes[position : position + 4]


def test_a_state_that_no_step_leaves_behind_is_refused(opened: Opened) -> None:
    """Too short, too long, not finite, a boundary that is neither 0 nor 1: refused, and the row stays as it was."""
    bundle, make = opened
    runner = make(bundle, 1)
    run(runner, inputs_of(bundle, 5, 1))
    saved = runner.save(0)
    infinite = np.frombuffer(saved, "<f4").copy()
    infinite[3] = np.inf
    wrong = [saved[:-1], saved + b"\0", b"", infinite.tobytes()]
    names = [state.name for state in bundle.states]
    for name in detectors(bundle):
        half = np.frombuffer(saved, "<f4").copy()
        half[sum(int(np.prod(state.shape_for(1))) for state in bundle.states[: names.index(name)])] = 0.5
        wrong.append(half.tobytes())
    for one in wrong:
        with pytest.raises(ValueError):
            runner.restore(0, one)
        with pytest.raises(ValueError):
            runner.check(one)
        assert runner.save(0) == saved
    runner.check(saved)


def test_rows_draw_with_their_own_sampling_inputs(bundle: Bundle) -> None:
    """A row draws what the graph draws with the same sampling inputs, alone too, and keeps them when it moves."""
    plain, runner, alone = OnnxStep.of(bundle), OnnxRunner(bundle, 3), OnnxRunner(bundle, 1)
    inputs = inputs_of(bundle, 12, 3)
    sampling_inputs = sampling_inputs_for(plain, 12, 3, np.random.default_rng(5))
    for name, values in sampling_inputs[0].items():
        runner.sampling_inputs[name][2] = values[0]
        alone.sampling_inputs[name][0] = values[0]
    runner.move(2, 0)
    state = plain.zeros(3)
    for x, now in zip(inputs, sampling_inputs, strict=True):
        for name, values in now.items():
            runner.sampling_inputs[name][1:3] = values[1:3]
        runner.sampling_inputs["noise"][:], alone.sampling_inputs["noise"][:] = now["noise"], now["noise"][:1]
        drawn, _, state = plain.draw(x, state, now)
        run(runner, x[None])
        run(alone, x[None, :1])
        assert runner.drawn.tobytes() == drawn.tobytes()
        assert alone.drawn.tobytes() == drawn[:1].tobytes()
    runner.clear(0)
    neutral = OnnxRunner(bundle, 1).sampling_inputs
    assert all(np.array_equal(runner.sampling_inputs[name][0], values[0]) for name, values in neutral.items())
