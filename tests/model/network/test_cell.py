"""One layer, one step: the truth table, the gating of its sources, and what it equals in special cases."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import ConfigError, CopyBoundary, ModelConfig
from model.network.cell import NORM_EPSILON, Layer, cell_step
from model.network.state import LayerState
from tests.model.networks import config_for
from tests.strategies import seeds, slopes

CASES = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))  # (z of this layer before, z of the layer below now)
switches = st.tuples(st.booleans(), st.sampled_from(("nested", "recompute")))


class Scene(NamedTuple):
    """A middle layer (index 1 of 3) with four rows, one for each row of the truth table."""

    config: ModelConfig
    layer: Layer
    previous: LayerState
    h_above: Tensor
    h_below: Tensor
    z_below: Tensor

    def step(self, slope: float = 1.0, **changes: Tensor) -> LayerState:
        """The layer's step, with some of its arguments changed."""
        values = {"h_above": self.h_above, "h_below": self.h_below, "z_below": self.z_below} | changes
        previous = LayerState(self.previous.h, self.previous.c, values.pop("flush", self.previous.z))
        return cell_step(
            self.layer, self.config, None, previous, values["h_above"], values["h_below"], values["z_below"], slope
        )

    def pre_activation(self) -> Tensor:
        """Eqs. 4-7 term by term, with LayerNorm over the gates."""
        size, above = self.layer.size, self.layer.above
        own, top_down, bottom_up = self.layer.weight.split([size, above, self.layer.below])
        s = self.previous.h @ own
        s = s + self.previous.z[:, None] * (self.h_above @ top_down)
        s = s + self.z_below[:, None] * (self.h_below @ bottom_up)
        if self.layer.gain is not None:
            gates = s[:, : 4 * size]
            variance = ((gates - gates.mean(1, keepdim=True)) ** 2).mean(1, keepdim=True)
            s = (s - gates.mean(1, keepdim=True)) / torch.sqrt(variance + NORM_EPSILON) * self.layer.gain
        pre_activation: Tensor = s + self.layer.bias
        return pre_activation


def make_scene(seed: int, *, layer_norm: bool = True, copy_boundary: CopyBoundary = "nested") -> Scene:
    """A scene with random parameters and states."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    config = config_for(layer_norm=layer_norm, copy_boundary=copy_boundary)
    layer = Layer(config, 1).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(draw(*parameter.shape))
    flush, z_below = torch.tensor(CASES, dtype=torch.float64).unbind(1)
    h_below_size, size, h_above_size = config.hidden
    previous = LayerState(torch.tanh(draw(4, size)), draw(4, size), flush)
    return Scene(config, layer, previous, torch.tanh(draw(4, h_above_size)), torch.tanh(draw(4, h_below_size)), z_below)


@settings(max_examples=50)
@given(seeds, switches)
def test_truth_table(seed: int, switch: tuple[bool, CopyBoundary]) -> None:
    """Invariant 1: with hand-set z, the four rows of Eqs. 2-3; a COPY keeps every bit of h and c."""
    scene = make_scene(seed, layer_norm=switch[0], copy_boundary=switch[1])
    after, (h, c) = scene.step(), (scene.previous.h, scene.previous.c)
    f, i, o, g, q = scene.pre_activation().split([scene.layer.size] * 4 + [1], dim=1)
    f, i, o, g = torch.sigmoid(f), torch.sigmoid(i), torch.sigmoid(o), torch.tanh(g)
    update, flush = f * c + i * g, i * g
    assert torch.equal(after.c[0], c[0])
    assert torch.equal(after.h[0], h[0])
    for row, wanted in ((1, update), (2, flush), (3, flush)):
        torch.testing.assert_close(after.c[row], wanted[row], rtol=0, atol=1e-13)
        torch.testing.assert_close(after.h[row], (o * torch.tanh(wanted))[row], rtol=0, atol=1e-13)
    blocked = 1 - scene.z_below if switch[1] == "nested" else torch.zeros_like(scene.z_below)
    assert torch.equal(after.z, (q[:, 0] > 0) * (1 - blocked))


@settings(max_examples=30)
@given(seeds, switches, st.sampled_from((torch.float32, torch.float64)))
def test_copy_keeps_the_bits_in_any_dtype(seed: int, switch: tuple[bool, CopyBoundary], dtype: torch.dtype) -> None:
    """Invariant 1: h and c of a COPY row are the same bits, even where the gates are saturated or c is huge."""
    scene = make_scene(seed, layer_norm=switch[0], copy_boundary=switch[1])
    layer = scene.layer.to(dtype)
    h, c = scene.previous.h.to(dtype), (scene.previous.c * 1e6).to(dtype)
    zeros = torch.zeros(4, dtype=dtype)
    after = cell_step(
        layer, scene.config, None, LayerState(h, c, zeros), scene.h_above.to(dtype), scene.h_below.to(dtype), zeros
    )
    assert torch.equal(after.h, h)
    assert torch.equal(after.c, c)


@settings(max_examples=30)
@given(seeds, switches)
def test_blocked_sources_have_no_effect(seed: int, switch: tuple[bool, CopyBoundary]) -> None:
    """Invariant 3: h above counts only where z was 1 before, h below only where z below is 1 now, to the bit."""
    scene = make_scene(seed, layer_norm=switch[0], copy_boundary=switch[1])
    plain = scene.step()
    above = scene.step(h_above=scene.h_above + 3)
    below = scene.step(h_below=scene.h_below - 2)
    for changed, gate in ((above, scene.previous.z), (below, scene.z_below)):
        for before, after in zip((plain.h, plain.c), (changed.h, changed.c), strict=True):
            assert torch.equal(before[gate == 0], after[gate == 0])
            assert (before[gate == 1] != after[gate == 1]).any(1).all()
        assert torch.equal(plain.z[gate == 0], changed.z[gate == 0])


@settings(max_examples=30)
@given(seeds, slopes, slopes)
def test_slope_changes_only_the_gradient(seed: int, slope: float, other: float) -> None:
    """Invariant 4: with the step detector no value of a step depends on the slope."""
    scene = make_scene(seed)
    one, two = scene.step(slope), scene.step(other)
    for a, b in ((one.h, two.h), (one.c, two.c), (one.z, two.z)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_detector_learns_only_inside_the_box(factor: float) -> None:
    """Invariant 4: dz/dbias of the detector is a/2 for |q| just below 1/a and exactly 0 just above."""
    scene, slope = make_scene(3, copy_boundary="recompute"), 2.0
    with torch.no_grad():
        column = scene.pre_activation()[:, -1]
    for row in range(4):
        with torch.no_grad():
            scene.layer.bias[-1] += factor / slope - column[row]  # row's logit is now factor / slope
        after = scene.step(slope)
        (gradient,) = torch.autograd.grad(after.z[row], scene.layer.bias)
        assert float(gradient[-1]) == (slope / 2 if factor < 1 else 0.0)
        with torch.no_grad():
            scene.layer.bias[-1] -= factor / slope - column[row]


@pytest.mark.parametrize("seed", range(3))
def test_always_updated_it_is_a_standard_lstm(seed: int) -> None:
    """Invariant 6: with (z before, z below) held at (0, 1) the cell is torch.nn.LSTMCell."""
    config = ModelConfig(vocabulary=5, embedding=3, hidden=(5, 7), output=4, layer_norm=False)
    torch.manual_seed(seed)
    layer = Layer(config, 1).double()
    with torch.no_grad():
        layer.bias.copy_(torch.randn(28))
    judge = torch.nn.LSTMCell(5, 7, dtype=torch.float64)
    order = (1, 0, 3, 2)  # torch: i f g o; ours: f i o g
    with torch.no_grad():
        own, below = layer.weight.split([7, 5])
        judge.weight_hh.copy_(torch.cat([own.T.split(7)[n] for n in order]))
        judge.weight_ih.copy_(torch.cat([below.T.split(7)[n] for n in order]))
        judge.bias_ih.copy_(torch.cat([layer.bias.split(7)[n] for n in order]))
        judge.bias_hh.zero_()
    zeros = torch.zeros(4, 7, dtype=torch.float64)
    ours = LayerState(zeros, zeros, zeros[:, 0])
    theirs = (ours.h, ours.c)
    for _ in range(50):
        x = torch.randn(4, 5, dtype=torch.float64)
        ours = cell_step(layer, config, None, ours, None, x, torch.ones(4, dtype=torch.float64))
        theirs = judge(x, theirs)
        # Two orders of summation of the same products, over 50 steps.
        torch.testing.assert_close(ours.h, theirs[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(ours.c, theirs[1], rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(st.permutations(range(4)), seeds)
def test_rows_do_not_know_each_other(order: list[int], seed: int) -> None:
    """Rows in another order give the same rows in that order: nothing leaks across a batch."""
    scene = make_scene(seed)
    plain = scene.step()
    moved = Scene(
        scene.config,
        scene.layer,
        LayerState(scene.previous.h[order], scene.previous.c[order], scene.previous.z[order]),
        scene.h_above[order],
        scene.h_below[order],
        scene.z_below[order],
    ).step()
    assert torch.equal(moved.z, plain.z[order])
    # A product may sum a row differently at another place of the batch.
    torch.testing.assert_close(moved.h, plain.h[order], rtol=0, atol=1e-13)
    torch.testing.assert_close(moved.c, plain.c[order], rtol=0, atol=1e-13)


def test_layers_have_the_rows_and_columns_of_their_place() -> None:
    """Layer 1 reads no layer below, the top layer none above and has no detector; the control has neither."""
    shapes = [tuple(Layer(config_for(), index).weight.shape) for index in range(3)]
    assert shapes == [(8 + 6, 33), (6 + 10 + 8, 25), (10 + 6, 40)]
    control = [tuple(Layer(config_for(cell="lstm"), index).weight.shape) for index in range(3)]
    assert control == [(8, 32), (6 + 8, 24), (10 + 6, 40)]
    assert [Layer(config_for(), index).input is not None for index in range(3)] == [True, False, False]
    assert Layer(config_for(layer_norm=False), 0).gain is None


def test_a_new_layer_starts_open_and_its_detector_in_its_box() -> None:
    """Forget bias 1, detector bias 0, orthogonal H x H blocks; the detector's gain is small."""
    layer = Layer(config_for(), 1)
    assert layer.gain is not None
    assert layer.bias[:6].tolist() == [1] * 6
    assert layer.bias[-1].item() == 0
    assert 0 < layer.gain[-1].item() < 1
    for gate in range(4):
        block = layer.weight[:6, 6 * gate : 6 * gate + 6]
        torch.testing.assert_close(block @ block.T, torch.eye(6), rtol=0, atol=1e-5)


def test_a_layer_cannot_be_of_an_impossible_configuration() -> None:
    """An impossible configuration never reaches a layer."""
    with pytest.raises(ConfigError, match="hidden"):
        config_for(hidden=(4, 0))
