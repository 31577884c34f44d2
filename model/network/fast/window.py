"""A window of T steps, forward and backward, as one autograd function written by hand.

Per layer and step: one matrix product and one pointwise kernel (layer_run.py). What does not depend on the step before
leaves the loop: the embedded input goes before it; the output module and all weight gradients (one product per layer,
over T * B rows) after it. Autograd over cell.py is several times slower and judges the gradients.

A network that writes a given text reads it beside layer 1 (attention.py): the vector read at a step lies where h below
would be in layer 1's operand of the next step.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.config import ModelConfig
from model.network.attention import Attention
from model.network.cell import Layer
from model.network.fast.attention import AttentionRun
from model.network.fast.layer_run import BackwardSteps, ForwardSteps, LayerRun, Plan
from model.network.fast.step import Variant
from model.network.state import AttentionState, LayerState, NetworkState


@dataclass(frozen=True)
class WindowOptions:
    """How a window is computed.

    Attributes:
        operand: dtype of the matrix products' operands and of the saved activations; c, the LayerNorm statistics and
            the detector's logit stay in the dtype of the weights.
        compiled: fuse the pointwise kernels with torch.compile.
    """

    operand: torch.dtype = torch.float32
    compiled: bool = False


def run_window(
    config: ModelConfig,
    layers: list[Layer],
    source: Tensor,
    state: NetworkState,
    options: WindowOptions,
    slope: Tensor,
    noise: Tensor | None = None,
    attention: Attention | None = None,
    differences: Tensor | None = None,
    masks: tuple[Tensor, ...] = (),
) -> tuple[Tensor, NetworkState, Tensor, Tensor]:
    """Run all layers over a window.

    Args:
        config: of the network.
        layers: their parameters, from layer 1 up.
        source: the embedded input's share of layer 1's pre-activations (T, B, N).
        state: carried in; no gradient flows into it.
        options: dtype and compilation.
        slope: the paper's a, 0-d.
        noise: uniform (T, B, L-1), for a sampled detector.
        attention, differences: of a network that writes a given text, and the text as `Attention.encode` gave it.
        masks: multiply the layers' matrices (K, N) for this window; none for none.

    Returns:
        h of all layers side by side (T, B, sum H), and after them the vector read from the text where there is one, in
        the operand dtype; the state after the window (no history); z (T, B, L-1) and the detectors' logits (T, B, L-1),
        both without gradient.
    """
    if (noise is None) == (config.detector == "sample"):
        msg = "noise goes with a sampled detector, and only with one"
        raise ValueError(msg)
    if (attention is None) != (differences is None) or (attention is None) != (state.attention is None):
        msg = "attention goes with a text and with a state that has a place in it"
        raise ValueError(msg)
    wide = layers[0].weight.dtype
    plan = Plan(
        [_variant(config, layer, index == 0) for index, layer in enumerate(layers)],
        state.contiguous(),
        options.operand,
        options.compiled,
        slope.to(wide),
        None if noise is None else noise.to(wide).contiguous(),
        0 if attention is None else attention.mixtures,
    )
    text = (None, None, None) if attention is None else (differences, attention.weight, attention.bias)
    weights: list[Tensor] = [layer.weight for layer in layers]
    if masks:
        weights = [weight * mask for weight, mask in zip(weights, masks, strict=True)]
    parameters = [
        parameter
        for layer, weight in zip(layers, weights, strict=True)
        for parameter in (weight, layer.gain, layer.bias)
    ]
    h, z, logit, *final = _Window.apply(plan, source, *text, *parameters)  # type: ignore[no-untyped-call]
    states = tuple(LayerState(*final[3 * n : 3 * n + 3]) for n in range(len(layers)))
    place = None if attention is None else AttentionState(*final[3 * len(layers) :])
    return h, NetworkState(states, place), z, logit


def _variant(config: ModelConfig, layer: Layer, bottom: bool) -> Variant:
    return Variant(
        size=layer.size,
        above=layer.above,
        below=layer.below,
        bottom=bottom,
        detects=layer.detects,
        gated=config.cell == "hmlstm",
        layer_norm=config.layer_norm,
        copy_boundary=config.copy_boundary,
        detector=config.detector,
    )


def _attend(plan: Plan, text: tuple[Tensor | None, ...], bottom: LayerRun) -> AttentionRun | None:
    """The window over the text, beside layer 1; None where none is written."""
    differences, weight, bias = (None if part is None else part.detach() for part in text)
    place = plan.state.attention
    if differences is None or weight is None or bias is None or place is None:
        return None
    return AttentionRun(
        plan.mixtures,
        weight,
        bias,
        differences.contiguous(),
        place,
        bottom.x,
        bottom.variant.size,
        fused=plan.compiled,
    )


class _Window(torch.autograd.Function):
    """All layers over a window; what it saves for the way back is in the layers' runs."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        source: Tensor,
        differences: Tensor | None,
        text_weight: Tensor | None,
        text_bias: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        steps, count = source.shape[0], len(plan.variants)
        runs = [LayerRun.start(plan, index, parameters, steps) for index in range(count)]
        # What the first step reads from above: z * h of the states carried in.
        for lower, upper in pairwise(runs):
            if lower.variant.detects:
                lower.above[0].copy_(lower.z[0][:, None] * upper.own[0])
        attention = _attend(plan, (differences, text_weight, text_bias), runs[0])
        layers = [ForwardSteps(plan, runs, index) for index in range(count)]
        sources = source.detach().to(plan.operand).contiguous().unbind(0)
        for t in range(steps):
            for layer in layers:
                layer.step(t, sources[t])
            if attention is not None:
                attention.forward(t, runs[0].h)

        ctx.plan = plan
        ctx.runs = runs
        ctx.attention = attention
        ctx.source_dtype = source.dtype
        outputs = [run.x[1:, :, : run.variant.size] for run in runs]
        h = torch.cat(outputs if attention is None else [*outputs, attention.vectors[1:]], dim=2)
        detecting = [run for run in runs if run.variant.detects]
        none = torch.zeros(*source.shape[:2], 0, dtype=runs[0].c[0].dtype, device=source.device)
        z = torch.stack([torch.stack(run.z[1:]) for run in detecting], 2) if detecting else none
        logit = none
        if detecting:
            logit = torch.stack(
                [torch.stack([step.q for step in run.outputs if step.q is not None]) for run in detecting], 2
            )
        # The state after the window, in the wide dtype and in memory of its own.
        final: list[Tensor] = []
        for run in runs:
            c = run.c[-1].clone()
            z_last = run.z[-1].clone() if run.variant.detects else torch.zeros_like(c[:, 0])
            final += [run.own[-1].to(c.dtype, copy=True), c, z_last]
        if attention is not None:
            position = attention.position[-1].clone()
            final += [position, attention.vector_rows[-1].to(position.dtype, copy=True)]
        ctx.mark_non_differentiable(z, logit, *final)
        return h, z, logit, *final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_h: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        plan, runs, attention = ctx.plan, ctx.runs, ctx.attention
        if runs is None:
            msg = "a window's gradients can be taken once: its activations are reused"
            raise RuntimeError(msg)
        ctx.runs = ctx.attention = None
        sizes = [run.variant.size for run in runs]
        d_outs = d_h.contiguous().split(sizes if attention is None else [*sizes, runs[0].variant.below], 2)
        layers = [BackwardSteps(plan, runs, index, d_outs[index].unbind(0)) for index in range(len(runs))]
        if attention is not None:
            attention.begin_backward(d_outs[-1])
        for t in reversed(range(d_h.shape[0])):
            for layer in reversed(layers[1:]):
                layer.step(t, layer.d_out[t], layers)
            bottom = layers[0]
            d_out = bottom.d_out[t]
            if attention is not None:
                d_out = attention.backward(t, d_out, bottom.d_below)
            bottom.step(t, d_out, layers)
        d_source = layers[0].d_s[:, :, : layers[0].columns].to(ctx.source_dtype)
        gradients = [gradient for layer in layers for gradient in layer.gradients()]
        d_text = (None, None, None) if attention is None else attention.gradients()
        return None, d_source, *d_text, *gradients
