"""The mean of several networks is one network, and only networks of one kind have it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.average import AverageError, average
from model.checkpoints.checkpoint import BEST, LAST, Checkpoint
from model.codec import TextCodec
from model.data.corpus import Corpus
from model.network.stack import Network
from tests.model.cli.test_main import command, refusal
from tests.model.corpora import small_preset, write
from tests.model.networks import config_for, make_network
from tests.model.training.test_loop import make_trainer

CODEC = TextCodec(tuple("abcdefghijk"), "error")


def kept(network: Network) -> Checkpoint:
    """A network as a checkpoint holds it."""
    return Checkpoint(network.config, small_preset("text").train, CODEC, {"updates": 7}, network.state_dict())


def test_every_weight_is_the_mean() -> None:
    """Of two and of three; the facts say of what."""
    networks = [kept(make_network(config_for("text"), seed)) for seed in (1, 2, 3)]
    for count in (2, 3):
        found = average(networks[:count])
        assert found.facts["averaged"] == {"updates": [7] * count}
        for name, weight in found.weights.items():
            mean = sum(one.weights[name] for one in networks[:count]) / count
            torch.testing.assert_close(weight, torch.as_tensor(mean), rtol=0, atol=1e-15)


def test_what_differs_is_refused() -> None:
    """One network alone, another shape, another alphabet."""
    one = kept(make_network(config_for("text"), 1))
    other = kept(make_network(config_for("text", output=10), 1))
    with pytest.raises(AverageError, match="at least two"):
        average([one])
    with pytest.raises(AverageError, match="different configurations"):
        average([one, other])
    with pytest.raises(AverageError, match="different symbols"):
        average([one, replace(one, codec=TextCodec(tuple("bcdefghijkl"), "error"))])


def test_the_command_averages_what_was_evaluated(tmp_path: Path) -> None:
    """Of a last checkpoint the running averages count, and the result can be used like any other."""
    corpus = Corpus.load("text", write("text", tmp_path))
    out = tmp_path / "out"
    make_trainer(small_preset("text", average=0.9), corpus, out).run()
    path = tmp_path / "mean.safetensors"
    result = command("average", out / BEST, out / LAST, "--out", path)
    assert result.exit_code == 0, result.output
    best, last, mean = (checkpoints.load(file) for file in (out / BEST, out / LAST, path))
    for name, weight in mean.weights.items():
        assert torch.equal(weight, torch.stack([best.weights[name], last.extra[f"average/{name}"]]).mean(0))
    assert not mean.extra
    assert "at least two" in refusal("average", path, "--out", tmp_path / "other.safetensors")
