"""A network that writes a given text, exported: the window over the text is held to everything the rest is held to."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.build import Compiled, Facts, build, compile_network, sampled, ship
from export.bundle.folder import Bundle, BundleError
from export.checks import parity
from export.checks.verify import verify
from export.errors import ParityError
from export.graphs.quantisation import Precision
from export.graphs.specs import TEXT_SLOTS
from export.runtime import Lines, OnnxStep, TextEncoder
from model.codec import HandwritingCodec, InkCodec, TextCodec
from model.config import ModelConfig
from model.network.stack import Condition, Network
from tests.export.helpers import with_weight

CODEC = HandwritingCodec(
    InkCodec((8.2, 0.1), (42.0, 37.0)), TextCodec(tuple("abcdefgh .\N{REPLACEMENT CHARACTER}"), "replace"), (4, 9, 11)
)
CONFIG = ModelConfig(
    kind="ink",
    embedding=8,
    hidden=(14, 12, 10),
    output=10,
    mixtures=3,
    characters=CODEC.num_characters,
    writers=CODEC.num_hands,
    character_width=6,
    window_mixtures=3,
)


def network(config: ModelConfig = CONFIG) -> Network:
    """A random network whose detectors fire now and then, and whose window moves as in training."""
    torch.manual_seed(1)
    made = Network(config)
    with torch.no_grad():
        for index in range(config.num_layers - 1):
            made.layer(index).weight[:, -1].normal_(std=3)
            made.layer(index).bias[-1] = -0.4 if index == 0 else 0.4
    return made


def shipped(precision: Precision, folder: Path, steps: int = 130) -> Bundle:
    """The network's bundle, proved on so many steps."""
    return build(network(), CODEC, folder, "written", precision=precision, steps=steps, rows=2)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    """The files in float32."""
    return compile_network(network())


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_files_are_the_network(precision: Precision, tmp_path: Path) -> None:
    """Reference, PyTorch, TorchScript and both ONNX files agree on every step, and no row depends on its batch."""
    made = shipped(precision, tmp_path / "written")
    assert made.reader
    assert [spec.name for spec in made.draws] == ["bias", "noise", "hand", "text"]
    assert {"window_position", "window_vector"} <= {state.name for state in made.states}


def test_a_wrong_weight_of_the_window_is_found(compiled: Compiled, tmp_path: Path) -> None:
    """With one weight of the window a little off the check fails, and no bundle is written."""
    trace = sampled(compiled, CODEC, 2, 60)

    def nudge(values: Any) -> Any:
        values[0, 0] += 0.01
        return values

    broken = with_weight(compiled.graph, "window.weight", nudge)
    damaged = replace(compiled, graph=broken)
    with pytest.raises(ParityError, match="onnxruntime"):
        ship(damaged, CODEC, tmp_path / "written", "written", Facts(), trace)
    assert not (tmp_path / "written").exists()


def test_a_text_is_encoded_as_the_network_encodes_it(compiled: Compiled) -> None:
    """Characters and hands are encoded as the network does it, also where a line is shorter than the room for it."""
    assert compiled.text_encoder
    ids = np.array([[*CODEC.encode_text("abc"), 0, 0]])
    given = TextEncoder(compiled.text_encoder).encode(ids, np.array([2]))
    with torch.no_grad():
        conditioning = compiled.network.conditioning(Condition(torch.from_numpy(ids), torch.tensor([2])))
        hand = compiled.network.embed(torch.zeros(1, 3), conditioning.hand)
    np.testing.assert_allclose(given["text"][:, : ids.shape[1]], conditioning.differences.numpy(), atol=1e-5)
    assert not given["text"][:, ids.shape[1] :].any()
    np.testing.assert_allclose(given["hand"], hand.numpy(), atol=1e-5)


def test_a_line_without_room_is_refused(compiled: Compiled) -> None:
    """A text longer than the graph has room for is an error, not cut off in silence."""
    assert compiled.text_encoder
    with pytest.raises(ValueError, match="longer than"):
        TextEncoder(compiled.text_encoder).encode(np.ones((1, TEXT_SLOTS + 1), np.int64), np.zeros(1, np.int64))


def test_what_is_drawn_says_where_the_pen_is(compiled: Compiled) -> None:
    """After the offset come the stop's logit, as in the mixture, and the character with the largest share."""
    assert compiled.text_encoder
    step = compiled.step()
    ids = CODEC.encode_text("abc def gh. abc def gh.")[None]
    lines = Lines.encode(TextEncoder(compiled.text_encoder), ids, np.array([1]))
    conditioning = compiled.network.conditioning(Condition(torch.from_numpy(ids), torch.tensor([1])))
    state, x, places = step.zeros(1), np.zeros((1, 3), np.float32), []
    for _ in range(200):
        before = state["window_position"]
        drawn, output, state = step.draw(x, state, {**lines.inputs, "noise": np.full((1, 4), 0.5)})
        assert drawn[0, 3] == output[0, -1]
        with torch.no_grad():
            assert compiled.network.attention
            h = torch.from_numpy(state["h1"])
            shares = compiled.network.attention.step(h, torch.from_numpy(before), conditioning.differences)[1][0]
        places.append(int(drawn[0, 4]))
        wanted = 1 + int(shares[1:].argmax())
        # Beyond the text there is room for more, where the window may be by now.
        assert places[-1] >= len(shares) or shares[places[-1]] >= shares[wanted] - 1e-5
        x = drawn[:, :3]
    assert places[0] == 1
    assert places[-1] > places[0]


def test_another_text_gives_other_ink(compiled: Compiled) -> None:
    """The text reaches what is drawn: with the same noise two texts part."""
    assert compiled.text_encoder
    encoder, step = TextEncoder(compiled.text_encoder), compiled.step()
    found = []
    for text in ("aaaaaaaa", "hhhhhhhh"):
        given = encoder.encode(CODEC.encode_text(text)[None], np.array([1]))
        found.append(_outputs(step, given))
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.slow
def test_such_a_bundle_is_verified_from_scratch(tmp_path: Path) -> None:
    """`verify` encodes the recorded texts with the bundle's own encoder and finds everything as it was."""
    made = shipped("int8", tmp_path / "written", parity.MIN_STEPS)
    found = verify(tmp_path / "written")
    assert any("same bits" in line for line in found)
    assert made.name == "written"


def test_a_manifest_of_another_alphabet_is_refused(tmp_path: Path) -> None:
    """Characters and hands of codec and network are the same numbers, or there is no bundle."""
    other = HandwritingCodec(CODEC.ink, CODEC.text, (4, 9))
    compiled = compile_network(network())
    with pytest.raises(BundleError, match="hands"):
        ship(compiled, other, tmp_path / "written", "written", Facts(), sampled(compiled, CODEC, 2, 130))


def _outputs(step: OnnxStep, given: dict[str, Any]) -> Any:
    state, outputs = step.zeros(1), []
    for _ in range(30):
        _, output, state = step.draw(np.zeros((1, 3), np.float32), state, given)
        outputs.append(output)
    return np.concatenate(outputs)
