"""Networks of random weights and any width whose boundaries are forced by their inputs.

Recorded boundaries of a trained network (`boundaries.py`) are turned into inputs that force them. An input adds so much
to the detector of layer 1 that nothing else decides it, and it sets one unit of layer 1 that decides the detector of
layer 2. The detectors are columns and rows of the ordinary matrices, so the network does all the arithmetic of any
network of its width, and neither the exporter nor the graphs nor the service treats it in a special way.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.engine.boundaries import Array, Bits
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
# An input is of one of three classes: no boundary, one of layer 1, or one of both. Boundaries nest, so there is no
# fourth.
CLASSES = NUM_LAYERS

# Large enough to outweigh everything else that a detector adds up, which is of the order of 1.
SURE = 100.0
# Opens a gate fully, but hardly moves the statistics of LayerNorm, which the gate is part of.
OPEN = 30.0


def forced_network(kind: Kind, hidden: int, rates: list[float]) -> Network:
    """Return a network of three layers of `hidden` units that sets the boundaries which its inputs force.

    Args:
        kind: of its inputs, see `symbols_for` and `offsets_for`.
        hidden: H of every layer, and the width of the output embedding.
        rates: of the boundaries of layers 1 and 2 when the network writes freely.
    """
    torch.manual_seed(1)
    vocabulary = TEXT.size if kind == "text" else 0
    network = Network(ModelConfig(kind, vocabulary=vocabulary, hidden=(hidden,) * NUM_LAYERS, output=hidden))
    with torch.no_grad():
        _mark_inputs(network)
        _force_detectors(network, hidden)
        _set_rates(network, rates)
    return network.eval()


def symbols_for(fired: Bits) -> NDArray[np.int64]:
    """Return symbols (T, B) that force these boundaries (T, B, 2)."""
    classes = fired.astype(np.int64).sum(-1)
    spread = np.random.default_rng(1).integers(0, TEXT.size // CLASSES, classes.shape)
    chosen: NDArray[np.int64] = CLASSES * spread + classes
    return chosen


def offsets_for(fired: Bits) -> NDArray[np.float32]:
    """Return offsets (T, B, 3) that force these boundaries (T, B, 2): the pen for layer 1, dx for layer 2."""
    drawn = np.random.default_rng(1).normal(size=(*fired.shape[:2], 3)).astype(np.float32)
    drawn[..., 0] = np.where(fired[..., 1], 1, -1)
    drawn[..., 2] = fired[..., 0]
    return drawn


def inputs_for(bundle: Bundle, fired: Bits) -> Array:
    """Return inputs of a bundle's kind that force these boundaries."""
    return symbols_for(fired) if bundle.kind == "text" else offsets_for(fired)


def export(network: Network, folder: Path, name: str, rates: list[float], precision: Precision = "float32") -> Bundle:
    """Export a network, with a parity check on a short trace, and return its bundle."""
    codec = TEXT if network.config.kind == "text" else INK
    facts = Facts("A network of random weights for measuring speed.", metrics={"z_rates": rates})
    return build(network, codec, folder / name, name, facts, precision, steps=96, rows=2)


def _mark_inputs(network: Network) -> None:
    """Set the first three dimensions of the embedding: +-1 for a boundary of layer 1, of layer 2, and always 1."""
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


def _force_detectors(network: Network, hidden: int) -> None:
    """Let the mark decide layer 1's detector, and unit 0 of layer 1, which carries the other mark, decide layer 2's."""
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


def _set_rates(network: Network, rates: list[float]) -> None:
    """Bias the output so that what the network writes freely forces boundaries at these rates."""
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
