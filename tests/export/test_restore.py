"""A bundle becomes a checkpoint again: the same network, from which the same files can be made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.build import compile_network
from export.bundle import folder as bundles_of
from export.bundle.folder import SCRIPT_FILE, Bundle
from export.errors import ExportError
from export.graphs.quantisation import Precision
from export.graphs.recogniser import build_recogniser
from export.graphs.weights import StepWeights
from export.restore import restore, restore_recogniser
from model.checkpoints import checkpoint as checkpoints
from model.recogniser.network import load_recogniser
from tests.export.conftest import Made
from tests.export.graphs.test_text_window import CODEC, network, shipped
from tests.export.test_cli import run
from tests.service.live_server import ROOT


def assert_same_weights(found: StepWeights, wanted: StepWeights) -> None:
    """Array by array, to the rounding of a scale."""
    pairs: list[tuple[Any, Any]] = [
        (found.embedding, wanted.embedding),
        (found.input, wanted.input),
        (found.head, wanted.head),
    ]
    for mine, theirs in zip(found.layers, wanted.layers, strict=True):
        pairs += [(mine.own, theirs.own), (mine.out, theirs.out), (mine.bias, theirs.bias)]
        pairs += [(a, b) for a, b in ((mine.above, theirs.above), (mine.gain, theirs.gain)) if b is not None]
        assert (mine.above is None) == (theirs.above is None)
    if wanted.embedding_bias is not None:
        assert found.embedding_bias is not None
        pairs.append((found.embedding_bias, wanted.embedding_bias))
    if wanted.window is not None:
        assert found.window is not None
        pairs += [(getattr(found.window, name), values) for name, values in vars(wanted.window).items()]
    for mine_values, their_values in pairs:
        np.testing.assert_allclose(mine_values, their_values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("made", ["text_made", "ink_made"])
def test_the_network_comes_back(made: str, request: pytest.FixtureRequest) -> None:
    """Float16 and int8, text and ink: every array of the step is what was shipped; codec and facts are there."""
    original: Made = request.getfixturevalue(made)
    found = restore(original.bundle)
    precision: Precision = original.bundle.model["precision"]
    wanted = StepWeights.of(original.compiled.network, precision)
    assert_same_weights(StepWeights.of(found.network(), precision), wanted)
    assert found.codec == original.codec
    assert found.facts["data"] == original.bundle.data
    assert found.facts["bundle"] == original.bundle.fingerprint


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_network_that_writes_texts_comes_back(precision: Precision, tmp_path: Path) -> None:
    """With its window over the text and its hands."""
    made = shipped(precision, tmp_path / "written")
    found = restore(made)
    wanted = StepWeights.of(compile_network(network(), precision).network, precision)
    assert_same_weights(StepWeights.of(found.network(), precision), wanted)
    assert found.codec == CODEC


def test_the_command_writes_a_checkpoint_once(
    text_made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is there is not written over; a folder that is no bundle is refused."""
    target = tmp_path / "again.safetensors"
    assert run("restore", text_made.bundle.path, target) == 0
    assert checkpoints.load(target).model.hidden == text_made.bundle.hidden
    before = target.read_bytes()
    assert run("restore", text_made.bundle.path, target) == 1
    assert "exists already" in capsys.readouterr().err
    assert target.read_bytes() == before
    assert run("restore", tmp_path, tmp_path / "other.safetensors") == 1


def test_a_file_of_another_shape_is_refused(text_made: Made, ink_made: Made) -> None:
    """The manifest and the file must be about the same network."""
    files = dict(text_made.bundle.files) | {SCRIPT_FILE: ink_made.bundle.files[SCRIPT_FILE]}
    mixed = Bundle(text_made.bundle.path, text_made.bundle.manifest, files)
    with pytest.raises(ExportError, match=r"step\.pt does not hold a network of this shape"):
        restore(mixed)


def test_a_recogniser_comes_back(tmp_path: Path) -> None:
    """The very file that ships is made of it again, so it may be shipped with another network."""
    shipped_ink = bundles_of.load(ROOT / "service" / "bundles" / "ink")
    assert build_recogniser(restore_recogniser(shipped_ink)) == shipped_ink.recogniser
    with pytest.raises(ExportError, match="has no recogniser"):
        restore_recogniser(shipped("float32", tmp_path / "written"))


def test_a_recogniser_is_restored_from_the_command_line(
    tmp_path: Path, text_made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes into a file of its own, with how well it reads, and from there into another bundle; text has none."""
    target = tmp_path / "recogniser.safetensors"
    source = ROOT / "service" / "bundles" / "ink"
    assert run("restore", "--recogniser", source, target) == 0
    read, facts = load_recogniser(target)
    assert build_recogniser(read) == bundles_of.load(source).recogniser
    assert 0 < facts["valid"]["cer"] < 0.2
    capsys.readouterr()
    assert run("restore", "--recogniser", text_made.bundle.path, tmp_path / "none.safetensors") == 1
    assert "has no recogniser" in capsys.readouterr().err
