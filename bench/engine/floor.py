"""The least time a step can take: that of its unavoidable products, or of reading its weights."""

from dataclasses import dataclass

import numpy as np

from bench import machine
from bench.engine.boundaries import Bits
from export.graphs.weights import StepWeights


@dataclass(frozen=True)
class CoreSpeed:
    """What one core can do at best.

    Attributes:
        float32_gmacs, int8_gmacs: multiply-adds per second of large products, in 1e9.
        bandwidth_gb: gigabytes per second, when as many bytes as the weights have are read again and again.
    """

    float32_gmacs: float
    int8_gmacs: float
    bandwidth_gb: float

    @classmethod
    def measure(cls, weight_bytes: int) -> "CoreSpeed":
        """Measure a core of this machine for weights of this size."""
        return cls(machine.float32_rate() / 1e9, machine.int8_rate() / 1e9, machine.read_bandwidth(weight_bytes) / 1e9)


@dataclass(frozen=True)
class Work:
    """The work that a step of an HM-LSTM must do for one item.

    Attributes:
        parts: for each matrix its number of weights, and the share of items that are multiplied by it.
    """

    parts: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, weights: StepWeights, fired: Bits) -> "Work":
        """Return the work that follows from recorded boundaries (T, B, L-1)."""
        # A layer is multiplied where it does not COPY, its top-down part where it FLUSHes; the head always.
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

    def floor_us(self, batch: int, core: CoreSpeed, bytes_per_weight: int) -> float:
        """Return microseconds per item below which one core cannot go.

        It is the larger of two times: that of the products, at the rate of large ones, and that of reading each weight
        which any row of the batch needs once per step, with rows taken as independent.
        """
        rate = core.int8_gmacs if bytes_per_weight == 1 else core.float32_gmacs
        read = sum(size * (1 - (1 - share) ** batch) for size, share in self.parts) * bytes_per_weight
        return max(self.macs / rate, read / core.bandwidth_gb / batch) / 1e3
