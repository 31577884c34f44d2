"""Bundles that many tests look at are made once."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.build import Compiled, Facts, compile_network, ship
from export.bundle.folder import Bundle
from export.checks import traces
from model.codec import InkCodec, TextCodec
from model.config import ModelConfig
from model.network.stack import Network

FIXTURES = Path(__file__).parent.parent / "fixtures"
STEPS = 2_048


@dataclass(frozen=True)
class Made:
    """A bundle with all that went into it."""

    bundle: Bundle
    compiled: Compiled
    codec: TextCodec | InkCodec
    trace: traces.Trace
    report: dict[str, Any]


@pytest.fixture(scope="session")
def text_made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three unequal layers over real English, matrices in float16, proved on 2,048 real characters."""
    text = (FIXTURES / "text.txt").read_text(encoding="utf-8")
    codec = TextCodec.from_text(text)
    config = ModelConfig(vocabulary=codec.size, embedding=12, hidden=(20, 16, 24), output=18)
    facts = Facts(
        "A test.", {"name": "War and Peace", "licence": "public domain", "use": "any"}, {"seed": 0}, {}, "Free.\n"
    )
    steps = traces.text_rows(codec.encode(text), 1, STEPS, "War and Peace")
    return make(config, codec, tmp_path_factory.mktemp("text") / "tiny", facts, steps)


@pytest.fixture(scope="session")
def ink_made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two layers over real pen strokes, matrices in int8, proved on 2,048 real points."""
    with np.load(FIXTURES / "ink.npz") as strokes:
        raw = np.stack([strokes["dx"], strokes["dy"], strokes["eos"]], 1)
        lines = np.split(raw, strokes["offsets"][1:-1])
    codec = InkCodec.from_offsets([line[1:] for line in lines])
    config = ModelConfig(kind="ink", embedding=10, hidden=(18, 22), output=14, mixtures=4)
    steps = traces.ink_rows([codec.encode(line) for line in lines], 1, STEPS, "Hershey lines")
    return make(config, codec, tmp_path_factory.mktemp("ink") / "tiny-ink", Facts(), steps, "int8")


def make(
    config: ModelConfig,
    codec: TextCodec | InkCodec,
    folder: Path,
    facts: Facts,
    steps: traces.Trace,
    precision: Any = "float16",
) -> Made:
    """A random network, exported for real."""
    torch.manual_seed(1)
    compiled = compile_network(Network(config), precision)
    made = ship(compiled, codec, folder, folder.name, facts, steps)
    report: dict[str, Any] = json.loads(made.files["parity.json"])
    return Made(made, compiled, codec, steps, report)
