"""The recogniser: it learns from ink, reads a line the same in any batch, counts errors, and is resumed exactly."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.checkpoints.checkpoint import CheckpointError
from model.codec import HandwritingCodec
from model.data.ink import InkCorpus, load_ink
from model.recogniser import network as recognise
from model.recogniser import train as recogniser_train
from model.recogniser.network import (
    BLANK,
    Recogniser,
    RecogniserConfig,
    character_error_rate,
    edit_distance,
    load_recogniser,
    measure,
    spoken,
)
from model.recogniser.train import train_recogniser
from model.training.budget import Budget
from tests.model.cli.test_main import command, refusal
from tests.model.corpora import PATHS, write_text

SMALL = RecogniserConfig(channels=8, hidden=12, layers=2, dropout=0.1, batch=4)
words = st.text("abc", max_size=7)


@pytest.fixture(scope="module")
def corpus() -> InkCorpus:
    """The fixture's lines with their texts, by its own split."""
    return load_ink(PATHS["ink"], protocol="official", texts=True)


def make(corpus: InkCorpus, config: RecogniserConfig = SMALL) -> Recogniser:
    """A fresh recogniser."""
    assert isinstance(corpus.codec, HandwritingCodec)
    torch.manual_seed(0)
    return Recogniser(config, corpus.codec).eval()


def train(corpus: InkCorpus, out: Path, updates: int, *, resume: bool = False) -> Recogniser:
    """Train a small one on the CPU."""
    return train_recogniser(corpus, SMALL, out, Budget(updates=updates), torch.device("cpu"), resume=resume)


@given(words, words, words)
def test_edits_are_a_distance(one: str, two: str, three: str) -> None:
    """0 for equal texts only, the same both ways, never longer by a detour, at most the longer text."""
    assert (edit_distance(one, two) == 0) == (one == two)
    assert edit_distance(one, two) == edit_distance(two, one)
    assert edit_distance(one, three) <= edit_distance(one, two) + edit_distance(two, three)
    assert abs(len(one) - len(two)) <= edit_distance(one, two) <= max(len(one), len(two))


def test_errors_are_counted_over_all_characters() -> None:
    """A share of the characters wanted, not a mean of lines."""
    assert character_error_rate(["kitten", ""], ["sitting", "abc"]) == pytest.approx((3 + 3) / 10)
    assert character_error_rate(["same"], ["same"]) == 0


def test_repeated_labels_merge_and_blanks_part_them(corpus: InkCorpus) -> None:
    """CTC: a a - a b b reads as the first, again the first, and the second symbol."""
    recogniser = make(corpus)
    first, second = recogniser.codec.text.symbols[:2]
    assert recogniser._text(np.array([BLANK, 1, 1, BLANK, 1, 2, 2, BLANK])) == first + first + second
    assert recogniser._text(np.array([BLANK, BLANK])) == ""


def test_a_line_is_read_the_same_in_any_batch(corpus: InkCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of a line alone are its scores beside longer ones, and the order of the answers is that of the lines."""
    recogniser = make(corpus)
    lines = [line[: 60 + 37 * n] for n, line in enumerate(corpus.train[:4])]
    with torch.no_grad():
        together, frames = recogniser(*recognise.pad_lines(lines, torch.device("cpu")))
        for row, line in enumerate(lines):
            alone, count = recogniser(*recognise.pad_lines([line], torch.device("cpu")))
            assert int(count) == int(frames[row]) == -(-len(line) // 4)
            torch.testing.assert_close(together[: int(count), row], alone[:, 0], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(Recogniser, "_text", lambda _, labels: str(len(labels)))
    assert recogniser.read(lines[::-1]) == [str(-(-len(line) // 4)) for line in lines[::-1]]


def loss_of(recogniser: Recogniser, corpus: InkCorpus) -> float:
    """CTC loss per character over the training lines."""
    recogniser.eval()
    with torch.no_grad():
        scores, frames = recogniser(*recognise.pad_lines(corpus.train, torch.device("cpu")))
        targets = [torch.from_numpy(caption.text[1:-1] - 2) for caption in corpus.captions["train"]]
        lengths = torch.tensor([len(target) for target in targets])
        return float(torch.nn.functional.ctc_loss(scores, torch.cat(targets), frames, lengths))


def test_it_learns(corpus: InkCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty updates lower the loss; the best checkpoint and its figure are kept."""
    monkeypatch.setattr(recogniser_train, "EVALUATIONS", 2)
    monkeypatch.setattr(recogniser_train, "WARM_UP", 5)
    trained = train(corpus, tmp_path, 40)
    assert loss_of(trained, corpus) < 0.75 * loss_of(make(corpus), corpus)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["update"] for record in log] == [20, 40]
    loaded, facts = load_recogniser(tmp_path)
    assert facts["valid"]["cer"] == min(record["cer"] for record in log)
    assert measure(loaded, corpus, "valid")["cer"] == pytest.approx(facts["valid"]["cer"])


def test_a_measure_is_what_was_read(corpus: InkCorpus) -> None:
    """Lines, characters, errors and exact lines of the split that was asked for."""
    recogniser = make(corpus)
    wanted = spoken(recogniser.codec, corpus.captions["test"])
    found = measure(recogniser, corpus, "test")
    assert (found["lines"], found["characters"]) == (4, sum(map(len, wanted)))
    assert found["cer"] == character_error_rate(recogniser.read(corpus.test), wanted)
    assert found["exact_lines"] == 0


def test_a_resumed_training_is_the_uninterrupted_one(
    corpus: InkCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at an evaluation and gone on with, the weights are the same to the bit."""
    monkeypatch.setattr(recogniser_train, "EVALUATIONS", 3)
    whole = train(corpus, tmp_path / "one", 6)
    update, calls = recogniser_train._update, [0]

    def stop_at_fifth(*arguments: object) -> None:
        calls[0] += 1
        if calls[0] == 5:
            raise KeyboardInterrupt
        update(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(recogniser_train, "_update", stop_at_fifth)
        with pytest.raises(KeyboardInterrupt):
            train(corpus, tmp_path / "two", 6)
    again = train(corpus, tmp_path / "two", 6, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_what_does_not_belong_together_is_refused(corpus: InkCorpus, tmp_path: Path) -> None:
    """Another training in the folder, none to go on from, another split, a file that is none of ours."""
    train(corpus, tmp_path / "out", 1)
    with pytest.raises(CheckpointError, match="holds a training already"):
        train(corpus, tmp_path / "out", 1)
    with pytest.raises(CheckpointError, match="no such recogniser"):
        train(corpus, tmp_path / "none", 1, resume=True)
    other = replace(corpus, facts=corpus.facts | {"order_sha256": "0"})
    with pytest.raises(CheckpointError, match="another split"):
        train(other, tmp_path / "out", 2, resume=True)
    path = write_text(tmp_path / "last.safetensors")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_recogniser(path)


def test_the_command_line(tmp_path: Path) -> None:
    """Train and evaluate, one JSON object with the split; one sentence for what is wrong."""
    out = tmp_path / "out"
    begun = command("recognise", "train", "--data", PATHS["ink"], "--out", out, "--updates", 2, "--hidden", 8)
    assert begun.exit_code == 0, begun.output
    found = json.loads(command("recognise", "evaluate", out, "--data", PATHS["ink"]).stdout)
    assert (found["protocol"], found["split"], found["lines"]) == ("official", "test", 4)
    assert "no split" in refusal("recognise", "evaluate", out, "--data", PATHS["ink"], "--split", "x")
    assert "protocol must be" in refusal("recognise", "train", "--data", PATHS["ink"], "--out", out, "--protocol", "x")
    assert "holds a training already" in refusal("recognise", "train", "--data", PATHS["ink"], "--out", out)
