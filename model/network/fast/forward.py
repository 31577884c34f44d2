"""The forward kernel: what one layer does after its matrix product, at one step (Eqs. 2-9)."""

import torch
from torch import Tensor

from model.network.cell import NORM_EPSILON
from model.network.fast.step import Destinations, Inputs, Outputs, Parameters, Variant, fire, flat, gating, tanh


def forward(
    variant: Variant, inputs: Inputs, parameters: Parameters, slope: Tensor, destinations: Destinations
) -> Outputs:
    """Run one layer for one step, and write h to where it will be read.

    Args:
        variant: of the layer.
        inputs: what it reads at this step.
        parameters: its own.
        slope: the paper's a, 0-d.
        destinations: where to write h.
    """
    size, width = variant.size, 4 * variant.size
    h_prev, c_prev = inputs.h_prev, inputs.c_prev
    dtype, operand = c_prev.dtype, inputs.s.dtype

    # Pre-activations (Eqs. 4-7). The product holds the gates; the detector's column is summed here, in the wide dtype.
    s = inputs.s.to(dtype)
    q = _detector_logit(variant, inputs, parameters.detector)
    if inputs.source is not None:
        s = s + inputs.source[:, :width].to(dtype)
        if q is not None:
            q = q + inputs.source[:, width].to(dtype)

    # LayerNorm: statistics over the gates, applied to the detector too (cell.normalise).
    rstd = q_hat = None
    normal = s
    if parameters.gain is not None:
        mean = s.mean(1, keepdim=True)
        centred = s - mean
        rstd = torch.rsqrt((centred * centred).mean(1) + NORM_EPSILON)
        normal = centred * rstd[:, None]
        s = normal * parameters.gain[:width]
        if q is not None:
            q_hat = (q - mean[:, 0]) * rstd
            q = q_hat * parameters.gain[width]
    s = s + parameters.bias[:width]

    # Gates and candidate (Eq. 4).
    f = torch.sigmoid(s[:, :size])
    i = torch.sigmoid(s[:, size : 2 * size])
    o = torch.sigmoid(s[:, 2 * size : 3 * size])
    g = tanh(s[:, 3 * size :])

    # The new state: COPY, UPDATE or FLUSH as factors (Eqs. 2-3).
    _, update, copy, keep = gating(inputs.flush, inputs.z_below)
    c = (1 - copy) * (i * g) + keep * (f * c_prev) + copy * c_prev
    h = ((1 - copy) * (o * tanh(c)) + copy * h_prev.to(dtype)).to(operand)

    # The boundary (Eqs. 8-9).
    z = None
    if q is not None:
        q = q + parameters.bias[width]
        z = fire(variant, q, slope, inputs.noise)
        if variant.is_nested:
            z = flat(update) * z

    # The boundaries gate h where others will read it.
    destinations.own.copy_(h)
    if destinations.up is not None:
        destinations.up.copy_(h if z is None else z[:, None] * h)
    if destinations.down is not None and inputs.z_below is not None:
        destinations.down.copy_(inputs.z_below[:, None] * h)
    gates = torch.cat([f, i, o, g], 1).to(operand)
    return Outputs(h, c, gates, normal.to(operand), rstd, q_hat, q, z)


def _detector_logit(variant: Variant, inputs: Inputs, weight: Tensor | None) -> Tensor | None:
    """The detector's product (B,): its row of Eqs. 5-7, each boundary multiplied in after the sum."""
    if not variant.detects or weight is None:
        return None
    size, dtype = variant.size, inputs.c_prev.dtype
    q = (inputs.h_prev.to(dtype) * weight[:size]).sum(1)
    if inputs.h_above is not None and inputs.flush is not None:
        from_above = inputs.h_above.to(dtype) * weight[size : size + variant.above]
        q = q + inputs.flush * from_above.sum(1)
    if inputs.h_below is not None:
        from_below = (inputs.h_below.to(dtype) * weight[size + variant.above :]).sum(1)
        q = q + (from_below if inputs.z_below is None else inputs.z_below * from_below)
    return q
