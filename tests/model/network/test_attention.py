"""The window over the text: judged by a literal loop, its gradients by autograd, alone and beside layer 1."""

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import ModelConfig
from model.ink import STRIDE
from model.network.attention import Attention
from model.network.fast.window import WindowOptions
from model.network.heads import mixture_of, pack
from model.network.reference import read_text
from model.network.stack import Condition, Network
from model.network.state import NetworkState
from tests.model.networks import config_for, make_inputs, make_network

STEPS, ROWS, LONGEST = 21, 4, 6
SLOPE = torch.tensor(1.0, dtype=torch.float64)
WRITTEN = {"characters": 8, "writers": 3, "character_width": 5, "window_mixtures": 3}


def written_config(**changes: Any) -> ModelConfig:
    """The small ink configuration, made to write a text."""
    return config_for("ink", **(WRITTEN | changes))


def make_written(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float64) -> Network:
    """A network whose window moves a few characters in a few steps."""
    network = make_network(config, seed, dtype)
    assert network.attention is not None
    with torch.no_grad():
        network.attention.bias[2 * config.window_mixtures :] += 3
    return network


def make_condition(seed: int = 0) -> Condition:
    """Texts of different lengths, and hands."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(1, WRITTEN["characters"], (ROWS, LONGEST), generator=generator)
    for row in range(1, ROWS):
        text[row, LONGEST - row :] = 0
    return Condition(text, torch.arange(ROWS) % WRITTEN["writers"])


def walk(network: Network, x: Tensor, condition: Condition) -> tuple[Tensor, NetworkState]:
    """Outputs (T, B, 6M + 2) of the literal steps, with their graph, and the last state."""
    state, conditioning, outputs = network.zeros(x.shape[1]), network.conditioning(condition), []
    for point in x:
        output, state = network.step(point, state, 1.0, None, conditioning)
        outputs.append(output)
    return torch.stack(outputs), state


def packed(raw: Tensor) -> Tensor:
    """A window's raw outputs as a step gives them."""
    return torch.cat([pack(mixture_of(raw)), raw[..., -1:]], -1)


def test_a_step_is_what_the_literal_loop_gives() -> None:
    """Position, vector and shares of each character equal the definition, written out in NumPy."""
    network = make_written(written_config())
    attention, condition = network.attention, make_condition()
    assert isinstance(attention, Attention)
    h, position = torch.randn(ROWS, 8).double(), 3 * torch.rand(ROWS, 3).double()
    with torch.no_grad():
        state, shares = attention.step(h, position, attention.encode(condition.text))
    arrays = {name: p.detach().numpy() for name, p in attention.named_parameters()}
    for row in range(ROWS):
        ids = [int(i) for i in condition.text[row] if i]
        wanted = read_text(arrays, h[row].numpy(), position[row].numpy(), ids, STRIDE)
        np.testing.assert_allclose(state.position[row], wanted.position, rtol=1e-12)
        np.testing.assert_allclose(state.vector[row], wanted.vector, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(shares[row, : len(ids)], wanted.shares, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("changes", [{}, {"layer_norm": False}, {"cell": "lstm"}, {"hidden": (7,)}])
def test_a_window_equals_the_steps_and_so_do_its_gradients(changes: dict[str, Any]) -> None:
    """Outputs, state and the gradient by every parameter, text and hands included, as autograd finds them."""
    network = make_written(written_config(**changes))
    x, condition = make_inputs(network.config, STEPS, ROWS), make_condition()
    wanted, last = walk(network, x, condition)
    result = network(x, network.zeros(ROWS), WindowOptions(torch.float64), SLOPE, None, condition)
    found = packed(result.raw)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    for (name, mine), (_, theirs) in zip(result.state.named(), last.named(), strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=0, atol=1e-12, msg=name)
    blame = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parameters = dict(network.named_parameters())
    expected = torch.autograd.grad((wanted * blame).sum(), list(parameters.values()))
    gradients = torch.autograd.grad((found * blame).sum(), list(parameters.values()))
    for name, mine, theirs in zip(parameters, gradients, expected, strict=True):
        assert theirs.abs().max() > 0, name
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10, msg=name)


def test_a_kernel_with_a_term_less_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: a backward that forgets that positions add up gives other gradients."""
    import model.network.fast.attention as module

    whole = module.make_backward

    def without_carry(mixtures: int) -> Any:
        backward = whole(mixtures)
        return lambda a, b, c, d_position, *rest: backward(a, b, c, torch.zeros_like(d_position), *rest)

    monkeypatch.setattr(module, "make_backward", without_carry)
    module.kernels.cache_clear()
    with pytest.raises(AssertionError):
        test_a_window_equals_the_steps_and_so_do_its_gradients({})
    module.kernels.cache_clear()


@settings(max_examples=15)
@given(st.integers(0, 1000), st.lists(st.integers(1, 6), min_size=2, max_size=4))
def test_windows_with_a_carried_place_equal_one_pass(seed: int, lengths: list[int]) -> None:
    """A line cut anywhere, its place in the text carried, is written as in one pass."""
    network, condition = make_written(written_config(), seed), make_condition(seed)
    x, options = make_inputs(network.config, sum(lengths), ROWS, seed), WindowOptions(torch.float64)
    with torch.no_grad():
        whole = network(x, network.zeros(ROWS), options, SLOPE, None, condition)
        state, parts = network.zeros(ROWS), []
        for piece in x.split(lengths):
            result = network(piece, state, options, SLOPE, None, condition)
            state = result.state
            parts.append(result.raw)
    torch.testing.assert_close(torch.cat(parts), whole.raw, rtol=0, atol=1e-10)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_the_window_only_moves_forward_and_reads_at_most_once(seed: int, padding: int) -> None:
    """Positions never fall; shares are in [0, 1] and sum to at most 1; what follows a text changes nothing."""
    network, condition = make_written(written_config(), seed), make_condition(seed)
    attention = network.attention
    assert attention is not None
    longer = torch.nn.functional.pad(condition.text, (0, padding))
    generator = torch.Generator().manual_seed(seed)
    place = torch.zeros(ROWS, 3, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(10):
            h = torch.randn(ROWS, 8, generator=generator, dtype=torch.float64)
            state, shares = attention.step(h, place, attention.encode(condition.text))
            assert (state.position > place).all()
            assert (shares >= -1e-12).all()
            assert (shares.sum(1) <= 1 + 1e-12).all()
            again, _ = attention.step(h, place, attention.encode(longer))
            torch.testing.assert_close(again.vector, state.vector, rtol=0, atol=1e-12)
            place = state.position
    assert float(place.detach().min()) > 1


def test_the_text_and_the_hand_matter() -> None:
    """Another character later in the text, or another hand, and other ink is written."""
    network, condition = make_written(written_config()), make_condition()
    x = make_inputs(network.config, STEPS, ROWS)
    with torch.no_grad():
        one, _ = walk(network, x, condition)
        text = condition.text.clone()
        text[:, 2] = text[:, 2] % 7 + 1
        other, _ = walk(network, x, Condition(text, condition.writer))
        hand, _ = walk(network, x, Condition(condition.text, (condition.writer + 1) % 3))
    assert (one[-1] - other[-1]).abs().amax(1).gt(1e-6).all()
    assert (one[0] - hand[0]).abs().amax(1).gt(1e-6).all()


def test_bfloat16_stays_near() -> None:
    """With bf16 operands the first steps are float32's to two digits, and positions are not rounded."""
    network, condition = make_written(written_config(), dtype=torch.float32), make_condition()
    x = make_inputs(network.config, 3, ROWS, dtype=torch.float32)
    with torch.no_grad():
        exact, rounded = (
            network(x, network.zeros(ROWS), WindowOptions(dtype), SLOPE.float(), None, condition)
            for dtype in (torch.float32, torch.bfloat16)
        )
    assert rounded.state.attention is not None
    assert exact.state.attention is not None
    position = rounded.state.attention.position
    torch.testing.assert_close(position, exact.state.attention.position, rtol=0.05, atol=0.05)
    assert (position != position.bfloat16().float()).any()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiled kernels need g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the compiler's own
def test_compiled_kernels_equal_autograd() -> None:
    """Fused, in float32: outputs and gradients of the literal steps, also beside a free network of the same sizes."""
    network, condition = make_written(written_config(), dtype=torch.float32), make_condition()
    free = make_network(config_for("ink"), dtype=torch.float32)
    x = make_inputs(network.config, STEPS, ROWS, dtype=torch.float32)
    options = WindowOptions(torch.float32, compiled=True)
    free_found = free(x, free.zeros(ROWS), options, SLOPE.float())
    free_wanted = free(x, free.zeros(ROWS), WindowOptions(torch.float32), SLOPE.float())
    torch.testing.assert_close(free_found.raw, free_wanted.raw, rtol=1e-3, atol=1e-4)
    wanted, _ = walk(network, x, condition)
    found = packed(network(x, network.zeros(ROWS), options, SLOPE.float(), None, condition).raw)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    parameters = list(network.parameters())
    expected = torch.autograd.grad(wanted.square().mean(), parameters)
    gradients = torch.autograd.grad(found.square().mean(), parameters)
    for mine, theirs in zip(gradients, expected, strict=True):
        assert (mine - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6


def test_writing_needs_a_text_and_writing_freely_takes_none() -> None:
    """Each says so in a sentence."""
    network, free = make_written(written_config()), make_network(config_for("ink"))
    x, options = make_inputs(network.config, 2, ROWS), WindowOptions(torch.float64)
    with pytest.raises(ValueError, match="needs one at every step"):
        network(x, network.zeros(ROWS), options, SLOPE)
    with pytest.raises(ValueError, match="needs one at every step"):
        network.step(x[0], network.zeros(ROWS))
    with pytest.raises(ValueError, match="reads no text"):
        free(x, free.zeros(ROWS), options, SLOPE, None, make_condition())
