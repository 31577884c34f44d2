"""Starting a training from the weights of another one: to train longer, on other data, or to write a given text."""

import torch

from model.checkpoints.checkpoint import Checkpoint
from model.codec import TextCodec
from model.config import ModelConfig
from model.data.corpus import Codec
from model.network.stack import Network

SHARED = ("kind", "cell", "embedding", "hidden", "output", "mixtures", "layer_norm", "copy_boundary", "detector")
WRITES = ("characters", "writers", "character_width", "window_mixtures")


class StartError(ValueError):
    """These weights do not fit that network; the message names what differs."""


def symbols_of(start: Checkpoint) -> TextCodec | None:
    """The codec that a text must be read with for a network to go on; None for ink, which needs none."""
    return start.codec if isinstance(start.codec, TextCodec) else None


def start_from(network: Network, codec: Codec, start: Checkpoint) -> None:
    """Copy all weights of a checkpoint into a network that has at least as many.

    A network that writes a given text has its additional weights last in every dimension of every parameter. A network
    that writes freely therefore fills the leading block of each, and the rest keeps its initial values.

    Args:
        network: fresh.
        codec: of the corpus it is to be trained on.
        start: whose weights.

    Raises:
        StartError: the two do not fit.
    """
    ours, theirs = network.config, start.model
    for name in SHARED:
        _agree(ours, theirs, name)
    if theirs.writes_text:
        for name in WRITES:
            _agree(ours, theirs, name)
    if isinstance(codec, TextCodec) and codec != start.codec:
        raise StartError("the network to start from knows other symbols: read the corpus in its alphabet")
    with torch.no_grad():
        tensors = network.state_dict()
        for name, weight in start.weights.items():
            block = tuple(slice(length) for length in weight.shape)
            tensors[name][block] = weight


def _agree(ours: ModelConfig, theirs: ModelConfig, name: str) -> None:
    if getattr(ours, name) != getattr(theirs, name):
        raise StartError(
            f"model.{name} is {getattr(ours, name)}, but {getattr(theirs, name)} in the network to start from"
        )
