"""Random numbers for the draws of the step graph, and log-likelihoods of its symbols; pure functions.

Randomness is counter-based. The four numbers for (seed, choice, position) are those of Philox4x64-10 with the key
(seed, choice) at the counter `position`. Nothing is remembered between draws, so a stream can be resumed at any
position and gives the same result on any replica. The graph decides what is drawn (`export/graphs/draw.py`).

Every function works on a batch of rows, and the bits of a row's result do not depend on the other rows: operations are
element by element or, where they run along a row, in the order of the row. All arithmetic is float64.
"""

import secrets
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 4  # random numbers of a position
SMALLEST = 2.0**-52  # the smallest number that `uniforms` returns
FAILED = -1  # the graph draws this id where an output is not finite
# Stands for a temperature of 0: all but the likeliest symbols have no chance, and the division does not overflow.
COLDEST = 1e-20
SEED_BITS = 53  # of seeds made here; a JavaScript number holds them exactly
_WORD = 2**64 - 1
_of_thread = threading.local()


def uniforms(seed: int, choice: int, start: int, count: int) -> Floats:
    """Return the random numbers of consecutive positions as (count, 4) float64, each in (0, 1) with 51 random bits.

    Each is the middle of its interval of width 2^-51. So all keep 2^-52 from both ends, as the graph requires.

    Args:
        seed: any integer; its lowest 64 bits count.
        choice: index of the choice within the request, from 0.
        start: first position, from 0.
        count: number of positions.
    """
    generator, state = _generator()
    state["state"]["key"][:] = seed & _WORD, choice & _WORD
    # NumPy's generator advances its counter before use, so it is set to one before the first position.
    before = (start - 1) % 2**256
    state["state"]["counter"][:] = [before >> shift & _WORD for shift in (0, 64, 128, 192)]
    generator.state = state
    bits: NDArray[np.uint64] = generator.random_raw(DRAWS * count)
    return ((bits >> np.uint64(13)).astype(np.float64).reshape(count, DRAWS) + 0.5) * 2.0**-51


def _generator() -> tuple[np.random.Philox, Any]:
    """Return this thread's generator and a state for it without numbers left over from earlier draws.

    A new generator for every call would be slow: it asks the system for a seed, which nobody uses.
    """
    if not hasattr(_of_thread, "generator"):
        _of_thread.generator = np.random.Philox(0)
        _of_thread.state = _of_thread.generator.state
    return _of_thread.generator, _of_thread.state


def deviates(uniform: Floats) -> Floats:
    """Return random numbers (n, 4) as an ink graph takes them: the middle two become standard normal (Box-Muller)."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:, 1]))
    angle = 2.0 * np.pi * uniform[:, 2]
    return np.stack([uniform[:, 0], radius * np.cos(angle), radius * np.sin(angle), uniform[:, 3]], axis=1)


def log_likelihoods(logits: NDArray[np.float32]) -> Floats:
    """Return the log-probability of each symbol in nats, (B, V) float64, before bias, penalties and temperature.

    Args:
        logits: (B, V) float32, finite.
    """
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    # cumsum adds in the order of the row, so the other rows of the batch cannot change the bits of the sum.
    total: Floats = np.exp(scores).cumsum(axis=1)[:, -1:]
    scores -= np.log(total)
    return scores


def likeliest(scores: Floats, count: int) -> NDArray[np.int64]:
    """Return the ids of the highest scores of each row, (B, count), highest first; of equals the lower id comes first.

    Args:
        scores: (B, V).
        count: number of ids; V if that is less.
    """
    order: NDArray[np.int64] = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return order


def fresh_seed() -> int:
    """Return a seed for a request that names none."""
    return secrets.randbits(SEED_BITS)
