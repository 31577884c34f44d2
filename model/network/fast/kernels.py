"""The two pointwise kernels of a window: what one layer does after its matrix product, forward and backward.

Each is a pure sequence of elementwise operations and row sums, written once in plain torch and, on request, compiled
into one fused kernel. The products themselves stay with `torch.mm` (window.py). The backward is derived by hand
from Eqs. 2-9 in their branch-free form (cell.py); names follow it: d_x is the loss's gradient by x.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.config import CopyBoundary, Detector
from model.network.cell import NORM_EPSILON
from model.network.fast.fuse import fused


@dataclass(frozen=True)
class Variant:
    """What distinguishes one layer's kernel from another's; the same variant shares its compiled code.

    Attributes:
        size, above, below: H of this layer and of its sources; 0 where there is none. Below layer 1 lies the vector
            read from the text, where there is one.
        bottom: layer 1, whose input arrives as `source` and is never blocked.
        detects: has a boundary detector (and then a layer above that it lets through).
        gated: belongs to an HM-LSTM; the LSTM control updates at every step.
        layer_norm, copy_boundary, detector: as in ModelConfig.
    """

    size: int
    above: int
    below: int
    bottom: bool
    detects: bool
    gated: bool
    layer_norm: bool
    copy_boundary: CopyBoundary
    detector: Detector


def _fire(variant: Variant, q: Tensor, slope: Tensor, noise: Tensor | None) -> Tensor:
    if variant.detector == "step":
        return (q > 0).to(q.dtype)
    probability = ((slope * q + 1) / 2).clamp(0, 1)
    if variant.detector == "soft" or noise is None:
        return probability
    return (noise < probability).to(q.dtype)


def _gating(flush: Tensor | None, z_below: Tensor | None) -> tuple[Any, Any, Any, Any]:
    """(1 - flush, update, copy, keep): columns (B, 1), or plain numbers where the variant fixes them."""
    stay: Any = 1.0 if flush is None else 1 - flush[:, None]
    update: Any = 1.0 if z_below is None else z_below[:, None]
    return stay, update, stay * (1 - update), stay * update


def _tanh(x: Tensor) -> Tensor:
    """tanh by the sigmoid: one exponential; compiled for a CPU, torch.tanh costs more than twice as much.

    Its error is absolute, about 1e-7 in float32, where torch.tanh's is relative: it shows only where h is tiny.
    """
    return 2 * torch.sigmoid(2 * x) - 1


def _row(column: Any) -> Any:
    return column if isinstance(column, float) else column[:, 0]


def make_forward(variant: Variant) -> Callable[..., Any]:
    """The forward kernel of a variant; see the inner function for its arguments."""
    size, width = variant.size, 4 * variant.size

    def forward(
        s: Tensor,
        h_prev: Tensor,
        h_above: Tensor | None,
        h_below: Tensor | None,
        source: Tensor | None,
        detector_weight: Tensor | None,
        gain: Tensor | None,
        bias: Tensor,
        c_prev: Tensor,
        flush: Tensor | None,
        z_below: Tensor | None,
        slope: Tensor,
        noise: Tensor | None,
        own_out: Tensor,
        up_out: Tensor | None,
        down_out: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """One layer, one step.

        Args:
            s: the product (B, 4H), operand dtype.
            h_prev, h_above, h_below: own h and h above of the step before, h below of this step, operand dtype, not
                gated. The detector's logit is taken from them in the accumulator's dtype, since a rounded logit near 0
                would flip z.
            source: the embedded input's share (B, N), layer 1 only.
            detector_weight: (K,), accumulator dtype. gain, bias: (N,). c_prev: (B, H).
            flush: z of this layer at the previous step (B,); None where it is always 0.
            z_below: (B,); None where it is always 1.
            slope: 0-d. noise: (B,) for a sampled detector.
            own_out, up_out, down_out: where to write h for this layer's next step, z * h for the layer above and
                z_below * h for the layer below (B, H) each; None where nobody reads.

        Returns:
            h (operand dtype), c, the gates [f i o g] and the normalised s (both (B, 4H) operand dtype, for the
            backward), 1/std (B,), the detector's normalised input, its logit and z (B,).
        """
        dtype, operand = c_prev.dtype, s.dtype
        wide = s.to(dtype)
        q = None
        if variant.detects and detector_weight is not None:
            q = (h_prev.to(dtype) * detector_weight[:size]).sum(1)
            if h_above is not None and flush is not None:
                from_above = h_above.to(dtype) * detector_weight[size : size + variant.above]
                q = q + flush * from_above.sum(1)
            if h_below is not None:
                from_below = (h_below.to(dtype) * detector_weight[size + variant.above :]).sum(1)
                q = q + (from_below if z_below is None else z_below * from_below)
        if source is not None:
            wide = wide + source[:, :width].to(dtype)
            if q is not None:
                q = q + source[:, width].to(dtype)
        rstd = q_hat = None
        normal = wide
        if gain is not None:
            mean = wide.mean(1, keepdim=True)
            centred = wide - mean
            rstd = torch.rsqrt((centred * centred).mean(1) + NORM_EPSILON)
            normal = centred * rstd[:, None]
            wide = normal * gain[:width]
            if q is not None:
                q_hat = (q - mean[:, 0]) * rstd
                q = q_hat * gain[width]
        wide = wide + bias[:width]
        f = torch.sigmoid(wide[:, :size])
        i = torch.sigmoid(wide[:, size : 2 * size])
        o = torch.sigmoid(wide[:, 2 * size : 3 * size])
        g = _tanh(wide[:, 3 * size :])

        _, update, copy, keep = _gating(flush, z_below)
        c = (1 - copy) * (i * g) + keep * (f * c_prev) + copy * c_prev
        h = ((1 - copy) * (o * _tanh(c)) + copy * h_prev.to(dtype)).to(operand)
        z = None
        if q is not None:
            q = q + bias[width]
            z = _fire(variant, q, slope, noise)
            if variant.copy_boundary == "nested" and not variant.bottom:
                z = _row(update) * z
        own_out.copy_(h)
        if up_out is not None:
            up_out.copy_(h if z is None else z[:, None] * h)
        if down_out is not None and z_below is not None:
            down_out.copy_(z_below[:, None] * h)
        gates = torch.cat([f, i, o, g], 1).to(operand)
        return h, c, gates, normal.to(operand), rstd, q_hat, q, z

    return forward


def make_backward(variant: Variant) -> Callable[..., Any]:
    """The backward kernel of a variant; see the inner function for its arguments."""
    size, width = variant.size, 4 * variant.size

    def backward(
        d_out: Tensor,
        d_own: Tensor,
        d_carry: Tensor,
        d_from_above: Tensor | None,
        d_from_below: Tensor | None,
        d_c: Tensor,
        d_z: Tensor | None,
        d_z_above: Tensor | None,
        d_td: Tensor | None,
        h_above: Tensor | None,
        h: Tensor,
        h_prev: Tensor,
        c: Tensor,
        c_prev: Tensor,
        gates: Tensor,
        normal: Tensor,
        rstd: Tensor | None,
        q_hat: Tensor | None,
        q: Tensor | None,
        z: Tensor | None,
        flush: Tensor | None,
        z_below: Tensor | None,
        gain: Tensor | None,
        d_gain: Tensor | None,
        d_bias: Tensor,
        slope: Tensor,
        noise: Tensor | None,
        d_s_out: Tensor,
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """One layer, one step, backward.

        Args:
            d_out: from the output module (B, H).
            d_own, d_carry: from this layer's next step, through its product and through COPY (B, H).
            d_from_above: through the product of the layer above at this step, not yet multiplied by z (B, H).
            d_from_below: through the product of the layer below at the next step, not yet multiplied by z_below (B, H).
            d_c: (B, H) from the next step. d_z: (B,) from the next step's choice of operation.
            d_z_above: (B,) from the choice of operation of the layer above at this step.
            d_td: by the gated h above in the next step's operand (B, H_above), with `h_above` itself.
            d_gain, d_bias: (N,), the sums over later steps.
            d_s_out: where to write the gradient by the product (B, N), operand dtype.
            the rest: as the forward kernel took and gave them.

        Returns:
            the two sums with this step added, d_c and d_carry for the previous
            step, d_z for the previous step (by `flush`) and for the layer below at this step (by `z_below`).
        """
        dtype = c.dtype
        stay, update, copy, keep = _gating(flush, z_below)
        wide_h_prev = h_prev.to(dtype)
        f, i, o, g = (gates[:, n * size : (n + 1) * size].to(dtype) for n in range(4))

        d_h = d_out.to(dtype) + d_own.to(dtype) + d_carry
        d_fire = None
        if variant.detects and z is not None and d_z is not None:
            d_fire = d_z
            if d_from_above is not None and d_z_above is not None:
                from_above = d_from_above.to(dtype)
                d_h = d_h + z[:, None] * from_above
                d_fire = d_fire + d_z_above + (from_above * h.to(dtype)).sum(1)
            if d_td is not None and h_above is not None:
                d_fire = d_fire + (d_td.to(dtype) * h_above.to(dtype)).sum(1)
        elif d_from_above is not None:
            d_h = d_h + d_from_above.to(dtype)
        if d_from_below is not None:
            d_h = d_h + update * d_from_below.to(dtype)

        squashed = _tanh(c)
        d_copy = (d_h * (wide_h_prev - o * squashed)).sum(1)
        d_o = (1 - copy) * d_h
        d_c_all = d_c + d_o * o * (1 - squashed * squashed)
        d_copy = d_copy + (d_c_all * (c_prev - i * g)).sum(1)
        d_keep = (d_c_all * f * c_prev).sum(1)
        d_ig = (1 - copy) * d_c_all

        d_q = d_nested = None
        if d_fire is not None and q is not None:
            if variant.copy_boundary == "nested" and not variant.bottom:
                d_nested = d_fire * _fire(variant, q, slope, noise)
                d_fire = _row(update) * d_fire
            d_q = torch.where((slope * q).abs() < 1, d_fire * (slope / 2), torch.zeros_like(d_fire))

        d_y = torch.cat(
            [
                keep * d_c_all * c_prev * f * (1 - f),
                d_ig * g * i * (1 - i),
                d_o * squashed * o * (1 - o),
                d_ig * i * (1 - g * g),
            ],
            1,
        )
        # The sums over rows and steps of d_y and d_y * normal are the gradients by bias and gain.
        d_bias_sum, d_gain_sum = d_y.sum(0), None
        d_s, d_s_q = d_y, d_q
        if gain is not None and rstd is not None:
            hat = normal.to(dtype)
            d_gain_sum = (d_y * hat).sum(0)
            d_hat = d_y * gain[:width]
            sum_1, sum_2 = d_hat.sum(1), (d_hat * hat).sum(1)
            if d_q is not None and q_hat is not None:
                d_q_hat = d_q * gain[width]
                sum_1, sum_2 = sum_1 + d_q_hat, sum_2 + d_q_hat * q_hat
                d_s_q = d_q_hat * rstd
            d_s = rstd[:, None] * (d_hat - sum_1[:, None] / width - hat * (sum_2[:, None] / width))
        if d_s_q is not None:
            d_s = torch.cat([d_s, d_s_q[:, None]], 1)
        # The detector's own column joins the sums only when they are short.
        if d_q is not None:
            d_bias_sum = torch.cat([d_bias_sum, d_q.sum()[None]])
            if d_gain_sum is not None and q_hat is not None:
                d_gain_sum = torch.cat([d_gain_sum, (d_q * q_hat).sum()[None]])
        d_bias_next = d_bias + d_bias_sum
        d_gain_next = None if d_gain is None or d_gain_sum is None else d_gain + d_gain_sum

        d_c_prev = (keep * f + copy) * d_c_all
        d_carry_prev = copy * d_h
        d_z_prev = None if flush is None else -(_row(1 - update) * d_copy + _row(update) * d_keep)
        d_z_below = None
        if z_below is not None:
            d_z_below = _row(stay) * (d_keep - d_copy)
            d_z_below = d_z_below if d_nested is None else d_z_below + d_nested
        d_s_out.copy_(d_s)
        return d_gain_next, d_bias_next, d_c_prev, d_carry_prev, d_z_prev, d_z_below

    return backward


@dataclass(frozen=True)
class Shape:
    """What else a compiled kernel is made for: rows, place in the stack, dtypes, device, width of what is read.

    With the variant it fixes shape, dtype and layout of every argument, so compiled kernels need no guards. The whole
    stack counts: kernels write into the operands of their neighbours, whose rows are as long as *their* sources.
    """

    batch: int
    hidden: tuple[int, ...]
    layer: int
    operand: torch.dtype
    wide: torch.dtype
    device: torch.device
    reading: int


@cache
def kernels(variant: Variant, shape: Shape | None) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and backward kernel of a variant: plain, or for a shape compiled into fused ones."""
    forward, backward = make_forward(variant), make_backward(variant)
    if shape is None:
        return forward, backward
    return fused(forward, shape.device), fused(backward, shape.device)
