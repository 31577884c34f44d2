"""Several seeds in one process: each comes to what it comes to alone, and the best is kept."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import model.training.loop
from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import BEST, LAST
from model.config import Kind, Preset
from model.data.corpus import Corpus
from model.training.loop import Trainer
from model.training.process import Interrupted, TrainingError
from model.training.seeds import SEEDS, keep_best, train_together
from tests.model.corpora import small_preset, write
from tests.model.training.test_loop import assert_same_training, make_trainer, read_log


@pytest.fixture(autouse=True)
def _few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four evaluations in a budget instead of forty."""
    monkeypatch.setattr(model.training.loop, "EVALUATIONS", 4)


@pytest.fixture(scope="module", name="corpora")
def _corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Corpus]:
    """A few thousand characters, and a few short lines of ink."""
    return {"text": small("text", tmp_path_factory), "ink": small("ink", tmp_path_factory)}


def small(kind: Kind, folders: pytest.TempPathFactory) -> Corpus:
    """A corpus that is evaluated in no time."""
    return Corpus.load(kind, write(kind, folders.mktemp(kind)))


def preset(seed: int, **train: Any) -> Preset:
    """A small network of text whose every kind of draw is in use."""
    return small_preset("text", {"detector": "sample"}, seed=seed, restarts=0.3, dropout=0.2, average=0.9, **train)


def make(corpora: dict[Kind, Corpus], folder: Path, seeds: tuple[int, ...] = (1, 2, 3), **more: Any) -> list[Trainer]:
    """A trainer for each seed, in folders side by side."""
    return [make_trainer(preset(seed), corpora["text"], folder / f"seed-{seed}", updates=8, **more) for seed in seeds]


def test_each_comes_to_what_it_comes_to_alone(corpora: dict[Kind, Corpus], tmp_path: Path) -> None:
    """Trainings that take turns are those of processes of their own, bit for bit."""
    train_together(make(corpora, tmp_path / "together"))
    for trainer in make(corpora, tmp_path / "alone"):
        trainer.run()
    for seed in (1, 2, 3):
        assert_same_training(tmp_path / "together" / f"seed-{seed}", tmp_path / "alone" / f"seed-{seed}")
    with pytest.raises(AssertionError):
        assert_same_training(tmp_path / "together" / "seed-1", tmp_path / "together" / "seed-2")


def test_ctrl_c_saves_all_and_all_are_resumed(corpora: dict[Kind, Corpus], tmp_path: Path) -> None:
    """SIGINT ends all after the round in hand; resumed, they end as if never stopped."""

    def interrupt(record: dict[str, Any]) -> None:
        if record["update"] == 6:
            signal.raise_signal(signal.SIGINT)

    train_together(make(corpora, tmp_path / "whole", (1, 2)))
    stopped = [*make(corpora, tmp_path / "parts", (1,), report=interrupt), *make(corpora, tmp_path / "parts", (2,))]
    with pytest.raises(Interrupted, match="stopped at update 6, 6; go on with --resume"):
        train_together(stopped)
    again = make(corpora, tmp_path / "parts", (1, 2))
    for trainer in again:
        trainer.begin(resume=True)
    train_together(again)
    for name in ("seed-1", "seed-2"):
        assert_same_training(tmp_path / "parts" / name, tmp_path / "whole" / name)


def test_one_that_cannot_go_on_does_not_stop_the_others(corpora: dict[Kind, Corpus], tmp_path: Path) -> None:
    """A loss that is not finite ends its own training; only when none is left does it end the command."""
    trainers = make(corpora, tmp_path / "some")
    ruin(trainers[1])
    lost: list[tuple[str, str]] = []
    train_together(trainers, lost=lambda trainer, error: lost.append((trainer.out.name, str(error))))
    assert [name for name, _ in lost] == ["seed-2"]
    assert "not finite" in lost[0][1]
    assert [trainer.budget.progress for trainer in trainers] == [1, trainers[1].budget.progress, 1]
    assert not (tmp_path / "some" / "seed-2" / BEST).exists()
    none = make(corpora, tmp_path / "none", (1, 2))
    for trainer in none:
        ruin(trainer)
    with pytest.raises(TrainingError, match="not finite"):
        train_together(none)


def ruin(trainer: Trainer) -> None:
    """Make the next loss of a training one that is no number."""
    with torch.no_grad():
        trainer.network.output.bias[0] = torch.nan


@pytest.mark.parametrize("kind", ["text", "ink"])
def test_the_best_on_the_validation_split_is_kept(kind: Kind, corpora: dict[Kind, Corpus], tmp_path: Path) -> None:
    """Fewer bits are better, and more nats; what each came to is written down, the best first."""
    rates = {1: 1e-6, 2: 1e-2, 3: 1e-3}
    trainers = [
        make_trainer(small_preset(kind, seed=seed, learning_rate=rate), corpora[kind], tmp_path / f"seed-{seed}")
        for seed, rate in rates.items()
    ]
    train_together(trainers)
    found = keep_best([trainer.out for trainer in trainers], tmp_path)
    assert found == json.loads((tmp_path / SEEDS).read_text(encoding="utf-8"))
    values = [row["valid"] for row in found]
    assert values == sorted(values, reverse=kind == "ink")
    assert found[0]["seed"] == 2
    assert {row["seed"] for row in found} == {1, 2, 3}
    best = max if kind == "ink" else min
    assert found[0]["valid"] == best(record["valid"] for record in read_log(tmp_path / "seed-2"))
    assert (tmp_path / BEST).read_bytes() == (tmp_path / "seed-2" / BEST).read_bytes()
    assert checkpoints.load(tmp_path).train.seed == 2
    assert not (tmp_path / LAST).exists()
