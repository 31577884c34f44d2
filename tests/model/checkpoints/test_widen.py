"""A widened network computes what it did, whichever layer grew, and its new units can come apart."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import BEST, Checkpoint
from model.checkpoints.widen import WidenError, widen
from model.codec import InkCodec, TextCodec
from model.config import ModelConfig
from model.data.corpus import Corpus
from model.network.fast.window import WindowOptions
from model.network.stack import Condition, Network
from tests.model.cli.test_main import SMALL, command, refusal
from tests.model.corpora import small_preset, write
from tests.model.networks import config_for, make_inputs, make_network
from tests.model.training.test_loop import make_trainer
from tests.strategies import model_configs

CODECS: dict[str, TextCodec | InkCodec] = {
    "text": TextCodec(tuple("abcdefghijk"), "error"),
    "ink": InkCodec((8.0, 0.0), (40.0, 35.0)),
}


def kept(network: Network) -> Checkpoint:
    """A network as a checkpoint holds it; the codec is not looked at."""
    codec = CODECS[network.config.kind]
    return Checkpoint(network.config, small_preset("text").train, codec, {"updates": 7}, network.state_dict())


def window(network: Network, x: torch.Tensor, condition: Condition | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """What a network says over a window, and its boundaries."""
    steps, rows = x.shape[:2]
    noise = torch.full((steps, rows, network.config.num_layers - 1), 0.5).double()
    options = WindowOptions(torch.float64)
    sampled = noise if network.config.detector == "sample" else None
    result = network(x, network.zeros(rows), options, torch.tensor(1.0).double(), sampled, condition)
    return result.raw, result.z


@given(model_configs(), st.integers(0, 2**16), st.data())
def test_a_widened_network_computes_the_same(config: ModelConfig, seed: int, data: st.DataObject) -> None:
    """Any layer of any network; twice in a row too."""
    first = make_network(config, seed)
    layers = st.integers(1, config.num_layers)
    once = widen(kept(first), data.draw(layers), seed)
    twice = widen(once, data.draw(layers), seed)
    assert sum(twice.model.hidden) > sum(once.model.hidden) > sum(config.hidden)
    x = make_inputs(config, 9, 3)
    condition = None
    if config.writes_text:
        condition = Condition(torch.ones(3, 4, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    raw, z = window(first, x, condition)
    for wide in (once, twice):
        network = Network(wide.model).double()
        network.load_state_dict(dict(wide.weights))
        wide_raw, wide_z = window(network, x, condition)
        torch.testing.assert_close(wide_raw, raw, rtol=1e-9, atol=1e-9)
        assert torch.equal(wide_z, z) or config.detector == "soft"


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_two_units_can_come_apart(layer: int) -> None:
    """What a loss wants of them differs, though they say the same."""
    config = config_for("text")
    wide = widen(kept(make_network(config, 1)), layer)
    network = Network(wide.model).double()
    network.load_state_dict(dict(wide.weights))
    window(network, make_inputs(config, 9, 3))[0].square().mean().backward()
    bias, size = network.layer(layer - 1).bias, config.hidden[layer - 1]
    assert bias.grad is not None
    for gate in range(4):
        first, second = bias.grad[2 * gate * size : 2 * (gate + 1) * size].split(size)
        assert not torch.allclose(first, second, rtol=1e-2)


def test_what_cannot_be_widened_is_refused() -> None:
    """A layer that is not there, and a network that knows its units' population."""
    one = kept(make_network(config_for("text"), 1))
    for layer in (0, 4):
        with pytest.raises(WidenError, match=f"no layer {layer}: the network has layers 1 to 3"):
            widen(one, layer)
    with pytest.raises(WidenError, match="batch-normalised"):
        widen(replace(one, model=replace(one.model, cell="bn-lstm", layer_norm=False)), 1)


def test_a_training_goes_on_wider(tmp_path: Path) -> None:
    """The command's file is a start: the record says from what, and another shape than its own is refused."""
    data = write("text", tmp_path)
    make_trainer(small_preset("text"), Corpus.load("text", data), tmp_path / "narrow").run()
    hidden = checkpoints.load(tmp_path / "narrow").model.hidden
    wide = tmp_path / "wide.safetensors"
    result = command("widen", tmp_path / "narrow", "--layer", 2, "--out", wide)
    assert result.exit_code == 0, result.output
    units = ",".join(map(str, (hidden[0], 2 * hidden[1], hidden[2])))
    out = tmp_path / "out"
    training = ["train", "tiny", "--data", data, "--updates", 3, "--from", wide, *SMALL]
    result = command(*training, "--out", out, "--set", f"model.hidden={units}")
    assert result.exit_code == 0, result.output
    found = checkpoints.load(out / BEST)
    assert found.facts["started_from"]["widened"] == [{"layer": 2, "units": 2 * hidden[1], "seed": 1}]
    assert "model.hidden" in refusal(*training, "--out", tmp_path / "other")
    assert "no layer 9" in refusal("widen", wide, "--layer", 9, "--out", tmp_path / "more")
