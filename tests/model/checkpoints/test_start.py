"""Starting from the weights of another training: all of them arrive, and what cannot fit is refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import BEST, LAST, Checkpoint
from model.checkpoints.start import StartError, start_from, symbols_of
from model.codec import HandwritingCodec, InkCodec, TextCodec
from model.config import Preset
from model.data.batches import TextStreams
from model.data.corpus import Corpus
from model.network.fast.window import WindowOptions
from model.network.stack import Condition, Network
from tests.model.corpora import small_preset, write, write_text
from tests.model.networks import config_for, make_inputs, make_network
from tests.model.training.test_loop import make_trainer, read_log

INK = InkCodec((8.0, 0.0), (40.0, 35.0))
WRITING = HandwritingCodec(INK, TextCodec(tuple("abcdef\N{REPLACEMENT CHARACTER}"), "replace"), (3, 5))


def kept(network: Network, codec: Any) -> Checkpoint:
    """A network as a checkpoint holds it."""
    return Checkpoint(network.config, small_preset("text").train, codec, {"steps": 7}, network.state_dict())


def outputs(network: Network, x: torch.Tensor, condition: Condition | None = None) -> torch.Tensor:
    """What a network says over a window."""
    with torch.no_grad():
        options = WindowOptions(torch.float64)
        result = network(x, network.zeros(x.shape[1]), options, torch.tensor(1.0).double(), None, condition)
    return torch.as_tensor(result.raw)


def test_every_weight_arrives() -> None:
    """The same sizes: the two networks say the same."""
    config = config_for("ink")
    trained, fresh = make_network(config, 1), make_network(config, 2)
    x = make_inputs(config, 9, 3)
    assert not torch.allclose(outputs(trained, x), outputs(fresh, x))
    start_from(fresh, INK, kept(trained, INK))
    assert torch.equal(outputs(trained, x), outputs(fresh, x))


def test_a_free_writer_learns_to_write_a_text() -> None:
    """What is read of a text comes last everywhere: reading nothing, in nobody's hand, the pen moves as it did."""
    free = make_network(config_for("ink"), 1)
    config = config_for("ink", characters=9, writers=3, character_width=5, window_mixtures=2)
    writing = make_network(config, 2)
    start_from(writing, WRITING, kept(free, INK))
    x = make_inputs(free.config, 9, 3)
    nothing = Condition(torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    with torch.no_grad():
        assert writing.hands is not None
        writing.hands.weight[0] = 0
    # The last output is the logit of the line being over, which a free writer has not.
    torch.testing.assert_close(outputs(writing, x, nothing)[..., :-1], outputs(free, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden": (8, 6, 11)}, "model.hidden"),
        ({"output": 10}, "model.output"),
        ({"cell": "lstm"}, "model.cell"),
    ],
)
def test_another_shape_is_refused(changes: dict[str, Any], named: str) -> None:
    """The message names the field, and no weight was touched."""
    trained, fresh = make_network(config_for("ink"), 1), make_network(config_for("ink", **changes), 2)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    with pytest.raises(StartError, match=f"{named} is .* in the network to start from"):
        start_from(fresh, INK, kept(trained, INK))
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())


def test_other_symbols_are_refused() -> None:
    """Numbers of another alphabet would mean other letters."""
    network = make_network(config_for("text"))
    codec = TextCodec(tuple("abcdefghijk"), "error")
    with pytest.raises(StartError, match="knows other symbols"):
        start_from(network, TextCodec(tuple("bcdefghijkl"), "error"), kept(network, codec))


@pytest.fixture
def text(tmp_path: Path) -> Corpus:
    """A few thousand characters."""
    return Corpus.load("text", write("text", tmp_path))


def test_a_training_goes_on_from_weights(text: Corpus, tmp_path: Path) -> None:
    """The first evaluation is as good as the last one was, nothing is read twice, and the checkpoint tells of both."""
    preset = small_preset("text", average=0.9, learning_rate=0.02)
    make_trainer(preset, text, tmp_path / "first", updates=48).run()
    last = read_log(tmp_path / "first")[-1]
    careful = Preset(preset.model, replace(preset.train, learning_rate=1e-6, final_learning_rate=1e-7))
    second = make_trainer(careful, text, tmp_path / "second")
    assert isinstance(second.state.streams, TextStreams)
    start = checkpoints.load(tmp_path / "first" / BEST)
    second.begin(resume=False, start=start)
    assert second.state.streams.passes == pytest.approx(last["passes"], abs=0.05)
    second.run(stop_after=4)
    assert read_log(tmp_path / "second")[0]["valid"] == pytest.approx(last["valid"], abs=0.05)
    again = make_trainer(careful, text, tmp_path / "second")
    again.begin(resume=True)
    again.run(stop_after=2)
    facts = checkpoints.load(tmp_path / "second" / LAST).facts
    assert facts["started_from"]["updates"] == start.facts["updates"]
    assert facts["updates"] == 6


def test_another_text_is_read_from_its_beginning_in_the_same_alphabet(text: Corpus, tmp_path: Path) -> None:
    """Letters that the network does not know are replaced, not given numbers of others."""
    make_trainer(small_preset("text"), text, tmp_path / "first").run(stop_after=2)
    start = checkpoints.load(tmp_path / "first" / LAST)
    path = write_text(tmp_path / "other.txt")
    path.write_text(path.read_text(encoding="utf-8").replace("e", "é"), encoding="utf-8")
    other = Corpus.load("text", path, symbols_of(start))
    assert other.codec == text.codec
    trainer = make_trainer(small_preset("text"), other, tmp_path / "second")
    trainer.begin(resume=False, start=start)
    assert trainer.state.streams.passes == 0
    trainer.run(stop_after=1)
