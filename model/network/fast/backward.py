"""The backward kernel: one layer, one step, on the way back.

Derived by hand from the branch-free form of Eqs. 2-9 (cell.py), in which every operation is a factor:

    copy = (1 - flush)(1 - z_below)      keep = (1 - flush) z_below
    c = (1 - copy) i g + keep f c_prev + copy c_prev                        (Eq. 2)
    h = (1 - copy) o tanh(c) + copy h_prev                                  (Eq. 3)
    z = z_below fire(q) if nested, else fire(q)                             (Eqs. 8-9)

A factor has a gradient like any other value, and that is how boundaries learn: by `flush` a gradient goes to z of the
previous step, by `z_below` to z of the layer below.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.network.fast.step import Arriving, Gating, Leaving, Saved, Variant, fire, flat, gating, tanh


def backward(
    variant: Variant, arriving: Arriving, values: Saved, gain: Tensor | None, slope: Tensor, d_s_out: Tensor
) -> Leaving:
    """Run one layer for one step backward.

    Args:
        variant: of the layer.
        arriving: the gradients that reach this step.
        values: of the way forward.
        gain: (N,), None without LayerNorm.
        slope: the paper's a, 0-d.
        d_s_out: where to write the gradient by the product (B, N), operand dtype.
    """
    gates = gating(values.flush, values.z_below)
    d_h, d_fire = _by_h_and_z(variant, arriving, values, gates)
    by_cell = _through_cell(variant, arriving, values, gates, d_h)
    d_q, d_nested = _through_detector(variant, values, gates, slope, d_fire)
    d_s, d_gain, d_bias = _through_norm(variant, values, gain, by_cell.y, d_q)

    # Gradients for the previous step: with respect to its c and h (Eqs. 2-3), and to its z, which is flush here:
    # d copy / d flush = -(1 - z_below), d keep / d flush = -z_below.
    f = values.gates[:, : variant.size].to(values.c.dtype)
    d_c_prev = (gates.keep * f + gates.copy) * by_cell.c
    d_carry_prev = gates.copy * d_h
    d_z_prev = None
    if values.flush is not None:
        d_z_prev = -(flat(1 - gates.update) * by_cell.copy + flat(gates.update) * by_cell.keep)
    # What the layer below is passed by its z: d copy / d z_below = -(1 - flush), d keep / d z_below = 1 - flush.
    d_z_below = None
    if values.z_below is not None:
        d_z_below = flat(gates.stay) * (by_cell.keep - by_cell.copy)
        d_z_below = d_z_below if d_nested is None else d_z_below + d_nested

    d_s_out.copy_(d_s)
    return Leaving(
        gain=None if arriving.gain is None or d_gain is None else arriving.gain + d_gain,
        bias=arriving.bias + d_bias,
        c=d_c_prev,
        carry=d_carry_prev,
        z_prev=d_z_prev,
        z_below=d_z_below,
    )


def _by_h_and_z(variant: Variant, arriving: Arriving, values: Saved, gates: Gating) -> tuple[Tensor, Tensor | None]:
    """The whole gradients by this step's h (B, H) and z (B,); the layer above reads z * h, this one that of above."""
    dtype = values.c.dtype
    d_h = arriving.out.to(dtype) + arriving.own.to(dtype) + arriving.carry
    d_z = None
    if variant.detects and values.z is not None and arriving.z is not None:
        d_z = arriving.z
        if arriving.from_above is not None and arriving.z_above is not None:
            # The product rule for z * h: its gradient times z is that by h, and its dot product with h is that by z.
            from_above = arriving.from_above.to(dtype)
            d_h = d_h + values.z[:, None] * from_above
            d_z = d_z + arriving.z_above + (from_above * values.h.to(dtype)).sum(1)
        if arriving.td is not None and values.h_above is not None:
            d_z = d_z + (arriving.td.to(dtype) * values.h_above.to(dtype)).sum(1)
    elif arriving.from_above is not None:
        d_h = d_h + arriving.from_above.to(dtype)
    if arriving.from_below is not None:
        d_h = d_h + gates.update * arriving.from_below.to(dtype)
    return d_h, d_z


class _ByCell(NamedTuple):
    """Gradients that come out of Eqs. 2-3.

    Attributes:
        c: by c, all of it (B, H).
        copy, keep: by the factors (B,).
        y: by the gates before their nonlinearities (B, 4H).
    """

    c: Tensor
    copy: Tensor
    keep: Tensor
    y: Tensor


def _through_cell(variant: Variant, arriving: Arriving, values: Saved, gates: Gating, d_h: Tensor) -> _ByCell:
    """From the gradient by h through Eq. 3, then by c through Eq. 2, to the gates."""
    size, dtype = variant.size, values.c.dtype
    c_prev, h_prev = values.c_prev, values.h_prev.to(dtype)
    f, i, o, g = (values.gates[:, n * size : (n + 1) * size].to(dtype) for n in range(4))
    _, _, copy, keep = gates

    # Eq. 3: h = (1 - copy) o tanh(c) + copy h_prev.
    squashed = tanh(values.c)
    d_copy = (d_h * (h_prev - o * squashed)).sum(1)
    d_o = (1 - copy) * d_h
    d_c = arriving.c + d_o * o * (1 - squashed * squashed)

    # Eq. 2: c = (1 - copy) i g + keep f c_prev + copy c_prev.
    d_copy = d_copy + (d_c * (c_prev - i * g)).sum(1)
    d_keep = (d_c * f * c_prev).sum(1)
    d_ig = (1 - copy) * d_c

    # The nonlinearities: sigmoid' = x (1 - x), tanh' = 1 - x^2.
    d_y = torch.cat(
        [
            keep * d_c * c_prev * f * (1 - f),
            d_ig * g * i * (1 - i),
            d_o * squashed * o * (1 - o),
            d_ig * i * (1 - g * g),
        ],
        1,
    )
    return _ByCell(d_c, d_copy, d_keep, d_y)


def _through_detector(
    variant: Variant, values: Saved, gates: Gating, slope: Tensor, d_fire: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """From the gradient by z to that by the logit q (B,) and, where boundaries nest, by z_below (B,).

    Straight through (Eq. 9): the step counts as the hard sigmoid, whose slope is a / 2 where |a q| < 1.
    """
    if d_fire is None or values.q is None:
        return None, None
    d_nested = None
    if variant.is_nested:
        d_nested = d_fire * fire(variant, values.q, slope, values.noise)
        d_fire = flat(gates.update) * d_fire
    return torch.where((slope * values.q).abs() < 1, d_fire * (slope / 2), torch.zeros_like(d_fire)), d_nested


def _through_norm(
    variant: Variant, values: Saved, gain: Tensor | None, d_y: Tensor, d_q: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """From the gates' and the detector's gradients through gain, bias and LayerNorm.

    Returns:
        the gradient by the product (B, N), and this step's share of those by gain and by bias (N,).
    """
    width = 4 * variant.size
    # The sums over rows of d_y and d_y * normal are the gradients by bias and gain.
    d_bias, d_gain = d_y.sum(0), None
    d_s, d_s_q = d_y, d_q
    if gain is not None and values.rstd is not None:
        # With x = (s - mean) rstd and d = gain d_y: d_s = rstd (d - sum(d) / 4H - x sum(d x) / 4H). The detector is no
        # part of the statistics, but is normalised by them, so its gradient joins both sums.
        hat = values.normal.to(values.c.dtype)
        d_gain = (d_y * hat).sum(0)
        d_hat = d_y * gain[:width]
        sum_1, sum_2 = d_hat.sum(1), (d_hat * hat).sum(1)
        if d_q is not None and values.q_hat is not None:
            d_q_hat = d_q * gain[width]
            sum_1, sum_2 = sum_1 + d_q_hat, sum_2 + d_q_hat * values.q_hat
            d_s_q = d_q_hat * values.rstd
        d_s = values.rstd[:, None] * (d_hat - sum_1[:, None] / width - hat * (sum_2[:, None] / width))
    if d_s_q is not None:
        d_s = torch.cat([d_s, d_s_q[:, None]], 1)
    # The detector's entry is appended to the sums: that is cheaper than appending its column to (B, N) matrices.
    if d_q is not None:
        d_bias = torch.cat([d_bias, d_q.sum()[None]])
        if d_gain is not None and values.q_hat is not None:
            d_gain = torch.cat([d_gain, (d_q * values.q_hat).sum()[None]])
    return d_s, d_gain, d_bias
