"""The mean of the weights of several networks whose trainings continued each other, or began from the same weights.

Such networks lie in one valley of the loss, and its middle is often lower than the points where noisy trainings end
(Izmailov 2018; Wortsman 2022). Networks from different initial weights cannot be averaged.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from model.checkpoints.checkpoint import Checkpoint


class AverageError(ValueError):
    """These networks cannot be averaged; the message says why."""


def of_evaluation(checkpoint: Checkpoint) -> Checkpoint:
    """Return the weights that a training evaluates: the running averages, where a last checkpoint holds them."""
    kept = {name: checkpoint.extra.get(f"average/{name}", weight) for name, weight in checkpoint.weights.items()}
    return replace(checkpoint, weights=kept, extra={})


def average(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """Return the mean of all weights; configuration, codec and facts are those of the last.

    Raises:
        AverageError: fewer than two, networks of different shapes or symbols, or with batch normalisation.
    """
    if len(checkpoints) < 2:
        raise AverageError("an average needs at least two checkpoints")
    last = of_evaluation(checkpoints[-1])
    if last.model.cell == "bn-lstm":
        raise AverageError(
            "what the population of an averaged network is like, batch normalisation would have to learn"
        )
    for other in checkpoints[:-1]:
        if other.model != last.model:
            raise AverageError("these networks have different configurations")
        if other.codec != last.codec:
            raise AverageError("these networks know different symbols")
    parts = [of_evaluation(checkpoint) for checkpoint in checkpoints]
    weights = {name: torch.stack([part.weights[name] for part in parts]).mean(0) for name in last.weights}
    facts = {key: value for key, value in last.facts.items() if key not in ("resume", "valid")}
    return replace(
        last, weights=weights, facts=facts | {"averaged": {"updates": [part.facts.get("updates") for part in parts]}}
    )
