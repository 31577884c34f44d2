"""The detector: fires by sign, learns inside its box."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model.config import Detector
from model.network.boundary import boundary, hard_sigmoid, has_gradient
from tests.strategies import logits, slopes

DETECTORS: tuple[Detector, ...] = ("step", "sample", "soft")


@given(logits, slopes)
def test_hard_sigmoid_is_the_clipped_line(logit: float, slope: float) -> None:
    """The probability is (a q + 1) / 2, held between 0 and 1."""
    found = float(hard_sigmoid(torch.tensor(logit, dtype=torch.float64), slope))
    assert found == pytest.approx(max(0.0, min(1.0, (slope * logit + 1) / 2)), abs=1e-15)


@given(logits, slopes, slopes)
def test_slope_does_not_change_the_step(logit: float, slope: float, other: float) -> None:
    """Invariant 4: with the step function z is the sign of the logit, whatever the slope."""
    q = torch.tensor([logit], dtype=torch.float64)
    expected = torch.tensor([1.0 if logit > 0 else 0.0], dtype=torch.float64)
    assert torch.equal(boundary(q, slope, "step"), expected)
    assert torch.equal(boundary(q, other, "step"), expected)


@pytest.mark.parametrize("detector", DETECTORS)
@given(logit=logits, slope=slopes)
def test_gradient_follows_the_box(detector: Detector, logit: float, slope: float) -> None:
    """Invariants 4 and 10: dz/dq is a/2 where |a q| < 1 and exactly 0 outside, in all three variants alike."""
    assume(abs(abs(slope * logit) - 1) > 1e-9)  # the corner has a gradient from either side
    q = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
    boundary(q, slope, detector, torch.tensor([0.5])).sum().backward()
    expected = slope / 2 if abs(slope * logit) < 1 else 0.0
    assert q.grad is not None
    assert float(q.grad) == expected
    assert bool(has_gradient(q, slope)) == (expected != 0)


@given(logits, slopes, st.floats(0, 1, exclude_max=True))
def test_sampling_fires_where_the_draw_is_below_the_probability(logit: float, slope: float, draw: float) -> None:
    """A sampled boundary is 1 exactly where the uniform draw is below the firing probability."""
    q = torch.tensor([logit], dtype=torch.float64)
    z = boundary(q, slope, "sample", torch.tensor([draw], dtype=torch.float64))
    assert float(z) == (draw < float(hard_sigmoid(q, slope)))


def test_sampling_fires_as_often_as_it_says() -> None:
    """Over many draws a sampled boundary fires with its probability."""
    noise = torch.rand(20_000, generator=torch.Generator().manual_seed(1))
    z = boundary(torch.full((20_000,), 0.4), 1.0, "sample", noise)
    # Five standard errors of a frequency of 0.7 over 20,000 draws.
    assert float(z.mean()) == pytest.approx(0.7, abs=5 * (0.7 * 0.3 / 20_000) ** 0.5)


def test_sampling_without_noise_is_refused() -> None:
    """A sampled detector needs draws, and says so."""
    with pytest.raises(ValueError, match="needs noise"):
        boundary(torch.zeros(1), 1.0, "sample")


@settings(max_examples=25)
@given(st.sampled_from((torch.float32, torch.float64)), logits)
def test_step_is_exactly_binary(dtype: torch.dtype, logit: float) -> None:
    """The straight-through form has the value 0 or 1 to the bit, not nearly."""
    z = boundary(torch.tensor([logit], dtype=dtype), 1.3, "step")
    assert z.dtype == dtype
    assert float(z) in (0.0, 1.0)
