"""The state of a network: h, c and z of every layer, which the caller carries from step to step."""

from collections.abc import Callable, Iterator
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
class AttentionState:
    """Where a network is in the text that it writes.

    Attributes:
        position: of the window's bumps (B, K), in characters from the first.
        vector: read at this step (B, E), for layer 1's next one.
    """

    position: Tensor
    vector: Tensor


@dataclass(frozen=True)
class NetworkState:
    """The states of all layers, from layer 1 up, and the place in the text where one is written."""

    layers: tuple[LayerState, ...]
    attention: AttentionState | None = None

    @classmethod
    def zeros(
        cls,
        hidden: tuple[int, ...],
        batch: int,
        dtype: torch.dtype,
        device: torch.device,
        attention: tuple[int, int] | None = None,
    ) -> Self:
        """The state before the first step: h = c = 0 and z = 0 in every layer, at the start of the text.

        Args:
            hidden: H of each layer.
            batch, dtype, device: of the tensors.
            attention: (K, E) of a network that writes a given text.
        """
        place = None
        if attention is not None:
            place = AttentionState(*(torch.zeros(batch, width, dtype=dtype, device=device) for width in attention))
        return cls(
            tuple(
                LayerState(
                    torch.zeros(batch, size, dtype=dtype, device=device),
                    torch.zeros(batch, size, dtype=dtype, device=device),
                    torch.zeros(batch, dtype=dtype, device=device),
                )
                for size in hidden
            ),
            place,
        )

    def detach(self) -> Self:
        """The same values without autograd history, as one window passes them to the next."""
        return self._each(Tensor.detach)

    def contiguous(self) -> Self:
        """The same values in contiguous tensors."""
        return self._each(Tensor.contiguous)

    def keep(self, rows: Tensor) -> Self:
        """Zero every row in which `rows` (B,) is False, whatever it held, NaN included."""
        keep = rows[:, None]
        return self._each(lambda x: torch.where(keep if x.ndim > 1 else rows, x, torch.zeros_like(x)))

    def select(self, rows: Tensor) -> Self:
        """The given rows, in that order."""
        return self._each(lambda x: x[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        layers = tuple(LayerState(change(s.h), change(s.c), change(s.z)) for s in self.layers)
        place = self.attention
        moved = None if place is None else AttentionState(change(place.position), change(place.vector))
        return type(self)(layers, moved)

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors: h1, c1, z1, h2, ..., and where a text is written window_position, window_vector."""
        for number, layer in enumerate(self.layers, start=1):
            yield f"h{number}", layer.h
            yield f"c{number}", layer.c
            yield f"z{number}", layer.z
        if self.attention is not None:
            yield "window_position", self.attention.position
            yield "window_vector", self.attention.vector

    @classmethod
    def from_named(cls, tensors: dict[str, Tensor]) -> Self:
        """The inverse of `named`."""
        count = sum(name.startswith("h") for name in tensors)
        place = None
        if "window_position" in tensors:
            place = AttentionState(tensors["window_position"], tensors["window_vector"])
        layers = tuple(LayerState(tensors[f"h{n}"], tensors[f"c{n}"], tensors[f"z{n}"]) for n in range(1, count + 1))
        return cls(layers, place)
