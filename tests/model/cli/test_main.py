"""The command line: what it writes, and one clear sentence for whatever is wrong."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
from typer.testing import CliRunner, Result

import model.training.loop
from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import BEST, LAST
from model.cli.main import app
from model.config import Kind, Preset
from model.data.corpus import Corpus
from model.network.fast.window import WindowOptions
from model.training.evaluate import evaluate
from model.training.loop import build
from tests.model.corpora import FIXTURES, write, write_text
from tests.model.training.test_loop import assert_same_training, read_log
from tests.programs import PATIENCE_S, started

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["--no-compile", "--device", "cpu"]
for setting in ("model.hidden=8,7,6", "model.embedding=6", "model.output=8", "train.batch=4", "train.window=8"):
    SMALL += ["--set", setting]


def command(*arguments: object) -> Result:
    """Run `python -m model` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    """The one line that a command that cannot be done says, having exited with 1."""
    result = command(*arguments)
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four evaluations in a budget instead of forty."""
    monkeypatch.setattr(model.training.loop, "EVALUATIONS", 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Corpus and output folder of a short training of each kind, made by the command itself."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.training.loop, "EVALUATIONS", 4)
        for kind, preset in (("text", "tiny"), ("ink", "tiny-ink")):
            folder = tmp_path_factory.mktemp(kind)
            data = write(kind, folder)  # type: ignore[arg-type]
            result = command("train", preset, "--data", data, "--out", folder / "out", "--updates", 8, *SMALL)
            assert result.exit_code == 0, result.output
            assert result.stderr.count("valid") == 4
            folders[kind], folders[f"{kind} data"] = folder / "out", data
    return folders


@pytest.mark.parametrize("kind", ["text", "ink"])
def test_train_leaves_checkpoints_log_and_pictures(kind: Kind, trained: dict[str, Path]) -> None:
    """A finished training has its best and last checkpoint, its log, the curves and the boundaries."""
    out = trained[kind]
    assert {file.name for file in out.iterdir()} >= {LAST, BEST, "log.jsonl", "curves.png", "boundaries.png"}
    for name in ("curves.png", "boundaries.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("*.partial"))
    assert len(read_log(out)) == 4


@pytest.mark.parametrize(
    ("kind", "preset"), [("text", "prose-lstm"), ("text", "prose-bn-lstm"), ("ink", "ink-free-lstm")]
)
@pytest.mark.usefixtures("few_evaluations")
def test_the_control_is_trained_by_the_same_command(kind: Kind, preset: str, tmp_path: Path) -> None:
    """An LSTM control trains, evaluates and is drawn without boundaries."""
    data = write(kind, tmp_path)
    result = command("train", preset, "--data", data, "--out", tmp_path / "out", "--updates", 4, *SMALL)
    assert result.exit_code == 0, result.output
    assert read_log(tmp_path / "out")[-1]["z_rates"] == []
    measured = command("evaluate", tmp_path / "out", "--data", data)
    assert measured.exit_code == 0
    assert "z_rates" not in json.loads(measured.stdout)


@pytest.mark.parametrize("kind", ["text", "ink"])
def test_evaluate_prints_what_was_measured(kind: Kind, trained: dict[str, Path]) -> None:
    """One JSON object with the split, the data and the figure that evaluating the checkpoint gives."""
    found = json.loads(command("evaluate", trained[kind], "--data", trained[f"{kind} data"], "--window", 9).stdout)
    loaded = checkpoints.load(trained[kind])
    corpus = Corpus.load(kind, trained[f"{kind} data"], loaded.codec)
    exact = evaluate(loaded.network(), corpus.evaluation("test", 50), WindowOptions(torch.float32))
    assert found["split"] == "test"
    assert found["sha256"] == corpus.facts["sha256"]
    if kind == "text":
        assert found["bpc"] == pytest.approx(exact["nats_per_step"] / 0.6931471805599453, rel=1e-5)
    else:
        assert found["nats_per_step"] == pytest.approx(-exact["nats_per_step"], rel=1e-5)
    assert found["z_rates"] == pytest.approx(exact["z_rates"])


def test_sample_writes_text(trained: dict[str, Path]) -> None:
    """The prompt and as many characters as asked for, marked with boundaries; the same seed writes the same."""
    arguments = ("sample", trained["text"], "--length", 60, "--prompt", "The ")
    one, two = command(*arguments), command(*arguments)
    assert one.exit_code == 0
    assert one.stdout == two.stdout
    assert one.stdout.replace("·", "").replace("|", "").startswith("The ")
    assert len(one.stdout.replace("·", "").replace("|", "")) == 4 + 60 + 1
    assert command(*arguments, "--seed", 2).stdout != one.stdout


def test_sample_draws_ink(trained: dict[str, Path], tmp_path: Path) -> None:
    """Strokes as SVG, on the terminal or in a file, the same for the same seed."""
    shown = command("sample", trained["ink"], "--length", 40)
    assert shown.exit_code == 0
    assert ET.fromstring(shown.stdout).tag.endswith("svg")  # noqa: S314 (our own output)
    assert command("sample", trained["ink"], "--length", 40, "--out", tmp_path / "a.svg").exit_code == 0
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").strip() == shown.stdout.strip()


@pytest.mark.parametrize(("kind", "preset"), [("text", "tiny"), ("ink", "tiny-ink")])
@pytest.mark.usefixtures("few_evaluations")
def test_stop_and_resume_equal_one_run(kind: Kind, preset: str, tmp_path: Path) -> None:
    """--updates 8 at once, and --stop-after 3 followed by --resume, give the same bits and the same log."""
    data = write(kind, tmp_path)
    hidden = ["--set", "train.dropout=0.2", "--set", "train.drop_connect=0.2"]
    common = ["train", preset, "--data", data, "--updates", 8, *SMALL, "--set", "train.average=0.9", *hidden]
    assert command(*common, "--out", tmp_path / "whole").exit_code == 0
    assert command(*common, "--out", tmp_path / "parts", "--stop-after", 3).exit_code == 0
    assert command(*common, "--out", tmp_path / "parts", "--resume").exit_code == 0
    assert_same_training(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.usefixtures("few_evaluations")
def test_stopping_before_the_first_evaluation_is_fine(tmp_path: Path) -> None:
    """With nothing logged yet there is nothing to draw, and that is no error."""
    data = write("text", tmp_path)
    stopped = command(
        "train", "tiny", "--data", data, "--out", tmp_path / "o", "--updates", 8, "--stop-after", 1, *SMALL
    )
    assert stopped.exit_code == 0, stopped.output
    assert checkpoints.load(tmp_path / "o" / LAST).facts["updates"] == 1


def test_a_collapsed_boundary_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that never fires ends the command with 1, the layer and what to change."""

    def silent(preset: Preset, corpus: Corpus) -> Any:
        network, config = build(preset, corpus)
        with torch.no_grad():
            network.layer(0).bias[-1] = -100
        return network, config

    monkeypatch.setattr(model.training.loop, "build", silent)
    data = write("text", tmp_path)
    result = command("train", "tiny", "--data", data, "--out", tmp_path / "out", "--updates", 40, *SMALL)
    assert result.exit_code == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: boundary z1 has collapsed: it fired on 0.0% of steps")
    assert "model.detector_prior=separator" in last


@pytest.mark.usefixtures("few_evaluations")
def test_settings_reach_the_training(tmp_path: Path) -> None:
    """--set changes a field of any type, and the checkpoint says so."""
    data = write("text", tmp_path)
    chosen = ["model.layer_norm=false", "model.detector=sample", "train.learning_rate=0.01", "train.rate_band=0,1"]
    flags = [part for setting in chosen for part in ("--set", setting)]
    result = command("train", "tiny", "--data", data, "--out", tmp_path / "o", "--updates", 4, *SMALL, *flags)
    assert result.exit_code == 0, result.output
    made = checkpoints.load(tmp_path / "o" / LAST)
    assert made.model.hidden == (8, 7, 6)
    assert (made.model.layer_norm, made.model.detector) == (False, "sample")
    assert (made.train.learning_rate, made.train.rate_band, made.train.batch) == (0.01, (0.0, 1.0), 4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.nonsense=1", "expected model.FIELD=VALUE or train.FIELD=VALUE"),
        ("batch=4", "expected model.FIELD=VALUE"),
        ("train.batch", "expected model.FIELD=VALUE"),
        ("train.batch=", "expected model.FIELD=VALUE"),
        ("train.batch=many", "'many' is no value for this field"),
        ("train.learning_rate=fast", "'fast' is no value for this field"),
        ("model.layer_norm=perhaps", "'perhaps' is no value for this field"),
        ("model.hidden=8,x", "'8,x' is no value for this field"),
        ("model.hidden=8,0", "hidden must hold at least one width of at least 1"),
        ("model.detector=hard", "detector must be one of step, sample, soft"),
        ("train.average=1", "average must be in [0, 1), not 1.0"),
        ("train.rate_band=0.1", "rate_band"),
        ("train.learning_rate=nan", "learning_rate must be positive"),
        ("train.batch=100000", "take a smaller batch or window"),
    ],
)
def test_a_wrong_setting_is_one_sentence(setting: str, message: str, tmp_path: Path) -> None:
    """A field that is not there, or a value that cannot be, is said in one line, brackets and all."""
    data = write("text", tmp_path)
    said = refusal("train", "tiny", "--data", data, "--out", tmp_path / "o", "--updates", 2, *SMALL, "--set", setting)
    assert message in said
    assert not (tmp_path / "o" / LAST).exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "no such file or folder"),
        ("empty.txt", b"", "it is empty"),
        ("short.txt", b"a few words", "too short"),
        ("latin.txt", "d\u00e9j\u00e0 vu ".encode("latin-1") * 200, "UTF-8"),
        ("torn.txt.xz", b"\xfd7zXZ\x00" + b"\x00" * 400, "xz"),
        ("odd [name] with a rather long path that a terminal of eighty columns would break.txt", None, "no such file"),
    ],
)
def test_a_wrong_text_is_one_sentence(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    """A file that is missing, empty, too short, damaged or of another kind is named in one line, exit 1."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    said = refusal("train", "tiny", "--data", tmp_path / name, "--out", tmp_path / "o", "--updates", 2, *SMALL)
    assert str(tmp_path / name) in said
    assert message in said
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("data", ["text.txt", "missing.npz", "inkless folder"])
def test_wrong_ink_is_one_sentence(data: str, tmp_path: Path) -> None:
    """So is ink that is none: a text, nothing, a folder without InkML."""
    (tmp_path / "inkless folder").mkdir()
    path = FIXTURES / data if data == "text.txt" else tmp_path / data
    assert str(path) in refusal("train", "tiny-ink", "--data", path, "--out", tmp_path / "o", "--updates", 2, *SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--updates", "0"], "a budget must be positive"),
        (["--updates", "-3"], "a budget must be positive"),
        (["--minutes", "0"], "a budget must be positive"),
        (["--minutes", "1", "--updates", "1"], "either minutes or updates"),
        (["--updates", "2", "--resume"], "no such checkpoint"),
        (["--updates", "2", "--device", "abacus"], "abacus"),
    ],
)
def test_a_wrong_wish_is_one_sentence(arguments: list[str], message: str, tmp_path: Path) -> None:
    """Budgets that are none, two budgets, nothing to resume, an unknown device: one line, exit 1."""
    data = write("text", tmp_path)
    assert message in refusal("train", "tiny", "--data", data, "--out", tmp_path / "o", *SMALL, *arguments)


def test_an_unknown_preset_lists_the_known(tmp_path: Path) -> None:
    """Who misspells a preset is shown all of them."""
    said = refusal("train", "tinny", "--data", tmp_path, "--out", tmp_path / "o")
    assert "there is no preset 'tinny'; choose one of tiny, tiny-ink, prose" in said


def test_out_must_be_a_folder(tmp_path: Path) -> None:
    """An --out that is a file is said before any training."""
    data = write("text", tmp_path)
    said = refusal("train", "tiny", "--data", data, "--out", data, "--updates", 2, *SMALL)
    assert str(data) in said


def test_a_second_training_into_the_folder_is_refused(trained: dict[str, Path]) -> None:
    """A training is never overwritten by mistake, nor resumed as another one."""
    common = ["train", "tiny", "--data", trained["text data"], "--out", trained["text"], "--updates", 8, *SMALL]
    assert "holds a training already" in refusal(*common)
    assert "another configuration" in refusal(*common, "--resume", "--set", "train.clip=2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "CKPT", "--data", "nowhere.txt"], "nowhere.txt"),
        (["evaluate", "nowhere", "--data", "DATA"], "no such checkpoint"),
        (["evaluate", "DATA", "--data", "DATA"], "not a whole safetensors file"),
        (["evaluate", "CKPT", "--data", "DATA", "--split", "exam"], "there is no split 'exam'"),
        (["evaluate", "CKPT", "--data", "DATA", "--device", "abacus"], "abacus"),
        (["sample", "nowhere"], "no such checkpoint"),
        (["sample", "DATA"], "not a whole safetensors file"),
    ],
)
def test_evaluate_and_sample_refuse_in_one_sentence(
    arguments: list[str], message: str, trained: dict[str, Path]
) -> None:
    """What is missing, damaged or unknown is said in one line, exit 1."""
    paths = {"CKPT": str(trained["text"]), "DATA": str(trained["text data"])}
    assert message in refusal(*(paths.get(argument, argument) for argument in arguments))


def test_a_real_process_says_one_sentence_and_exits_with_one(tmp_path: Path) -> None:
    """From a shell: no traceback, exit 1."""
    arguments = ["train", "tiny", "--data", str(tmp_path / "nothing.txt"), "--out", str(tmp_path / "o")]
    done = subprocess.run(
        [sys.executable, "-m", "model", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_130(tmp_path: Path) -> None:
    """A real SIGINT to a real process: it finishes its update, saves, says where, exits 130, and resumes exactly.

    The signal is sent when the process has said its first line, so it is in the midst of training by then.
    """
    data = write_text(tmp_path / "small.txt")
    common = ["train", "tiny", "--data", str(data), "--updates", "2000", *SMALL]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with started(
        [sys.executable, "-m", "model", *common, "--out", str(tmp_path / "parts")],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert " update 50 " in first, first + rest
    assert process.returncode == 130, rest
    assert "go on with --resume" in rest
    stopped = checkpoints.load(tmp_path / "parts" / LAST).facts["updates"]
    assert f"stopped at update {stopped};" in rest
    assert 50 <= stopped < 2000
    assert command(*common, "--out", tmp_path / "parts", "--resume", "--stop-after", 3).exit_code == 0
    assert command(*common, "--out", tmp_path / "whole", "--stop-after", stopped + 3).exit_code == 0
    one, two = (checkpoints.load(tmp_path / name / LAST) for name in ("parts", "whole"))
    assert one.facts["updates"] == two.facts["updates"] == stopped + 3
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in two.weights)
    assert all(torch.equal(one.extra[name], two.extra[name]) for name in two.extra)


def test_every_command_explains_itself() -> None:
    """--help of each command names its options."""
    for name in ("train", "evaluate", "sample", "bench"):
        shown = command(name, "--help")
        assert shown.exit_code == 0
        assert "--" in shown.stdout


@pytest.mark.usefixtures("few_evaluations")
def test_several_seeds_are_trained_by_one_command(tmp_path: Path) -> None:
    """Each seed has a folder with all that a training leaves; the best network lies beside them, ready for use."""
    data, out = write("text", tmp_path), tmp_path / "out"
    result = command("train", "tiny", "--data", data, "--out", out, "--updates", 8, "--seeds", "3,4", *SMALL)
    assert result.exit_code == 0, result.output
    for name in ("seed-3", "seed-4"):
        assert {file.name for file in (out / name).iterdir()} >= {LAST, BEST, "log.jsonl", "boundaries.png"}
        assert result.stderr.count(f"{name}: ") == 5
    alone = command(
        "train", "tiny", "--data", data, "--out", tmp_path / "alone", "--updates", 8, *SMALL, "--set", "train.seed=4"
    )
    assert alone.exit_code == 0, alone.output
    assert_same_training(out / "seed-4", tmp_path / "alone")
    found = json.loads((out / "seeds.json").read_text(encoding="utf-8"))
    assert sorted(row["seed"] for row in found) == [3, 4]
    measured = command("evaluate", out, "--data", data)
    assert measured.exit_code == 0, measured.output


@pytest.mark.parametrize("seeds", ["", "1,,2", "one", "1,1"])
def test_seeds_that_are_none_are_refused(seeds: str, tmp_path: Path) -> None:
    """Whole numbers, each once."""
    said = refusal("train", "tiny", "--data", write("text", tmp_path), "--out", tmp_path / "out", "--seeds", seeds)
    assert f"--seeds {seeds!r}" in said
    assert not (tmp_path / "out").exists()


def test_seeds_do_not_replace_the_network_of_a_training(trained: dict[str, Path]) -> None:
    """A folder that holds one training keeps its best network."""
    before = (trained["text"] / BEST).read_bytes()
    said = refusal("train", "tiny", "--data", trained["text data"], "--out", trained["text"], "--seeds", "1,2")
    assert "holds a training of one seed" in said
    assert (trained["text"] / BEST).read_bytes() == before
