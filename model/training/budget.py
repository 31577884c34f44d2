"""The budget of a training, in minutes of wall clock or in updates, and how much of it is spent."""

import time
from dataclasses import dataclass, field


@dataclass
class Budget:
    """A budget that survives interruptions.

    Attributes:
        minutes: of training time, evaluations included; None where updates count.
        updates: in all; None where minutes count.
        spent_s: seconds spent before this process.
        done: updates done.
    """

    minutes: float | None = None
    updates: int | None = None
    spent_s: float = 0.0
    done: int = 0
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.updates is None):
            msg = "a budget is either minutes or updates"
            raise ValueError(msg)
        if not (self.minutes or self.updates or 0) > 0:
            msg = "a budget must be positive"
            raise ValueError(msg)

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, over all processes."""
        return self.spent_s + time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        share = self.elapsed_s / (self.minutes * 60) if self.minutes else self.done / (self.updates or 1)
        return min(share, 1.0)

    @property
    def remaining_s(self) -> float:
        """Seconds left; for a budget of updates, at the pace so far."""
        if self.minutes:
            return max(self.minutes * 60 - self.elapsed_s, 0.0)
        return self.elapsed_s * (1 - self.progress) / max(self.progress, 1e-9)
