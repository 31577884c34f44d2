"""How much is measured: enough for figures that mean something, or just enough to see that everything runs."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Options:
    """Sizes of a run.

    Attributes:
        hidden: H of the text networks of random weights.
        ink_hidden: H of the ink networks of random weights.
        batches: B, streams stepped together.
        items: characters or points in one turn of our engine.
        turn_s: seconds that a turn of a rival may take; it takes fewer steps if it would take longer.
        rounds: of every comparison.
        rows, steps: of a recording of boundaries.
        load_s: seconds that a load is counted for, after `warm_s`.
        warm_s: seconds before the count begins.
        streams: numbers of streams of the load tests.
        probes: requests whose first item is timed.
        http_streams: streams while the cost of HTTP is measured.
    """

    hidden: int = 512
    ink_hidden: int = 400
    batches: tuple[int, ...] = (1, 8, 64, 256)
    items: int = 16_384
    turn_s: float = 0.2
    rounds: int = 5
    rows: int = 256
    steps: int = 256
    load_s: float = 6.0
    warm_s: float = 1.5
    streams: tuple[int, ...] = (1, 8, 64, 256)
    probes: int = 300
    http_streams: int = 128


FULL = Options()
# Ways to use several cores differ by tens of percent, so fewer rounds do; and there are many ways.
CORES = replace(FULL, items=4096, rounds=3, load_s=3.0, warm_s=1.0)
QUICK = Options(
    hidden=32,
    ink_hidden=24,
    items=256,
    turn_s=0.01,
    rounds=2,
    steps=8,
    load_s=1.0,
    warm_s=0.3,
    streams=(1, 64),
    probes=5,
    http_streams=8,
)
