"""A sweep of learning rates: one training for each rate and seed, and further rates while the best is at an edge.

A comparison between networks means something only when each has its own best learning rate. The best of a sweep is
taken on the validation split, as the mean over the seeds. While it is the lowest or the highest rate that was tried,
the sweep goes on by factors of two in that direction.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.config import Preset
from model.training.process import TrainingError

SWEEP = "sweep.json"
FACTOR = 2.0
MAX_EXTENSIONS = 4  # in each direction: beyond a factor of 16 something else is wrong

# Trains one network in a folder and returns the last record of its log; raises TrainingError where it cannot go on.
Train = Callable[[Preset, Path], dict[str, Any]]


@dataclass(frozen=True)
class Point:
    """What one training of a sweep came to.

    Attributes:
        rate: learning rate, the highest of its schedule.
        seed: of the training.
        valid: on the validation split at the end, in `unit`; None where the training could not go on.
        unit: "bits per character" (lower is better) or "nats per step" (higher is better).
        reason: why it could not go on.
    """

    rate: float
    seed: int
    valid: float | None
    unit: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep, by rate and seed."""

    points: tuple[Point, ...]

    @property
    def unit(self) -> str:
        """In what the points are measured."""
        return next((point.unit for point in self.points if point.unit), "")

    @property
    def rates(self) -> list[float]:
        """The rates that were tried, from the lowest up."""
        return sorted({point.rate for point in self.points})

    def mean(self, rate: float) -> float | None:
        """The mean over the seeds at a rate; None where one of them could not go on."""
        found = [point.valid for point in self.points if point.rate == rate]
        return None if None in found else sum(value for value in found if value is not None) / len(found)

    @property
    def best(self) -> float | None:
        """The rate with the best mean; None where no rate has one."""
        means = {rate: mean for rate in self.rates if (mean := self.mean(rate)) is not None}
        if not means:
            return None
        choose = max if self.unit == "nats per step" else min
        return choose(means, key=lambda rate: means[rate])

    @property
    def edge(self) -> int:
        """-1 where the best rate is the lowest that was tried, 1 where it is the highest, 0 between two others."""
        if self.best is None:
            return -1  # nothing went well: lower rates are the ones to try
        return (self.best == self.rates[-1]) - (self.best == self.rates[0])


def run_sweep(
    preset: Preset,
    rates: Sequence[float],
    seeds: Sequence[int],
    out: Path,
    train: Train,
    report: Callable[[Point], None] = lambda _: None,
) -> Sweep:
    """Train at each rate with each seed, then at further rates while the best is at an edge.

    What an interrupted sweep had finished is read from `out` and not trained again.

    Args:
        preset: model and training configuration; its learning rate and seed are replaced, and its final rate is scaled
            with the learning rate.
        rates: to begin with, each positive.
        seeds: of each rate.
        out: folder of sweep.json; each training gets a subfolder.
        train: trains one network.
        report: called with every point.

    Raises:
        ValueError: a rate or seed is missing, repeated or not positive.
    """
    if not rates or not seeds or min(rates) <= 0 or len(set(rates)) < len(rates) or len(set(seeds)) < len(seeds):
        raise ValueError("a sweep needs different positive learning rates and different seeds")
    done = {(point.rate, point.seed): point for point in read_sweep(out).points}

    def run(rate: float) -> None:
        for seed in seeds:
            if (rate, seed) not in done:
                done[rate, seed] = _point(preset, rate, seed, out, train)
                _write(out, done.values())
            report(done[rate, seed])

    def sweep() -> Sweep:
        return Sweep(tuple(done[rate, seed] for rate in sorted(tried) for seed in seeds))

    tried = sorted(rates)
    for rate in list(tried):
        run(rate)
    for _ in range(MAX_EXTENSIONS):
        edge = sweep().edge
        if edge == 0:
            break
        further = _rounded(tried[-1] * FACTOR if edge > 0 else tried[0] / FACTOR)
        tried = sorted([*tried, further])
        run(further)
    return sweep()


def around(rate: float, count: int = 5) -> list[float]:
    """Return `count` rates a factor of two apart with `rate` in the middle."""
    return [_rounded(rate * FACTOR ** (index - count // 2)) for index in range(count)]


def read_sweep(out: Path) -> Sweep:
    """Return what sweep.json in a folder says; an empty sweep where there is none.

    Raises:
        ValueError: it is not such a file.
    """
    path = out / SWEEP
    if not path.exists():
        return Sweep(())
    try:
        return Sweep(tuple(Point(**point) for point in json.loads(path.read_text(encoding="utf-8"))))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold the points of a sweep: {error}") from error


def _point(preset: Preset, rate: float, seed: int, out: Path, train: Train) -> Point:
    scale = rate / preset.train.learning_rate
    config = replace(
        preset.train,
        learning_rate=rate,
        final_learning_rate=preset.train.final_learning_rate * scale,
        seed=seed,
    )
    try:
        record = train(replace(preset, train=config), out / f"rate-{rate:g}-seed-{seed}")
    except TrainingError as error:
        return Point(rate, seed, None, reason=str(error))
    valid = float(record["valid"])
    return Point(rate, seed, valid if math.isfinite(valid) else None, str(record["unit"]))


def _write(out: Path, points: Any) -> None:
    out.mkdir(parents=True, exist_ok=True)
    ordered = sorted(points, key=lambda point: (point.rate, point.seed))
    text = json.dumps([vars(point) for point in ordered], indent=1)
    partial = out / f".{SWEEP}"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(out / SWEEP)


def _rounded(rate: float) -> float:
    """Three digits are enough for a rate, and make folders with readable names."""
    return float(f"{rate:.3g}")
