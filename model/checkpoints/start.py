"""Starting a training from the weights of another one: longer, on other data, or with a text to write besides."""

import torch

from model.checkpoints.checkpoint import Checkpoint
from model.codec import TextCodec
from model.config import ModelConfig
from model.data.corpus import Codec
from model.network.stack import Network

SHARED = ("kind", "cell", "embedding", "hidden", "output", "mixtures", "layer_norm", "copy_boundary", "detector")
WRITES = ("characters", "writers", "character_width", "window_mixtures")


class StartError(ValueError):
    """These weights cannot be the start of that network; the message names what differs."""


def symbols_of(start: Checkpoint) -> TextCodec | None:
    """The alphabet that a corpus must be read in for a network to go on; ink brings its own numbers."""
    return start.codec if isinstance(start.codec, TextCodec) else None


def start_from(network: Network, codec: Codec, start: Checkpoint) -> None:
    """Copy all weights of a checkpoint into a network that has at least as many.

    What a network that writes a given text has besides comes last in every dimension of every parameter, so a network
    that writes freely fills the leading block of each, and what is new keeps its initial values.

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
