"""int8: exact integer products with fixed scales, a reference that rounds as they do, and what rounding costs."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.build import compile_network
from export.checks import parity, traces
from export.checks.reference import ReferenceRun
from export.checks.tolerances import FREE_INT8, STEP, UNROUNDED
from export.graphs.quantisation import HIDDEN_ZERO, dequantise, quantise, round_hidden, round_weights
from export.graphs.step import build_step
from export.graphs.torchscript import script
from export.graphs.weights import StepWeights
from model.config import ModelConfig
from tests.export.conftest import Made
from tests.export.helpers import CONFIGS, TEXT, initialisers, network_of, onnx_step, random_inputs, with_weight
from tests.strategies import seeds


def check(config: ModelConfig, steps: int = 80, graph: bytes | None = None) -> dict[str, Any]:
    """Check a random network in int8 on random inputs, with another graph if wanted."""
    compiled = compile_network(network_of(config), "int8")
    inputs = traces.Trace(random_inputs(config, steps, 2), "random")
    files = replace(compiled.files, graph=graph or compiled.graph)
    return parity.check_parity(compiled.network, "int8", files, inputs)


@pytest.mark.parametrize("name", CONFIGS)
def test_both_files_equal_the_reference_that_rounds(name: str) -> None:
    """For every kind of network, to the last digits of float32, with skipping and batch invariance as in float32."""
    report = check(CONFIGS[name])
    assert report["verdict"] == "passed", report["reasons"]
    for engine in ("torchscript", "onnxruntime"):
        step = report["engines"][engine]["step"]
        assert step["max_output_difference"] < STEP.output
        assert step["row_steps"] + step["rows_tied"] == 160
        assert step["row_steps"] > 80
        assert report["engines"][engine]["free"]["tolerance"]["output"] == FREE_INT8.output
    assert report["batch_invariance"]["different"] == 0


def test_the_report_shows_what_rounding_does() -> None:
    """The network as trained is another function: its distance is reported, under a tolerance that says so."""
    unrounded = check(TEXT)["engines"]["pytorch"]["step"]
    assert unrounded["tolerance"]["reason"] == UNROUNDED.reason
    assert 1e-3 < unrounded["max_output_difference"] < UNROUNDED.output
    assert unrounded["row_steps"] > 0


@pytest.mark.parametrize(
    "weight", ["layer1.own.weight", "layer1.above.weight", "layer2.out.weight", "layer3.own.weight"]
)
def test_one_code_off_by_five_fails(weight: str) -> None:
    """A twenty-fifth of a column's largest weight, on a single number, and the file is not the network."""
    graph = compile_network(network_of(TEXT), "int8").graph

    def nudge(codes: Any) -> Any:
        place = np.unravel_index(np.abs(codes).argmin(), codes.shape)
        codes[place] += 5
        return codes

    report = check(TEXT, graph=with_weight(graph, weight, nudge))
    assert report["verdict"] == "failed"
    assert any(reason.startswith("onnxruntime") for reason in report["reasons"])
    assert not any(reason.startswith("torchscript") for reason in report["reasons"])


def test_the_worst_sum_is_exact() -> None:
    """Every h at an end, every weight at its largest: pairs of products fit 16 bits, and the sum is the integer one.

    Processors without VNNI add pairs in 16 bits and saturate; here they cannot, whatever processor runs this.
    """
    assert 2 * (2 * HIDDEN_ZERO - 1) * 127 < 2**15
    graph = compile_network(network_of(TEXT), "int8").graph
    sign = np.where(np.random.default_rng(0).random((12, 49)) < 0.5, -127, 127)
    graph = with_weight(graph, "layer1.own.weight", lambda _: sign)
    model = onnx.ModelProto.FromString(graph)
    model.graph.output.append(onnx.helper.make_tensor_value_info("layer1.own", onnx.TensorProto.INT32, ["batch", 49]))
    step = onnx_step(network_of(TEXT), graph=model.SerializeToString())
    h = np.where(np.random.default_rng(1).random((5, 12)) < 0.5, -1.0, 1.0)
    h[0], h[1] = 1.0, np.sign(sign[:, 0])
    state = step.zeros(5) | {"h1": h.astype(np.float32)}
    (found,) = step.session.run(["layer1.own"], {"token": np.zeros(5, np.int64), **step._neutral(5), **state})
    assert np.array_equal(found, (63 * h).astype(np.int64) @ sign)
    assert found[1, 0] == 63 * 127 * 12


@given(seed=seeds, rows=st.integers(1, 9), columns=st.integers(1, 7))
@settings(max_examples=40)
def test_rounding_a_matrix_twice_changes_nothing(seed: int, rows: int, columns: int) -> None:
    """Codes come back from the numbers they stand for; each column uses its whole range; empty columns are harmless."""
    matrix = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    matrix[:, 0] = 0
    codes, scale = quantise(matrix)
    again, same = quantise(dequantise(codes, scale))
    assert np.array_equal(again, codes)
    np.testing.assert_allclose(same[1:], scale[1:], rtol=1e-6)
    assert (np.abs(codes).max(0)[1:] == 127).all()
    assert np.isfinite(dequantise(codes, scale)).all()
    assert np.abs(dequantise(codes, scale) - matrix).max() <= 0.501 * scale.max()


def test_the_rounded_network_holds_the_codes() -> None:
    """The reference multiplies what the file stores: own and below with one scale per column, above with another."""
    network = round_weights(network_of(TEXT), "int8")
    stored = initialisers(build_step(StepWeights.of(network, "int8")))
    weight = network.layer(1).weight.detach().numpy()
    scale = stored["layer2.above.weight.scale"] * 63
    np.testing.assert_allclose(stored["layer2.above.weight"] * scale, weight[9:24], rtol=1e-5)
    own = stored["layer2.own.weight"] * stored["layer2.own.weight.scale"] * 63
    np.testing.assert_allclose(own, np.concatenate([weight[:9], weight[24:]]), rtol=1e-5)
    assert stored["head.weight.half"].dtype == np.float16
    for parameter in network.parameters():
        assert parameter.isfinite().all()


def test_int8_quarters_both_files() -> None:
    """One byte a weight; scales and what is not multiplied with an h are little."""
    wide = replace(TEXT, hidden=(64, 64, 64), embedding=16, output=64)
    weights = StepWeights.of(round_weights(network_of(wide), "float32"))
    small = StepWeights.of(round_weights(network_of(wide), "int8"), "int8")
    assert len(build_step(small)) < 0.36 * len(build_step(weights))
    assert len(script(small)) < 0.45 * len(script(weights))


def test_weights_lie_where_they_are_used() -> None:
    """ONNX Runtime packs a matrix ahead of time only if it is in the very branch that multiplies it."""
    model = onnx.ModelProto.FromString(compile_network(network_of(TEXT), "int8").graph)
    graphs = [model.graph]
    products = 0
    for graph in graphs:
        held = {one.name for one in graph.initializer}
        for node in graph.node:
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            if node.op_type == "MatMulInteger":
                products += 1
                assert set(node.input[1:]) <= held
            assert node.op_type not in ("DynamicQuantizeLinear", "DequantizeLinear")
    assert products == 8


def test_the_reference_notes_close_calls() -> None:
    """A row is tied exactly when an h that is read lies within rounding of the middle between two steps."""
    run = ReferenceRun(round_weights(network_of(TEXT), "int8"), 2, "int8")
    for states in run._rows:
        states[0].h[:] = 10 / 63
    run._rows[1][0].h[3] = 10.5 / 63 + 1e-8
    assert run.step(np.zeros(2, np.int64)).tied.tolist() == [False, True]
    np.testing.assert_array_equal(round_hidden(np.array([0.5, 1.5, -0.5]) / 63), np.array([0, 2, 0]) / 63)


def test_a_row_left_apart_by_rounding_is_not_a_fault(ink_made: Made) -> None:
    """Over 2,048 steps of real ink the files leave the reference in few row-steps, and all of them are counted."""
    for engine in ("torchscript", "onnxruntime"):
        step, free = (ink_made.report["engines"][engine][mode] for mode in ("step", "free"))
        assert 0 < step["rows_tied"] < 0.3 * 2048
        assert step["z_mismatches"] == 0
        assert free["rows_set_back"] <= 0.01 * free["row_steps"]
