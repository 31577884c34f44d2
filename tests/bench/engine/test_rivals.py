"""Rivals are correct: masks equal the gated graph, and both forms of the LSTM equal PyTorch's."""

from typing import Literal

import numpy as np
import onnx
import pytest
import torch

from bench.engine import networks, rivals
from bench.engine.replay import Replay
from export.build import compile_network
from export.graphs.weights import StepWeights

STEPS, ROWS, HIDDEN = 50, 4, 16


def boundaries() -> np.ndarray:
    """Boundaries that nest, with every operation in them."""
    generator = np.random.default_rng(5)
    fired = generator.random((STEPS, ROWS, 2)) < 0.5
    fired[..., 1] &= fired[..., 0]
    return fired


@pytest.mark.parametrize("kind", ["text", "ink"])
def test_masks_compute_what_the_gated_graph_computes(kind: Literal["text", "ink"]) -> None:
    """State for state over a trace with every operation, so that only the skipping differs."""
    network = networks.forced_network(kind, HIDDEN, [0.3, 0.1])
    fired = boundaries()
    inputs = networks.symbols_for(fired) if kind == "text" else networks.offsets_for(fired)
    compiled = compile_network(network)
    gated = Replay(compiled.graph, inputs)
    masked = Replay(rivals.dense_masks(StepWeights.of(compiled.network)), inputs)
    for steps in (1, 2, STEPS):
        mine, theirs = gated.state(steps), masked.state(steps)
        assert set(theirs) == {"h1", "c1", "z1", "h2", "c2", "z2", "h3", "c3"}
        for name, values in theirs.items():
            np.testing.assert_allclose(values.reshape(mine[name].shape), mine[name], atol=2e-5, err_msg=name)
    if kind == "text":
        np.testing.assert_allclose(masked.outputs["logits"], gated.outputs["logits"], atol=1e-5)


def test_masks_in_int8_compute_nearly_what_the_gated_graph_computes() -> None:
    """One scale stands for a whole column there, so figures differ by roundings; boundaries do not."""
    network = networks.forced_network("text", HIDDEN, [0.3, 0.1])
    inputs = networks.symbols_for(boundaries())
    compiled = compile_network(network, "int8")
    graph = rivals.dense_masks(StepWeights.of(compiled.network, "int8"))
    kinds = [node.op_type for node in onnx.load_from_string(graph).graph.node]
    assert kinds.count("MatMulInteger") == 6
    mine, theirs = Replay(compiled.graph, inputs).state(STEPS), Replay(graph, inputs).state(STEPS)
    for name in ("z1", "z2"):
        np.testing.assert_array_equal(theirs[name].reshape(-1), mine[name])
    for name in ("h1", "h2", "h3"):
        assert np.abs(theirs[name] - mine[name]).mean() < 0.2 * np.abs(mine[name]).mean()


@pytest.mark.parametrize("kind", ["text", "ink"])
def test_the_operator_is_the_lstm_of_pytorch(kind: str) -> None:
    """Same weights, same states after many steps; ONNX orders the gates i, o, f, g and PyTorch i, f, g, o."""
    graph = onnx.load_from_string(rivals.lstm_operator(kind, HIDDEN, 3, 20))
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in graph.graph.initializer}
    lstm = torch.nn.LSTM(rivals.EMBEDDING, HIDDEN, 3)
    order = np.concatenate([np.arange(HIDDEN) + gate * HIDDEN for gate in (0, 2, 3, 1)])
    with torch.no_grad():
        for layer in range(3):
            bias = weights[f"B{layer + 1}"][0]
            for name, values in (
                ("weight_ih", weights[f"W{layer + 1}"][0]),
                ("weight_hh", weights[f"R{layer + 1}"][0]),
                ("bias_ih", bias[: 4 * HIDDEN]),
                ("bias_hh", bias[4 * HIDDEN :]),
            ):
                getattr(lstm, f"{name}_l{layer}").copy_(torch.from_numpy(values[order]))
    fired = boundaries()
    inputs = networks.symbols_for(fired) % 20 if kind == "text" else networks.offsets_for(fired)
    embedded = weights["embedding"][inputs] if kind == "text" else inputs @ weights["embedding"]
    with torch.no_grad():
        _, (h, c) = lstm(torch.from_numpy(embedded))
    state = Replay(graph.SerializeToString(), inputs).state(STEPS)
    for layer in range(3):
        np.testing.assert_allclose(state[f"h{layer + 1}"][0], h[layer], atol=1e-5)
        np.testing.assert_allclose(state[f"c{layer + 1}"][0], c[layer], atol=1e-5)


def test_products_are_an_lstm() -> None:
    """A literal LSTM in NumPy with the graph's weights gives the graph's states."""
    graph = onnx.load_from_string(rivals.lstm_products("text", HIDDEN, 3, 20))
    weights = {one.name: onnx.numpy_helper.to_array(one).astype(np.float64) for one in graph.graph.initializer}
    inputs = networks.symbols_for(boundaries()) % 20
    h, c = np.zeros((2, 3, ROWS, HIDDEN))
    for x in inputs:
        below = weights["embedding"][x]
        for layer in range(3):
            s = np.concatenate([below, h[layer]], 1) @ weights[f"W{layer + 1}"] + weights[f"B{layer + 1}"]
            forget, put, out, new = np.split(s, 4, 1)
            c[layer] = c[layer] / (1 + np.exp(-forget)) + np.tanh(new) / (1 + np.exp(-put))
            below = h[layer] = np.tanh(c[layer]) / (1 + np.exp(-out))
    state = Replay(graph.SerializeToString(), inputs).state(STEPS)
    for layer in range(3):
        np.testing.assert_allclose(state[f"h{layer + 1}"], h[layer], atol=1e-5)


@pytest.mark.parametrize("build", [rivals.lstm_operator, rivals.lstm_products])
def test_stock_int8_multiplies_bytes_and_stays_near(build: object) -> None:
    """`quantize_dynamic` took every layer, and the network is still the same one."""
    assert callable(build)
    graph = build("text", HIDDEN, 3, 20)
    quantised = rivals.stock_int8(graph)
    kinds = [node.op_type for node in onnx.load_from_string(quantised).graph.node]
    assert kinds.count("DynamicQuantizeLSTM") + kinds.count("MatMulInteger") >= 4
    inputs = networks.symbols_for(boundaries()) % 20
    exact, near = Replay(graph, inputs), Replay(quantised, inputs)
    exact.state(STEPS)
    near.state(STEPS)
    difference = np.abs(exact.outputs["logits"] - near.outputs["logits"]).max()
    assert 0 < difference < 0.1


def test_pytorch_rivals_step_through_the_recording() -> None:
    """Both take as many steps as asked and end in the state of the gated graph."""
    network = networks.forced_network("text", HIDDEN, [0.3, 0.1])
    inputs = networks.symbols_for(boundaries())
    compiled = compile_network(network)
    expected = Replay(compiled.graph, inputs).state(7)
    eager, script = rivals.TorchEager(network, inputs), rivals.TorchScript(compiled.script, inputs)
    assert eager(7) == script(7) == 7 * ROWS
    np.testing.assert_allclose(eager.state.layers[2].h, expected["h3"], atol=1e-5)
    np.testing.assert_allclose(script.state["h3"], expected["h3"], atol=1e-5)
