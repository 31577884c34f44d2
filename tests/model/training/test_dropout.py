"""What is hidden in training is hidden rightly: as if it were not there, for one window, and never in use."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from model.config import ModelConfig, TrainConfig
from model.network.stack import Masks, Network
from model.training.dropout import draw_masks
from tests.model.networks import FLOAT64, make_inputs, make_network, make_noise
from tests.strategies import model_configs, seeds

STEPS, ROWS = 9, 4
SLOPE = torch.tensor(0.8, dtype=torch.float64)
ALL = slice(None)


def drawn(network: Network, seed: int = 1, **shares: float) -> Masks | None:
    """Masks for a window of ROWS rows."""
    config = replace(TrainConfig(batch=ROWS), **shares)  # type: ignore[arg-type]
    return draw_masks(network, config, ALL, torch.Generator().manual_seed(seed))


def raw(network: Network, x: Tensor, masks: Masks | None) -> Tensor:
    """The outputs of a window."""
    noise = make_noise(network.config, STEPS, ROWS)
    output: Tensor = network(x, network.zeros(ROWS), FLOAT64, SLOPE, noise, masks=masks).raw
    return output


@settings(max_examples=25, deadline=None)
@given(model_configs(), seeds)
def test_a_missing_weight_is_one_that_is_zero(config: ModelConfig, seed: int) -> None:
    """Outputs are those of a network that has not those weights; what is missing gets no gradient, the rest its own."""
    network = make_network(config, seed)
    masks = drawn(network, seed, drop_connect=0.4)
    assert masks is not None
    other, x = copy.deepcopy(network), make_inputs(network.config, STEPS, ROWS, seed)
    matrices = [
        ("layers.0.input", 0),
        *((f"layers.{index}.weight", index + 1) for index in range(len(masks.weights) - 1)),
    ]
    with torch.no_grad():
        for name, which in matrices:
            other.get_parameter(name).mul_(masks.weights[which])
    mine, theirs = raw(network, x, masks), raw(other, x, None)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    mine.square().sum().backward()
    theirs.square().sum().backward()
    for name, which in matrices:
        expected = other.get_parameter(name).grad
        assert expected is not None
        torch.testing.assert_close(network.get_parameter(name).grad, expected * masks.weights[which], rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(model_configs(), seeds)
def test_a_hidden_h_does_not_reach_the_output(config: ModelConfig, seed: int) -> None:
    """Outputs are what the output module makes of h and its embedding with the same elements missing at all steps."""
    network = make_network(config, seed)
    masks, x = drawn(network, seed, dropout=0.5), make_inputs(network.config, STEPS, ROWS, seed)
    assert masks is not None
    assert masks.sent is not None
    assert masks.embedded is not None
    found: list[Tensor] = []
    handle = network.output.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    plain = raw(network, x, None)
    handle.remove()
    masked = network.output(
        (found[0].unflatten(0, (STEPS, ROWS)) * masks.sent).flatten(0, 1), masks.embedded.repeat(STEPS, 1)
    )
    torch.testing.assert_close(raw(network, x, masks), masked.unflatten(0, (STEPS, ROWS)), rtol=0, atol=1e-12)
    assert plain.shape == (STEPS, ROWS, network.config.num_outputs)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_as_much_is_hidden_as_was_asked_for(share: float) -> None:
    """Factors are 0 as often as the share says, else what keeps the mean; a detector's column is whole."""
    network = Network(_wide())
    masks = drawn(network, dropout=share, drop_connect=share)
    assert masks is not None
    for index, mask in enumerate(masks.weights):
        detects = network.layer(max(0, index - 1)).detects
        assert not detects or bool((mask[:, -1] == 1).all())
        gates = mask[:, :-1] if detects else mask
        assert set(gates.unique().tolist()) == {0.0, torch.tensor(1 / (1 - share)).item()}
        assert float((gates == 0).float().mean()) == pytest.approx(share, abs=0.02)
    for mask in masks.each():
        assert float(mask.mean()) == pytest.approx(1, abs=0.2)


def test_rows_have_their_own_and_windows_too() -> None:
    """No two rows hide the same elements, nor two draws; a worker's rows are those of the whole draw."""
    network, config = Network(_wide()), TrainConfig(batch=ROWS, dropout=0.5, drop_connect=0.3)
    generator = torch.Generator().manual_seed(1)
    first, second = (draw_masks(network, config, ALL, generator) for _ in range(2))
    mine = draw_masks(network, config, slice(2, 4), torch.Generator().manual_seed(1))
    assert first is not None
    assert second is not None
    assert mine is not None
    assert first.sent is not None
    assert mine.sent is not None
    assert not torch.equal(first.sent[0], first.sent[1])
    assert not any(torch.equal(one, other) for one, other in zip(first.each(), second.each(), strict=True))
    assert torch.equal(mine.sent, first.sent[2:4])
    assert all(torch.equal(one, other) for one, other in zip(mine.weights, first.weights, strict=True))


def test_nothing_is_hidden_unless_asked_for() -> None:
    """By default there are no masks, and no random number is drawn."""
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert draw_masks(Network(_wide()), TrainConfig(batch=ROWS), ALL, generator) is None
    assert torch.equal(generator.get_state(), before)


def _wide() -> ModelConfig:
    return ModelConfig(vocabulary=40, embedding=32, hidden=(48, 40, 44), output=64)
