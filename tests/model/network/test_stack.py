"""The stack: what every layer must always do, and `step` beside `forward`."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import ModelConfig
from model.network.cell import NORM_EPSILON
from model.network.fast.window import WindowOptions
from model.network.reference import COPY, FLUSH, UPDATE
from model.network.stack import Network
from model.network.state import NetworkState
from tests.model.networks import (
    FLOAT64,
    config_for,
    make_busy_network,
    make_inputs,
    make_network,
    make_noise,
    outputs_of,
    random_state,
    walk,
)
from tests.strategies import model_configs, seeds

STEPS, ROWS = 30, 3
SLOPE = torch.tensor(1.0, dtype=torch.float64)


def force(network: Network, logit: float) -> Network:
    """Make every detector say the same, whatever it reads."""
    with torch.no_grad():
        for index in range(network.config.num_layers):
            layer = network.layer(index)
            if layer.detects:
                layer.weight[:, -1] = 0
                if layer.input is not None:
                    layer.input[:, -1] = 0
                if layer.gain is not None:
                    layer.gain[-1] = 0
                layer.bias[-1] = logit
    return network


@settings(max_examples=40)
@given(model_configs(), seeds, st.integers(1, 8), st.integers(1, 4))
def test_step_equals_forward(config: ModelConfig, seed: int, steps: int, rows: int) -> None:
    """Invariant 8: step by step (as served) and window by window (as trained) give the same, z to the bit."""
    network, x = make_network(config, seed), make_inputs(config, steps, rows, seed)
    state, noise = random_state(config, rows, seed), make_noise(config, steps, rows)
    with torch.no_grad():
        stepped = walk(network, x, state, SLOPE, noise)
        window = network(x, state, FLOAT64, SLOPE, noise)
    if config.detector != "soft":
        assert torch.equal(window.z, stepped.z[..., :-1])
    torch.testing.assert_close(outputs_of(network, window), stepped.outputs, rtol=0, atol=1e-11)
    for (_, mine), (_, theirs) in zip(window.state.named(), stepped.state.named(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


@settings(max_examples=30)
@given(model_configs(detector="step", min_layers=2), seeds)
def test_ends_of_the_stack(config: ModelConfig, seed: int) -> None:
    """Invariant 2: layer 1 never COPYs, the top layer's z is always 0 and it never FLUSHes; z is 0 or 1."""
    network = make_network(config, seed)
    with torch.no_grad():
        seen = walk(network, make_inputs(config, STEPS, ROWS, seed), random_state(config, ROWS, seed))
    operations = seen.operations()
    assert not (operations[..., 0] == COPY).any()
    assert not (operations[..., -1] == FLUSH).any()
    assert not seen.z[..., -1].any()
    assert ((seen.z == 0) | (seen.z == 1)).all()


@pytest.mark.parametrize(("kind", "layer_norm"), list(product(("text", "ink"), (True, False))))
def test_copies_in_a_running_network_keep_their_bits(kind: str, layer_norm: bool) -> None:
    """Invariant 1: wherever a layer of a stack COPYs, its h and c are the bits of the step before."""
    network, x = make_busy_network(config_for(kind, layer_norm=layer_norm), STEPS, ROWS)
    with torch.no_grad():
        seen = walk(network, x)
    operations = seen.operations()
    for index in range(1, network.config.num_layers):
        for values in (seen.h[index], seen.c[index]):
            copies = torch.from_numpy(operations[1:, :, index] == COPY)
            assert copies.any()
            assert torch.equal(values[1:][copies], values[:-1][copies])
            assert (values[1:][~copies] != values[:-1][~copies]).any(1).all()


@pytest.mark.parametrize(("layer_norm", "copy_boundary"), list(product((True, False), ("nested", "recompute"))))
def test_all_ones_boundaries_leave_no_memory_cell(layer_norm: bool, copy_boundary: str) -> None:
    """Invariant 5: with every detector firing, c = i * g in each layer that has one, written out from its inputs."""
    config = config_for(layer_norm=layer_norm, copy_boundary=copy_boundary)
    network, x = force(make_network(config), 5.0), make_inputs(config, STEPS, ROWS)
    with torch.no_grad():
        seen = walk(network, x)
        assert seen.z[..., :-1].all()
        for t in range(STEPS):
            for index in range(2):
                layer, size = network.layer(index), config.hidden[index]
                previous = seen.h[index][t - 1] if t else torch.zeros(ROWS, size, dtype=torch.float64)
                above = seen.h[index + 1][t - 1] if t else torch.zeros(ROWS, layer.above, dtype=torch.float64)
                sources = [previous, above] + ([seen.h[index - 1][t]] if index else [])
                s = torch.cat(sources, 1) @ layer.weight
                s = s if index else s + network.embed(x[t])
                gates = s[:, : 4 * size]
                if layer.gain is not None:
                    deviation = torch.sqrt(gates.var(1, unbiased=False, keepdim=True) + NORM_EPSILON)
                    gates = (gates - gates.mean(1, keepdim=True)) / deviation * layer.gain[: 4 * size]
                gates = gates + layer.bias[: 4 * size]
                i, g = torch.sigmoid(gates[:, size : 2 * size]), torch.tanh(gates[:, 3 * size :])
                torch.testing.assert_close(seen.c[index][t], i * g, rtol=0, atol=1e-12)
    assert (seen.operations()[1:, :, :-1] == FLUSH).all()
    assert (seen.operations()[..., -1] == UPDATE).all()


@pytest.mark.parametrize(("kind", "copy_boundary"), list(product(("text", "ink"), ("nested", "recompute"))))
def test_all_zero_boundaries_freeze_the_upper_layers(kind: str, copy_boundary: str) -> None:
    """Invariant 5: with no detector firing, upper layers keep the bits of their first state and layer 1 UPDATEs."""
    config = config_for(kind, copy_boundary=copy_boundary)
    network, x = force(make_network(config), -5.0), make_inputs(config, STEPS, ROWS)
    state = random_state(config, ROWS, seed=1)
    quiet = NetworkState(tuple(type(s)(s.h, s.c, torch.zeros_like(s.z)) for s in state.layers))
    with torch.no_grad():
        seen = walk(network, x, quiet)
        window = network(x, quiet, FLOAT64, SLOPE)
    for index in (1, 2):
        for after in (seen.state.layers[index], window.state.layers[index]):
            assert torch.equal(after.h, quiet.layers[index].h)
            assert torch.equal(after.c, quiet.layers[index].c)
    assert (seen.operations()[..., 0] == UPDATE).all()
    assert not window.z.any()


def test_slope_does_not_change_the_forward_pass() -> None:
    """Invariant 4: with the step detector a network's outputs are the same bits for any slope, its gradients not."""
    network, x = make_busy_network(config_for(), STEPS, ROWS)
    runs, gradients = [], []
    for slope in (0.5, 1.0, 5.0):
        result = network(x, network.zeros(ROWS), FLOAT64, torch.tensor(slope, dtype=torch.float64))
        runs.append(result)
        network.zero_grad()
        result.raw.square().sum().backward()
        gradient = network.layer(0).weight.grad
        assert gradient is not None
        gradients.append(gradient)
        assert torch.equal(walk(network, x, slope=slope).z[..., :-1], result.z)
    for other in runs[1:]:
        assert torch.equal(other.raw, runs[0].raw)
        assert torch.equal(other.logit, runs[0].logit)
    assert not torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[1], gradients[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("detector", ["step", "sample"])
def test_a_row_does_not_depend_on_the_batch(detector: str, dtype: torch.dtype) -> None:
    """Invariant 12: a row with its own draws is the same alone and among others: z to the bit, values to rounding."""
    config = config_for(detector=detector)
    network, x = make_busy_network(config, STEPS, 8)
    noise = make_noise(config, STEPS, 8, dtype)
    network, options = network.to(dtype), WindowOptions(dtype)
    with torch.no_grad():
        full = network(x, network.zeros(8), options, SLOPE.to(dtype), noise)
        for rows in ([3], [0, 7], [5, 4, 3, 2, 1]):
            own = None if noise is None else noise[:, rows]
            part = network(x[:, rows], network.zeros(len(rows)), options, SLOPE.to(dtype), own)
            assert torch.equal(part.z, full.z[:, rows])
            close = 1e-3 if dtype == torch.float32 else 1e-11
            torch.testing.assert_close(part.raw, full.raw[:, rows], rtol=0, atol=close)


def sample_tokens(network: Network, row_seeds: list[int], length: int) -> list[list[int]]:
    """Write with one generator per row: the draw at a position is a function of the row's seed and nothing else."""
    generators = [torch.Generator().manual_seed(seed) for seed in row_seeds]
    state, x = network.zeros(len(row_seeds)), torch.zeros(len(row_seeds), dtype=torch.int64)
    written: list[Tensor] = []
    with torch.no_grad():
        for _ in range(length):
            noise = torch.stack([torch.rand(2, generator=g) for g in generators])
            logits, state = network.step(x, state, 1.0, noise if network.config.detector == "sample" else None)
            draws = torch.stack([torch.rand(1, generator=g) for g in generators])
            x = (torch.softmax(logits, 1).cumsum(1) < draws).sum(1).clamp_max(logits.shape[1] - 1)
            written.append(x)
    rows: list[list[int]] = torch.stack(written, 1).tolist()
    return rows


@pytest.mark.parametrize("detector", ["step", "sample"])
def test_same_seed_same_text_whoever_shares_the_batch(detector: str) -> None:
    """Invariant 12: in float32 a row's sampled symbols depend on its seed alone, not on batch size or place."""
    network = make_network(config_for(detector=detector), seed=3, dtype=torch.float32)
    together = sample_tokens(network, [11, 12, 13, 14, 15], 80)
    assert len({tuple(row) for row in together}) == 5
    for place, seed in enumerate((11, 12, 13, 14, 15)):
        assert sample_tokens(network, [seed], 80) == [together[place]]
    assert sample_tokens(network, [15, 13], 80) == [together[4], together[2]]


# hm-lstm.md and the paper's settings: V, E, H, O and the count of parameters, in millions, that the shapes must give.
PAPER = [
    (50, 128, (512,) * 3, 512, 8.43),
    (27, 128, (1024,) * 3, 2048, 36.3),
    (205, 128, (1024,) * 3, 2048, 36.6),
    (50, 64, (128,) * 3, 128, 0.55),
    (50, 128, (256,) * 3, 256, 2.19),
]


@pytest.mark.parametrize("row", PAPER)
def test_parameter_counts_of_the_paper(row: tuple[int, int, tuple[int, ...], int, float]) -> None:
    """The shapes are the paper's: the count of parameters without LayerNorm is the formula's."""
    vocabulary, embedding, hidden, output, millions = row
    with torch.device("meta"):
        network = Network(
            ModelConfig(vocabulary=vocabulary, embedding=embedding, hidden=hidden, output=output, layer_norm=False)
        )
    count = sum(parameter.numel() for parameter in network.parameters())
    widths = (embedding, *hidden, 0)
    formula = vocabulary * embedding + len(hidden) * sum(hidden) + output * sum(hidden) + (output + 1) * vocabulary
    for index in range(1, len(hidden) + 1):
        inner = index < len(hidden)
        formula += (4 * widths[index] + inner) * (sum(widths[index - 1 : index + 1]) + inner * widths[index + 1] + 1)
    assert count == formula
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


@settings(max_examples=20)
@given(seeds, st.lists(st.booleans(), min_size=11, max_size=11))
def test_separator_prior_answers_separators(seed: int, flags: list[bool]) -> None:
    """The primed detector's input says +4 after a separator and -2 after anything else, where E reaches V."""
    config = config_for(embedding=16, detector_prior="separator")
    network = make_network(config, seed)
    network.set_separator_prior(np.array(flags))
    with torch.no_grad():
        column = network.embed(torch.arange(11))[:, -1]
    expected = torch.where(torch.tensor(flags), 4.0, -2.0).double()
    torch.testing.assert_close(column, expected, rtol=0, atol=1e-6)


def test_separator_prior_answers_the_pen() -> None:
    """For ink the primed detector says +4 where the pen was lifted and -2 elsewhere, blind to the offset."""
    network = make_network(config_for("ink", embedding=16, detector_prior="separator"))
    network.set_separator_prior()
    x = make_inputs(network.config, 40, 3)
    with torch.no_grad():
        column = network.embed(x)[..., -1]
    assert x[..., 2].any()
    torch.testing.assert_close(column, torch.where(x[..., 2] > 0, 4.0, -2.0).double(), rtol=0, atol=1e-6)


def test_separator_prior_needs_a_flag_for_each_symbol() -> None:
    """Flags of another alphabet are refused; a network without a detector ignores the prior."""
    with pytest.raises(ValueError, match="needs 11 flags"):
        make_network(config_for()).set_separator_prior(np.zeros(5, bool))
    control = make_network(config_for(cell="lstm"))
    before = {name: p.clone() for name, p in control.named_parameters()}
    control.set_separator_prior(np.ones(11, bool))
    assert all(torch.equal(p, before[name]) for name, p in control.named_parameters())


def test_the_same_seed_makes_the_same_network() -> None:
    """Initial weights are a function of torch's seed."""
    weights = []
    for _ in range(2):
        torch.manual_seed(4)
        weights.append([p.clone() for p in Network(config_for("ink")).parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
