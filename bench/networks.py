"""Networks of random weights and any width whose boundaries are told to them by what they read.

A recording of a trained network's boundaries (`bench.traces`) is turned into inputs, and the network into one that
obeys them: the input adds so much to the detector of layer 1 that nothing else decides it, and sets one unit of layer
1 that decides layer 2's. The detectors are columns and rows of the ordinary matrices, so all arithmetic is done that
any network of this width does, and nothing in the exporter, the graphs or the service knows about it.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.traces import Array, Bits
from export.build import Facts, build
from export.bundle.folder import Bundle
from export.graphs.quantisation import Precision
from model.codec import REPLACEMENT, InkCodec, TextCodec
from model.config import Kind, ModelConfig
from model.network.stack import Network

NUM_LAYERS = 3
ALPHABET = "\n abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,;:!?'\"-0123456789()[]*&%$#@/+=_<>{}~^|`"
TEXT = TextCodec((*ALPHABET, REPLACEMENT), "replace")
INK = InkCodec((8.2, 0.1), (42.0, 37.0))
# An input commands by its class: no boundary, one of layer 1, or one of both. Boundaries nest, so there is no fourth.
CLASSES = NUM_LAYERS

# Large enough to outweigh what a detector hears besides, which is of the order of 1.
SURE = 100.0
# Opens a gate for good and hardly moves the statistics of LayerNorm, which the gate is part of.
OPEN = 30.0


def obedient(kind: Kind, hidden: int, rates: list[float]) -> Network:
    """Return a network of three layers of `hidden` units that sets the boundaries its input commands.

    Args:
        kind: text commands by symbols (`symbols`), ink by offsets (`offsets`).
        hidden: H of every layer, and the width of the output embedding.
        rates: of the boundaries of layers 1 and 2 when the network writes for itself.
    """
    torch.manual_seed(1)
    vocabulary = TEXT.size if kind == "text" else 0
    network = Network(ModelConfig(kind, vocabulary=vocabulary, hidden=(hidden,) * NUM_LAYERS, output=hidden))
    with torch.no_grad():
        _command(network)
        _obey(network, hidden)
        _write_at(network, rates)
    return network.eval()


def symbols(fired: Bits) -> NDArray[np.int64]:
    """Return the symbols (T, B) that command these boundaries (T, B, 2)."""
    classes = fired.astype(np.int64).sum(-1)
    spread = np.random.default_rng(1).integers(0, TEXT.size // CLASSES, classes.shape)
    chosen: NDArray[np.int64] = CLASSES * spread + classes
    return chosen


def offsets(fired: Bits) -> NDArray[np.float32]:
    """Return the offsets (T, B, 3) that command these boundaries (T, B, 2): the pen for layer 1, dx for layer 2."""
    drawn = np.random.default_rng(1).normal(size=(*fired.shape[:2], 3)).astype(np.float32)
    drawn[..., 0] = np.where(fired[..., 1], 1, -1)
    drawn[..., 2] = fired[..., 0]
    return drawn


def commanded(bundle: Bundle, fired: Bits) -> Array:
    """Return the inputs that command boundaries, of either kind."""
    return symbols(fired) if bundle.kind == "text" else offsets(fired)


def export(network: Network, folder: Path, name: str, rates: list[float], precision: Precision = "float32") -> Bundle:
    """Put a network through the real exporter, with a short proof, and return its bundle."""
    codec = TEXT if network.config.kind == "text" else INK
    facts = Facts("A network of random weights for measuring speed.", metrics={"z_rates": rates})
    return build(network, codec, folder / name, name, facts, precision, steps=96, rows=2)


def _command(network: Network) -> None:
    """Let the first three dimensions of the embedding be: a boundary of layer 1, one of layer 2, and always 1."""
    weight = network.embedding.weight
    if network.config.kind == "text":
        classes = torch.arange(len(weight)) % CLASSES
        weight[:, 0] = torch.where(classes >= 1, 1.0, -1.0)
        weight[:, 1] = torch.where(classes >= 2, 1.0, -1.0)
        weight[:, 2] = 1.0
    else:
        bias = network.embedding.bias
        assert isinstance(bias, torch.nn.Parameter)
        weight[:3] = torch.tensor([[0.0, 0.0, 2.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        bias[:3] = torch.tensor([-1.0, 0.0, 1.0])


def _obey(network: Network, hidden: int) -> None:
    """Let layer 1's detector hear its command alone, and layer 2's the unit 0 of layer 1, which holds its own."""
    first, second = network.layer(0), network.layer(1)
    assert first.input is not None
    forget, put, out, new, detector = (gate * hidden for gate in range(5))
    first.input[:3] = 0.0
    first.input[0, detector] = SURE
    first.input[1, new] = OPEN
    first.input[2, [put, out]] = OPEN
    first.input[2, forget] = -OPEN
    second.weight[2 * hidden, detector] = SURE
    for layer in (first, second):
        assert layer.gain is not None
        layer.gain[-1] = 1.0


def _write_at(network: Network, rates: list[float]) -> None:
    """Let what the network writes for itself command boundaries at these rates."""
    network.output.weight.mul_(0.1)
    first, second = rates
    bias = network.output.bias
    if network.config.kind == "text":
        shares = torch.tensor([1 - first, first - second, second]).clamp_min(1e-3)
        bias.add_((shares / shares.sum()).log()[torch.arange(len(bias)) % CLASSES])
    else:
        count = network.config.mixtures
        bias[-1] = float(np.log(first / (1 - first)))
        bias[count : count + count // 2] = -3.0
        bias[count + count // 2 : 2 * count] = 3.0
        bias[: count // 2] += float(np.log(max(first / max(second, 1e-3) - 1, 1e-3)))
