"""A sweep of learning rates: it finds the best, goes on past an edge, and goes on where it was interrupted."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import Preset
from model.training.process import TrainingError
from model.training.sweep import SWEEP, Point, Sweep, around, read_sweep, run_sweep
from tests.model.corpora import small_preset


def losses(best: float, unit: str = "bits per character") -> Any:
    """A training that comes to a loss with its least at a rate, and notes the presets it was given."""
    seen: list[Preset] = []

    def train(preset: Preset, folder: Path) -> dict[str, Any]:
        assert folder.name == f"rate-{preset.train.learning_rate:g}-seed-{preset.train.seed}"
        seen.append(preset)
        distance = math.log2(preset.train.learning_rate / best) ** 2 + 0.01 * preset.train.seed
        return {"valid": 2 + distance if unit == "bits per character" else 2 - distance, "unit": unit}

    train.seen = seen  # type: ignore[attr-defined]
    return train


@pytest.mark.parametrize("unit", ["bits per character", "nats per step"])
@pytest.mark.parametrize("best", [1e-4, 1e-3, 4e-3, 3.2e-2])
def test_the_best_is_found_between_two_others(tmp_path: Path, best: float, unit: str) -> None:
    """Wherever the best lies near the start, the sweep ends with worse rates on both sides of it."""
    found = run_sweep(small_preset("text"), around(2e-3), (1, 2), tmp_path, losses(best, unit))
    assert found.best is not None
    assert abs(math.log2(found.best / best)) <= 0.5
    assert found.edge == 0
    assert found.rates[0] < found.best < found.rates[-1]


def test_a_rate_that_goes_wrong_is_no_best(tmp_path: Path) -> None:
    """A training that cannot go on leaves a reason, and its rate has no mean."""
    well = losses(3.2e-2)

    def train(preset: Preset, folder: Path) -> dict[str, Any]:
        if preset.train.learning_rate > 5e-3:
            raise TrainingError("the loss is not finite")
        found: dict[str, Any] = well(preset, folder)
        return found

    found = run_sweep(small_preset("text"), [1e-3, 2e-3, 4e-3, 8e-3], (1,), tmp_path, train)
    assert found.best == 4e-3
    assert found.edge == 0
    assert found.points[-1].reason == "the loss is not finite"
    assert found.mean(8e-3) is None


def test_an_interrupted_sweep_goes_on(tmp_path: Path) -> None:
    """What was finished is not trained again; the whole is as if nothing had happened."""
    whole = run_sweep(small_preset("text"), around(2e-3), (1, 2), tmp_path / "one", losses(2e-3))
    calls, well = [0], losses(2e-3)

    def train(preset: Preset, folder: Path) -> dict[str, Any]:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        found: dict[str, Any] = well(preset, folder)
        return found

    with pytest.raises(KeyboardInterrupt):
        run_sweep(small_preset("text"), around(2e-3), (1, 2), tmp_path / "two", train)
    assert run_sweep(small_preset("text"), around(2e-3), (1, 2), tmp_path / "two", train) == whole
    assert calls[0] == 1 + len(whole.points)
    assert read_sweep(tmp_path / "two") == replace(whole, points=read_sweep(tmp_path / "one").points)


def test_final_rate_and_seed_go_along(tmp_path: Path) -> None:
    """The end of the schedule keeps its ratio to the learning rate, and each seed is trained."""
    preset, train = small_preset("text", learning_rate=2e-3, final_learning_rate=2e-5), losses(2e-3)
    run_sweep(preset, around(2e-3), (3, 4), tmp_path, train)
    assert {seen.train.seed for seen in train.seen} == {3, 4}
    for seen in train.seen:
        assert seen.train.final_learning_rate == pytest.approx(seen.train.learning_rate / 100)
        assert seen.model == preset.model


@pytest.mark.parametrize("rates", [[], [1e-3, 1e-3], [0.0, 1e-3], [-1e-3]])
def test_bad_rates_are_refused(tmp_path: Path, rates: list[float]) -> None:
    """No rate, one twice, or one that is not positive."""
    with pytest.raises(ValueError, match="different positive learning rates"):
        run_sweep(small_preset("text"), rates, (1,), tmp_path, losses(1e-3))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    """A sweep.json that holds something else is not overwritten."""
    (tmp_path / SWEEP).write_text(json.dumps([{"rate": 1}]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"sweep\.json does not hold the points"):
        run_sweep(small_preset("text"), [1e-3], (1,), tmp_path, losses(1e-3))


@given(st.floats(1e-5, 1.0), st.integers(1, 9))
def test_rates_around_are_a_factor_of_two_apart(rate: float, count: int) -> None:
    """With the given one in the middle, to three digits."""
    found = around(rate, count)
    assert found[count // 2] == pytest.approx(rate, rel=0.01)
    for low, high in pairwise(found):
        assert high / low == pytest.approx(2, rel=0.02)


def test_nothing_went_well() -> None:
    """Then there is no best, and lower rates are the ones to try."""
    found = Sweep((Point(1e-2, 1, None, reason="not finite"), Point(2e-2, 1, None, reason="not finite")))
    assert found.best is None
    assert found.edge == -1
