"""Nats to bits per character, boundary rates, and the shares of UPDATE, COPY and FLUSH."""

import math

import torch
from torch import Tensor

from model.network.boundary import has_gradient
from model.training.process import TrainingError

HEALTHY = (0.005, 0.95)  # lowest and highest rate of a boundary that means something
PATIENCE = 8  # evaluations in a row with a collapsed boundary


def bits_per_symbol(nats_per_symbol: float) -> float:
    """Bits per character from nats per character."""
    return nats_per_symbol / math.log(2)


class BoundaryCounts:
    """Running counts over steps and rows, kept on the device until they are read.

    Args:
        detectors: L-1, layers with a detector.
        device: where the windows are.
    """

    def __init__(self, detectors: int, device: torch.device) -> None:
        self._steps = torch.zeros((), dtype=torch.float64, device=device)
        # Rows: boundaries fired; layers above the first that did not COPY; detectors with a gradient.
        self._counts = torch.zeros(3, detectors, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, z: Tensor, logit: Tensor, z_before: Tensor, slope: float | Tensor, weight: Tensor) -> None:
        """Count a window, without waiting for the device.

        Args:
            z, logit: (T, B, L-1). z_before: z carried into the window (B, L-1). slope: the paper's a.
            weight: (T, B), 1 for a real step and 0 for padding.
        """
        previous = torch.cat([z_before[None].to(z.dtype), z[:-1]])
        # Layer l + 1 is active where z of layer l fires now or its own z fired before; the top layer has none.
        own_before = torch.cat([previous[:, :, 1:], torch.zeros_like(previous[:, :, :1])], 2)
        active = torch.maximum(z, own_before)
        live = has_gradient(logit, slope).to(z.dtype)
        weights = weight[:, :, None].to(z.dtype)
        self._steps += weight.sum()
        self._counts += torch.stack([(part * weights).sum((0, 1)) for part in (z, active, live)])

    def named(self) -> dict[str, Tensor]:
        """The sums, by name."""
        return {"counted": self._steps, "counts": self._counts}

    def clear(self) -> None:
        """Set all counts to zero."""
        self._steps.zero_()
        self._counts.zero_()

    def rates(self) -> list[float]:
        """Boundary rate of each layer with a detector, from layer 1 up."""
        return self._shares(0)

    def active_rates(self) -> list[float]:
        """Share of steps on which layers 2, 3, ... were computed."""
        return self._shares(1)

    def live_rates(self) -> list[float]:
        """Share of steps on which each detector could learn: |slope * logit| < 1."""
        return self._shares(2)

    def _shares(self, row: int) -> list[float]:
        return [float(count) for count in self._counts[row] / self._steps.clamp_min(1)]


class BoundaryHealth:
    """Stops a training whose boundaries stay collapsed: always on, or never.

    Args:
        detectors: L-1, layers with a detector.

    Attributes:
        sick: for each of them, the evaluations in a row with a rate outside `HEALTHY`.
    """

    def __init__(self, detectors: int) -> None:
        self.sick = [0] * detectors

    def check(self, rates: list[float]) -> None:
        """Count one evaluation.

        Args:
            rates: of the boundaries, from layer 1 up.

        Raises:
            TrainingError: a boundary was collapsed at `PATIENCE` evaluations in a row.
        """
        for index, rate in enumerate(rates):
            self.sick[index] = 0 if HEALTHY[0] <= rate <= HEALTHY[1] else self.sick[index] + 1
            if self.sick[index] >= PATIENCE:
                raise TrainingError(
                    f"boundary z{index + 1} has collapsed: it fired on {rate:.1%} of steps at {PATIENCE} evaluations "
                    f"in a row (healthy: {HEALTHY[0]:.1%} to {HEALTHY[1]:.0%}). Try another train.seed, "
                    "model.detector_prior=separator, a smaller train.final_slope, or model.layer_norm=true"
                )


def cell_work_share(hidden: tuple[int, ...], z_rates: list[float], active_rates: list[float]) -> float:
    """Multiply-accumulates of the cells that are needed, as a share of computing everything at every step."""
    needed, dense = cell_work(hidden, z_rates, active_rates)
    return needed / dense


def cell_work(hidden: tuple[int, ...], z_rates: list[float], active_rates: list[float]) -> tuple[float, float]:
    """Multiply-accumulates of an HM-LSTM's cells at a step: those that are needed, and all of them.

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
    return needed, dense
