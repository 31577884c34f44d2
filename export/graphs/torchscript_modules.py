"""The parts of the TorchScript step: the input table, matrix products, one layer, and the window over a text.

Annotations are what TorchScript can read. Each module says with `__getstate__` how its weights are stored in the file.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from export.graphs.quantisation import Precision, hidden_step, product_scale, quantise
from export.graphs.weights import LayerWeights, WindowWeights
from model.ink import STRIDE
from model.network.attention import NOTHING
from model.network.cell import NORM_EPSILON


class Table(nn.Module):
    """The input's share of s of layer 1: the product of the embedding and layer 1's input weights, multiplied once.

    The file stores the two factors, in float16 if they were rounded to it.

    Attributes:
        value: (V, N) float32, or (3, N) for ink.
    """

    is_half: Final[bool]
    left: Tensor
    right: Tensor
    value: Tensor

    def __init__(self, left: Tensor, right: Tensor, half: bool) -> None:
        super().__init__()
        self.is_half = half
        self.register_buffer("left", left)
        self.register_buffer("right", right)
        self.register_buffer("value", left @ right)

    def forward(self) -> Tensor:
        """Return the table."""
        return self.value

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, Tensor, bool]:
        """Return what the file stores."""
        if self.is_half:
            return self.left.half(), self.right.half(), self.training
        return self.left, self.right, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor, bool]) -> None:
        """Restore the module from what the file stores."""
        self.left = state[0].float()
        self.right = state[1].float()
        self.value = torch.mm(self.left, self.right)
        self.training = state[2]


class Product(nn.Module):
    """Rows times a matrix.

    In int8 the rows, which are values of h, are rounded, and both factors are whole numbers stored as float32. Sums of
    up to 1,000 products of whole numbers up to 63 and 127 stay below 2^24, so float32 adds them without error and in
    any order, as an integer product would.

    Attributes:
        value: (K, N) float32; whole numbers in int8.
        scale: (N,), what a whole number of each column stands for in int8; empty otherwise.
    """

    precision: Final[str]
    step: Final[float]
    value: Tensor
    scale: Tensor

    def __init__(self, matrix: object, precision: Precision) -> None:
        super().__init__()
        values = np.zeros((0, 0), np.float32) if matrix is None else np.asarray(matrix, np.float32)
        self.precision = precision
        self.step = float(hidden_step())
        scale = np.zeros(0, np.float32)
        if precision == "int8" and values.size:
            codes, columns = quantise(values)
            values, scale = codes.astype(np.float32), product_scale(columns)
        self.register_buffer("value", torch.from_numpy(values))
        self.register_buffer("scale", torch.from_numpy(scale))

    def forward(self, h: Tensor) -> Tensor:
        """Return the product (n, columns) of rows (n, K)."""
        if self.precision == "int8":
            return torch.mm(torch.round(h / self.step), self.value) * self.scale
        return torch.mm(h, self.value)

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, Tensor, bool]:
        """Return what the file stores."""
        if self.precision == "int8":
            return self.value.to(torch.int8), self.scale, self.training
        return (self.value.half() if self.precision == "float16" else self.value), self.scale, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor, bool]) -> None:
        """Restore the module from what the file stores."""
        self.value = state[0].float()
        self.scale = state[1]
        self.training = state[2]


class GatedLayer(nn.Module):
    """One layer on a set of rows, none of which COPYs (Eqs. 2-9)."""

    size: Final[int]
    detects: Final[bool]
    normed: Final[bool]
    epsilon: Final[float]
    gain: Tensor
    bias: Tensor

    def __init__(self, weights: LayerWeights, precision: Precision) -> None:
        super().__init__()
        self.size = weights.size
        self.detects = weights.detects
        self.normed = weights.gain is not None
        self.epsilon = NORM_EPSILON
        self.own = Product(weights.own, precision)
        self.above = Product(weights.above, precision)
        self.out = Product(weights.out, precision)
        self.register_buffer("gain", to_tensor(weights.gain))
        self.register_buffer("bias", torch.from_numpy(weights.bias))

    def forward(
        self, own: Tensor, source: Tensor, h_above: Tensor, z_prev: Tensor, c_prev: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return h, c (n, H), z (n,) and e (n, L + O) of n rows.

        Args:
            own: (n, H + H_below), h of the step before beside z_below * h of the layer below.
            source: (n, N), the input's share in layer 1; zeros (1, 1) in the others.
            h_above: (n, H_above), read only where z_prev is 1; any tensor in the top layer.
            z_prev: (n,), own boundary at the step before; zeros in the top layer.
            c_prev: (n, H).
        """
        # s = recurrent + bottom-up, and top-down on the rows that FLUSH (Eqs. 5-7).
        s = self.own(own) + source
        if self.detects:
            flushed = torch.nonzero(z_prev).flatten()
            if flushed.numel() > 0:
                s = s.index_add(0, flushed, self.above(h_above.index_select(0, flushed)))
        # The gates (Eq. 4), then UPDATE or FLUSH (Eqs. 2-3) and the boundary (Eqs. 8-9).
        gates, logit = self.normalise(s)
        f, i, o, g = gates.chunk(4, dim=1)
        kept = torch.sigmoid(f) * c_prev
        if self.detects:
            kept = kept * (1 - z_prev).unsqueeze(1)
        c = torch.sigmoid(i) * torch.tanh(g) + kept
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, c, (logit > 0).to(c.dtype), self.out(h)

    def normalise(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gates' pre-activations (n, 4H) and the detector's logit (n,), 0 where there is none.

        LayerNorm's mean and deviation are taken over the 4H gates; the detector's column is scaled by the same two.
        """
        width = 4 * self.size
        gates = s[:, :width]
        logit = s[:, -1] if self.detects else torch.zeros_like(s[:, 0])
        if not self.normed:
            return gates + self.bias[:width], logit + self.bias[-1] if self.detects else logit
        normal, mean, scale = torch.native_layer_norm(
            gates, [width], self.gain[:width], self.bias[:width], self.epsilon
        )
        if self.detects:
            logit = (logit - mean[:, 0]) * scale[:, 0] * self.gain[-1] + self.bias[-1]
        return normal, logit


class Window(nn.Module):
    """The window over a text (`model/network/attention.py`); its tensors are empty where the network writes none."""

    mixtures: Final[int]
    stride: Final[float]
    nothing: Final[int]
    is_half: Final[bool]
    embedding: Tensor
    neighbours: Tensor
    weight: Tensor
    bias: Tensor
    into: Tensor
    out: Tensor
    hands: Tensor

    def __init__(self, weights: WindowWeights | None, half: bool) -> None:
        super().__init__()
        self.mixtures = 0 if weights is None else weights.mixtures
        self.stride = STRIDE
        self.nothing = NOTHING
        self.is_half = half
        for name in ("embedding", "neighbours", "weight", "bias", "into", "out", "hands"):
            self.register_buffer(name, to_tensor(None if weights is None else getattr(weights, name)))

    def forward(self, h: Tensor, position: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new position (B, K) and the vector read from the text (B, E).

        Args:
            h: of layer 1 at this step (B, H).
            position: of the step before (B, K).
            text: as `read` gave it (B, U, E).
        """
        raw = torch.mm(h, self.weight) + self.bias
        sharpness = nn.functional.softplus(raw[:, self.mixtures : 2 * self.mixtures])
        moved = position + nn.functional.softplus(raw[:, 2 * self.mixtures :]) / self.stride
        edges = torch.arange(text.size(1), dtype=text.dtype, device=text.device) + 0.5
        beyond = torch.sigmoid(sharpness.unsqueeze(2) * (edges - moved.unsqueeze(2)))
        passed = torch.bmm(torch.softmax(raw[:, : self.mixtures], 1).unsqueeze(1), beyond)
        return moved, torch.bmm(passed, text).squeeze(1)

    @torch.jit.export
    def read(self, ids: Tensor) -> Tensor:
        """Return the characters' vectors, each less the next one, (B, U, E), of ids (B, U) that are 0 after the end."""
        there = (ids != self.nothing).unsqueeze(2).to(self.neighbours.dtype)
        own = self.embedding[ids]
        nobody = torch.zeros_like(own[:, :1])
        beside = torch.cat([torch.cat([nobody, own[:, :-1]], 1), own, torch.cat([own[:, 1:], nobody], 1)], 2)
        vectors = (own + torch.matmul(beside, self.neighbours)) * there
        return vectors - torch.cat([vectors[:, 1:], nobody], 1)

    @torch.jit.export
    def __getstate__(self) -> tuple[list[Tensor], bool]:
        """Return what the file stores."""
        kept = [self.embedding, self.neighbours, self.weight, self.bias, self.into, self.out, self.hands]
        if self.is_half:
            kept = [values.half() if values.dim() == 2 else values for values in kept]
        return kept, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[list[Tensor], bool]) -> None:
        """Restore the module from what the file stores."""
        self.embedding = state[0][0].float()
        self.neighbours = state[0][1].float()
        self.weight = state[0][2].float()
        self.bias = state[0][3].float()
        self.into = state[0][4].float()
        self.out = state[0][5].float()
        self.hands = state[0][6].float()
        self.training = state[1]


def to_tensor(values: object) -> Tensor:
    """Return a tensor, empty for None: TorchScript wants every attribute to be one."""
    return torch.empty(0, 0) if values is None else torch.as_tensor(values)
