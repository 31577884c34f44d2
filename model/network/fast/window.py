"""A window of T steps, forward and backward, as one autograd function written by hand.

Per layer and step: one matrix product and one pointwise kernel (kernels.py). What does not depend on the step
before leaves the loop: the embedded input goes before it; the output module and all weight gradients (one product per
layer, over T * B rows) after it. Autograd over cell.py is several times slower and judges the gradients.

Each layer's operand X (T + 1, B, K) holds, side by side, what its product reads at every step: own h of the step
before, z * h above of the step before, z_below * h below. Every h is written once into each operand that will read it.
A network that writes a given text reads it beside layer 1 (attention.py): the vector read at a step lies where h
below would be in layer 1's operand of the next step.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.config import ModelConfig
from model.network.attention import Attention
from model.network.cell import Layer
from model.network.fast.attention import AttentionRun
from model.network.fast.kernels import Shape, Variant, kernels
from model.network.fast.product import prepare
from model.network.state import AttentionState, LayerState, NetworkState

# Leading dimensions that are no multiple of 8 disable the fast bf16 products of GPUs.
ALIGNMENT = 8


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
        attention, differences: of a network that writes a given text, and the text as `Attention.read` gave it.
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
    plan = _Plan(
        [_variant(config, layer, index == 0) for index, layer in enumerate(layers)],
        state.contiguous(),
        options,
        slope.to(wide),
        None if noise is None else noise.to(wide).contiguous(),
        0 if attention is None else attention.mixtures,
    )
    reading = (None, None, None) if attention is None else (differences, attention.weight, attention.bias)
    weights: list[Tensor] = [layer.weight for layer in layers]
    if masks:
        weights = [weight * mask for weight, mask in zip(weights, masks, strict=True)]
    parameters = [
        parameter
        for layer, weight in zip(layers, weights, strict=True)
        for parameter in (weight, layer.gain, layer.bias)
    ]
    h, z, logit, *final = _Window.apply(plan, source, *reading, *parameters)  # type: ignore[no-untyped-call]
    states = tuple(LayerState(*final[3 * n : 3 * n + 3]) for n in range(len(layers)))
    place = None if attention is None else AttentionState(*final[3 * len(layers) :])
    return h, NetworkState(states, place), z, logit


@dataclass(frozen=True)
class _Plan:
    """What a window needs beside the tensors that take gradients."""

    variants: list[Variant]
    state: NetworkState
    options: WindowOptions
    slope: Tensor
    noise: Tensor | None
    mixtures: int

    def kernels(self, index: int, run: "_Run") -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Forward and backward kernel of a layer."""
        if not self.options.compiled:
            return kernels(self.variants[index], None)
        hidden = tuple(variant.size for variant in self.variants)
        shape = Shape(
            run.x.shape[1], hidden, index, run.x.dtype, run.weight.dtype, run.x.device, self.variants[0].below
        )
        return kernels(self.variants[index], shape)


@dataclass
class _Run:
    """One layer in one window: its weights, the h written last, and everything the backward will read, per step."""

    variant: Variant
    weight: Tensor
    gain: Tensor | None
    bias: Tensor
    x: Tensor
    h: Tensor
    c: list[Tensor]
    z: list[Tensor] = field(default_factory=list)
    gates: list[Tensor] = field(default_factory=list)
    normal: list[Tensor] = field(default_factory=list)
    rstd: list[Tensor | None] = field(default_factory=list)
    q_hat: list[Tensor | None] = field(default_factory=list)
    q: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        size, above = self.variant.size, self.variant.above
        self.rows = self.x.unbind(0)
        self.own = self.x[:, :, :size].unbind(0)
        self.above = self.x[:, :, size : size + above].unbind(0) if above else ()
        self.below = self.x[:, :, size + above :].unbind(0) if self.variant.below else ()

    def reading(self, t: int) -> Tensor | None:
        """What layer 1 read of the text at the step before step t (B, E), None elsewhere."""
        return self.below[t] if self.variant.bottom and self.below else None

    def flush(self, t: int) -> Tensor | None:
        """z of the step before step t (B,), None where it is always 0."""
        return self.z[t] if self.variant.detects else None


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


def _start(plan: _Plan, index: int, parameters: tuple[Tensor, ...], steps: int) -> _Run:
    weight, gain, bias = parameters[3 * index : 3 * index + 3]
    variant, state, operand = plan.variants[index], plan.state.layers[index], plan.options.operand
    x = torch.empty(steps + 1, state.h.shape[0], weight.shape[0], dtype=operand, device=weight.device)
    x[0, :, : variant.size] = state.h
    run = _Run(variant, weight, gain, bias, x, state.h.to(operand), [state.c])
    if variant.detects:
        run.z.append(state.z)
    return run


def _attend(plan: _Plan, reading: tuple[Tensor | None, ...], bottom: _Run) -> AttentionRun | None:
    differences, weight, bias = (None if part is None else part.detach() for part in reading)
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
        fused=plan.options.compiled,
    )


def _z_below(runs: list[_Run], index: int, t: int) -> Tensor | None:
    """Boundary of the layer below at step t (B,), None where the layer is never blocked."""
    return runs[index - 1].z[t + 1] if index and runs[index].variant.gated else None


def _noise(plan: _Plan, index: int, t: int) -> Tensor | None:
    return None if plan.noise is None or not plan.variants[index].detects else plan.noise[t, :, index]


@dataclass(frozen=True)
class _Busy:
    """The rows of a layer that do not COPY: of each step, and of all T * B rows of the window."""

    of_step: tuple[Tensor, ...]
    of_window: Tensor


def _busy_rows(runs: list[_Run], index: int) -> _Busy | None:
    """The rows to multiply on the way back; None where it must be all.

    In a row that COPYs, the gradient by the product is zero to the bit: gates and candidate reach the loss through
    1 - copy alone, and a nested detector through z_below. What is left of such a row, the gradients by z and by the
    copied state, needs no product. With a soft detector nothing copies wholly; a detector that is read on COPYs
    too learns there; and a captured graph has one shape for all windows.
    """
    variant = runs[index].variant
    reads_copies = variant.detects and variant.copy_boundary != "nested"
    on_gpu = runs[index].x.device.type == "cuda"
    if variant.bottom or not variant.gated or variant.detector == "soft" or reads_copies or on_gpu:
        return None
    busy = torch.stack(runs[index - 1].z[1:]) > 0
    if variant.detects:
        busy |= torch.stack(runs[index].z[:-1]) > 0
    step, row = busy.nonzero().unbind(1)
    return _Busy(row.split(busy.sum(1).tolist()), step * busy.shape[1] + row)


class _Window(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: _Plan,
        source: Tensor,
        differences: Tensor | None,
        reading_weight: Tensor | None,
        reading_bias: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        steps, count = source.shape[0], len(plan.variants)
        runs = [_start(plan, index, parameters, steps) for index in range(count)]
        for lower, upper in pairwise(runs):
            if lower.variant.detects:
                lower.above[0].copy_(lower.z[0][:, None] * upper.own[0])
        attention = _attend(plan, (differences, reading_weight, reading_bias), runs[0])
        steppers = [_Stepper(plan, runs, index) for index in range(count)]
        sources = source.detach().to(plan.options.operand).contiguous().unbind(0)
        for t in range(steps):
            for stepper in steppers:
                stepper.forward(t, sources[t])
            if attention is not None:
                attention.forward(t, runs[0].h)

        ctx.plan, ctx.runs, ctx.attention, ctx.source_dtype = plan, runs, attention, source.dtype
        outputs = [run.x[1:, :, : run.variant.size] for run in runs]
        h = torch.cat(outputs if attention is None else [*outputs, attention.vectors[1:]], dim=2)
        detecting = [run for run in runs if run.variant.detects]
        none = torch.zeros(*source.shape[:2], 0, dtype=runs[0].c[0].dtype, device=source.device)
        z = torch.stack([torch.stack(run.z[1:]) for run in detecting], 2) if detecting else none
        logit = torch.stack([torch.stack(run.q) for run in detecting], 2) if detecting else none
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
        steppers = [_Backstepper(plan, runs, index, d_outs[index].unbind(0)) for index in range(len(runs))]
        if attention is not None:
            attention.begin_backward(d_outs[-1])
        for t in reversed(range(d_h.shape[0])):
            for stepper in reversed(steppers[1:]):
                stepper.backward(t, stepper.d_out[t], steppers)
            bottom = steppers[0]
            d_out = bottom.d_out[t]
            if attention is not None:
                d_out = attention.backward(t, d_out, bottom.d_below)
            bottom.backward(t, d_out, steppers)
        d_source = steppers[0].d_s[:, :, : steppers[0].columns].to(ctx.source_dtype)
        gradients = [gradient for stepper in steppers for gradient in stepper.gradients()]
        d_reading = (None, None, None) if attention is None else attention.gradients()
        return None, d_source, *d_reading, *gradients


class _Stepper:
    """One layer going forward: its product, its kernel, and h written to where it will be read."""

    def __init__(self, plan: _Plan, runs: list[_Run], index: int) -> None:
        self.plan, self.runs, self.index, self.run = plan, runs, index, runs[index]
        variant = self.run.variant
        self.kernel = plan.kernels(index, self.run)[0]
        gates = self.run.weight.detach()[:, : 4 * variant.size]
        self.product = prepare(gates.to(plan.options.operand).contiguous(), self.run.x.shape[1])
        self.detector = self.run.weight.detach()[:, -1].contiguous() if variant.detects else None

    def forward(self, t: int, source: Tensor) -> None:
        run, runs, index = self.run, self.runs, self.index
        z_below = _z_below(runs, index, t)
        upper = runs[index + 1] if index + 1 < len(runs) else None
        lower = runs[index - 1] if index else None
        detects_below = lower is not None and lower.variant.detects
        run.h, c, gates, normal, rstd, q_hat, q, z = self.kernel(
            self.product(run.rows[t]),
            run.h,
            upper.h if upper is not None and run.variant.detects else None,
            lower.h if lower is not None else run.reading(t),
            source if index == 0 else None,
            self.detector,
            run.gain,
            run.bias,
            run.c[t],
            run.flush(t),
            z_below,
            self.plan.slope,
            _noise(self.plan, index, t),
            run.own[t + 1],
            None if upper is None else upper.below[t],
            lower.above[t + 1] if lower is not None and detects_below else None,
        )
        run.c.append(c)
        run.gates.append(gates)
        run.normal.append(normal)
        run.rstd.append(rstd)
        run.q_hat.append(q_hat)
        if z is not None:
            run.q.append(q)
            run.z.append(z)


class _Backstepper:
    """One layer going backward, from the last step to the first."""

    def __init__(self, plan: _Plan, runs: list[_Run], index: int, d_out: tuple[Tensor, ...]) -> None:
        self.plan, self.runs, self.index, self.run, self.d_out = plan, runs, index, runs[index], d_out
        run, variant = self.run, self.run.variant
        self.kernel = plan.kernels(index, run)[1]
        self.columns = run.weight.shape[1]
        padding = -self.columns % ALIGNMENT
        weight = torch.nn.functional.pad(run.weight.detach(), (0, padding))
        steps, batch = run.x.shape[0] - 1, run.x.shape[1]
        self.product = prepare(weight.t().to(plan.options.operand).contiguous(), batch)
        self.d_s = torch.empty(steps, batch, self.columns + padding, dtype=run.x.dtype, device=run.x.device)
        self.d_s[:, :, self.columns :] = 0
        self.d_s_rows = self.d_s.unbind(0)
        self.d_s_written = self.d_s[:, :, : self.columns].unbind(0)
        # By the operand of the step last visited: the next one while a kernel runs, then this one.
        self._split(torch.zeros_like(run.rows[0]))
        self.d_c = torch.zeros_like(run.c[0])
        self.d_carry = torch.zeros_like(run.c[0])
        self.d_z: Tensor | None = torch.zeros_like(run.c[0][:, 0]) if variant.detects else None
        self.d_z_below: Tensor | None = None
        self.d_bias = torch.zeros_like(run.bias)
        self.d_gain = None if run.gain is None else torch.zeros_like(run.gain)
        self.busy = _busy_rows(runs, index)
        self.d_x = torch.empty_like(run.rows[0]) if self.busy else None

    def backward(self, t: int, d_out: Tensor, steppers: list["_Backstepper"]) -> None:
        run, runs, index = self.run, self.runs, self.index
        upper = steppers[index + 1] if index + 1 < len(steppers) else None
        lower = steppers[index - 1] if index and runs[index - 1].variant.detects else None
        self.d_gain, self.d_bias, self.d_c, self.d_carry, self.d_z, self.d_z_below = self.kernel(
            d_out,
            self.d_own,
            self.d_carry,
            None if upper is None else upper.d_below,
            None if lower is None else lower.d_above,
            self.d_c,
            self.d_z,
            None if upper is None else upper.d_z_below,
            self.d_above if run.variant.detects else None,
            runs[index + 1].own[t + 1] if run.variant.detects else None,
            run.own[t + 1],
            run.own[t],
            run.c[t + 1],
            run.c[t],
            run.gates[t],
            run.normal[t],
            run.rstd[t],
            run.q_hat[t],
            run.q[t] if run.variant.detects else None,
            run.z[t + 1] if run.variant.detects else None,
            run.flush(t),
            _z_below(runs, index, t),
            run.gain,
            self.d_gain,
            self.d_bias,
            self.plan.slope,
            _noise(self.plan, index, t),
            self.d_s_written[t],
        )
        self._split(self._product(t))

    def _product(self, t: int) -> Tensor:
        """The gradient by the operand of step t (B, K); it lives until the next call."""
        if self.busy is None or self.d_x is None:
            return self.product(self.d_s_rows[t])
        rows = self.busy.of_step[t]
        self.d_x.zero_()
        if len(rows):
            self.d_x.index_copy_(0, rows, self.product(self.d_s_rows[t].index_select(0, rows)))
        return self.d_x

    def _split(self, d_x: Tensor) -> None:
        own, above = self.run.variant.size, self.run.variant.above
        self.d_own, self.d_above, self.d_below = d_x[:, :own], d_x[:, own : own + above], d_x[:, own + above :]

    def gradients(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """By weight, gain and bias; the weight's as one product over all steps and rows."""
        x, d_s = self.run.x[:-1].flatten(0, 1), self.d_s.flatten(0, 1)
        if self.busy is not None:
            x, d_s = x.index_select(0, self.busy.of_window), d_s.index_select(0, self.busy.of_window)
        # This way round the odd width is a number of rows: 1.5 times as fast on a CPU as x.t() @ d_s.
        d_weight = (d_s.t() @ x)[: self.columns].t().to(self.run.weight.dtype)
        return d_weight, self.d_gain, self.d_bias
