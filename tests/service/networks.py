"""Small networks of random weights whose detectors fire now and then, and their bundles."""

from pathlib import Path
from typing import Literal

import torch

from export.build import Facts, build
from export.bundle.folder import Bundle
from export.graphs.quantisation import Precision
from model.codec import HandwritingCodec, InkCodec, TextCodec
from model.config import ModelConfig
from model.network.stack import Network

ANYONE = {"name": "none: the weights are random", "licence": "CC0-1.0", "use": "any"}


def network(
    codec: TextCodec | InkCodec,
    hidden: tuple[int, ...],
    cell: Literal["hmlstm", "lstm"] = "hmlstm",
    seed: int = 0,
    *,
    layer_norm: bool = True,
) -> Network:
    """Return a network with lively detectors and, for text, opinions about what comes next."""
    torch.manual_seed(seed)
    if isinstance(codec, TextCodec):
        config = ModelConfig("text", cell, codec.size, 16, hidden, 20, layer_norm=layer_norm)
    else:
        config = ModelConfig("ink", cell, 0, 16, hidden, 20, mixtures=4, layer_norm=layer_norm)
    made = Network(config)
    with torch.no_grad():
        made.output.weight.mul_(4)
        if cell == "hmlstm":
            for index in range(len(hidden) - 1):
                made.layer(index).weight[:, -1].normal_(std=3)
                made.layer(index).bias[-1] = -0.4 if index == 0 else 0.4
    return made


def written_network(codec: HandwritingCodec, hidden: tuple[int, ...] = (20, 16, 18)) -> Network:
    """Return a small network that writes given texts, its detectors lively and its window at an ordinary pace."""
    torch.manual_seed(2)
    config = ModelConfig(
        "ink",
        embedding=12,
        hidden=hidden,
        output=16,
        mixtures=3,
        characters=codec.num_characters,
        writers=codec.num_hands,
        character_width=8,
        window_mixtures=3,
    )
    made = Network(config)
    assert made.hands is not None
    with torch.no_grad():
        made.hands.weight.mul_(10)
        for index in range(len(hidden) - 1):
            made.layer(index).weight[:, -1].normal_(std=3)
            made.layer(index).bias[-1] = -0.4 if index == 0 else 0.4
    return made


def export(
    codec: TextCodec | InkCodec,
    folder: Path,
    name: str,
    hidden: tuple[int, ...],
    cell: Literal["hmlstm", "lstm"] = "hmlstm",
    precision: Precision = "float32",
) -> Bundle:
    """Export such a network, with a short proof, to a bundle of that name in a folder."""
    facts = Facts(f"A network of random weights named {name}.", ANYONE, {"steps": 0}, {"z_rates": [0.3, 0.1]})
    return build(network(codec, hidden, cell), codec, folder / name, name, facts, precision, steps=128, rows=2)
