"""How fast a step could be if nothing but its unavoidable products and the reading of its weights took time."""

from dataclasses import dataclass

import numpy as np

from bench import machine
from bench.traces import Bits
from export.graphs.weights import StepWeights


@dataclass(frozen=True)
class Machine:
    """What one core does at best.

    Attributes:
        float32_gmacs, int8_gmacs: multiply-adds per second of large products, in 1e9.
        bandwidth_gb: gigabytes per second read again and again from as many bytes as the weights take.
    """

    float32_gmacs: float
    int8_gmacs: float
    bandwidth_gb: float

    @classmethod
    def measure(cls, weight_bytes: int) -> "Machine":
        """Measure this machine."""
        return cls(machine.float32_rate() / 1e9, machine.int8_rate() / 1e9, machine.read_bandwidth(weight_bytes) / 1e9)


@dataclass(frozen=True)
class Work:
    """What a gated step must do for one item.

    Attributes:
        parts: for each matrix its number of weights and the share of items that are multiplied with it.
    """

    parts: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, weights: StepWeights, fired: Bits) -> "Work":
        """Read it off a recording (T, B, L-1) of boundaries."""
        parts = [(weights.head.size, 1.0)]
        due = np.ones(fired[1:, :, 0].shape, np.bool_)
        for index, layer in enumerate(weights.layers):
            flushed = fired[:-1, :, index] if layer.detects else np.zeros_like(due)
            works = due | flushed
            parts.append((layer.own.size + layer.out.size, float(works.mean())))
            if layer.above is not None:
                parts.append((layer.above.size, float(flushed.mean())))
                due = fired[1:, :, index]
        return cls(tuple(parts))

    @property
    def macs(self) -> float:
        """Multiply-adds per item."""
        return sum(size * share for size, share in self.parts)

    def floor_us(self, batch: int, machine_: Machine, bytes_per_weight: int) -> float:
        """Return microseconds per item below which one core cannot go.

        The larger of two: the products at the rate of large ones, and reading each weight that any row of the batch
        needs once per step (rows taken as independent).
        """
        rate = machine_.int8_gmacs if bytes_per_weight == 1 else machine_.float32_gmacs
        read = sum(size * (1 - (1 - share) ** batch) for size, share in self.parts) * bytes_per_weight
        return max(self.macs / rate, read / machine_.bandwidth_gb / batch) / 1e3
