"""Ink that writes a given text, end to end: trained, resumed, measured, sampled and drawn on the free fixture."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

import model.ink
import model.training.loop
from model.analysis.sample import sample_handwriting
from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import LAST
from model.codec import HandwritingCodec
from model.config import PRESETS, Preset
from model.data.corpus import Corpus, training_window
from model.data.ink import InkCorpus
from model.network.fast.window import WindowOptions
from model.network.heads import Mixture, mixture_nll
from model.network.stack import Condition
from model.training.budget import Budget
from model.training.evaluate import evaluate, stopping_nll, window_nll
from model.training.loop import Trainer, build
from model.training.workers import Workers
from tests.model.cli.test_main import SMALL, command, refusal
from tests.model.corpora import PATHS
from tests.model.training.test_evaluate import doubled
from tests.model.training.test_loop import assert_same_training

TINY = ["--set", "model.character_width=5", "--set", "model.window_mixtures=3", "--set", "model.mixtures=2"]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """The fixture's lines with their texts."""
    return Corpus.load("ink", PATHS["ink"], texts=True)


def small(**train: object) -> Preset:
    """The tiny preset made smaller."""
    preset = PRESETS["tiny-written"]
    model = replace(preset.model, embedding=6, hidden=(8, 7, 6), output=8, mixtures=2, character_width=5)
    quick = {"batch": 4, "window": 16, "warmup": 4, "precision": "float32"} | train
    return Preset(model, replace(preset.train, **quick))  # type: ignore[arg-type]


def make_trainer(corpus: Corpus, out: Path, updates: int) -> Trainer:
    """A trainer on the CPU, with plain kernels."""
    return Trainer(small(), corpus, out, Budget(updates=updates), Workers(), compiled=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a short training, made by the command itself."""
    out = tmp_path_factory.mktemp("written") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.training.loop, "EVALUATIONS", 2)
        arguments = ("--data", PATHS["ink"], "--out", out, "--updates", 4, "--protocol", "official", *SMALL, *TINY)
        result = command("train", "tiny-written", *arguments)
    assert result.exit_code == 0, result.output
    return out


def test_the_corpus_fills_the_preset(corpus: Corpus) -> None:
    """Characters and hands are the corpus's, and the checkpoint's codec says which."""
    network, _ = build(small(), corpus)
    assert isinstance(corpus.codec, HandwritingCodec)
    assert network.config.characters == corpus.codec.num_characters > 30
    assert network.config.writers == 4


def test_it_learns_ink_and_when_to_stop(corpus: Corpus, tmp_path: Path) -> None:
    """A few updates lower the loss of both on the very window they were made on."""
    trainer = make_trainer(corpus, tmp_path, 10)
    window = training_window(corpus.streams(4, 16, 1))._replace(last=torch.zeros(16, 4))
    window.last[8, 2], window.weight[8:, 2] = 1, 0
    before, stops_before = losses(trainer, window)
    for _ in range(40):
        trainer.state.update(window, rate=2e-2, slope=1.0, decay=0.0)
    after, stops_after = losses(trainer, window)
    assert after < before - 0.3
    assert stops_after < 0.5 * stops_before


def losses(trainer: Trainer, window: object) -> tuple[float, float]:
    """Nats per step of ink and of stopping over a window, from a fresh state."""
    network, options = trainer.network, WindowOptions(torch.float32)
    with torch.no_grad():
        result = network(window.inputs, network.zeros(4), options, torch.tensor(1.0), None, window.condition)  # type: ignore[attr-defined]
        nats = window_nll(network, result.raw, window), stopping_nll(result.raw, window)  # type: ignore[arg-type]
    return tuple(float(part.mean()) for part in nats)  # type: ignore[return-value]


def test_a_resumed_training_is_the_uninterrupted_one(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of lines and resumed, everything is the same to the bit, the place in the text included."""
    monkeypatch.setattr(model.training.loop, "EVALUATIONS", 2)
    make_trainer(corpus, tmp_path / "one", 6).run()
    make_trainer(corpus, tmp_path / "two", 6).run(stop_after=3)
    again = make_trainer(corpus, tmp_path / "two", 6)
    again.begin(resume=True)
    again.run()
    assert_same_training(tmp_path / "one", tmp_path / "two")
    extra = checkpoints.load(tmp_path / "one" / LAST).extra
    assert extra["state/window_position"].max() > 0


def test_held_out_lines_are_scored_one_by_one(corpus: Corpus) -> None:
    """Nats are those of walking each line with its text; padding, batch and cut change nothing; stops are counted."""
    network, _ = build(small(), corpus)
    network.double()
    assert isinstance(corpus.data, InkCorpus)
    corpus = Corpus("ink", replace(corpus.data, test=[line[: 40 + 9 * n] for n, line in enumerate(corpus.data.test)]))
    total, stops, missed = 0.0, 0.0, 0
    with torch.no_grad():
        for line, caption in zip(corpus.data.test, corpus.data.captions["test"], strict=True):  # type: ignore[union-attr]
            points = torch.from_numpy(np.asarray(line)).double()
            conditioning = network.conditioning(
                Condition(torch.from_numpy(caption.text)[None], torch.tensor([caption.writer]))
            )
            state = network.zeros(1)
            for t, point in enumerate(points):
                output, state = network.step(point[None], state, 1.0, None, conditioning)
                logit, is_last = output[0, -1], t == len(points) - 1
                stops -= float(torch.nn.functional.logsigmoid(logit if is_last else -logit))
                missed += int(is_last and logit <= 0)
                if not is_last:
                    mixture = Mixture._make([*output[0, :12].split(2), output[0, 12]])
                    total += float(mixture_nll(mixture, points[t + 1]))
    for window, batch in ((2000, 64), (37, 2)):
        windows = doubled(corpus.evaluation("test", window, None, batch))
        found = evaluate(network, windows, WindowOptions(torch.float64))
        assert found["nats"] == pytest.approx(total, rel=1e-6)
        assert found["stop_nats"] == pytest.approx(stops, rel=1e-6)
        assert found["missed_stops"] == missed
        assert found["steps"] == sum(len(line) - 1 for line in corpus.data.test)


def test_evaluate_prints_the_constants_of_its_protocol(trained: Path) -> None:
    """The split it was trained by, the lines, the scale and its logarithm stand beside the figure."""
    found = json.loads(command("evaluate", trained, "--data", PATHS["ink"], "--window", 200).stdout)
    assert (found["protocol"], found["lines"], found["min_points"]) == ("official", 4, 300)
    assert found["log_scale"] == pytest.approx(np.log(found["std"]).sum())
    assert found["nats_per_step_raw_units"] == pytest.approx(found["nats_per_step"] - found["log_scale"])
    assert found["lines_kept"] == {"train": 16, "valid": 3, "test": 4}
    assert {"stop_nats", "missed_stops", "early_stops", "split_rule", "split_sha256"} <= found.keys()


def test_no_figure_on_lines_that_were_trained_on(trained: Path) -> None:
    """Another protocol's test lines may be among the training lines: refused, with what to do."""
    assert "Train with --protocol paper" in refusal("evaluate", trained, "--data", PATHS["ink"], "--protocol", "paper")
    assert "protocol must be one of paper, official" in refusal(
        "train", "tiny-ink", "--data", PATHS["ink"], "--out", trained / "no", "--protocol", "mine"
    )


def test_split_writes_ids_and_no_data(tmp_path: Path) -> None:
    """Which lines are held out, by name; the rest is the training split."""
    out = tmp_path / "ids.json"
    assert command("split", "--data", PATHS["ink"], "--out", out, "--protocol", "official").exit_code == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["valid"] == ["hershey-16", "hershey-17", "hershey-18"]
    assert found["test"] == ["hershey-20", "hershey-21", "hershey-22", "hershey-23"]
    assert found["lines"] == {"train": 16, "valid": 3, "test": 4}


def test_sample_writes_a_line(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strokes as SVG and a picture of the window; the same seed gives the same line, another hand another one."""
    monkeypatch.setattr(model.ink, "POINTS_PER_CHARACTER", 5)
    arguments = ("sample", trained, "--text", "A word?", "--hand", 1)
    one = command(*arguments, "--picture", tmp_path / "window.png")
    assert one.exit_code == 0, one.output
    assert ET.fromstring(one.stdout).tag.endswith("svg")  # noqa: S314 (our own output)
    assert (tmp_path / "window.png").read_bytes().startswith(b"\x89PNG")
    assert command(*arguments).stdout == one.stdout
    assert command(*arguments, "--hand", 2).stdout != one.stdout
    assert "hand must be from 0 to 3" in refusal(*arguments, "--hand", 4)
    assert "no text to write" in refusal("sample", trained, "--text", " ")


def test_a_sample_says_where_it_was_in_the_text(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares over the characters at every point, boundaries beside them, and whether the line is whole."""
    monkeypatch.setattr(model.ink, "LEAST_POINTS", 9)
    monkeypatch.setattr(model.ink, "POINTS_PER_CHARACTER", 5)
    checkpoint = checkpoints.load(trained)
    with torch.no_grad():
        checkpoint.weights["output.bias"][-1] = -50.0  # it never stops
    for written in sample_handwriting(checkpoint, "abc", 0, 0.5, 1, count=3):
        assert not written.is_complete
        assert written.offsets.shape == (24, 3)
        assert written.shares.shape == (24, 5)
        assert (written.shares.sum(1) <= 1 + 1e-5).all()
        centre = (written.shares * np.arange(5)).sum(1) / written.shares.sum(1)
        assert centre[-1] > centre[0]
        assert written.z.shape == (24, 2)
    monkeypatch.undo()
    with torch.no_grad():
        checkpoint.weights["output.bias"][-1] = 50.0  # it says so at every point, and is believed on the last character
    (written,) = sample_handwriting(checkpoint, "abc", 0, 0.5, 1)
    assert written.is_complete
    assert len(written.offsets) == len(written.shares) == len(written.z) > 1
    assert 1 + written.shares[-1, 1:].argmax() == 3
