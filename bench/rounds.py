"""Comparing speeds on a machine that is never quite quiet: turn and turn about, and ratios within a round.

Candidates take turns in every round, so that whatever slows the machine down slows all of them. A ratio is taken
between neighbours in one round, and the median of those ratios is told, not the ratio of two medians.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Turn = Callable[[], int]


@dataclass(frozen=True)
class Speeds:
    """What candidates needed.

    Attributes:
        seconds: per item, by candidate, one figure for each round.
    """

    seconds: Mapping[str, list[float]]

    def per_item_us(self, name: str) -> float:
        """Median microseconds per item."""
        return 1e6 * statistics.median(self.seconds[name])

    def per_second(self, name: str) -> float:
        """Items per second at the median."""
        return 1 / statistics.median(self.seconds[name])

    def ratio(self, name: str, rival: str) -> float:
        """How many times faster one is than another: the median over rounds."""
        pairs = zip(self.seconds[name], self.seconds[rival], strict=True)
        return statistics.median(theirs / mine for mine, theirs in pairs)

    def fastest(self, *names: str) -> str:
        """The candidate of these with the lowest median."""
        return min(names, key=self.per_item_us)


def interleave(candidates: Mapping[str, Turn], rounds: int, clock: Callable[[], float] = time.thread_time) -> Speeds:
    """Let candidates take turns.

    Args:
        candidates: each does a piece of work and returns how many items that were.
        rounds: R, after one that warms up and is forgotten.
        clock: seconds; by default those this thread had a core, so that a busy neighbour costs caches only.
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
