"""The boundary detector: hard sigmoid, straight-through step, and its variants (Eqs. 8-9).

With the step function the slope changes only the gradient: hard_sigmoid(q) > 1/2 exactly where q > 0.
"""

from torch import Tensor

from model.config import Detector


def hard_sigmoid(logit: Tensor, slope: float | Tensor) -> Tensor:
    """max(0, min(1, (slope * logit + 1) / 2)), the firing probability."""
    return ((slope * logit + 1) / 2).clamp(0, 1)


def boundary(logit: Tensor, slope: float | Tensor, detector: Detector, noise: Tensor | None = None) -> Tensor:
    """The boundary z of each row, with the straight-through gradient slope/2 where |slope * logit| < 1, else 0.

    Args:
        logit: detector pre-activations (B,).
        slope: the paper's a, positive.
        detector: "step": 1 where the logit is positive; "sample": 1 where `noise` is below the firing probability;
            "soft": the probability itself.
        noise: uniform draws in [0, 1) of the logit's shape, for "sample" only.

    Returns:
        (B,), 0 or 1 for "step" and "sample", in [0, 1] for "soft".
    """
    probability = hard_sigmoid(logit, slope)
    if detector == "soft":
        return probability
    if detector == "sample":
        if noise is None:
            msg = "a sampled detector needs noise"
            raise ValueError(msg)
        hard = (noise < probability.detach()).to(logit.dtype)
    else:
        hard = (logit > 0).to(logit.dtype)
    # The value is exactly `hard`, since p - p is 0 for every finite p; the gradient is that of p.
    return hard + (probability - probability.detach())


def has_gradient(logit: Tensor, slope: float | Tensor) -> Tensor:
    """Where the straight-through gradient is not zero: |slope * logit| < 1."""
    return (slope * logit).abs() < 1
