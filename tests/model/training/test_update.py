"""One training update on fixed buffers: what it moves, what it counts, and what it carries."""

import math

import torch

from model.config import ModelConfig, TrainConfig
from model.data.corpus import Window
from model.network.fast.window import WindowOptions
from model.network.stack import Network
from model.training.update import BAND_STEP, Update

CONFIG = ModelConfig(vocabulary=11, embedding=6, hidden=(12, 10, 8), output=9)
STEPS, ROWS = 10, 4


def window(seed: int, *, fresh: bool = False) -> Window:
    """Random symbols (T, B) and their successors."""
    symbols = torch.randint(CONFIG.vocabulary, (STEPS + 1, ROWS), generator=torch.Generator().manual_seed(seed))
    return Window(symbols[:-1], symbols[1:], torch.ones(STEPS, ROWS), torch.full((ROWS,), fresh))


def update_of(**settings: object) -> Update:
    """An update of a small seeded network."""
    torch.manual_seed(3)
    train = TrainConfig(**({"batch": ROWS, "window": STEPS, "precision": "float32"} | settings))  # type: ignore[arg-type]
    return Update(Network(CONFIG), train, WindowOptions())


def test_one_window_again_and_again_is_learned() -> None:
    """The loss of a window that is trained on fifty times falls to less than half of its start."""
    update = update_of()
    losses = []
    for _ in range(50):
        update.totals.clear()
        update(window(1, fresh=True), rate=1e-2, slope=1.0, decay=0.0)
        losses.append(float(update.totals.nats) / float(update.totals.steps))
    assert abs(losses[0] - math.log(CONFIG.vocabulary)) < 1.0
    assert losses[-1] < losses[0] / 2


def test_state_is_carried_and_restarted() -> None:
    """The state after a window goes into the next one, except in rows that start afresh."""
    update = update_of()
    update(window(1), rate=0.0, slope=1.0, decay=0.0)
    carried = update.state.layers[0].h.clone()
    assert carried.abs().sum() > 0
    state = update.network.zeros(ROWS)
    for seed in (1, 2):
        result = update.network(window(seed).inputs, state, WindowOptions(), torch.tensor(1.0))
        state = result.state
    update(window(2), rate=0.0, slope=1.0, decay=0.0)
    torch.testing.assert_close(update.state.layers[2].c, state.layers[2].c, rtol=0, atol=0)
    update(window(2, fresh=True), rate=0.0, slope=1.0, decay=0.0)
    alone = update.network(window(2).inputs, update.network.zeros(ROWS), WindowOptions(), torch.tensor(1.0)).state
    torch.testing.assert_close(update.state.layers[0].h, alone.layers[0].h, rtol=0, atol=0)


def test_silent_detector_is_woken_by_its_bias_alone() -> None:
    """A detector below its band gets its bias raised by at most the step; at learning rate 0 nothing else moves."""
    update = update_of(rate_band=(0.3, 0.6))
    with torch.no_grad():
        update.network.layer(0).bias[-1] = -100.0
    before = {name: parameter.detach().clone() for name, parameter in update.network.named_parameters()}
    update(window(1), rate=0.0, slope=1.0, decay=0.0)
    moved = {
        name: parameter.detach() - before[name]
        for name, parameter in update.network.named_parameters()
        if not torch.equal(parameter.detach(), before[name])
    }
    assert set(moved) == {"layers.0.bias", "layers.1.bias"}
    assert math.isclose(float(moved["layers.0.bias"][-1]), BAND_STEP, rel_tol=1e-3)
    assert moved["layers.0.bias"][:-1].abs().sum() == 0


def test_detector_inside_its_band_is_left_alone() -> None:
    """With the widest band and learning rate 0 no weight changes at all."""
    update = update_of(rate_band=(0.0, 1.0))
    before = [parameter.detach().clone() for parameter in update.parameters]
    update(window(1), rate=0.0, slope=1.0, decay=0.0)
    assert all(torch.equal(a, b.detach()) for a, b in zip(before, update.parameters, strict=True))


def test_detectors_learn_more_slowly() -> None:
    """At detector_rate 0.1 a detector's column goes a tenth of the way it goes at 1, everything else all of it."""
    columns = {}
    for share in (1.0, 0.1):
        update = update_of(detector_rate=share, rate_band=(0.0, 1.0))
        before = update.network.layer(0).weight.detach().clone()
        update(window(1), rate=1e-2, slope=1.0, decay=0.0)
        columns[share] = update.network.layer(0).weight.detach() - before
    torch.testing.assert_close(columns[0.1][:, -1], 0.1 * columns[1.0][:, -1], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(columns[0.1][:, :-1], columns[1.0][:, :-1], rtol=0, atol=0)


def test_totals_count_what_was_real() -> None:
    """Padding counts neither as steps nor as nats, and the boundary rates are shares of real steps."""
    update = update_of()
    padded = window(1)
    padded.weight[-3:] = 0
    update(padded, rate=0.0, slope=1.0, decay=0.0)
    assert float(update.totals.steps) == (STEPS - 3) * ROWS
    assert all(0 <= rate <= 1 for rate in update.totals.counts.rates())
    nats = float(update.totals.nats)
    padded.targets[-3:] = 0
    update.totals.clear()
    update(padded._replace(fresh=torch.ones(ROWS, dtype=torch.bool)), rate=0.0, slope=1.0, decay=0.0)
    assert math.isclose(float(update.totals.nats), nats, rel_tol=1e-3)


def test_averages_follow_the_weights() -> None:
    """With decay d an average becomes d * average + (1 - d) * weight."""
    update = update_of(average=0.9)
    before = [average.clone() for average in update.averages]
    update(window(1), rate=1e-2, slope=1.0, decay=0.75)
    for old, average, parameter in zip(before, update.averages, update.parameters, strict=True):
        torch.testing.assert_close(average, 0.75 * old + 0.25 * parameter.detach(), rtol=1e-5, atol=1e-7)
