"""The branch-free cell and the window against the literal reference, over long traces with every operation."""

import copy
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.config import ModelConfig
from model.network.heads import mixture_of, pack
from model.network.reference import COPY, FLUSH, UPDATE, Array, Reference, RowState, RowStep, operation, sigmoid
from model.network.stack import Network
from tests.model.networks import (
    FLOAT64,
    Walk,
    config_for,
    make_busy_network,
    make_inputs,
    make_network,
    outputs_of,
    possible_operations,
    walk,
)

STEPS, ROWS = 150, 2
WIDTHS = {"three unequal layers": (8, 6, 10), "two": (5, 7), "four": (4, 6, 3, 5), "one": (6,)}
# Two summation orders of float64 products, over 150 recurrent steps that stretch a difference about a thousandfold.
TOLERANCE = 1e-10
# A logit closer to 0 than this could fall on either side in two correct programs.
NEAR = 1e-9


def run_reference(reference: Reference, x: Array) -> tuple[Array, list[list[RowStep]]]:
    """One row through T steps: head outputs (T, O) and what each layer did at each step."""
    states: list[RowState] = reference.zeros()
    outputs, steps = [], []
    for value in x:
        output, done = reference.step(int(value) if reference.text else value, states)
        outputs.append(output)
        steps.append(done)
        states = [layer.state for layer in done]
    return np.array(outputs), steps


def packed(config: ModelConfig, raw: Array) -> Array:
    """The reference's raw head outputs as `Network.step` gives them."""
    return pack(mixture_of(torch.from_numpy(raw))).numpy() if config.kind == "ink" else raw


def assert_equal_traces(network: Network, x: Tensor) -> Walk:
    """Compare cell and window with the reference over a trace (T, B); give the trace for further questions."""
    config = network.config
    with torch.no_grad():
        seen = walk(network, x)
        result = network(x, network.zeros(ROWS), FLOAT64, torch.tensor(1.0, dtype=torch.float64))
    window = outputs_of(network, result).numpy()
    for row in range(ROWS):
        raw, trace = run_reference(network.reference(), x[:, row].numpy())
        logits = np.array([[layer.logit for layer in done[:-1]] for done in trace])
        read = ~np.isnan(logits)  # a nested COPY reads no detector
        assert np.abs(logits[read]).min(initial=1) > NEAR, "choose a seed whose boundaries are not a matter of rounding"
        wanted = packed(config, raw)
        np.testing.assert_allclose(seen.outputs[:, row].numpy(), wanted, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(window[:, row], wanted, rtol=0, atol=TOLERANCE)
        z = np.array([[layer.state.z for layer in done] for done in trace])
        assert np.array_equal(seen.z[:, row].numpy(), z)
        if config.cell == "hmlstm":
            assert np.array_equal(result.z[:, row].numpy(), z[:, :-1])
            np.testing.assert_allclose(result.logit[:, row].numpy()[read], logits[read], rtol=0, atol=TOLERANCE)
        operations = np.array([[layer.operation for layer in done] for done in trace])
        assert np.array_equal(seen.operations(lstm=config.cell == "lstm")[:, row], operations)
        for index in range(config.num_layers):
            for name, values in (("h", seen.h), ("c", seen.c)):
                literal = np.array([getattr(done[index].state, name) for done in trace])
                np.testing.assert_allclose(values[index][:, row].numpy(), literal, rtol=0, atol=TOLERANCE)
    return seen


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize(
    ("kind", "layer_norm", "copy_boundary"),
    list(product(("text", "ink"), (True, False), ("nested", "recompute"))),
)
def test_cell_and_window_equal_the_reference(kind: str, layer_norm: bool, copy_boundary: str, widths: str) -> None:
    """Over a long trace with every possible operation of every layer, all values agree and z exactly."""
    config = config_for(kind, layer_norm=layer_norm, copy_boundary=copy_boundary, hidden=WIDTHS[widths])
    operations = assert_equal_traces(*make_busy_network(config, STEPS, ROWS)).operations()
    for index in range(config.num_layers):
        assert set(np.unique(operations[..., index])) == possible_operations(config, index)


@pytest.mark.parametrize("kind", ["text", "ink"])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_control_equals_the_reference(kind: str, layer_norm: bool) -> None:
    """The LSTM control UPDATEs everywhere, has no boundary, and agrees with its literal form."""
    config = config_for(kind, cell="lstm", layer_norm=layer_norm)
    seen = assert_equal_traces(make_network(config), make_inputs(config, STEPS, ROWS))
    assert (seen.operations(lstm=True) == UPDATE).all()
    assert not seen.z.any()


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("kind", ["text", "ink"])
def test_nested_boundaries_nest(kind: str, layer_norm: bool) -> None:
    """Invariant 9, nested: at every step z of a layer is at most z of the layer below, exactly."""
    network, x = make_busy_network(config_for(kind, layer_norm=layer_norm, hidden=(5, 4, 6, 3)), STEPS, 4)
    with torch.no_grad():
        z = walk(network, x).z
    assert (z[..., :-1].mean((0, 1)) > 0).all()
    assert (z[..., 1:] <= z[..., :-1]).all()


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("kind", ["text", "ink"])
def test_recomputed_boundaries_are_constant_while_copying(kind: str, layer_norm: bool) -> None:
    """Invariant 9, recompute: within a run of COPY steps a layer's detector says the same each time."""
    config = config_for(kind, layer_norm=layer_norm, copy_boundary="recompute", hidden=(5, 4, 6, 3))
    met = 0
    for seed in range(5):
        network, x = make_network(config, seed), make_inputs(config, STEPS, 4, seed)
        with torch.no_grad():
            seen = walk(network, x)
            result = network(x, network.zeros(4), FLOAT64, torch.tensor(1.0, dtype=torch.float64))
        copies = seen.operations()[..., :-1] == COPY
        runs = copies[1:] & copies[:-1]
        z, logit = seen.z.numpy()[..., :-1], result.logit.numpy()
        assert np.array_equal(z[1:][runs], z[:-1][runs])
        np.testing.assert_allclose(logit[1:][runs], logit[:-1][runs], rtol=0, atol=TOLERANCE)
        met += runs.sum()
    assert met > 100


@given(st.sampled_from((0.0, 1.0)), st.sampled_from((0.0, 1.0)))
def test_operations(z_before: float, z_below: float) -> None:
    """FLUSH by one's own boundary alone; else UPDATE where the layer below ended a segment; else COPY."""
    assert operation(z_before, z_below) == (FLUSH if z_before else UPDATE if z_below else COPY)


@given(st.floats(-800, 800))
def test_sigmoid_does_not_overflow(x: float) -> None:
    """The reference's sigmoid is torch's, warning-free at any size."""
    assert sigmoid(np.array([x]))[0] == pytest.approx(float(torch.sigmoid(torch.tensor(x, dtype=torch.float64))))


def test_a_nudged_weight_is_noticed() -> None:
    """The comparison can fail: one weight moved by a millionth is found."""
    network, x = make_busy_network(config_for(), STEPS, ROWS)
    literal = copy.deepcopy(network).reference()
    with torch.no_grad():
        network.layer(1).weight[0, 0] += 1e-6
    network.reference = lambda: literal  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        assert_equal_traces(network, x)
