"""A wider network that computes the same, to go on training from: every unit of one layer twice (Net2Net, Chen 2016).

Both copies of a unit have the inputs of the unit, so both have its value, and LayerNorm's statistics over the gates
stay the same. Each reader of the unit reads both copies, with its weight divided between them in random shares. These
shares make the copies differ when training goes on.
"""

from dataclasses import replace

import torch
from torch import Tensor

from model.checkpoints.average import of_evaluation
from model.checkpoints.checkpoint import Checkpoint

LEAST_SHARE = 0.25


class WidenError(ValueError):
    """This network cannot be widened so; the message says why."""


def widen(checkpoint: Checkpoint, layer: int, seed: int = 1) -> Checkpoint:
    """Return the network with twice the units in one layer; of a last checkpoint, its running averages.

    Args:
        checkpoint: any but a batch-normalised one.
        layer: counted from 1.
        seed: of the shares.

    Raises:
        WidenError: there is no such layer, or the network is batch-normalised.
    """
    trained, index = of_evaluation(checkpoint), layer - 1
    hidden = list(trained.model.hidden)
    if trained.model.cell == "bn-lstm":
        raise WidenError("a batch-normalised network is there to be measured: train it at the width it is to have")
    if not 0 <= index < len(hidden):
        raise WidenError(f"there is no layer {layer}: the network has layers 1 to {len(hidden)}")
    generator, size = torch.Generator().manual_seed(seed), hidden[index]

    def read_twice(matrix: Tensor, begin: int) -> Tensor:
        """Rows [begin, begin + size) twice, each weight divided between the two."""
        before, rows, after = matrix.split([begin, size, len(matrix) - begin - size])
        share = LEAST_SHARE + (1 - 2 * LEAST_SHARE) * torch.rand(rows.shape, generator=generator, dtype=rows.dtype)
        return torch.cat([before, share * rows, (1 - share) * rows, after])

    weights = dict(trained.weights)
    own, above, below = (f"layers.{index + step}." for step in (0, 1, -1))
    for name in ("weight", "input", "gain", "bias"):
        if own + name in weights:
            weights[own + name] = _columns_twice(weights[own + name], size)
    weights[own + "weight"] = read_twice(weights[own + "weight"], 0)
    if index + 1 < len(hidden):
        beside = hidden[index + 1] + (hidden[index + 2] if trained.model.has_detector(index + 1) else 0)
        weights[above + "weight"] = read_twice(weights[above + "weight"], beside)
    if index and trained.model.has_detector(index - 1):
        weights[below + "weight"] = read_twice(weights[below + "weight"], hidden[index - 1])
    for name in ("output.gate", "output.project"):
        weights[name] = read_twice(weights[name], sum(hidden[:index]))
    if index == 0 and trained.model.writes_text:
        weights["attention.weight"] = read_twice(weights["attention.weight"], 0)
    hidden[index] = 2 * size
    facts = {key: value for key, value in trained.facts.items() if key not in ("resume", "valid")}
    facts["widened"] = [*facts.get("widened", []), {"layer": layer, "units": 2 * size, "seed": seed}]
    return replace(trained, model=replace(trained.model, hidden=tuple(hidden)), weights=weights, facts=facts)


def _columns_twice(tensor: Tensor, size: int) -> Tensor:
    """Columns [f | i | o | g | detector]: those of each gate twice, the detector's once."""
    *gates, detector = tensor.split([size] * 4 + [tensor.shape[-1] - 4 * size], -1)
    return torch.cat([gate for gate in gates for _ in range(2)] + [detector], -1)
