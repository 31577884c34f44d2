"""Numbers for the draws that the step graph makes, and the likelihoods of what could have been drawn; pure functions.

Randomness is counter-based. The four numbers drawn for (seed, choice, position) are those of Philox4x64-10 with the key
(seed, choice) at the counter `position`: nothing is remembered between draws, so a stream can be taken up anywhere and
comes out the same on any replica. What is drawn with them is decided inside the graph (`export/graphs/draw.py`).

Every function works on a batch of rows, and a row's result has the same bits whatever the other rows are: operations
are element by element or, where they run along a row, in the order of the row. All arithmetic is float64.
"""

import secrets
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 4
SMALLEST = 2.0**-52
FAILED = -1
_WORD = 2**64 - 1
_of_thread = threading.local()


def uniforms(seed: int, choice: int, start: int, count: int) -> Floats:
    """Return the draws of consecutive positions as (count, 4), each in (0, 1) with 51 random bits.

    They lie in the middle of their steps and so keep 2^-52 from both ends, as the graph wants it.

    Args:
        seed: any integer; its lowest 64 bits count.
        choice: index of the choice within the request, from 0.
        start: first position, from 0.
        count: number of positions.
    """
    generator, state = _generator()
    state["state"]["key"][:] = seed & _WORD, choice & _WORD
    # NumPy's generator steps its counter before it uses it, so it is set to one before the first position.
    before = (start - 1) % 2**256
    state["state"]["counter"][:] = [before >> shift & _WORD for shift in (0, 64, 128, 192)]
    generator.state = state
    bits: NDArray[np.uint64] = generator.random_raw(DRAWS * count)
    return ((bits >> np.uint64(13)).astype(np.float64).reshape(count, DRAWS) + 0.5) * 2.0**-51


def _generator() -> tuple[np.random.Philox, Any]:
    """Return this thread's generator and a state for it with nothing left over from earlier draws.

    A new generator for every call would ask the system for a seed that nobody uses, which is dear.
    """
    if not hasattr(_of_thread, "generator"):
        _of_thread.generator = np.random.Philox(0)
        _of_thread.state = _of_thread.generator.state
    return _of_thread.generator, _of_thread.state


def deviates(uniform: Floats) -> Floats:
    """Return draws of positions (n, 4) as an ink graph takes them: the middle two become standard normal deviates."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:, 1]))
    angle = 2.0 * np.pi * uniform[:, 2]
    return np.stack([uniform[:, 0], radius * np.cos(angle), radius * np.sin(angle), uniform[:, 3]], axis=1)


def log_likelihoods(logits: NDArray[np.float32]) -> Floats:
    """Return the logarithm of each symbol's probability in nats, (B, V): what the network itself expects.

    Args:
        logits: (B, V) float32, finite.
    """
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    # A running sum adds in the order of the row, so company cannot change its bits.
    total: Floats = np.exp(scores).cumsum(axis=1)[:, -1:]
    scores -= np.log(total)
    return scores


def likeliest(scores: Floats, count: int) -> NDArray[np.int64]:
    """Return the ids of the highest scores of each row, highest first; of equals the lower id comes first.

    Args:
        scores: (B, V).
        count: how many, or V if that is less.
    """
    order: NDArray[np.int64] = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return order


# Stands for a temperature of 0: all but the likeliest symbols have no chance, and the division does not overflow.
COLDEST = 1e-20


SEED_BITS = 53  # a seed made here survives a trip through JavaScript's numbers


def fresh_seed() -> int:
    """Return a seed for a request that names none."""
    return secrets.randbits(SEED_BITS)
