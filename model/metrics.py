"""Nats to bits per character, boundary rates, and the shares of UPDATE, COPY and FLUSH."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.boundary import has_gradient


def bits_per_symbol(nats_per_symbol: float) -> float:
    """Bits per character from nats per character."""
    return nats_per_symbol / math.log(2)


@dataclass
class BoundaryCounts:
    """Running counts over steps and rows, weighted by which targets are real.

    Attributes:
        steps: real steps seen.
        fired: boundaries of each layer with a detector.
        active: steps on which each layer above the first did not COPY (UPDATE or FLUSH).
        live: steps on which each detector had a gradient, |slope * logit| < 1.
    """

    steps: float = 0.0
    fired: list[float] = field(default_factory=list)
    active: list[float] = field(default_factory=list)
    live: list[float] = field(default_factory=list)

    def add(self, z: Tensor, logit: Tensor, z_before: Tensor, slope: float, weight: Tensor | None = None) -> None:
        """Count a window.

        Args:
            z, logit: (T, B, L-1). z_before: z carried into the window (B, L-1). weight: (T, B), 0 for padding.
        """
        if z.shape[2] == 0:
            return
        weight = torch.ones_like(z[:, :, 0]) if weight is None else weight
        previous = torch.cat([z_before[None].to(z.dtype), z[:-1]])
        # Layer l + 1 is active where z of layer l fires now or its own z fired before; the top layer has none.
        own_before = torch.cat([previous[:, :, 1:], torch.zeros_like(previous[:, :, :1])], 2)
        active = torch.maximum(z, own_before)
        weights = weight[:, :, None].to(z.dtype)
        self.steps += float(weight.sum())
        self.fired = _add(self.fired, (z * weights).sum((0, 1)))
        self.active = _add(self.active, (active * weights).sum((0, 1)))
        self.live = _add(self.live, (has_gradient(logit, slope) * weights).sum((0, 1)))

    def rates(self) -> list[float]:
        """Boundary rate of each layer with a detector, from layer 1 up."""
        return [count / max(self.steps, 1) for count in self.fired]

    def active_rates(self) -> list[float]:
        """Share of steps on which layers 2, 3, ... were computed."""
        return [count / max(self.steps, 1) for count in self.active]

    def live_rates(self) -> list[float]:
        """Share of steps on which each detector could learn."""
        return [count / max(self.steps, 1) for count in self.live]


def cell_work_share(hidden: tuple[int, ...], z_rates: list[float], active_rates: list[float]) -> float:
    """Multiply-accumulates of the cells that are needed, as a share of computing everything at every step.

    Layer 1's own recurrence is always needed; a top-down product only where z fired before; an upper layer's recurrence
    where it is active, and its bottom-up product where z below fires. Layer 1's input is a table row and costs nothing.
    """
    needed = dense = 0.0
    for index, size in enumerate(hidden):
        columns = 4 * size + (index < len(hidden) - 1)
        active = active_rates[index - 1] if index else 1.0
        parts = [(size, active)]
        if index < len(hidden) - 1:
            parts.append((hidden[index + 1], z_rates[index]))
        if index:
            parts.append((hidden[index - 1], z_rates[index - 1]))
        needed += sum(rows * columns * share for rows, share in parts)
        dense += sum(rows * columns for rows, _ in parts)
    return needed / dense


def _add(counts: list[float], more: Tensor) -> list[float]:
    values = [float(value) for value in more]
    return [a + b for a, b in zip(counts or [0.0] * len(values), values, strict=True)]
