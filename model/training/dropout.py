"""What is hidden from a network while it trains, drawn anew for every window and the same at all of its steps.

- **drop_connect**: weights of the layers' matrices are missing (Wan et al. 2013; in a recurrence, Merity et al. 2018).
  A detector's column stays whole: boundaries that come and go with the draw would be no segments.
- **dropout**: elements of h are hidden from the output module, and elements of the output embedding from the head, for
  each row its own (Gal and Ghahramani 2016).

What is left is scaled up, so that a sum has the expectation that it has without.
"""

import torch
from torch import Tensor

from model.config import TrainConfig
from model.network.stack import Masks, Network


def draw_masks(network: Network, config: TrainConfig, rows: slice, generator: torch.Generator) -> Masks | None:
    """Return what to hide for a window, or None where nothing is to be hidden.

    Args:
        network: whose weights and widths they are for.
        config: the shares, and how many rows there are in all: who trains some of them draws for all of them, so that
            the number of workers changes nothing.
        rows: those of this worker.
        generator: on the network's device.
    """
    bias, project = network.output.bias, network.output.project

    def mask(share: float, *shape: int) -> Tensor:
        kept = torch.rand(shape, generator=generator, device=bias.device) >= share
        return kept.to(bias.dtype) / (1 - share)

    masks = Masks()
    if config.drop_connect:
        layers = [network.layer(index) for index in range(network.config.num_layers)]
        matrices = [(layers[0], layers[0].input), *((layer, layer.weight) for layer in layers)]
        weights = []
        for layer, matrix in matrices:
            if matrix is None:
                continue
            drawn = mask(config.drop_connect, *matrix.shape)
            if layer.detects:
                drawn[:, -1] = 1
            weights.append(drawn)
        masks = masks._replace(weights=tuple(weights))
    if config.dropout:
        sent, embedded = (mask(config.dropout, config.batch, width)[rows] for width in project.shape)
        masks = masks._replace(sent=sent, embedded=embedded)
    return masks if masks.each() else None
