"""`python -m export`: from a checkpoint to a bundle that verifies, and one sentence when it cannot be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export import cli
from export.bundle import folder as bundle
from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import Checkpoint
from model.codec import TextCodec
from model.config import ModelConfig, TrainConfig
from model.data.known import UNKNOWN_USE
from model.network.stack import Network
from tests.export.conftest import FIXTURES, Made
from tests.programs import PATIENCE_S

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str | Path) -> int:
    """Run a command in this process and return its exit status."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as training leaves it, of an untrained network."""
    text = (FIXTURES / "text.txt").read_text(encoding="utf-8")
    codec = TextCodec.from_text(text)
    torch.manual_seed(4)
    config = ModelConfig(vocabulary=codec.size, embedding=8, hidden=(10, 9, 11), output=8)
    data = {"name": "War and Peace", "licence": "public domain", "use": "any", "path": "text.txt", "sha256": "0" * 64}
    facts = {"data": data, "updates": 3, "minutes": 0.1, "resume": {"spent_s": 1.0}}
    network = Network(config)
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    checkpoints.save(path, Checkpoint(config, TrainConfig(), codec, facts, network.state_dict()))
    return path


def test_a_checkpoint_becomes_a_measured_bundle(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures come from the shipped file, facts from the checkpoint, the command line and a file of further figures."""
    monkeypatch.setattr(cli, "TRACE_ROWS", 1)
    monkeypatch.setattr(cli, "TRACE_STEPS", 400)  # `verify` of a full trace is tested on another bundle
    monkeypatch.setattr(cli, "FREE", UNKNOWN_USE)
    more = tmp_path / "control.json"
    more.write_text('{"control_test_bpc": 1.9, "test_bpc": 0.1}')
    arguments = ("--data", FIXTURES / "text.txt", "--metrics", more, "--precision", "float16", "--use", "tests only")
    assert run(trained.parent, tmp_path / "mine", *arguments) == 0
    made = bundle.load(tmp_path / "mine")
    assert made.name == "mine"
    assert made.metrics["control_test_bpc"] == 1.9
    assert 5 < made.metrics["test_bpc"] < 10
    assert made.metrics["float32_test_bpc"] == pytest.approx(made.metrics["test_bpc"], abs=0.02)
    assert len(made.metrics["z_rates"]) == 2
    assert made.data["licence"] == "public domain"
    assert made.data["use"] == "tests only"
    assert "path" not in made.data
    assert made.training["updates"] == 3
    assert "resume" not in made.training
    assert made.training["config"]["seed"] == 1
    assert made.model["precision"] == "float16"
    assert b"public domain" in made.files["LICENSE-DATA.txt"]
    assert json.loads(made.files["parity.json"])["trace"]["source"].endswith("the test split of text.txt")
    assert "fingerprint" in capsys.readouterr().out
    assert run("measure", tmp_path / "mine", "--data", FIXTURES / "text.txt") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["test_bpc"] == made.metrics["test_bpc"]


def test_without_data_the_network_writes_its_own_trace(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No corpus is needed to export; then no figures are claimed."""
    monkeypatch.setattr(cli, "TRACE_ROWS", 2)
    monkeypatch.setattr(cli, "TRACE_STEPS", 200)
    assert run(trained, tmp_path / "mine", "--name", "other-name", "--precision", "int8") == 0
    made = bundle.load(tmp_path / "mine")
    assert made.model["precision"] == "int8"
    assert made.name == "other-name"
    assert made.metrics == {}
    assert "sampled from the network itself" in json.loads(made.files["parity.json"])["trace"]["source"]


def test_data_that_is_not_free_stays_out_of_the_bundle(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody said that this text may be passed on: it is measured, and the trace is what the network writes."""
    monkeypatch.setattr(cli, "TRACE_ROWS", 2)
    monkeypatch.setattr(cli, "TRACE_STEPS", 200)
    assert run(trained, tmp_path / "mine", "--name", "mine", "--data", FIXTURES / "text.txt") == 0
    made = bundle.load(tmp_path / "mine")
    assert "test_bpc" in made.metrics
    assert "sampled from the network itself" in json.loads(made.files["parity.json"])["trace"]["source"]


def test_verify_is_a_command(text_made: Made) -> None:
    """As a user types it, in a process of its own."""
    command = [sys.executable, "-m", "export", "verify", str(text_made.bundle.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok: ") == 9


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (("nowhere.safetensors", "out"), "no such checkpoint"),
        (("verify", "nowhere"), "cannot be read"),
        (("measure", "nowhere", "--data", "x"), "cannot be read"),
        (("measure", "nowhere", "--data", "x", "--split", "half"), "there is no split 'half'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    arguments: tuple[str, ...],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No traceback for a user's mistake."""
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert reason in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("content", ["[1]", "{", None])
def test_figures_that_are_none_are_refused(
    content: str | None, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--metrics takes one JSON object."""
    if content is not None:
        (tmp_path / "more.json").write_text(content)
    assert run(trained, tmp_path / "mine", "--metrics", tmp_path / "more.json") == 1
    assert "more.json" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_a_network_that_cannot_be_skipped_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason and the remedy, no bundle."""
    loaded = checkpoints.load(trained)
    config = ModelConfig.from_json(loaded.model.to_json() | {"copy_boundary": "recompute"})
    path = tmp_path / "other.safetensors"
    checkpoints.save(path, Checkpoint(config, loaded.train, loaded.codec, loaded.facts, loaded.weights))
    assert run(path, tmp_path / "mine") == 1
    assert 'train with "nested" to export' in capsys.readouterr().err


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """A stranger finds the way."""
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("build", "verify", "measure"))
