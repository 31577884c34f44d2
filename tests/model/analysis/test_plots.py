"""Pictures are drawn of whatever can be trained, without a warning."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.analysis.plots import plot_boundaries, plot_curves, trace
from model.checkpoints.checkpoint import Checkpoint
from model.config import Kind
from model.data.corpus import Corpus
from model.training.loop import build
from tests.model.corpora import small_preset, write_ink, write_text
from tests.model.networks import walk

DEPTHS = {"one layer": (6,), "three layers": (8, 7, 6), "six layers": (4, 4, 4, 4, 4, 4)}


def checkpoint_for(corpus: Corpus, **model: Any) -> Checkpoint:
    """An untrained network over a corpus."""
    network, train = build(small_preset(corpus.kind, model), corpus)
    return Checkpoint(network.config, train, corpus.codec, {}, network.state_dict())


def small(kind: Kind, folder: Path) -> Corpus:
    """A corpus whose validation split is shorter than what a picture has room for."""
    path = folder / "small"
    return Corpus.load(
        kind, write_text(path, characters=1200) if kind == "text" else write_ink(path.with_suffix(".npz"))
    )


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", ["text", "ink"])
def test_boundaries_are_drawn(kind: Kind, depth: str, tmp_path: Path) -> None:
    """Text and ink, with no detector, two, and more than there are layers in the paper."""
    corpus = small(kind, tmp_path)
    plot_boundaries(checkpoint_for(corpus, hidden=DEPTHS[depth]), corpus, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("detectors", [0, 2, 5])
@pytest.mark.parametrize("records", [1, 7])
def test_curves_are_drawn(records: int, detectors: int, tmp_path: Path) -> None:
    """From one record on, and for any number of detectors."""
    rates = {name: [0.3] * detectors for name in ("z_rates", "live_rates")}
    log = [{"update": n, "train": 3 - 0.1 * n, "valid": 3.0, "unit": "nats per step"} | rates for n in range(records)]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(record) for record in log), encoding="utf-8")
    plot_curves(tmp_path / "log.jsonl", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("detector", ["step", "sample"])
def test_a_trace_is_what_the_network_did(detector: str, tmp_path: Path) -> None:
    """Its z and norms are those of a walk over the same symbols; a sampled detector's z are the same each time."""
    corpus = small("text", tmp_path)
    made = checkpoint_for(corpus, detector=detector)
    ids = torch.from_numpy(np.asarray(corpus.data.valid, np.int64))
    z, norms = trace(made, ids)
    assert np.array_equal(z, trace(made, ids)[0])
    assert norms.shape == (len(ids), len(made.model.hidden))
    copied = (z[1:, 0] == 0) & (z[:-1, 1] == 0)  # layer 2 did not move at these steps
    assert np.array_equal(norms[1:, 1][copied], norms[:-1, 1][copied])
    if detector == "step":
        with torch.no_grad():
            assert np.array_equal(z, walk(made.network(), ids[:, None]).z[:, 0, :-1].numpy())
