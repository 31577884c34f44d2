"""Dropout while a network trains: drawn for every window, and the same at all of its steps.

- **drop_connect**: weights of the layers' matrices are dropped (Wan et al. 2013; in a recurrence, Merity et al. 2018).
  A detector's column is kept whole: boundaries that depend on the draw would be no segments.
- **dropout**: elements of h are dropped from the output module's input, and elements of the output embedding from the
  head's, each row with its own draw (Gal and Ghahramani 2016).

The remaining values are scaled up, so that the expectation of a sum is unchanged.
"""

import torch
from torch import Tensor

from model.config import TrainConfig
from model.network.stack import Masks, Network


def draw_masks(network: Network, config: TrainConfig, rows: slice, generator: torch.Generator) -> Masks | None:
    """Return the masks of a window, or None where nothing is dropped.

    Args:
        network: for whose weights and widths.
        config: the shares to drop, and the number of rows in all. Each worker draws for all rows and takes its own, so
            that the number of workers changes nothing.
        rows: of this worker.
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
