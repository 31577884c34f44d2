"""Both graphs compute what the network computes, and leave alone what COPYs."""

import io
import tempfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.build import compile_network
from export.checks.engines import ScriptStep
from export.errors import ExportError
from export.graphs.quantisation import Precision, round_weights
from export.graphs.specs import state_specs
from export.graphs.step import build_step
from export.graphs.torchscript import GatedStep, load_script, script
from export.graphs.weights import StepWeights
from model.config import ModelConfig
from model.network.stack import Network
from tests.export.helpers import (
    CONFIGS,
    INK,
    LSTM,
    TEXT,
    initialisers,
    network_of,
    network_step,
    onnx_step,
    random_inputs,
    state_with,
    with_weight,
)
from tests.strategies import model_configs, seeds

# One step from the same state: float32 rounding of sums of a few dozen products, at its largest in the logits.
ROUNDING = 1e-5


def engines(network: Network, precision: Precision = "float32") -> dict[str, Any]:
    """The two files of a network, running."""
    rounded = round_weights(network, precision)
    return {
        "onnx": onnx_step(network, precision),
        "torchscript": ScriptStep(script(StepWeights.of(rounded, precision))),
    }


def largest_difference(network: Network, engine: Any, steps: int = 60, rows: int = 4) -> float:
    """Follow the network over a random trace, giving its state to the engine at every step."""
    config, worst = network.config, 0.0
    state = engine.zeros(rows)
    for x in random_inputs(config, steps, rows):
        output, following = engine.step(x, state)
        wanted, truth = network_step(network, x, state)
        pairs = [(output, wanted), *((following[name], truth[name]) for name in truth if name in following)]
        worst = max(worst, *(float(np.abs(mine - theirs).max()) for mine, theirs in pairs))
        state = following
    return worst


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_both_graphs_are_the_network(name: str, precision: Precision) -> None:
    """Every kind of network, in every precision, step by step."""
    network = round_weights(network_of(CONFIGS[name]), precision)
    for engine, running in engines(network, precision).items():
        assert largest_difference(network, running) < ROUNDING, engine


@settings(max_examples=25)
@given(config=model_configs(detector="step"), seed=seeds)
def test_any_sizes_export(config: ModelConfig, seed: int) -> None:
    """Layers of any width, one or several, with or without LayerNorm, text or ink: the ONNX graph is the network."""
    network = network_of(replace(config, copy_boundary="nested"), seed)
    state = onnx_step(network).zeros(3)
    for x in random_inputs(network.config, 5, 3, seed):
        output, state = onnx_step(network).step(x, given := state)
        wanted, truth = network_step(network, x, given)
        np.testing.assert_allclose(output, wanted, atol=ROUNDING)
        for name in truth.keys() & state.keys():
            np.testing.assert_allclose(state[name], truth[name], atol=ROUNDING, err_msg=name)


def test_the_written_module_is_the_scripted_one() -> None:
    """What is in the file is what can be read in export/graphs/torchscript.py."""
    network = network_of(TEXT)
    weights = StepWeights.of(network)
    plain, scripted = GatedStep(weights), load_script(script(weights))
    state = plain.zeros(3)
    for x in random_inputs(TEXT, 20, 3):
        output, following = plain(torch.tensor(x), state)
        other, theirs = scripted(torch.tensor(x), state)
        assert torch.equal(output, other)
        assert all(torch.equal(following[name], theirs[name]) for name in following)
        state = following


@given(
    seed=seeds,
    z1=st.lists(st.booleans(), min_size=6, max_size=6),
    z2=st.lists(st.booleans(), min_size=6, max_size=6),
)
@settings(max_examples=40)
def test_rows_that_copy_keep_their_bits(seed: int, z1: list[bool], z2: list[bool]) -> None:
    """Whatever the others do, h, c and e of a layer that COPYs are the same bits as before."""
    network, running = _shared()
    before = state_with(network, 6, {"z1": np.array(z1), "z2": np.array(z2)}, seed)
    x = random_inputs(TEXT, 1, 6, seed)[0]
    for engine in running.values():
        _, after = engine.step(x, before)
        copies = {2: (before["z2"] == 0) & (after["z1"] == 0), 3: after["z2"] == 0}
        for layer, rows in copies.items():
            for key in "hce":
                old, new = before[f"{key}{layer}"][rows], after[f"{key}{layer}"][rows]
                assert np.array_equal(old.view(np.int32), new.view(np.int32))


@given(seed=seeds)
@settings(max_examples=30)
def test_boundaries_nest(seed: int) -> None:
    """A layer has a boundary only where the layer below has one, FLUSH or not."""
    network, running = _shared()
    generator = np.random.default_rng(seed)
    before = state_with(network, 8, {"z1": generator.random(8) < 0.5, "z2": generator.random(8) < 0.5}, seed)
    for engine in running.values():
        _, after = engine.step(random_inputs(TEXT, 1, 8, seed)[0], before)
        assert (after["z2"] <= after["z1"]).all()


_MADE: list[tuple[Network, dict[str, Any]]] = []


def _shared() -> tuple[Network, dict[str, Any]]:
    """One text network and its engines for all examples of a property."""
    if not _MADE:
        network = network_of(TEXT)
        _MADE.append((network, engines(network)))
    return _MADE[0]


def test_what_copies_is_not_touched_by_the_weights() -> None:
    """With NaN for weights of the upper layers, rows that COPY there come out unharmed, and only they do."""
    network = network_of(TEXT)
    graph = build_step(StepWeights.of(network))
    for name in ("layer2.own.weight", "layer2.above.weight", "layer2.out.weight", "layer3.own.weight"):
        graph = with_weight(graph, name, lambda values: np.full_like(values, np.nan))
    poisoned, sound = onnx_step(network, graph=graph), onnx_step(network)
    x = random_inputs(TEXT, 1, 32)[0]
    before = state_with(network, 32, {"z1": np.zeros(32), "z2": np.zeros(32)})
    output, after = poisoned.step(x, before)
    wanted, truth = sound.step(x, before)
    copies = truth["z1"] == 0
    assert 0 < copies.sum() < 32
    assert np.array_equal(output[copies], wanted[copies])
    assert np.isnan(output[~copies]).all(1).all()
    assert all(np.array_equal(after[name][copies], truth[name][copies]) for name in truth)


@pytest.mark.parametrize("config", [TEXT, INK, LSTM], ids=["text", "ink", "lstm"])
@given(data=st.data(), size=st.integers(1, 64), seed=seeds)
@settings(max_examples=15)
def test_a_row_does_not_depend_on_its_batch(config: ModelConfig, data: st.DataObject, size: int, seed: int) -> None:
    """Bit for bit: alone, in any place of a batch of any size up to 64, beside any rows."""
    step = _steps(config)
    pool = random_inputs(config, 12, 8, 3)
    chosen = data.draw(st.lists(st.integers(0, 7), min_size=size, max_size=size))
    mixed = np.concatenate([pool[:, chosen], random_inputs(config, 12, 3, seed)], 1)
    together, alone = step.zeros(mixed.shape[1]), [step.zeros(1) for _ in range(8)]
    for now in range(12):
        output, together = step.step(mixed[now], together)
        single = []
        for row in range(8):
            one, alone[row] = step.step(pool[now, row : row + 1], alone[row])
            single.append(one)
        for place, row in enumerate(chosen):
            assert np.array_equal(output[place].view(np.int32), single[row][0].view(np.int32))
            for name, values in together.items():
                assert np.array_equal(values[place], alone[row][name][0])


_STEPS: dict[ModelConfig, Any] = {}


def _steps(config: ModelConfig) -> Any:
    """One graph for all examples."""
    if config not in _STEPS:
        _STEPS[config] = onnx_step(network_of(config))
    return _STEPS[config]


def test_float16_halves_both_files() -> None:
    """Matrices take two bytes a number in the files and are float32 again in memory; vectors stay as they are."""
    network = round_weights(network_of(replace(TEXT, hidden=(64, 64, 64), embedding=64, output=64)), "float16")
    weights, half = StepWeights.of(network), StepWeights.of(network, "float16")
    assert len(build_step(half)) < 0.55 * len(build_step(weights))
    assert len(script(half)) < 0.6 * len(script(weights))
    stored = [values for values in initialisers(build_step(half)).values() if values.ndim == 2]
    assert {values.dtype for values in stored if values.dtype.kind == "f"} == {np.dtype(np.float16)}
    loaded, kept = load_script(script(half)), load_script(script(weights))
    for (name, one), (_, other) in zip(loaded.named_buffers(), kept.named_buffers(), strict=True):
        assert one.dtype == torch.float32, name
        assert torch.equal(one, other), name


def test_the_runtime_unpacks_float16_once() -> None:
    """ONNX Runtime folds the casts and layer 1's input table when it loads, not at every step."""
    weights = StepWeights.of(round_weights(network_of(TEXT), "float16"), "float16")
    optimised = _optimised(build_step(weights))
    left = list(_nodes(optimised.graph))
    assert "MatMul" not in {node.op_type for node in left}
    assert not any(".half" in name for node in left for name in node.input)
    assert not any(node.name.endswith(".cast") for node in left)


def _optimised(graph: bytes) -> onnx.ModelProto:
    """The graph as ONNX Runtime runs it."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _nodes(graph: onnx.GraphProto) -> Any:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


@pytest.mark.parametrize("config", [TEXT, INK], ids=["text", "ink"])
def test_only_batch_invariant_operators_are_used(config: ModelConfig) -> None:
    """No operator whose result for a row was seen to depend on the rest of the batch."""
    model = onnx.ModelProto.FromString(build_step(StepWeights.of(network_of(config))))
    used = {node.op_type for node in _nodes(model.graph)}
    assert not used & {"Log", "Softplus", "DynamicQuantizeLinear", "MatMulInteger", "BatchNormalization"}
    assert {entry.domain for entry in model.opset_import} == {""}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"copy_boundary": "recompute"}, "still reads its detector"),
        ({"detector": "sample"}, "neither random draws"),
        ({"detector": "soft"}, "neither random draws"),
    ],
)
def test_what_cannot_be_skipped_is_refused(change: dict[str, Any], reason: str) -> None:
    """Under other switches skipping would not be exact, so there is no export."""
    with pytest.raises(ExportError, match=reason):
        StepWeights.of(network_of(replace(TEXT, **change)))
    StepWeights.of(network_of(replace(LSTM, **change)))  # the control has no boundaries that could matter


def test_a_batch_normalised_lstm_is_not_exported() -> None:
    """It is a baseline, and the message says so."""
    with pytest.raises(ExportError, match=r"is a baseline to measure .* cannot be exported"):
        compile_network(network_of(replace(LSTM, cell="bn-lstm", layer_norm=False)))


@pytest.mark.parametrize("value", [np.nan, 1e6])
def test_weights_that_cannot_be_stored_are_refused(value: float) -> None:
    """NaN never ships, and what float16 cannot hold is named."""
    network = network_of(TEXT)
    with torch.no_grad():
        network.layer(1).weight[0, 0] = value
    with pytest.raises(ExportError, match=r"layers\.1\.weight holds a value that is not finite in float16"):
        round_weights(network, "float16")


def test_rounding_leaves_the_network_alone() -> None:
    """Export does not change what is being trained."""
    network = network_of(TEXT)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    rounded = round_weights(network, "float16")
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())
    for name, values in rounded.named_parameters():
        assert torch.equal(values, values.half().float() if values.ndim == 2 else before[name])


def test_only_the_known_deprecation_is_silenced() -> None:
    """TorchScript's own advice is expected; any other warning while scripting would still be an error."""
    weights = StepWeights.of(network_of(TEXT))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = script(weights)
        load_script(content)
    with pytest.warns(DeprecationWarning, match=r"`torch.jit.load` is deprecated"):
        torch.jit.load(io.BytesIO(content))
    assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None


def test_files_are_the_same_every_time() -> None:
    """The same weights give the same bytes, so that a fingerprint means something."""
    weights = StepWeights.of(network_of(INK))
    assert build_step(weights) == build_step(weights)
    assert script(weights) == script(weights)


def test_states_are_laid_out_as_the_contract_says() -> None:
    """h, c of every layer, z of all but the top, e from layer 2 up; the control carries h and c alone."""
    assert [spec.name for spec in state_specs(TEXT)] == ["h1", "h2", "h3", "c1", "c2", "c3", "z1", "z2", "e2", "e3"]
    assert [spec.shape for spec in state_specs(TEXT)[6:]] == [("batch",), ("batch",), ("batch", 13), ("batch", 13)]
    assert [spec.name for spec in state_specs(LSTM)] == ["h1", "h2", "h3", "c1", "c2", "c3"]
