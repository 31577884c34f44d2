"""The window over a text, fast: its two kernels, and its run beside layer 1 through a window of time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from model.ink import STRIDE
from model.network.attention import edges
from model.network.fast.fuse import fused
from model.network.state import AttentionState


def make_forward(mixtures: int) -> Callable[..., Any]:
    """The forward kernel; see the inner function for its arguments."""

    def forward(
        h: Tensor, weight: Tensor, bias: Tensor, position: Tensor, differences: Tensor, out: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of the window, as `Attention.step`.

        Args:
            h: (B, H), operand dtype.
            weight, bias, position, differences: as above, accumulator dtype: positions add up over a whole line.
            out: where to write the vector for layer 1's next step (B, E), operand dtype.

        Returns:
            the new position (B, K), the pre-activations (B, 3K) and F at the right edges (B, U).
        """
        raw = h.to(weight.dtype) @ weight + bias
        position = position + softplus(raw[:, 2 * mixtures :]) / STRIDE
        sharpness = softplus(raw[:, mixtures : 2 * mixtures])
        beyond = torch.sigmoid(sharpness[:, :, None] * (edges(differences) - position[:, :, None]))
        passed = (torch.softmax(raw[:, :mixtures], 1)[:, :, None] * beyond).sum(1)
        out.copy_((passed[:, :, None] * differences).sum(1))
        return position, raw, passed

    return forward


def make_backward(mixtures: int) -> Callable[..., Any]:
    """The backward kernel; see the inner function for its arguments."""

    def backward(
        d_out: Tensor,
        d_next: Tensor,
        d_read: Tensor,
        d_position: Tensor,
        position: Tensor,
        raw: Tensor,
        weight: Tensor,
        differences: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step of the window, backward.

        Args:
            d_out: by h of layer 1, from the output module (B, H).
            d_next: by the vector, from layer 1's next step (B, E). d_read: from the output module (B, E).
            d_position: by the new position, from the next step (B, K).
            position, raw: as the forward kernel gave them. weight, differences: as it took them.

        Returns:
            the gradients by h of layer 1 (with `d_out`), by the position before, by the pre-activations and by the
            vector; accumulator dtype.
        """
        dtype = weight.dtype
        d_vector = d_next.to(dtype) + d_read.to(dtype)
        d_passed = (d_vector[:, None] * differences).sum(2)
        share = torch.softmax(raw[:, :mixtures], 1)
        sharpness = softplus(raw[:, mixtures : 2 * mixtures])
        ahead = edges(differences) - position[:, :, None]
        beyond = torch.sigmoid(sharpness[:, :, None] * ahead)
        d_share = (d_passed[:, None] * beyond).sum(2)
        d_inner = share[:, :, None] * d_passed[:, None] * beyond * (1 - beyond)
        d_sharpness = (d_inner * ahead).sum(2)
        d_position = d_position - sharpness * d_inner.sum(2)
        d_raw = torch.cat(
            [
                share * (d_share - (share * d_share).sum(1, keepdim=True)),
                d_sharpness * torch.sigmoid(raw[:, mixtures : 2 * mixtures]),
                d_position * torch.sigmoid(raw[:, 2 * mixtures :]) / STRIDE,
            ],
            1,
        )
        return d_out.to(dtype) + d_raw @ weight.t(), d_position, d_raw, d_vector

    return backward


@dataclass(frozen=True)
class Shape:
    """What a compiled kernel is made for: every size, dtype and the device, so that it needs no guards."""

    batch: int
    hidden: int
    row: int
    characters: int
    width: int
    operand: torch.dtype
    wide: torch.dtype
    device: torch.device


@cache
def kernels(mixtures: int, shape: Shape | None) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and backward kernel: plain, or compiled for a shape."""
    forward, backward = make_forward(mixtures), make_backward(mixtures)
    return (forward, backward) if shape is None else (fused(forward, shape.device), fused(backward, shape.device))


class AttentionRun:
    """The window over one window of time: all steps forward, then all back, beside layer 1 (window.py).

    Args:
        mixtures: K.
        weight, bias: the parameters, without history.
        differences: (B, U, E), without history.
        state: carried in.
        x: layer 1's operand (T + 1, B, row); its last E columns hold the vectors read.
        hidden: H of layer 1.
        fused: compile the kernels.
    """

    def __init__(
        self,
        mixtures: int,
        weight: Tensor,
        bias: Tensor,
        differences: Tensor,
        state: AttentionState,
        x: Tensor,
        hidden: int,
        *,
        fused: bool,
    ) -> None:
        shape = None
        if fused:
            characters, width = differences.shape[1:]
            shape = Shape(x.shape[1], hidden, x.shape[2], characters, width, x.dtype, weight.dtype, x.device)
        self.forward_kernel, self.backward_kernel = kernels(mixtures, shape)
        self.weight = weight
        self.bias = bias
        self.differences = differences
        x[0, :, -differences.shape[2] :] = state.vector
        self.vectors = x[:, :, -differences.shape[2] :]
        self.vector_rows = self.vectors.unbind(0)
        self.h = x[1:, :, :hidden]
        self.position = [state.position]
        self.raw: list[Tensor] = []
        self.passed: list[Tensor] = []

    def forward(self, t: int, h: Tensor) -> None:
        """Read the text at step t, for layer 1's step t + 1."""
        position, raw, passed = self.forward_kernel(
            h, self.weight, self.bias, self.position[t], self.differences, self.vector_rows[t + 1]
        )
        self.position.append(position)
        self.raw.append(raw)
        self.passed.append(passed)

    def begin_backward(self, d_read: Tensor) -> None:
        """Start from the output module's gradient by the vectors (T, B, E)."""
        self.d_read = d_read.unbind(0)
        self.d_position = torch.zeros_like(self.position[0])
        self.d_raw: list[Tensor] = [self.d_position] * len(self.raw)
        self.d_vector: list[Tensor] = [self.d_position] * len(self.raw)

    def backward(self, t: int, d_out: Tensor, d_next: Tensor) -> Tensor:
        """Gradient by h of layer 1 at step t (B, H): the output module's `d_out` and what came through the window."""
        d_h: Tensor
        d_h, self.d_position, self.d_raw[t], self.d_vector[t] = self.backward_kernel(
            d_out,
            d_next,
            self.d_read[t],
            self.d_position,
            self.position[t + 1],
            self.raw[t],
            self.weight,
            self.differences,
        )
        return d_h

    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """By differences, weight and bias; each as one product over all steps."""
        d_raw = torch.stack(self.d_raw).flatten(0, 1)
        d_weight = self.h.flatten(0, 1).to(d_raw.dtype).t() @ d_raw
        passed, d_vector = torch.stack(self.passed, 2), torch.stack(self.d_vector, 1)
        return torch.bmm(passed, d_vector), d_weight, d_raw.sum(0)
