"""Ratios are taken within a round, and the warm-up counts for nothing."""

from collections.abc import Callable, Iterator

import pytest

from bench.rounds import Speeds, interleave


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that slows down threefold from round to round leaves a ratio as it is."""
    speeds = Speeds({"ours": [1.0, 3.0, 9.0], "theirs": [2.0, 6.0, 18.0]})
    assert speeds.ratio("ours", "theirs") == 2
    assert speeds.per_item_us("ours") == 3e6
    assert speeds.per_second("theirs") == pytest.approx(1 / 6)
    assert speeds.fastest("theirs", "ours") == "ours"


def test_the_median_of_ratios_is_not_the_ratio_of_medians() -> None:
    """One round in which a rival was disturbed does not count for it."""
    speeds = Speeds({"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 2.0, 4.0]})
    assert speeds.ratio("ours", "theirs") == 1


def test_candidates_take_turns_and_the_first_round_is_forgotten() -> None:
    """Each turn is timed by itself and divided by the items it reports."""
    now, order = [0.0], []

    def turn(name: str, costs: Iterator[float], items: int) -> Callable[[], int]:
        def run() -> int:
            order.append(name)
            now[0] += next(costs)
            return items

        return run

    candidates = {"a": turn("a", iter([100.0, 4.0, 6.0]), 2), "b": turn("b", iter([100.0, 10.0, 30.0]), 10)}
    speeds = interleave(candidates, 2, clock=lambda: now[0])
    assert order == ["a", "b"] * 3
    assert speeds.seconds == {"a": [2.0, 3.0], "b": [1.0, 3.0]}
