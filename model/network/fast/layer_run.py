"""One layer over a window of T steps: its product and its kernel at every step, forward and then back.

Each layer's operand X (T + 1, B, K) holds, side by side, what its product reads at every step: own h of the step
before, z * h above of the step before, z_below * h below. Every h is written once into each operand that will read it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model.network.fast.kernels import Shape, kernels
from model.network.fast.product import prepare
from model.network.fast.step import Arriving, Destinations, Inputs, Leaving, Outputs, Parameters, Saved, Variant
from model.network.state import NetworkState

# Leading dimensions that are no multiple of 8 disable the fast bf16 products of GPUs.
ALIGNMENT = 8


@dataclass(frozen=True)
class Plan:
    """What a window needs beside the tensors that take gradients.

    Attributes:
        variants: of the layers.
        state: carried in.
        operand: dtype of the products' operands.
        compiled: whether the kernels are fused.
        slope: the paper's a, 0-d.
        noise: uniform (T, B, L-1), for a sampled detector.
        mixtures: bumps of the window over the text; 0 where none is written.
    """

    variants: list[Variant]
    state: NetworkState
    operand: torch.dtype
    compiled: bool
    slope: Tensor
    noise: Tensor | None
    mixtures: int

    def kernels(self, index: int, run: "LayerRun") -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Forward and backward kernel of a layer."""
        if not self.compiled:
            return kernels(self.variants[index], None)
        hidden = tuple(variant.size for variant in self.variants)
        text_width = self.variants[0].below
        shape = Shape(run.x.shape[1], hidden, index, run.x.dtype, run.weight.dtype, run.x.device, text_width)
        return kernels(self.variants[index], shape)

    def noise_of(self, index: int, t: int) -> Tensor | None:
        """Draws of a layer's detector at step t (B,), None where it draws none."""
        return None if self.noise is None or not self.variants[index].detects else self.noise[t, :, index]


@dataclass
class LayerRun:
    """One layer in one window: its weights, the h written last, and everything the way back reads, per step.

    Attributes:
        variant: of the layer.
        weight: (K, N). gain, bias: (N,), as in model.network.cell.Layer.
        x: its operand (T + 1, B, K).
        h: written last (B, H), operand dtype.
        c: (B, H), that of the state carried in and then one for each step. z: (B,) likewise, of a layer that detects.
        outputs: of each step.
    """

    variant: Variant
    weight: Tensor
    gain: Tensor | None
    bias: Tensor
    x: Tensor
    h: Tensor
    c: list[Tensor]
    z: list[Tensor] = field(default_factory=list)
    outputs: list[Outputs] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Views of the operand, made once: what each step reads and where the neighbours write.
        size, above = self.variant.size, self.variant.above
        self.rows = self.x.unbind(0)
        self.own = self.x[:, :, :size].unbind(0)
        self.above = self.x[:, :, size : size + above].unbind(0) if above else ()
        self.below = self.x[:, :, size + above :].unbind(0) if self.variant.below else ()

    @classmethod
    def start(cls, plan: Plan, index: int, parameters: tuple[Tensor, ...], steps: int) -> "LayerRun":
        """A layer before its first step.

        Args:
            plan: of the window.
            index: of the layer, from 0.
            parameters: weight, gain and bias of every layer in turn.
            steps: T.
        """
        weight, gain, bias = parameters[3 * index : 3 * index + 3]
        variant, state, operand = plan.variants[index], plan.state.layers[index], plan.operand
        x = torch.empty(steps + 1, state.h.shape[0], weight.shape[0], dtype=operand, device=weight.device)
        x[0, :, : variant.size] = state.h
        run = cls(variant, weight, gain, bias, x, state.h.to(operand), [state.c])
        if variant.detects:
            run.z.append(state.z)
        return run

    def text_vector(self, t: int) -> Tensor | None:
        """What layer 1 read of the text at the step before step t (B, E), None elsewhere."""
        return self.below[t] if self.variant.bottom and self.below else None

    def flush(self, t: int) -> Tensor | None:
        """z of the step before step t (B,), None where it is always 0."""
        return self.z[t] if self.variant.detects else None


def _z_below(runs: list[LayerRun], index: int, t: int) -> Tensor | None:
    """Boundary of the layer below at step t (B,), None where the layer is never blocked."""
    return runs[index - 1].z[t + 1] if index and runs[index].variant.gated else None


class ForwardSteps:
    """One layer going forward: its product, its kernel, and h written to where it will be read.

    Args:
        plan: of the window.
        runs: of all layers.
        index: of this one, from 0.
    """

    def __init__(self, plan: Plan, runs: list[LayerRun], index: int) -> None:
        self.plan = plan
        self.runs = runs
        self.index = index
        self.run = runs[index]
        variant = self.run.variant
        self.kernel = plan.kernels(index, self.run)[0]
        gates = self.run.weight.detach()[:, : 4 * variant.size]
        self.product = prepare(gates.to(plan.operand).contiguous(), self.run.x.shape[1])
        detector = self.run.weight.detach()[:, -1].contiguous() if variant.detects else None
        self.parameters = Parameters(detector, self.run.gain, self.run.bias)

    def step(self, t: int, source: Tensor) -> None:
        """Compute step t; `source` (B, N) is the embedded input's share of s, which layer 1 adds."""
        run, runs, index = self.run, self.runs, self.index
        upper = runs[index + 1] if index + 1 < len(runs) else None
        lower = runs[index - 1] if index else None
        inputs = Inputs(
            s=self.product(run.rows[t]),
            h_prev=run.h,
            h_above=upper.h if upper is not None and run.variant.detects else None,
            h_below=lower.h if lower is not None else run.text_vector(t),
            source=source if index == 0 else None,
            c_prev=run.c[t],
            flush=run.flush(t),
            z_below=_z_below(runs, index, t),
            noise=self.plan.noise_of(index, t),
        )
        destinations = Destinations(
            own=run.own[t + 1],
            up=None if upper is None else upper.below[t],
            down=lower.above[t + 1] if lower is not None and lower.variant.detects else None,
        )
        found = Outputs(*self.kernel(*inputs, *self.parameters, *destinations, self.plan.slope))
        run.h = found.h
        run.c.append(found.c)
        # The way back reads h from the operand that it was written to, so that no other copy has to be kept.
        run.outputs.append(found._replace(h=run.own[t + 1]))
        if found.z is not None:
            run.z.append(found.z)


class BackwardSteps:
    """One layer going backward, from the last step to the first.

    Args:
        plan: of the window.
        runs: of all layers, after their last step.
        index: of this one, from 0.
        d_out: gradient by h at each step, from the output module (B, H).
    """

    def __init__(self, plan: Plan, runs: list[LayerRun], index: int, d_out: tuple[Tensor, ...]) -> None:
        self.plan = plan
        self.runs = runs
        self.index = index
        self.run = runs[index]
        self.d_out = d_out
        run, variant = self.run, self.run.variant
        self.kernel = plan.kernels(index, run)[1]
        self.columns = run.weight.shape[1]
        padding = -self.columns % ALIGNMENT
        weight = torch.nn.functional.pad(run.weight.detach(), (0, padding))
        steps, batch = run.x.shape[0] - 1, run.x.shape[1]
        self.product = prepare(weight.t().to(plan.operand).contiguous(), batch)
        self.d_s = torch.empty(steps, batch, self.columns + padding, dtype=run.x.dtype, device=run.x.device)
        self.d_s[:, :, self.columns :] = 0
        self.d_s_rows = self.d_s.unbind(0)
        self.d_s_written = self.d_s[:, :, : self.columns].unbind(0)
        # By the operand of the step last visited: the next one while a kernel runs, then this one.
        self._split(torch.zeros_like(run.rows[0]))
        self.passed = Leaving(
            gain=None if run.gain is None else torch.zeros_like(run.gain),
            bias=torch.zeros_like(run.bias),
            c=torch.zeros_like(run.c[0]),
            carry=torch.zeros_like(run.c[0]),
            z_prev=torch.zeros_like(run.c[0][:, 0]) if variant.detects else None,
            z_below=None,
        )
        self.busy = _busy_rows(runs, index)
        self.d_x = torch.empty_like(run.rows[0]) if self.busy else None

    def step(self, t: int, d_out: Tensor, layers: list["BackwardSteps"]) -> None:
        """Compute step t on the way back, after the layers above; `d_out` (B, H) comes from the output module."""
        run, runs, index, later = self.run, self.runs, self.index, self.passed
        upper = layers[index + 1] if index + 1 < len(layers) else None
        lower = layers[index - 1] if index and runs[index - 1].variant.detects else None
        detects, now = run.variant.detects, run.outputs[t]
        arriving = Arriving(
            out=d_out,
            own=self.d_own,
            carry=later.carry,
            from_above=None if upper is None else upper.d_below,
            from_below=None if lower is None else lower.d_above,
            c=later.c,
            z=later.z_prev,
            z_above=None if upper is None else upper.passed.z_below,
            td=self.d_above if detects else None,
            gain=later.gain,
            bias=later.bias,
        )
        saved = Saved(
            h_above=runs[index + 1].own[t + 1] if detects else None,
            h=now.h,
            h_prev=run.own[t],
            c_prev=run.c[t],
            flush=run.flush(t),
            z_below=_z_below(runs, index, t),
            noise=self.plan.noise_of(index, t),
            c=now.c,
            gates=now.gates,
            normal=now.normal,
            rstd=now.rstd,
            q_hat=now.q_hat,
            q=now.q,
            z=now.z,
        )
        self.passed = Leaving(*self.kernel(*arriving, *saved, run.gain, self.plan.slope, self.d_s_written[t]))
        self._split(self._product(t))

    def gradients(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """By weight, gain and bias; the weight's as one product over all steps and rows."""
        x, d_s = self.run.x[:-1].flatten(0, 1), self.d_s.flatten(0, 1)
        if self.busy is not None:
            x, d_s = x.index_select(0, self.busy.of_window), d_s.index_select(0, self.busy.of_window)
        # This way round the odd width is a number of rows: 1.5 times as fast on a CPU as x.t() @ d_s.
        d_weight = (d_s.t() @ x)[: self.columns].t().to(self.run.weight.dtype)
        return d_weight, self.passed.gain, self.passed.bias

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
        """The gradient by the operand (B, K) as its parts: by own h, by h above and by h below."""
        own, above = self.run.variant.size, self.run.variant.above
        self.d_own = d_x[:, :own]
        self.d_above = d_x[:, own : own + above]
        self.d_below = d_x[:, own + above :]


@dataclass(frozen=True)
class _Busy:
    """The rows of a layer that do not COPY: of each step, and of all T * B rows of the window."""

    of_step: tuple[Tensor, ...]
    of_window: Tensor


def _busy_rows(runs: list[LayerRun], index: int) -> _Busy | None:
    """The rows to multiply on the way back; None where it must be all.

    In a row that COPYs, the gradient by the product is zero to the bit: gates and candidate reach the loss through
    1 - copy alone, and a nested detector through z_below. What is left of such a row, the gradients by z and by the
    copied state, needs no product. Three kinds of layers need all rows: with a soft detector nothing copies wholly; a
    detector that is read on COPYs learns there too; and a captured graph has one shape for all windows.
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
