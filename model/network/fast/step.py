"""One layer, one step, as the two pointwise kernels see it: what tells layers apart, and what goes in and out.

Names follow cell.py and Eqs. 2-9 of arXiv 1609.01704v7: `flush` is z of this layer at the previous step, `z_below` is z
of the layer below at this step, q is the detector's logit, and d_x is the gradient of the loss by x. B rows, H units of
this layer, H_above and H_below of its neighbours, and N columns: the four gates [f | i | o | g], then the detector
where there is one. Products and what is saved are in the operand dtype; sums, c, q and z are in the wider dtype of the
weights.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.config import CopyBoundary, Detector


@dataclass(frozen=True)
class Variant:
    """What distinguishes one layer's kernel from another's; the same variant shares its compiled code.

    Attributes:
        size, above, below: H of this layer and of its sources; 0 where there is none. Below layer 1 lies the vector
            read from the text, where there is one.
        bottom: layer 1, whose input arrives as `source` and is never blocked.
        detects: has a boundary detector (and then a layer above, to which the boundary lets h through).
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

    @property
    def is_nested(self) -> bool:
        """Whether z is 0 wherever z below is 0."""
        return self.copy_boundary == "nested" and not self.bottom


class Inputs(NamedTuple):
    """What a layer reads at a step.

    Attributes:
        s: the product of its operand and its weights (B, 4H), operand dtype.
        h_prev, h_above, h_below: own h and h above of the step before, h below of this step, operand dtype, without the
            boundaries as factors. The detector's logit is summed from these in the wide dtype, because rounding a logit
            near 0 would flip z.
        source: the embedded input's share of s (B, N), layer 1 only.
        c_prev: (B, H).
        flush: z of this layer at the previous step (B,); None where it is always 0.
        z_below: (B,); None where it is always 1.
        noise: uniform draws (B,), for a sampled detector.
    """

    s: Tensor
    h_prev: Tensor
    h_above: Tensor | None
    h_below: Tensor | None
    source: Tensor | None
    c_prev: Tensor
    flush: Tensor | None
    z_below: Tensor | None
    noise: Tensor | None


class Parameters(NamedTuple):
    """A layer's parameters, wide dtype.

    Attributes:
        detector: the detector's column of the weights (K,); None without one.
        gain: (N,), None without LayerNorm.
        bias: (N,).
    """

    detector: Tensor | None
    gain: Tensor | None
    bias: Tensor


class Destinations(NamedTuple):
    """Where a step writes h (B, H) to be read by later products, operand dtype; None where nobody reads it.

    Attributes:
        own: h, for this layer's next step.
        up: z * h, for the layer above at this step.
        down: z_below * h, for the layer below at the next step.
    """

    own: Tensor
    up: Tensor | None
    down: Tensor | None


class Outputs(NamedTuple):
    """What a step gives: the layer's new state, and what the way back needs beside it.

    Attributes:
        h: (B, H), operand dtype.
        c: (B, H).
        gates: [f i o g] (B, 4H), operand dtype.
        normal: s, normalised but without gain and bias (B, 4H), operand dtype.
        rstd: 1 / standard deviation of s (B,); None without LayerNorm.
        q_hat: the detector's logit, normalised but without gain and bias (B,); None without LayerNorm or a detector.
        q: the detector's logit (B,), z: the boundary (B,); None without a detector.
    """

    h: Tensor
    c: Tensor
    gates: Tensor
    normal: Tensor
    rstd: Tensor | None
    q_hat: Tensor | None
    q: Tensor | None
    z: Tensor | None


class Arriving(NamedTuple):
    """The gradients that reach a step on the way back.

    Attributes:
        out: by h, from the output module (B, H).
        own, carry: by h, from this layer's next step, through its product and through COPY (B, H).
        from_above: through the product of the layer above at this step, not yet multiplied by z (B, H).
        from_below: through the product of the layer below at the next step, not yet multiplied by z_below (B, H).
        c: by c, from the next step (B, H).
        z: by z, from the next step's choice of operation (B,).
        z_above: by z, from the choice of operation of the layer above at this step (B,).
        td: by z * h above in the next step's operand (B, H_above).
        gain, bias: (N,), the sums over later steps.
    """

    out: Tensor
    own: Tensor
    carry: Tensor
    from_above: Tensor | None
    from_below: Tensor | None
    c: Tensor
    z: Tensor | None
    z_above: Tensor | None
    td: Tensor | None
    gain: Tensor | None
    bias: Tensor


class Saved(NamedTuple):
    """The values of the way forward that the way back reads.

    Attributes:
        h_above: h of the layer above at this step (B, H_above), which `Arriving.td` belongs to.
        h, h_prev: own h of this step and of the step before, operand dtype.
        c_prev, flush, z_below, noise: as in `Inputs`.
        c, gates, normal, rstd, q_hat, q, z: as in `Outputs`.
    """

    h_above: Tensor | None
    h: Tensor
    h_prev: Tensor
    c_prev: Tensor
    flush: Tensor | None
    z_below: Tensor | None
    noise: Tensor | None
    c: Tensor
    gates: Tensor
    normal: Tensor
    rstd: Tensor | None
    q_hat: Tensor | None
    q: Tensor | None
    z: Tensor | None


class Leaving(NamedTuple):
    """The gradients that a step passes on.

    Attributes:
        gain, bias: the sums with this step added (N,).
        c, carry: for the previous step: by c, and by h through COPY (B, H).
        z_prev: for the previous step: by z, through `flush` (B,).
        z_below: for the layer below at this step: by its z (B,).
    """

    gain: Tensor | None
    bias: Tensor
    c: Tensor
    carry: Tensor
    z_prev: Tensor | None
    z_below: Tensor | None


class Gating(NamedTuple):
    """Which operation each row takes, as factors: columns (B, 1), or plain numbers where the variant fixes them.

    Attributes:
        stay: 1 - flush.
        update: z_below.
        copy: 1 where the row COPYs.
        keep: 1 where the row UPDATEs. What is left, FLUSH, is 1 - copy - keep.
    """

    stay: Any
    update: Any
    copy: Any
    keep: Any


def gating(flush: Tensor | None, z_below: Tensor | None) -> Gating:
    """The operations of all rows, without a branch (Eq. 2)."""
    stay: Any = 1.0 if flush is None else 1 - flush[:, None]
    update: Any = 1.0 if z_below is None else z_below[:, None]
    return Gating(stay, update, stay * (1 - update), stay * update)


def flat(column: Any) -> Any:
    """A column (B, 1) as (B,); a plain number as it is."""
    return column if isinstance(column, float) else column[:, 0]


def fire(variant: Variant, q: Tensor, slope: Tensor, noise: Tensor | None) -> Tensor:
    """The detector's decision before nesting, as boundary.py makes it (Eqs. 8-9)."""
    if variant.detector == "step":
        return (q > 0).to(q.dtype)
    probability = ((slope * q + 1) / 2).clamp(0, 1)
    if variant.detector == "soft" or noise is None:
        return probability
    return (noise < probability).to(q.dtype)


def tanh(x: Tensor) -> Tensor:
    """tanh by the sigmoid: one exponential; compiled for a CPU, torch.tanh costs more than twice as much.

    Its error is absolute, about 1e-7 in float32, where torch.tanh's is relative: it shows only where h is tiny.
    """
    return 2 * torch.sigmoid(2 * x) - 1
