"""Budgets of minutes and of updates, on a clock that the tests set."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import model.training.budget
from model.training.budget import Budget


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The only clock that a budget sees; set `now`."""
    fake = SimpleNamespace(now=0.0)
    fake.monotonic = lambda: fake.now
    monkeypatch.setattr(model.training.budget, "time", fake)
    return fake


def test_minutes_are_wall_clock(clock: SimpleNamespace) -> None:
    """A budget of minutes is spent by the clock, earlier processes included, and ends at 1."""
    budget = Budget(minutes=10, spent_s=120, _started=0.0)
    assert budget.progress == pytest.approx(0.2)
    clock.now = 60.0
    assert budget.elapsed_s == 180
    assert budget.progress == pytest.approx(0.3)
    assert budget.remaining_s == 420
    clock.now = 9999.0
    assert budget.progress == 1
    assert budget.remaining_s == 0


def test_updates_are_counted(clock: SimpleNamespace) -> None:
    """A budget of updates does not look at the clock but for the time that is left at the pace so far."""
    budget = Budget(updates=40, _started=0.0)
    clock.now = 100.0
    assert budget.progress == 0
    budget.done = 10
    assert budget.progress == 0.25
    assert budget.remaining_s == pytest.approx(300)
    budget.done = 41
    assert budget.progress == 1


@given(st.integers(1, 10_000), st.integers(1, 39))
def test_shares_of_updates_are_exact(updates: int, share: int) -> None:
    """An update that is exactly n/40 of the budget is seen as that: evaluations fall on the same updates every run."""
    budget = Budget(updates=40 * updates, done=share * updates)
    assert budget.progress >= share / 40
    assert int(budget.progress * 40) == share


@pytest.mark.parametrize("arguments", [{}, {"minutes": 1.0, "updates": 1}])
def test_it_is_one_or_the_other(arguments: dict[str, int]) -> None:
    """Neither, or both, is an error."""
    with pytest.raises(ValueError, match="either minutes or updates"):
        Budget(**arguments)


@pytest.mark.parametrize("arguments", [{"minutes": 0}, {"minutes": -1}, {"updates": 0}, {"updates": -5}])
def test_it_is_positive(arguments: dict[str, int]) -> None:
    """A budget of nothing is an error."""
    with pytest.raises(ValueError, match="must be positive"):
        Budget(**arguments)
