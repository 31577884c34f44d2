"""A baseline: the batch-normalised LSTM of Cooijmans et al. 2016 (arXiv 1603.09025), to compare with, not to serve.

Every layer is updated at every step, nothing comes from above, and there are no boundaries:

    s = BN(h_prev W_h; gain_h, 0) + BN(x W_x; gain_x, 0) + bias        f, i, o, g = the four quarters of s
    c = sigm(f) * c_prev + sigm(i) * tanh(g)
    h = sigm(o) * tanh(BN(c; gain_c, bias_c))

x is the embedded input, or h of the layer below. BN(v; gain, bias) = gain * (v - mean) / std + bias for each unit: mean
and variance are those of the batch's rows at this step while training, and those of the population otherwise.

Known difference: the paper keeps separate population statistics for each of a sequence's first steps. Here the state is
carried from window to window, so that hardly any step is near a beginning, and all steps of a layer share one set.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.config import ModelConfig
from model.network.cell import NORM_EPSILON, Layer
from model.network.fast.fuse import fused
from model.network.fast.product import prepare
from model.network.fast.window import WindowOptions
from model.network.state import LayerState, NetworkState

GAIN = 0.1  # at first: with 1, tanh is soon saturated, and no gradient gets far through the steps (Cooijmans et al.)
MOMENTUM = 0.1  # share of each window in the running averages of the population

Kernels = tuple[Callable[..., Any], Callable[..., Any]]


class BatchNormLayer(Layer):
    """The parameters of one layer, and its population statistics.

    Attributes:
        weight: (H + H_below, 4H), rows [own h | h below]. input, bias: as of any layer.
        gain_h, gain_x: (4H,). gain_c, bias_c: (H,).
        mean, variance: (9H,) of [h W_h | x W_x | c], running averages over the windows of a training.
        momentum: share of the next window in them.
    """

    mean: Tensor
    variance: Tensor
    momentum: float = MOMENTUM

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__(config, index)
        size = self.size
        self.gain_h = nn.Parameter(torch.full((4 * size,), GAIN))
        self.gain_x = nn.Parameter(torch.full((4 * size,), GAIN))
        self.gain_c = nn.Parameter(torch.full((size,), GAIN))
        self.bias_c = nn.Parameter(torch.zeros(size))
        self.register_buffer("mean", torch.zeros(9 * size))
        self.register_buffer("variance", torch.ones(9 * size))

    @torch.no_grad()
    def learn(self, mean: Tensor, variance: Tensor, rows: int) -> None:
        """Update the population statistics with those of a window (9H,), averaged over its steps."""
        self.mean.lerp_(mean, self.momentum)
        # The variance of a sample is too small by a factor of (rows - 1) / rows.
        self.variance.lerp_(variance * (rows / (rows - 1)), self.momentum)


def run_batch_norm(
    layers: list[Layer],
    source: Tensor,
    state: NetworkState,
    options: WindowOptions,
    masks: tuple[Tensor, ...] = (),
    *,
    training: bool,
) -> tuple[Tensor, NetworkState]:
    """Run all layers over a window, one after the other, so that all steps from below are one product.

    Args:
        layers: their parameters, from layer 1 up.
        source: the embedded input's products x W_x of layer 1 (T, B, 4H).
        state: carried in; no gradient flows into it from a window of training.
        options: operand dtype of the products and of the saved activations, and whether the kernels are compiled;
            c and all statistics stay in the dtype of the weights.
        masks: multiply the layers' matrices (K, 4H) for this window; none for none.
        training: normalise by the statistics of these rows (a worker's own rows, where several train), and update the
            population statistics.

    Returns:
        h of all layers side by side (T, B, sum H) in the operand dtype, and the state after the window: without history
        in training, with it otherwise.

    Raises:
        ValueError: training with a single row, which has no variance.
    """
    if training and source.shape[1] < 2:
        msg = "batch normalisation trains on at least 2 rows at a time: raise train.batch"
        raise ValueError(msg)
    outputs: list[Tensor] = []
    states: list[LayerState] = []
    for index, (layer, before) in enumerate(zip(layers, state.layers, strict=True)):
        if not isinstance(layer, BatchNormLayer):
            raise TypeError(type(layer))
        weight = (layer.weight * masks[index] if masks else layer.weight).to(options.operand)
        own, below = weight.split([layer.size, layer.below])
        s_x = outputs[-1] @ below if outputs else source.to(options.operand)
        h, after = _train(layer, s_x, own, before, options) if training else _apply(layer, s_x, own, before)
        outputs.append(h)
        states.append(after)
    return torch.cat(outputs, 2), NetworkState(tuple(states))


def _apply(layer: BatchNormLayer, s_x: Tensor, weight: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
    """A window normalised by population statistics, which makes the normalisation a scale and a shift."""
    sizes = [4 * layer.size, 4 * layer.size, layer.size]
    scale = torch.cat([layer.gain_h, layer.gain_x, layer.gain_c]) * torch.rsqrt(layer.variance + NORM_EPSILON)
    shift_h, shift_x, shift_c = (layer.mean * scale).split(sizes)
    scale_h, scale_x, scale_c = scale.split(sizes)
    h, c = state.h, state.c
    outputs = []
    for row in s_x.to(scale.dtype) * scale_x + (layer.bias - shift_x - shift_h):
        f, i, o, g = ((h.to(weight.dtype) @ weight).to(scale.dtype) * scale_h + row).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c * scale_c + (layer.bias_c - shift_c))
        outputs.append(h.to(weight.dtype))
    return torch.stack(outputs), LayerState(h, c, state.z)


def _train(
    layer: BatchNormLayer, s_x: Tensor, weight: Tensor, state: LayerState, options: WindowOptions
) -> tuple[Tensor, LayerState]:
    """A window normalised by the statistics of its batch, which also update the layer's population statistics."""
    rows = s_x.shape[1]
    shape = (rows, layer.size, s_x.dtype, state.c.dtype, s_x.device) if options.compiled else None
    normalisation = (layer.gain_h, layer.gain_x, layer.bias, layer.gain_c, layer.bias_c)
    h, h_last, c_last, mean, variance = _Window.apply(  # type: ignore[no-untyped-call]
        _kernels(shape), state, s_x, weight, *normalisation
    )
    layer.learn(mean, variance, rows)
    return h, LayerState(h_last, c_last, state.z)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each unit over the rows."""
    mean = x.mean(0)
    return mean, (x - mean).square().mean(0)


def _tanh(x: Tensor) -> Tensor:
    return 2 * torch.sigmoid(2 * x) - 1  # compiled for a CPU, torch.tanh costs twice as much (fast/kernels.py)


def _cell(
    s_h: Tensor,
    s_x: Tensor,
    c: Tensor,
    gain_h: Tensor,
    gain_x: Tensor,
    bias: Tensor,
    gain_c: Tensor,
    bias_c: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step from products (B, 4H) and c (B, H): h, c, and mean and variance (9H,) of [s_h | s_x | c]."""
    mean_h, variance_h = _moments(s_h)
    mean_x, variance_x = _moments(s_x)
    scale_h, scale_x = gain_h * torch.rsqrt(variance_h + NORM_EPSILON), gain_x * torch.rsqrt(variance_x + NORM_EPSILON)
    f, i, o, g = ((s_h - mean_h) * scale_h + (s_x - mean_x) * scale_x + bias).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * _tanh(g)
    mean_c, variance_c = _moments(c)
    h = torch.sigmoid(o) * _tanh((c - mean_c) * (gain_c * torch.rsqrt(variance_c + NORM_EPSILON)) + bias_c)
    return h, c, torch.cat([mean_h, mean_x, mean_c]), torch.cat([variance_h, variance_x, variance_c])


def _forward(
    s_h: Tensor, s_x: Tensor, c: Tensor, mean: Tensor, variance: Tensor, h_out: Tensor, *normalisation: Tensor
) -> tuple[Tensor, ...]:
    """A step: c, and the sums of the statistics with this step's added. h is written where the next step reads it."""
    h, c, mean_now, variance_now = _cell(s_h.to(c.dtype), s_x.to(c.dtype), c, *normalisation)
    h_out.copy_(h)
    return c, mean + mean_now, variance + variance_now


def _backward(
    s_h: Tensor,
    s_x: Tensor,
    c: Tensor,
    d_out: Tensor,
    d_h: Tensor,
    d_c: Tensor,
    d_s_h_out: Tensor,
    d_s_x_out: Tensor,
    *normalisation_and_sums: Tensor,
) -> tuple[Tensor, ...]:
    """A step backward: d_c of the step before, and the sums of the normalisation's gradients with this step's added.

    The step is computed again from its inputs, so that nothing else is kept, and autograd differentiates it. Compiled,
    both are one kernel.
    """
    normalisation, sums = normalisation_and_sums[:5], normalisation_and_sums[5:]
    wide = (s_h.to(c.dtype), s_x.to(c.dtype), c, *normalisation)
    pull: Callable[..., Any] = torch.func.vjp(lambda *values: _cell(*values)[:2], *wide)[1]
    d_s_h, d_s_x, d_c, *found = pull((d_out.to(c.dtype) + d_h.to(c.dtype), d_c))
    d_s_h_out.copy_(d_s_h)
    d_s_x_out.copy_(d_s_x)
    return d_c, *(total + part for total, part in zip(sums, found, strict=True))


@cache
def _kernels(shape: tuple[int, int, torch.dtype, torch.dtype, torch.device] | None) -> Kernels:
    """A step forward and backward: plain, or fused for (B, H, operand dtype, dtype of the weights, device)."""
    return (_forward, _backward) if shape is None else (fused(_forward, shape[-1]), fused(_backward, shape[-1]))


class _Window(torch.autograd.Function):
    """One layer over a window: in the loop one product and one kernel per step, the weight's gradient after it."""

    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, state: LayerState, s_x: Tensor, weight: Tensor, *normalisation: Tensor
    ) -> tuple[Tensor, ...]:
        steps, rows, _ = s_x.shape
        s_x, weight = s_x.detach().contiguous(), weight.detach()
        normalisation = tuple(parameter.detach() for parameter in normalisation)
        product, kernel = prepare(weight, rows), kernels[0]
        s_h, h = torch.empty_like(s_x), s_x.new_empty(steps + 1, *state.h.shape)
        h[0] = state.h
        c = [state.c.contiguous()]
        mean, variance = (torch.zeros(9 * h.shape[2], dtype=c[0].dtype, device=h.device) for _ in range(2))
        for h_prev, h_out, products, read in zip(h[:-1], h[1:], s_h, s_x, strict=True):
            products.copy_(product(h_prev))
            now, mean, variance = kernel(products, read, c[-1], mean, variance, h_out, *normalisation)
            c.append(now)
        ctx.kept = kernels[1], s_h, s_x, h, c, weight, normalisation
        last = h[-1].to(now.dtype, copy=True), now.clone(), mean / steps, variance / steps
        ctx.mark_non_differentiable(*last)
        return h[1:], *last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_h_out: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        kernel, s_h, s_x, h, c, weight, normalisation = ctx.kept
        product = prepare(weight.t().contiguous(), h.shape[1])
        d_out, d_s_h, d_s_x = d_h_out.contiguous(), torch.empty_like(s_h), torch.empty_like(s_x)
        d_h, d_c = torch.zeros_like(h[0]), torch.zeros_like(c[0])
        sums = [torch.zeros_like(parameter) for parameter in normalisation]
        for t in reversed(range(len(s_x))):
            d_c, *sums = kernel(s_h[t], s_x[t], c[t], d_out[t], d_h, d_c, d_s_h[t], d_s_x[t], *normalisation, *sums)
            d_h = product(d_s_h[t])
        d_weight = h[:-1].flatten(0, 1).t() @ d_s_h.flatten(0, 1)
        return None, None, d_s_x, d_weight, *sums
