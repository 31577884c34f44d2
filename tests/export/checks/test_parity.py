"""The parity check passes for the right files and fails for any others: a check that cannot fail is none."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from export import build
from export.build import Facts, compile_network
from export.checks import parity, traces
from export.checks.golden import decode, encode
from export.checks.reference import ReferenceRun, ReferenceStep
from export.checks.skipping import check_skipping
from export.checks.tolerances import FREE, STEP, UNROUNDED, Tally
from export.errors import ParityError
from model.codec import TextCodec
from tests.export.conftest import Made
from tests.export.helpers import INK, LSTM, TEXT, network_of, random_inputs, with_weight

ENGINES = {"pytorch", "torchscript", "onnxruntime"}


@pytest.mark.parametrize("fixture", ["text_made", "ink_made"])
def test_a_bundle_has_parity_on_real_data(fixture: str, request: pytest.FixtureRequest) -> None:
    """Over 2,000 steps of real text or ink all engines equal the reference, and every operation occurs."""
    made: Made = request.getfixturevalue(fixture)
    report = made.report
    assert report["verdict"] == "passed"
    assert report["reasons"] == []
    assert report["trace"]["steps"] >= parity.MIN_STEPS
    assert set(report["engines"]) == ENGINES
    layers = report["trace"]["operations"]
    assert layers["layer1"]["COPY"] == 0
    assert layers[f"layer{len(layers)}"]["FLUSH"] == 0
    assert all(count > 0 for counts in layers.values() for count in sorted(counts.values())[1:])
    is_rounded = report["network"]["precision"] == "int8"
    for name, figures in report["engines"].items():
        tolerance = UNROUNDED if is_rounded and name == "pytorch" else STEP
        assert figures["step"]["tolerance"]["output"] == tolerance.output
        assert figures["step"]["max_output_difference"] < tolerance.output
        assert figures["step"]["z_mismatches"] == figures["step"]["z_mismatches_near_threshold"]
        assert figures["step"]["z_decisions"] > 0
    assert report["batch_invariance"]["different"] == 0
    assert report["skipping"]["rows_multiplied"] == report["skipping"]["rows_needed"]
    assert report["skipping"]["rows_multiplied"]["layer2.own"] < report["skipping"]["row_steps"]


def test_the_lstm_control_has_parity_too() -> None:
    """An LSTM updates every layer at every step and has no boundaries to compare."""
    report = check(LSTM, steps=64)
    assert report["verdict"] == "passed"
    assert report["trace"]["operations"]["layer2"] == {"COPY": 0, "UPDATE": 128, "FLUSH": 0}
    assert report["engines"]["onnxruntime"]["step"]["z_decisions"] == 0


def check(config: Any, steps: int = 64, graph: bytes | None = None, script: bytes | None = None) -> dict[str, Any]:
    """Check a random network on random inputs, with other files if wanted."""
    compiled = compile_network(network_of(config))
    inputs = traces.Trace(random_inputs(config, steps, 2), "random")
    files = replace(compiled.files, graph=graph or compiled.graph, script=script or compiled.script)
    return parity.check_parity(compiled.network, "float32", files, inputs)


@pytest.mark.parametrize(
    "weight",
    ["layer1.own.weight", "layer1.above.weight", "layer2.own.weight", "layer2.gain", "layer3.out.weight", "head.bias"],
)
def test_one_nudged_weight_fails(weight: str) -> None:
    """A hundredth more on a single number, in any layer, and the ONNX file is no longer the network."""
    graph = compile_network(network_of(TEXT)).graph

    def nudge(values: Any) -> Any:
        values.flat[values.size // 2] += 0.01
        return values

    report = check(TEXT, graph=with_weight(graph, weight, nudge))
    assert report["verdict"] == "failed"
    # The changed ONNX file differs from the reference, and so from the other ONNX file.
    assert all(reason.startswith("onnxruntime") or "change their bits" in reason for reason in report["reasons"])
    assert any("in one step" in reason for reason in report["reasons"])


def test_a_nudged_script_fails() -> None:
    """The same for the TorchScript file."""
    network = network_of(TEXT)
    with torch.no_grad():
        network.layer(1).weight[3, 3] += 0.01
    report = check(TEXT, script=compile_network(network).script)
    assert report["verdict"] == "failed"
    assert all(reason.startswith("torchscript") for reason in report["reasons"])


def test_a_failed_check_writes_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no bundle of files that do not compute the network."""
    codec = TextCodec.from_text("abcdefghijkl")
    honest = build.compile_network

    def dishonest(network: Any, precision: Any) -> Any:
        compiled = honest(network, precision)
        return replace(compiled, graph=with_weight(compiled.graph, "head.bias", lambda values: values + 0.1))

    monkeypatch.setattr(build, "compile_network", dishonest)
    with pytest.raises(ParityError, match="parity failed, so no bundle was written: onnxruntime: outputs differ"):
        build.build(network_of(TEXT), codec, tmp_path / "bad", "bad", Facts(), steps=64, rows=1)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_computes_copies_fails() -> None:
    """Right results are not enough: rows that COPY must not be multiplied."""
    compiled = compile_network(network_of(INK))
    inputs = traces.Trace(random_inputs(INK, 60, 2), "random")
    skipping = check_skipping(compiled.graph, INK, inputs)
    assert skipping.faults() == []
    assert 0 < skipping.multiplied["layer2.own"] < 120
    dense = replace(skipping, multiplied={**skipping.multiplied, "layer2.own": 120})
    assert dense.faults() == [f"layer2.own multiplied 120 rows, but {skipping.needed['layer2.own']} were needed"]


def test_a_trace_without_an_operation_fails() -> None:
    """A network that never ends a segment leaves FLUSH untested, and the report says so."""
    network = network_of(TEXT)
    with torch.no_grad():
        network.layer(0).bias[-1] = -100.0
    compiled = compile_network(network)
    inputs = traces.Trace(random_inputs(TEXT, 50, 2), "random")
    report = parity.check_parity(compiled.network, "float32", compiled.files, inputs)
    assert report["verdict"] == "failed"
    assert report["reasons"] == [
        "layer 1 never does FLUSH in the trace, so it is not tested",
        "layer 2 never does UPDATE in the trace, so it is not tested",
        "layer 2 never does FLUSH in the trace, so it is not tested",
        "layer 3 never does UPDATE in the trace, so it is not tested",
    ]


def reference_step(logit: float, z: float) -> ReferenceStep:
    """A step of the reference over one row of a two-layer network."""
    state = {"h1": np.zeros((1, 2)), "z1": np.array([z])}
    return ReferenceStep(np.zeros((1, 3)), state, np.array([[logit]]), np.array([[1, 1]]), np.zeros(1, bool))


@pytest.mark.parametrize("logit, near, wrong", [(1e-6, 1, 0), (-1e-6, 1, 0), (1e-3, 0, 1), (np.nan, 0, 1)])
def test_boundaries_near_the_threshold_are_counted_apart(logit: float, near: int, wrong: int) -> None:
    """A flip where rounding decides is counted; any other is a fault; neither hides in a tolerance."""
    tally = Tally(STEP)
    state = {"h1": np.full((1, 2), 9.0), "z1": np.ones(1)}
    lost = tally.compare(np.zeros((1, 3)), state, reference_step(logit, 0.0))
    assert (tally.near, tally.wrong, tally.decisions) == (near, wrong, 1)
    assert lost.all()
    assert tally.row_steps == 0  # the row went another way: its values are not compared
    assert tally.output == 0
    assert bool(tally.faults("engine")) == bool(wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.0])
def test_a_value_that_is_off_is_a_fault(value: float) -> None:
    """NaN and infinity too."""
    tally = Tally(STEP)
    tally.compare(np.array([[0.0, value, 0.0]]), {"h1": np.zeros((1, 2)), "z1": np.zeros(1)}, reference_step(1.0, 0.0))
    assert len(tally.faults("engine")) == 1


def test_a_row_that_drifts_is_set_back_and_counted() -> None:
    """Over its own trajectory an engine may leave the reference now and then, but not often."""
    tally = Tally(FREE)
    far = {"h1": np.full((1, 2), 0.5), "z1": np.zeros(1)}
    near = {"h1": np.full((1, 2), 1e-6), "z1": np.zeros(1)}
    for _ in range(300):
        assert not tally.compare(np.zeros((1, 3)), near, reference_step(1.0, 0.0)).any()
    assert tally.compare(np.zeros((1, 3)), far, reference_step(1.0, 0.0)).all()
    assert tally.faults("engine") == []
    for _ in range(10):
        tally.compare(np.zeros((1, 3)), far, reference_step(1.0, 0.0))
    assert tally.faults("engine") == ["engine: its own trajectory left the reference 11 times"]


def test_the_reference_packs_ink_as_the_network_does() -> None:
    """Mixture parameters in float64, term by term, are those of `Network.step`."""
    network = network_of(INK).double()
    run, state = ReferenceRun(network, 3), network.zeros(3)
    for x in random_inputs(INK, 20, 3):
        truth = run.step(x)
        output, state = network.step(torch.tensor(x).double(), state)
        np.testing.assert_allclose(truth.output, output.detach().numpy(), atol=1e-9)


def test_arrays_survive_the_report(text_made: Made) -> None:
    """Golden values are exact, and the report is plain JSON."""
    golden = json.loads(text_made.bundle.files["parity.json"])["golden"]
    assert np.array_equal(decode(golden["inputs"]), text_made.trace.inputs)
    for values in (np.arange(6.0).reshape(2, 3).astype(np.float32), np.array([], np.uint8), np.array([-1], np.int32)):
        again = decode(json.loads(json.dumps(encode(values))))
        assert again.dtype == values.dtype
        assert np.array_equal(again, values)
