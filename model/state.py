"""The state of a network: h, c and z of every layer, explicit and carried by the caller."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerState:
    """One layer's state after a step.

    Attributes:
        h: hidden state (B, H).
        c: cell state (B, H).
        z: boundary (B,), 0 or 1 (in [0, 1] with the soft detector); always 0 in the top layer.
    """

    h: Tensor
    c: Tensor
    z: Tensor


@dataclass(frozen=True)
class NetworkState:
    """The states of all layers, from layer 1 up."""

    layers: tuple[LayerState, ...]

    @classmethod
    def zeros(cls, hidden: tuple[int, ...], batch: int, dtype: torch.dtype, device: torch.device) -> Self:
        """The state before the first step: h = c = 0 and z = 0 in every layer."""
        return cls(
            tuple(
                LayerState(
                    torch.zeros(batch, size, dtype=dtype, device=device),
                    torch.zeros(batch, size, dtype=dtype, device=device),
                    torch.zeros(batch, dtype=dtype, device=device),
                )
                for size in hidden
            )
        )

    def detach(self) -> Self:
        """The same values without their history: what a window hands to the next one."""
        return type(self)(tuple(LayerState(s.h.detach(), s.c.detach(), s.z.detach()) for s in self.layers))

    def contiguous(self) -> Self:
        """The same values, each tensor laid out row after row."""
        return type(self)(tuple(LayerState(s.h.contiguous(), s.c.contiguous(), s.z.contiguous()) for s in self.layers))

    def keep(self, rows: Tensor) -> Self:
        """Zero every row in which `rows` (B,) is False, whatever it held, NaN included."""
        keep = rows[:, None]
        return type(self)(
            tuple(
                LayerState(
                    torch.where(keep, s.h, torch.zeros_like(s.h)),
                    torch.where(keep, s.c, torch.zeros_like(s.c)),
                    torch.where(rows, s.z, torch.zeros_like(s.z)),
                )
                for s in self.layers
            )
        )

    def select(self, rows: Tensor) -> Self:
        """The given rows, in that order."""
        return type(self)(tuple(LayerState(s.h[rows], s.c[rows], s.z[rows]) for s in self.layers))

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors: h1, c1, z1, h2, ..."""
        for number, layer in enumerate(self.layers, start=1):
            yield f"h{number}", layer.h
            yield f"c{number}", layer.c
            yield f"z{number}", layer.z

    @classmethod
    def from_named(cls, tensors: dict[str, Tensor]) -> Self:
        """The inverse of `named`."""
        count = sum(name.startswith("h") for name in tensors)
        return cls(tuple(LayerState(tensors[f"h{n}"], tensors[f"c{n}"], tensors[f"z{n}"]) for n in range(1, count + 1)))
