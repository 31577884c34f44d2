"""Counting boundaries and work, against a literal count."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.network.reference import COPY, FLUSH
from model.training.metrics import PATIENCE, BoundaryCounts, BoundaryHealth, bits_per_symbol, cell_work_share
from tests.model.networks import config_for, make_busy_network, walk
from tests.strategies import boundary_rates, seeds, slopes


@given(st.floats(0, 100))
def test_bits_are_nats_over_ln_2(nats: float) -> None:
    """ln 2 nats are one bit."""
    assert bits_per_symbol(nats * math.log(2)) == pytest.approx(nats)


@settings(max_examples=50)
@given(seeds, slopes, st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_counts_equal_a_literal_count(
    seed: int, slope: float, steps: int, rows: int, detectors: int, windows: int
) -> None:
    """Rates, active and live shares are what loops over windows, steps, rows and layers count, padding left out."""
    rng = np.random.default_rng(seed)
    counts = BoundaryCounts(detectors, torch.device("cpu"))
    real = 0
    fired, active, live = np.zeros(detectors), np.zeros(detectors), np.zeros(detectors)
    before = rng.integers(0, 2, (rows, detectors)).astype(np.float32)
    for _ in range(windows):
        z = rng.integers(0, 2, (steps, rows, detectors)).astype(np.float32)
        logit = rng.normal(size=z.shape).astype(np.float32)
        weight = rng.integers(0, 2, (steps, rows)).astype(np.float32)
        z_t, logit_t, before_t, weight_t = (torch.from_numpy(part) for part in (z, logit, before, weight))
        counts.add(z_t, logit_t, before_t, slope, weight_t)
        for t, row in product(range(steps), range(rows)):
            previous = before[row] if t == 0 else z[t - 1, row]
            if not weight[t, row]:
                continue
            real += 1
            for layer in range(detectors):
                fired[layer] += z[t, row, layer]
                own_before = previous[layer + 1] if layer + 1 < detectors else 0
                active[layer] += z[t, row, layer] == 1 or own_before == 1
                live[layer] += abs(np.float32(slope) * logit[t, row, layer]) < 1
        before = z[-1]
    for found, wanted in ((counts.rates(), fired), (counts.active_rates(), active), (counts.live_rates(), live)):
        assert found == pytest.approx((wanted / max(real, 1)).tolist())
    counts.clear()
    assert counts.rates() == [0.0] * detectors


@pytest.mark.parametrize("copy_boundary", ["nested", "recompute"])
def test_work_share_is_the_work_of_the_operations(copy_boundary: str) -> None:
    """cell_work_share, fed with counted rates, is the multiply-accumulates of each step's operation, added up."""
    config = config_for(copy_boundary=copy_boundary)
    network, x = make_busy_network(config, 60, 3)
    with torch.no_grad():
        seen = walk(network, x)
    counts = BoundaryCounts(2, torch.device("cpu"))
    # A top-down product is counted at the step that fires, so let the last step's count for the one before the first.
    z = seen.z[..., :-1]
    counts.add(z, torch.zeros_like(z), seen.z_before[0][..., :-1], 1.0, torch.ones(60, 3))
    operations, needed, dense = seen.operations(), 0.0, 0.0
    for index, size in enumerate(config.hidden):
        columns = 4 * size + config.has_detector(index)
        own = size * columns
        above = config.hidden[index + 1] * columns if index < 2 else 0
        below = config.hidden[index - 1] * columns if index else 0
        dense += 180 * (own + above + below)
        for step, row in product(range(60), range(3)):
            operation = operations[step, row, index]
            needed += 0 if operation == COPY else own
            needed += above if operation == FLUSH else 0
            needed += below if index and z[step, row, index - 1] == 1 else 0
        # Flushes are one step later than the boundaries that the rates count.
        late = z[-1, :, index].sum() - seen.z_before[0, :, index].sum() if index < 2 else 0
        needed += above * float(late)
    share = cell_work_share(config.hidden, counts.rates(), counts.active_rates())
    assert share == pytest.approx(needed / dense)


@given(boundary_rates())
def test_work_share_is_a_share(drawn: tuple[tuple[int, ...], list[float], list[float]]) -> None:
    """It lies above what layer 1 alone needs and at most at 1, which all-ones rates give."""
    hidden, z_rates, active_rates = drawn
    share = cell_work_share(hidden, z_rates, active_rates)
    ones = [1.0] * len(z_rates)
    assert 0 < cell_work_share(hidden, [0.0] * len(z_rates), [0.0] * len(z_rates)) <= share <= 1 + 1e-12
    assert cell_work_share(hidden, ones, ones) == pytest.approx(1)


@given(boundary_rates(), st.data())
def test_work_share_grows_with_every_rate(
    drawn: tuple[tuple[int, ...], list[float], list[float]], data: st.DataObject
) -> None:
    """More boundaries or more active steps never need less work."""
    hidden, z_rates, active_rates = drawn
    index = data.draw(st.integers(0, len(z_rates) - 1))
    share = cell_work_share(hidden, z_rates, active_rates)
    more_z, more_active = list(z_rates), list(active_rates)
    more_z[index] = data.draw(st.floats(z_rates[index], 1))
    more_active[index] = data.draw(st.floats(active_rates[index], 1))
    assert cell_work_share(hidden, more_z, active_rates) >= share - 1e-12
    assert cell_work_share(hidden, z_rates, more_active) >= share - 1e-12


def test_work_share_of_one_layer_is_everything() -> None:
    """A single layer has nothing to skip."""
    assert cell_work_share((5,), [], []) == 1


def test_a_boundary_that_recovers_is_forgiven() -> None:
    """Patience counts evaluations in a row, each boundary by itself."""
    health = BoundaryHealth(2)
    for _ in range(3):
        for _ in range(PATIENCE - 1):
            health.check([0.5, 0.0])
        health.check([0.99, 0.3])
    assert health.sick == [1, 0]
