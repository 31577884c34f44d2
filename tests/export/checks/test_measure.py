"""The figures of the file that ships are those of the network, measured over every target once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from export.build import compile_network
from export.checks.measure import measure
from model.config import ModelConfig
from model.data.corpus import Corpus
from model.network.fast.window import WindowOptions
from model.network.stack import Network
from model.training.evaluate import evaluate, summarise
from tests.export.conftest import FIXTURES


@pytest.mark.parametrize(
    "kind, path, cell",
    [("text", "text.txt", "hmlstm"), ("ink", "ink.npz", "hmlstm"), ("text", "text.txt", "lstm")],
)
def test_onnx_figures_are_those_of_the_network(kind: str, path: str, cell: str) -> None:
    """Nats, boundary rates and the share of work through ONNX Runtime equal the evaluation in PyTorch."""
    corpus = Corpus.load(kind, FIXTURES / path)  # type: ignore[arg-type]
    vocabulary = corpus.codec.size if kind == "text" else 0  # type: ignore[union-attr]
    torch.manual_seed(2)
    config = ModelConfig(
        kind=kind,  # type: ignore[arg-type]
        cell=cell,  # type: ignore[arg-type]
        vocabulary=vocabulary,
        embedding=8,
        hidden=(14, 10, 12),
        output=9,
        mixtures=2,
    )
    network = Network(config).eval()
    found = measure(compile_network(network).step(), config, corpus, "test")
    wanted = summarise(corpus, "test", evaluate(network, corpus.evaluation("test", 100), WindowOptions(torch.float32)))
    keys = ["bpc"] if kind == "text" else ["nats_per_line", "nats_per_step", "nats_per_step_raw_units", "lines"]
    for key in [*keys, "steps"]:
        assert found[f"test_{key}"] == pytest.approx(wanted[key], rel=1e-4), key
    if cell == "lstm":
        assert "z_rates" not in found
        return
    # A boundary that falls the other way in float32 would move a rate by one step in some thousands.
    np.testing.assert_allclose(found["z_rates"], wanted["z_rates"], atol=2e-3)
    assert found["cell_work_share"] == pytest.approx(wanted["cell_work_share"], abs=2e-3)
    assert 0 < found["cell_work_share"] < 1


def test_the_data_version_names_the_very_data() -> None:
    """A figure says on what it was measured."""
    corpus = Corpus.load("text", Path(FIXTURES / "text.txt"))
    config = ModelConfig(vocabulary=corpus.codec.size, embedding=4, hidden=(5,), output=4)  # type: ignore[union-attr]
    found = measure(compile_network(Network(config)).step(), config, corpus, "valid")
    assert found["data_version"] == f"{corpus.facts['name']}, sha256 {corpus.facts['sha256']}"
    assert "valid_bpc" in found
    assert found["cell_work_share"] == 1.0
    assert found["z_rates"] == []
