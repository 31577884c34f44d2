"""Checkpoints: whole or not at all, and never trusted before they are checked."""

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import BEST, FORMAT, LAST, Checkpoint, CheckpointError
from model.codec import InkCodec, TextCodec
from model.config import TrainConfig
from tests.model.networks import config_for, make_inputs, make_network, walk

ROOT = Path(__file__).resolve().parents[3]


def make_checkpoint(kind: str = "text", seed: int = 0, **facts: Any) -> Checkpoint:
    """A small checkpoint with weights, a further tensor and facts."""
    config = config_for(kind)
    network = make_network(config, seed, torch.float32)
    codec = TextCodec(tuple("abcdefghijk"), "error") if kind == "text" else InkCodec((8.0, 0.1), (42.0, 37.0))
    extra = {"adam/step": torch.tensor(3.0), "generator": torch.Generator().get_state()}
    return Checkpoint(config, TrainConfig(), codec, {"updates": 7} | facts, network.state_dict(), extra)


@pytest.mark.parametrize("kind", ["text", "ink"])
def test_it_comes_back_as_it_was(kind: str, tmp_path: Path) -> None:
    """Configurations, codec, facts and the bits of every tensor survive, and the network computes the same."""
    saved = make_checkpoint(kind, note="é")
    checkpoints.save(tmp_path / "run" / LAST, saved)
    loaded = checkpoints.load(tmp_path / "run" / LAST)
    assert (loaded.model, loaded.train, loaded.codec, loaded.facts) == (
        saved.model,
        saved.train,
        saved.codec,
        saved.facts,
    )
    for mine, theirs in ((loaded.weights, saved.weights), (loaded.extra, saved.extra)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        assert all(mine[name].dtype == theirs[name].dtype for name in mine)
    x = make_inputs(saved.model, 5, 2, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(walk(loaded.network(), x).outputs, walk(saved.network(), x).outputs)
    assert not loaded.network().training


def test_a_folder_means_its_best_and_else_its_last(tmp_path: Path) -> None:
    """A training folder stands for best.safetensors, or for last.safetensors while there is no best one."""
    checkpoints.save(tmp_path / LAST, make_checkpoint(which="last"))
    assert checkpoints.load(tmp_path).facts["which"] == "last"
    checkpoints.save(tmp_path / BEST, make_checkpoint(which="best"))
    assert checkpoints.load(tmp_path).facts["which"] == "best"


@pytest.mark.parametrize("name", ["nothing.safetensors", "empty-folder"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    """No file, or a folder without a checkpoint: one sentence with the path."""
    (tmp_path / "empty-folder").mkdir()
    with pytest.raises(CheckpointError, match=rf"{name}.*no such checkpoint; expected a \.safetensors file"):
        checkpoints.load(tmp_path / name)


@settings(max_examples=40)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cut anywhere, a checkpoint is refused with its path in one sentence."""
    folder = tmp_path_factory.mktemp("cut")
    checkpoints.save(folder / LAST, make_checkpoint())
    whole = (folder / LAST).read_bytes()
    (folder / LAST).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"last\.safetensors: not a whole safetensors file") as caught:
        checkpoints.load(folder / LAST)
    assert "\n" not in str(caught.value)


@settings(max_examples=60)
@given(data=st.data())
def test_damage_in_the_header_never_crashes(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any byte of the header changed: the checkpoint loads, or is refused with its path; nothing else happens."""
    folder = tmp_path_factory.mktemp("damage")
    checkpoints.save(folder / LAST, make_checkpoint())
    content = bytearray((folder / LAST).read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    place = data.draw(st.integers(0, 8 + length - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (folder / LAST).write_bytes(content)
    try:
        checkpoints.load(folder / LAST)
        refusal = None
    except CheckpointError as error:
        refusal = str(error)
    assert refusal is None or refusal.startswith(str(folder / LAST))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"\x80\x04\x95 a pickle", b"0" * 5000])
def test_a_foreign_file_is_refused(content: bytes, tmp_path: Path) -> None:
    """Something else under the name of a checkpoint is refused, and never unpickled."""
    (tmp_path / LAST).write_bytes(content)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoints.load(tmp_path / LAST)


def test_another_programs_tensors_are_refused(tmp_path: Path) -> None:
    """A sound safetensors file that is none of ours, and one of a later format, are refused."""
    save_file({"a": torch.zeros(2)}, str(tmp_path / LAST))
    with pytest.raises(CheckpointError, match=f"not a checkpoint of the format {FORMAT}"):
        checkpoints.load(tmp_path / LAST)
    save_file({"a": torch.zeros(2)}, str(tmp_path / LAST), {"copyist": json.dumps({"format": "copyist-checkpoint/9"})})
    with pytest.raises(CheckpointError, match=f"not a checkpoint of the format {FORMAT}"):
        checkpoints.load(tmp_path / LAST)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header["model"].pop("hidden"), "has the fields"),
        (lambda header: header["model"].update(hidden=[8, 6]), "weights do not fit the configuration"),
        (lambda header: header["model"].update(hidden="8"), "damaged"),
        (lambda header: header["model"].update(output="9"), "damaged"),
        (lambda header: header["train"].update(surprise=1), "surprise"),
        (lambda header: header.pop("codec"), "codec"),
        (lambda header: header.update(codec={"kind": "morse"}), "damaged"),
        (lambda header: header.pop("facts"), "facts"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    """What is wrong with the header is in the message."""
    saved = make_checkpoint()
    header = {
        "format": FORMAT,
        "model": saved.model.to_json(),
        "train": saved.train.to_json(),
        "codec": saved.codec.to_json(),
        "facts": saved.facts,
    }
    change(header)
    tensors = {f"weights/{name}": tensor for name, tensor in saved.weights.items()}
    save_file(tensors, str(tmp_path / LAST), {"copyist": json.dumps(header)})
    with pytest.raises(CheckpointError, match=rf"a damaged checkpoint \(.*{message}|{message}"):
        checkpoints.load(tmp_path / LAST)


def test_a_checkpoint_without_a_weight_is_refused(tmp_path: Path) -> None:
    """A missing or an unknown tensor is named."""
    saved = make_checkpoint()
    less = {name: tensor for name, tensor in saved.weights.items() if name != "output.gate"}
    checkpoints.save(tmp_path / LAST, Checkpoint(saved.model, saved.train, saved.codec, {}, less))
    with pytest.raises(CheckpointError, match=r"do not fit the configuration: output\.gate"):
        checkpoints.load(tmp_path / LAST)


@pytest.mark.parametrize("moment", ["rename", "write", "flush"])
def test_a_crash_while_writing_leaves_the_old_one(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails while a checkpoint is written, the one before it is whole."""
    checkpoints.save(tmp_path / LAST, make_checkpoint(number=1))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    def write_half(tensors: Any, path: str, metadata: Any) -> None:
        save_file(tensors, path, metadata)
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: len(content) // 2])
        fail()

    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(checkpoints, "save_file", write_half)
        else:
            patch.setattr(os, "replace" if moment == "rename" else "fsync", fail)
        with pytest.raises(OSError, match="disk is full"):
            checkpoints.save(tmp_path / LAST, make_checkpoint(number=2))
    assert checkpoints.load(tmp_path / LAST).facts["number"] == 1
    checkpoints.save(tmp_path / LAST, make_checkpoint(number=3))
    assert checkpoints.load(tmp_path / LAST).facts["number"] == 3


WRITER = """
import sys
from pathlib import Path
from model.checkpoints import checkpoint as checkpoints
from tests.model.checkpoints.test_checkpoint import make_checkpoint
saved = make_checkpoint(filler="x" * 2_000_000)
number = 0
while True:
    number += 1
    saved.facts["number"] = number
    checkpoints.save(Path(sys.argv[1]), saved)
    print(number, flush=True)
"""


def test_a_kill_while_writing_leaves_a_whole_one(tmp_path: Path) -> None:
    """A process killed in the midst of writing one checkpoint after another always leaves a whole one."""
    path = tmp_path / LAST
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        written = [int(process.stdout.readline()) for _ in range(3)][-1]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert checkpoints.load(path).facts["number"] >= written
