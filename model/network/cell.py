"""One layer, one time step, branch-free, with autograd: Eqs. 2-9 of arXiv 1609.01704v7.

Glossary: s pre-activations, f i o g gates, q the detector's logit, `flush` = z of this layer at the previous step,
`z_below` = z of the layer below at this step (1 for layer 1: the input is never blocked).

    operation   flush  z_below   c                h
    COPY          0       0      c_prev           h_prev
    UPDATE        0       1      f*c_prev + i*g   o*tanh(c)
    FLUSH         1      any     i*g              o*tanh(c)

`reference.py` computes the same with branches; `fast/window.py` computes it for a whole window, fast.
"""

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.network.boundary import boundary
from model.network.state import LayerState

NORM_EPSILON = 1e-5

# A detector starts in its linear region, where the straight-through gradient is not 0. At gain 1 most rows are
# saturated from the first step, and layer 2's detector can die before it has learned anything.
DETECTOR_GAIN = 0.2


class Layer(nn.Module):
    """The parameters of one layer.

    Attributes:
        weight: (K, N). Rows: [own h (H) | h above (H_above) | h below (H_below)]; the top layer has none for above;
            below layer 1 lies the vector read from the text at the step before (E), where one is written.
            Columns: gates [f | i | o | g] (4H), then the detector where there is one.
        input: (E, N), layer 1 only: the embedded input's share.
        gain, bias: (N,). Without LayerNorm the gain is absent.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.size = config.hidden[index]
        self.detects = config.has_detector(index)
        self.above = config.hidden[index + 1] if self.detects else 0
        self.below = config.hidden[index - 1] if index else config.character_width * config.writes_text
        columns = 4 * self.size + self.detects
        self.weight = nn.Parameter(torch.empty(self.size + self.above + self.below, columns))
        self.input = nn.Parameter(torch.empty(config.embedding, columns)) if index == 0 else None
        self.gain = nn.Parameter(torch.ones(columns)) if config.layer_norm else None
        self.bias = nn.Parameter(torch.zeros(columns))
        self.reset()

    def reset(self) -> None:
        """Orthogonal H x H blocks for every source and gate, N(0, 1/fan_in) detector columns, forget bias 1."""
        with torch.no_grad():
            for rows in self.weight.split([n for n in (self.size, self.above, self.below) if n]):
                for gate in range(4):
                    nn.init.orthogonal_(rows[:, gate * self.size : (gate + 1) * self.size])
                if self.detects:
                    nn.init.normal_(rows[:, -1], std=rows.shape[0] ** -0.5)
            if self.input is not None:
                nn.init.normal_(self.input, std=self.input.shape[0] ** -0.5)
            self.bias[: self.size] = 1.0
            if self.detects:
                (self.weight if self.gain is None else self.gain)[..., -1] *= DETECTOR_GAIN


def normalise(s: Tensor, layer: Layer) -> Tensor:
    """LayerNorm of pre-activations (B, N): statistics over the 4H gates, applied to the detector column too.

    Because the detector is not part of the statistics, its scale does not move the gates. Because it is normalised by
    them, its threshold stays in proportion to the gates (docs/adr/0003).
    """
    if layer.gain is None:
        return s + layer.bias
    gates = s[:, : 4 * layer.size]
    variance, mean = torch.var_mean(gates, dim=1, unbiased=False, keepdim=True)
    return (s - mean) * torch.rsqrt(variance + NORM_EPSILON) * layer.gain + layer.bias


def cell_step(
    layer: Layer,
    config: ModelConfig,
    source: Tensor | None,
    previous: LayerState,
    h_above: Tensor | None,
    h_below: Tensor | None,
    z_below: Tensor,
    slope: float | Tensor = 1.0,
    noise: Tensor | None = None,
) -> LayerState:
    """Return the layer's state after one step.

    Args:
        layer: the parameters.
        config: what a COPY does to z, and how the detector fires.
        source: the embedded input's share of s (B, N), layer 1 only.
        previous: this layer's state at the previous step.
        h_above: h of the layer above at the previous step (B, H_above); it counts only where previous.z is 1.
        h_below: h of the layer below at this step (B, H_below); it counts only where z_below is 1. For layer 1: the
            vector read from the text at the previous step, or None.
        z_below: (B,), 1 for layer 1.
        slope: the paper's a.
        noise: uniform (B,), for a sampled detector.

    Returns:
        h, c (B, H) and z (B,). Rows that COPY keep the bits of h and c.
    """
    sources = [previous.h]
    if layer.above and h_above is not None:
        sources.append(previous.z[:, None] * h_above)
    if layer.below and h_below is not None:
        sources.append(z_below[:, None] * h_below)
    s = torch.cat(sources, dim=1) @ layer.weight
    if source is not None:
        s = s + source
    s = normalise(s, layer)
    f, i, o = (torch.sigmoid(gate) for gate in s[:, : 3 * layer.size].chunk(3, dim=1))
    g = torch.tanh(s[:, 3 * layer.size : 4 * layer.size])

    flush, update = previous.z[:, None], z_below[:, None]
    copy = (1 - flush) * (1 - update)
    c = (1 - copy) * (i * g) + (1 - flush) * update * (f * previous.c) + copy * previous.c
    h = (1 - copy) * (o * torch.tanh(c)) + copy * previous.h
    if not layer.detects:
        return LayerState(h, c, torch.zeros_like(previous.z))
    z = boundary(s[:, -1], slope, config.detector, noise)
    if config.copy_boundary == "nested":
        z = z_below * z
    return LayerState(h, c, z)
