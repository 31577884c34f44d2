"""Compare speeds on a machine that is never quite quiet: candidates take turns, and ratios are taken within a round.

Whatever slows the machine down during a round slows all candidates. The result is the median over rounds of the ratio
in a round, not the ratio of two medians.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Turn = Callable[[], int]


@dataclass(frozen=True)
class Speeds:
    """The time that candidates took.

    Attributes:
        seconds: per item, by candidate, one figure for each round.
    """

    seconds: Mapping[str, list[float]]

    def per_item_us(self, name: str) -> float:
        """Return the median microseconds per item."""
        return 1e6 * statistics.median(self.seconds[name])

    def per_second(self, name: str) -> float:
        """Return items per second at the median."""
        return 1 / statistics.median(self.seconds[name])

    def ratio(self, name: str, rival: str) -> float:
        """Return how many times as fast one is as another: the median over rounds."""
        pairs = zip(self.seconds[name], self.seconds[rival], strict=True)
        return statistics.median(theirs / mine for mine, theirs in pairs)

    def fastest(self, *names: str) -> str:
        """Return the candidate with the lowest median among these."""
        return min(names, key=self.per_item_us)


def interleave(candidates: Mapping[str, Turn], rounds: int, clock: Callable[[], float] = time.thread_time) -> Speeds:
    """Let candidates take turns and return their times.

    Args:
        candidates: each does a piece of work and returns the number of items it made.
        rounds: R, after a first one that warms up and is not counted.
        clock: in seconds; by default the processor time of this thread, so that other processes disturb only caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds + 1):
            for name, turn in candidates.items():
                began = clock()
                items = turn()
                seconds[name].append((clock() - began) / items)
    finally:
        gc.enable()
    return Speeds({name: times[1:] for name, times in seconds.items()})
