"""The heads of the network, for symbols or pen offsets, and their losses in nats.

Ink follows Graves 2013 (arXiv 1308.0850, Eqs. 18-26): M bivariate Gaussians over the next standardised offset and a
Bernoulli over the pen, everything in log space.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model.ink import CORRELATION_LIMIT, LOG_SCALE_CEILING, LOG_SCALE_FLOOR


class Mixture(NamedTuple):
    """Mixture parameters, each (..., M) but for `pen_up` (...).

    Attributes:
        log_weight: log of the component weights, summing to 1 in linear space.
        mean_x, mean_y: standardised units.
        log_scale_x, log_scale_y: natural log of the standard deviations, at least LOG_SCALE_FLOOR.
        correlation: in (-1, 1).
        pen_up: logit of the pen being lifted after the point.
    """

    log_weight: Tensor
    mean_x: Tensor
    mean_y: Tensor
    log_scale_x: Tensor
    log_scale_y: Tensor
    correlation: Tensor
    pen_up: Tensor


def text_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each target symbol: logits (..., V) float32, targets (...) int64 -> (...)."""
    flat = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), reduction="none")
    return flat.reshape(targets.shape)


def mixture_of(raw: Tensor) -> Mixture:
    """Turn the head's raw outputs (..., 6M + 1) into mixture parameters; a stop logit after them is ignored."""
    components = (raw.shape[-1] - 1) // 6
    fields = raw[..., : 6 * components + 1].split([components] * 6 + [1], dim=-1)
    weight, mean_x, mean_y, scale_x, scale_y, correlation, pen = fields
    return Mixture(
        functional.log_softmax(weight, dim=-1),
        mean_x,
        mean_y,
        scale_x.clamp(LOG_SCALE_FLOOR, LOG_SCALE_CEILING),
        scale_y.clamp(LOG_SCALE_FLOOR, LOG_SCALE_CEILING),
        torch.tanh(correlation) * CORRELATION_LIMIT,
        pen.squeeze(-1),
    )


def pack(mixture: Mixture) -> Tensor:
    """Return one tensor (..., 6M + 1) in the order of the fields, as `Network.step` and a bundle's graph output it."""
    return torch.cat([*mixture[:-1], mixture.pen_up.unsqueeze(-1)], dim=-1)


def mixture_nll(mixture: Mixture, targets: Tensor) -> Tensor:
    """Negative log-likelihood in nats of targets (..., 3) [dx, dy, pen_up], in standardised units -> (...)."""
    dx, dy, pen_up = targets.unbind(-1)
    x = (dx.unsqueeze(-1) - mixture.mean_x) * torch.exp(-mixture.log_scale_x)
    y = (dy.unsqueeze(-1) - mixture.mean_y) * torch.exp(-mixture.log_scale_y)
    rest = 1 - mixture.correlation**2
    distance = (x**2 + y**2 - 2 * mixture.correlation * x * y) / rest
    log_density = (
        -0.5 * distance - mixture.log_scale_x - mixture.log_scale_y - 0.5 * torch.log(rest) - math.log(2 * math.pi)
    )
    offset = torch.logsumexp(mixture.log_weight + log_density, dim=-1)
    pen = functional.binary_cross_entropy_with_logits(mixture.pen_up, pen_up, reduction="none")
    return pen - offset


def stop_nll(raw: Tensor, last: Tensor) -> Tensor:
    """Negative log-likelihood in nats of whether each point read is its line's last: raw (..., 6M + 2) -> (...)."""
    return functional.binary_cross_entropy_with_logits(raw[..., -1], last.to(raw.dtype), reduction="none")
