"""The loop: it learns, stops when it must, and goes on as if it had never stopped."""

import itertools
import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import model.training.budget
import model.training.loop
from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import BEST, LAST, CheckpointError
from model.config import PRESETS, Kind, Preset
from model.data.corpus import Corpus
from model.network.fast.window import WindowOptions
from model.training.budget import Budget
from model.training.evaluate import evaluate
from model.training.loop import Trainer, build
from model.training.metrics import PATIENCE
from model.training.process import Interrupted, TrainingError
from model.training.workers import Workers
from tests.model.corpora import fixture, small_preset, write, write_text

CLOCK = ("elapsed_s", "steps_per_s")  # what a log may say differently the second time


@pytest.fixture(autouse=True)
def _few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight evaluations in a budget instead of forty."""
    monkeypatch.setattr(model.training.loop, "EVALUATIONS", 8)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A few thousand characters."""
    return Corpus.load("text", write("text", tmp_path_factory.mktemp("text")))


@pytest.fixture(scope="module")
def ink(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A few short lines."""
    return Corpus.load("ink", write("ink", tmp_path_factory.mktemp("ink")))


def make_trainer(
    preset: Preset,
    corpus: Corpus,
    out: Path,
    updates: int = 16,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
    **budget: Any,
) -> Trainer:
    """A trainer on the CPU, with plain kernels."""
    spend = Budget(**budget) if budget else Budget(updates=updates)
    return Trainer(preset, corpus, out, spend, Workers(), compiled=False, report=report)


def read_log(out: Path) -> list[dict[str, Any]]:
    """The records of a training's log, which are JSON without NaN."""

    def refuse(constant: str) -> None:
        pytest.fail(f"the log holds {constant}, which is no JSON")

    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def assert_same_training(mine: Path, theirs: Path) -> None:
    """Two output folders hold the same training, bit for bit: all of the last checkpoint, and the log but its times."""
    one, two = checkpoints.load(mine / LAST), checkpoints.load(theirs / LAST)
    for ours, others in ((one.weights, two.weights), (one.extra, two.extra)):
        assert ours.keys() == others.keys()
        different = [name for name in ours if not torch.equal(ours[name], others[name])]
        assert not different
    resume, other = one.facts["resume"] | {"spent_s": 0}, two.facts["resume"] | {"spent_s": 0}
    assert resume == other
    logs = [[{k: v for k, v in record.items() if k not in CLOCK} for record in read_log(p)] for p in (mine, theirs)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(("kind", "better"), [("text", 1.0), ("ink", 0.5)])
def test_it_learns(kind: Kind, better: float, tmp_path: Path) -> None:
    """A few dozen updates of the tiny preset take a bit (text) or half a nat (ink) off what a fresh network needs."""
    corpus, preset = fixture(kind), PRESETS["tiny" if kind == "text" else "tiny-ink"]
    preset = Preset(preset.model, replace(preset.train, learning_rate=5e-3, precision="float32"))
    fresh = evaluate(build(preset, corpus)[0], corpus.evaluation("valid", 50, 1000), WindowOptions())
    trainer = make_trainer(preset, corpus, tmp_path, updates=40)
    for update in range(40):
        trainer.one_update(update / 40)
    trained = evaluate(trainer.network, corpus.evaluation("valid", 50, 1000), WindowOptions())
    scale = math.log(2) if kind == "text" else 1.0
    assert trained["nats_per_step"] < fresh["nats_per_step"] - better * scale
    if kind == "text":
        codec = corpus.codec
        assert fresh["nats_per_step"] == pytest.approx(math.log(codec.size), rel=0.2)  # type: ignore[union-attr]


RUNS = [
    ("text", {"model": {}, "average": 0.9, "restarts": 0.3}),
    ("text", {"model": {"detector": "sample"}, "average": 0.5}),
    ("text", {"model": {"cell": "lstm"}, "precision": "bfloat16"}),
    ("text", {"model": {"cell": "bn-lstm", "layer_norm": False}, "average": 0.9}),
    ("ink", {"model": {}, "average": 0.9, "stretch": 0.2}),
    ("ink", {"model": {"detector": "sample", "copy_boundary": "recompute"}, "final_slope": 3.0}),
]


@pytest.mark.parametrize("stop", [2, 3], ids=["after an evaluation", "between evaluations"])
@pytest.mark.parametrize(("kind", "settings"), RUNS)
def test_resumed_equals_uninterrupted(
    kind: Kind,
    settings: dict[str, Any],
    stop: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """N + N updates equal 2N bit for bit: weights, averages, moments, carried state, generator, streams and log."""
    monkeypatch.setattr(model.training.loop, "EVALUATIONS", 3)
    corpus: Corpus = request.getfixturevalue(kind)
    preset = small_preset(kind, **settings)
    make_trainer(preset, corpus, tmp_path / "whole", 6).run()
    first = make_trainer(preset, corpus, tmp_path / "parts", 6)
    first.begin(resume=False)
    first.run(stop_after=stop)
    torch.rand(3)  # another process has another global generator
    second = make_trainer(preset, corpus, tmp_path / "parts", 6)
    second.begin(resume=True)
    assert second.budget.done == stop
    second.run()
    assert_same_training(tmp_path / "parts", tmp_path / "whole")


def test_another_seed_is_another_training(text: Corpus, tmp_path: Path) -> None:
    """The comparison can fail: one seed further, nothing is equal."""
    for seed in (1, 2):
        make_trainer(small_preset("text", seed=seed), text, tmp_path / str(seed)).run(stop_after=2)
    with pytest.raises(AssertionError):
        assert_same_training(tmp_path / "1", tmp_path / "2")


def test_ctrl_c_finishes_the_update_saves_and_is_resumed_exactly(text: Corpus, tmp_path: Path) -> None:
    """SIGINT ends the run after the update in hand; what was saved goes on to the bits of a run never stopped."""
    preset, before = small_preset("text", average=0.9), signal.getsignal(signal.SIGINT)
    make_trainer(preset, text, tmp_path / "whole").run()

    def interrupt(record: dict[str, Any]) -> None:
        if record["update"] == 6:
            signal.raise_signal(signal.SIGINT)

    trainer = make_trainer(preset, text, tmp_path / "parts", report=interrupt)
    with pytest.raises(Interrupted, match="stopped at update 6; go on with --resume"):
        trainer.run()
    assert signal.getsignal(signal.SIGINT) is before
    again = make_trainer(preset, text, tmp_path / "parts")
    again.begin(resume=True)
    again.run()
    assert_same_training(tmp_path / "parts", tmp_path / "whole")


def test_a_second_ctrl_c_kills(text: Corpus, tmp_path: Path) -> None:
    """Whoever presses Ctrl-C twice is not made to wait."""

    def impatient(_: dict[str, Any]) -> None:
        signal.raise_signal(signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not before:
            pass  # until the first is handled: two at once would count as one
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(small_preset("text"), text, tmp_path, report=impatient).run()
    assert signal.getsignal(signal.SIGINT) is before


def test_nan_stops_and_leaves_the_last_good_checkpoint(text: Corpus, tmp_path: Path) -> None:
    """A loss that is not finite ends the run with what to change; the last checkpoint is from before it."""
    trainer = make_trainer(small_preset("text"), text, tmp_path)
    trainer.run(stop_after=4)
    with torch.no_grad():
        trainer.network.output.bias[0] = math.nan
    with pytest.raises(
        TrainingError, match=r"not finite at update 5: lower train\.learning_rate .* train\.clip"
    ) as error:
        trainer.run()
    assert "train.precision=float32" in str(error.value)
    good = checkpoints.load(tmp_path / LAST)
    assert good.facts["updates"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in good.weights.values())


def test_a_step_that_ruins_the_weights_is_not_saved(text: Corpus, tmp_path: Path) -> None:
    """A learning rate far too large is found out before a ruined network takes the place of a good checkpoint."""
    preset = small_preset("text", average=0.0)
    trainer = make_trainer(preset, text, tmp_path)
    trainer.run(stop_after=5)  # the next update is followed by an evaluation at once
    trainer.state.config = replace(preset.train, learning_rate=1e30, warmup=0)
    with pytest.raises(TrainingError, match="not finite"):
        trainer.run()
    for name in (LAST, BEST):
        kept = checkpoints.load(tmp_path / name)
        assert all(torch.isfinite(tensor).all() for tensor in kept.weights.values())
        assert all(tensor.abs().max() < 1e6 for tensor in kept.weights.values())
    assert all(math.isfinite(record["valid"]) for record in read_log(tmp_path))


@pytest.mark.parametrize(
    ("layer", "bias", "said"),
    [
        (0, -100.0, r"z1 has collapsed: it fired on 0\.0%"),
        (0, 100.0, r"z1 has collapsed: it fired on 100\.0%"),
        (1, -100.0, r"z2 has collapsed: it fired on 0\.0%"),
    ],
)
def test_a_collapsed_boundary_stops(
    layer: int, bias: float, said: str, text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A boundary outside its healthy rates at eight evaluations ends the run, naming the layer and what to change."""
    monkeypatch.setattr(model.training.loop, "EVALUATIONS", 16)
    records: list[dict[str, Any]] = []
    trainer = make_trainer(small_preset("text"), text, tmp_path, report=records.append)
    with torch.no_grad():
        trainer.network.layer(layer).bias[-1] = bias
    with pytest.raises(TrainingError, match=said) as error:
        trainer.run()
    assert len(records) == PATIENCE
    for advice in ("train.seed", "model.detector_prior=separator", "train.final_slope", "model.layer_norm=true"):
        assert advice in str(error.value)
    assert checkpoints.load(tmp_path / LAST).facts["updates"] == trainer.budget.done


def test_resume_wants_the_same_configuration(text: Corpus, tmp_path: Path) -> None:
    """Another network, or another way to train it, is refused."""
    make_trainer(small_preset("text"), text, tmp_path).run(stop_after=2)
    for other in (small_preset("text", {"hidden": (9, 7, 6)}), small_preset("text", learning_rate=1e-3)):
        with pytest.raises(TrainingError, match=r"last\.safetensors was made with another configuration"):
            make_trainer(other, text, tmp_path).begin(resume=True)


def test_a_precision_once_chosen_stays(text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training takes the faster operands; resumed on a machine that would choose others, it goes on in the first."""
    preset = small_preset("text", average=0.9, precision="auto")
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        monkeypatch.setattr(model.training.loop, "fastest_operand", lambda *_, dtype=dtype: dtype)
        make_trainer(preset, text, tmp_path / name).run()
        assert checkpoints.load(tmp_path / name / LAST).train.precision == name
        first = make_trainer(preset, text, tmp_path / f"{name} in parts")
        first.run(stop_after=4)
        monkeypatch.setattr(model.training.loop, "fastest_operand", lambda *_: torch.float32)
        second = make_trainer(preset, text, tmp_path / f"{name} in parts")
        second.begin(resume=True)
        second.run()
        assert_same_training(tmp_path / f"{name} in parts", tmp_path / name)


@pytest.mark.parametrize("alphabet", ["same", "other"])
def test_resume_wants_the_same_data(alphabet: str, text: Corpus, tmp_path: Path) -> None:
    """Other data are refused as other data, whether their alphabet is the same or not."""
    make_trainer(small_preset("text"), text, tmp_path).run(stop_after=2)
    path = write_text(tmp_path / "other.txt")
    words = path.read_text(encoding="utf-8")
    path.write_text(words.replace("e", "a", 1) if alphabet == "same" else words.replace("e", "é", 1), encoding="utf-8")
    with pytest.raises(TrainingError, match="was trained on other data: resume with the same --data"):
        make_trainer(small_preset("text"), Corpus.load("text", path), tmp_path).begin(resume=True)


def test_a_folder_holds_one_training(text: Corpus, tmp_path: Path) -> None:
    """Starting afresh where a training lies is refused, and nothing there is touched."""
    make_trainer(small_preset("text"), text, tmp_path).run(stop_after=2)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(TrainingError, match="holds a training already: give --resume, or another --out"):
        make_trainer(small_preset("text"), text, tmp_path).begin(resume=False)
    assert (tmp_path / LAST).read_bytes() == before


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "the best one"])
def test_resume_wants_a_whole_checkpoint(damage: str, text: Corpus, tmp_path: Path) -> None:
    """No checkpoint, half a one, or something else: refused before anything is changed."""
    make_trainer(small_preset("text"), text, tmp_path).run(stop_after=2)
    whole, best = (tmp_path / LAST).read_bytes(), (tmp_path / BEST).read_bytes()
    (tmp_path / LAST).unlink()
    if damage != "missing":
        wrong = {"truncated": whole[: len(whole) // 2], "foreign": b"not ours", "the best one": best}
        (tmp_path / LAST).write_bytes(wrong[damage])
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        make_trainer(small_preset("text"), text, tmp_path).begin(resume=True)


def test_a_budget_of_updates_evaluates_at_its_shares(text: Corpus, tmp_path: Path) -> None:
    """Evaluations fall on the eighths of the budget, the last one on its end and over the whole split."""
    records: list[dict[str, Any]] = []
    trainer = make_trainer(small_preset("text"), text, tmp_path, updates=24, report=records.append)
    trainer.run()
    assert [record["update"] for record in records] == list(range(3, 25, 3))
    assert read_log(tmp_path) == records
    assert records[-1]["progress"] == 1
    assert records[-1]["learning_rate"] == pytest.approx(trainer.state.config.final_learning_rate)
    assert [record["steps"] for record in records] == [n * 3 * 4 * 8 for n in range(1, 9)]
    best = checkpoints.load(tmp_path / BEST)
    assert not best.extra
    assert best.facts["valid"].get("bpc", best.facts["valid"].get("valid")) == min(r["valid"] for r in records)


def test_a_budget_of_minutes_ends_with_the_schedule_done(
    text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock: the run ends when its minutes are spent, at the final learning rate, and keeps the time it took."""
    seconds = itertools.count(step=0.25)
    monkeypatch.setattr(model.training.budget, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    records: list[dict[str, Any]] = []
    trainer = make_trainer(small_preset("text"), text, tmp_path, report=records.append, minutes=1.0, _started=0.0)
    trainer.run(stop_after=20)
    spent = trainer.budget.elapsed_s
    assert 0 < spent < 60
    begun = next(seconds)
    trainer = make_trainer(small_preset("text"), text, tmp_path, report=records.append, minutes=1.0, _started=begun)
    trainer.begin(resume=True)
    assert trainer.budget.elapsed_s >= spent - 2
    trainer.run()
    progress = [record["progress"] for record in records]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert 7 <= len(records) <= 9
    assert records[-1]["learning_rate"] == pytest.approx(trainer.state.config.final_learning_rate)
    assert checkpoints.load(tmp_path / LAST).facts["minutes"] == pytest.approx(1, abs=0.2)


def test_what_is_kept_is_the_average(text: Corpus, tmp_path: Path) -> None:
    """With averaging the best checkpoint holds the averages, without it the weights."""
    for average in (0.9, 0.0):
        out = tmp_path / str(average)
        trainer = make_trainer(small_preset("text", average=average), text, out, updates=8)
        trainer.run(stop_after=1)
        best, last = checkpoints.load(out / BEST), checkpoints.load(out / LAST)
        wanted = {n.removeprefix("average/"): t for n, t in last.extra.items() if n.startswith("average/")}
        assert bool(wanted) == bool(average)
        for name, tensor in (wanted or last.weights).items():
            assert torch.equal(best.weights[name], tensor)


def test_build_is_seeded_and_fits_the_corpus(text: Corpus, ink: Corpus) -> None:
    """The same seed gives the same network; V comes from the corpus; the prior is in the detector's input column."""
    preset = small_preset("text")
    one, two = build(preset, text)[0], build(preset, text)[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert one.config.vocabulary == text.codec.size  # type: ignore[union-attr]
    assert build(small_preset("ink"), ink)[0].config.vocabulary == 0
    plain = build(small_preset("text", {"detector_prior": "none"}), text)[0]
    differing = [
        n for (n, a), (_, b) in zip(one.named_parameters(), plain.named_parameters(), strict=True) if (a != b).any()
    ]
    assert differing == ["layers.0.weight", "layers.0.input", "layers.0.gain"]


def test_float64_trains_in_float64(text: Corpus, tmp_path: Path) -> None:
    """Precision float64 means weights, cell state and averages too."""
    trainer = make_trainer(small_preset("text", precision="float64"), text, tmp_path)
    trainer.run(stop_after=2)
    kept = checkpoints.load(tmp_path / LAST)
    assert {tensor.dtype for tensor in kept.weights.values()} == {torch.float64}
    assert kept.extra["state/c1"].dtype == torch.float64


def test_one_layer_can_be_trained(text: Corpus, tmp_path: Path) -> None:
    """A single layer, without any boundary, goes through the same loop."""
    trainer = make_trainer(small_preset("text", {"hidden": (6,)}), text, tmp_path)
    trainer.run()
    assert read_log(tmp_path)[-1]["z_rates"] == []
