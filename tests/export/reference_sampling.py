"""Sampling from an output in NumPy and float64: the reference for the nodes that do it inside the step graph."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FAILED = -1
_COLDEST = 1e-20


def sample_text(
    logits: NDArray[np.float32],
    temperature: Floats,
    top_p: Floats,
    top_k: NDArray[np.int64],
    uniform: Floats,
    barred: NDArray[np.bool_],
    bias: Floats | None = None,
) -> NDArray[np.int64]:
    """Return a symbol id for each row, (B,).

    The order is: bar symbols, add the bias, divide by the temperature, keep the top_k likeliest, of these the smallest
    set that holds top_p of their mass, draw from what is left.

    Args:
        logits: (B, V) float32.
        temperature: (B,), 0 or more; 0 takes the likeliest symbol.
        top_p: (B,) in 0..1; 1 keeps all, 0 the likeliest only.
        top_k: (B,); 0 keeps all.
        uniform: (B,) in [0, 1).
        barred: (V,), True for symbols that are never to be drawn; at least one is not barred.
        bias: (B, V), finite, added to the logits; None is 0 everywhere.

    Returns:
        int64 (B,); FAILED for a row whose logits are not finite.
    """
    scores = np.where(barred, -np.inf, logits.astype(np.float64))
    if bias is not None:
        scores += bias
    best = scores.max(axis=1, keepdims=True)
    broken: NDArray[np.bool_] = np.logical_not(np.isfinite(logits).all(axis=1))
    if broken.any():
        scores[broken], best[broken] = 0.0, 0.0
    scores -= best
    scores /= np.maximum(temperature, _COLDEST)[:, None]
    weights = np.exp(scores)
    narrow = np.flatnonzero((top_p < 1) | (top_k > 0))
    if narrow.size:
        weights[narrow] = keep_likeliest(weights[narrow], top_p[narrow], top_k[narrow])
    ids = invert(weights, uniform)
    greedy = temperature == 0
    if greedy.any():
        ids[greedy] = scores[greedy].argmax(axis=1)
    ids[broken] = FAILED
    return ids


def keep_likeliest(weights: Floats, top_p: Floats, top_k: NDArray[np.int64]) -> Floats:
    """Return the weights with all but the likeliest symbols set to 0; of equals, the lower id counts as likelier.

    Args:
        weights: (B, V), not negative.
        top_p: (B,): keep the smallest set whose mass reaches this share of what top_k leaves.
        top_k: (B,): keep so many; 0 keeps all.
    """
    num_symbols = weights.shape[1]
    order = np.argsort(-weights, axis=1, kind="stable")
    ranked = np.take_along_axis(weights, order, axis=1)
    limit = np.where(top_k > 0, top_k, num_symbols)
    ranked[np.arange(num_symbols) >= limit[:, None]] = 0.0
    mass = ranked.cumsum(axis=1)
    before = np.zeros_like(mass)
    before[:, 1:] = mass[:, :-1]
    # A set is complete once its mass reaches the share, so a symbol stays while those before it fall short of it.
    stays = before < (top_p * mass[:, -1])[:, None]
    stays |= (top_p >= 1)[:, None]
    stays[:, 0] = True
    kept = np.empty_like(weights)
    np.put_along_axis(kept, order, np.where(stays, ranked, 0.0), axis=1)
    return kept


def sample_ink(mixture: NDArray[np.float32], bias: Floats, noise: Floats) -> NDArray[np.float32]:
    """Return the next offset of the pen for each row, [dx, dy, pen_up] in standardised units.

    A bias of b draws from weights raised to the power 1 + b and from scales divided by e^b (Graves 2013, Eqs. 61-62),
    which trades variety for neatness; 0 draws from the distribution that was learned.

    Args:
        mixture: (B, 6M+1) float32, columns [log_weight M | mean_x M | mean_y M | log_scale_x M | log_scale_y M |
            correlation M | pen_up logit].
        bias: (B,), 0 or more.
        noise: (B, 4): uniform in [0, 1) for the component, two normal deviates, uniform for the pen.

    Returns:
        float32 (B, 3); pen_up is 0 or 1. NaN for a row whose mixture is not finite.
    """
    broken: NDArray[np.bool_] = np.logical_not(np.isfinite(mixture).all(axis=1))
    if broken.any():
        mixture = np.where(broken[:, None], np.float32(0), mixture)
    rows = np.arange(len(mixture))
    parts = mixture[:, :-1].astype(np.float64).reshape(len(mixture), 6, -1)
    log_weight, mean_x, mean_y, log_scale_x, log_scale_y, correlation = parts.transpose(1, 0, 2)
    sharpened = log_weight * (1.0 + bias)[:, None]
    weights = np.exp(sharpened - sharpened.max(axis=1, keepdims=True))
    component = np.minimum(invert(weights, noise[:, 0]), weights.shape[1] - 1)
    along, across = noise[:, 1], noise[:, 2]
    tie = correlation[rows, component]
    offset = np.empty((len(mixture), 3), np.float32)
    offset[:, 0] = mean_x[rows, component] + np.exp(log_scale_x[rows, component] - bias) * along
    offset[:, 1] = mean_y[rows, component] + np.exp(log_scale_y[rows, component] - bias) * (
        tie * along + np.sqrt(1.0 - tie * tie) * across
    )
    pen_logit = np.clip(mixture[:, -1].astype(np.float64), -60.0, 60.0)
    offset[:, 2] = noise[:, 3] < 1.0 / (1.0 + np.exp(-pen_logit))
    offset[broken] = np.nan
    return offset


def invert(weights: Floats, uniform: Floats) -> NDArray[np.int64]:
    """Return for each row the index at which its cumulative weight first exceeds the share `uniform` of the total.

    Args:
        weights: (B, V), not negative, of positive sum.
        uniform: (B,) in [0, 1); an index of weight 0 is never returned.
    """
    cumulative = weights.cumsum(axis=1)
    below: NDArray[np.int64] = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(axis=1)
    return below
