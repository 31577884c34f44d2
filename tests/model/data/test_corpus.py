"""Windows of training and of evaluation, for both kinds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import Kind
from model.data.corpus import Corpus, training_window
from tests.model.corpora import fixture, write, write_ink, write_text


@pytest.mark.parametrize("kind", ["text", "ink"])
def test_a_trained_networks_codec_is_kept(kind: Kind, tmp_path: Path) -> None:
    """Another corpus read with a given codec is in that codec's numbers."""
    codec = Corpus.load(kind, write(kind, tmp_path)).codec
    path = tmp_path / "other"
    other = write_text(path, start=30_000) if kind == "text" else write_ink(path.with_suffix(".npz"), seed=3)
    assert Corpus.load(kind, other, codec).codec is codec
    assert Corpus.load(kind, other).codec != codec


@pytest.mark.parametrize("kind", ["text", "ink"])
def test_training_windows_are_tensors_of_one_shape(kind: Kind) -> None:
    """Every window has (T, B) targets and weights; text starts afresh only where its streams wrap."""
    streams = fixture(kind).streams(3, 11, seed=1)
    for number in range(4):
        window = training_window(streams)
        assert window.weight.shape == (11, 3)
        assert window.targets.shape[:2] == (11, 3)
        assert window.inputs.dtype == (torch.int64 if kind == "text" else torch.float32)
        assert window.fresh.dtype == torch.bool
        assert bool(window.fresh.all()) == (number == 0)


@pytest.mark.parametrize("window", [7, 64])
def test_every_character_is_scored_once(window: int, tmp_path: Path) -> None:
    """The windows of a split hold each character but the first exactly once as a target, in order along each stream."""
    corpus = Corpus.load("text", write_text(tmp_path / "a.txt", characters=70_000))
    windows = list(corpus.evaluation("valid", window, None, 3))
    targets = torch.cat([w.targets for w in windows]).T
    weight = torch.cat([w.weight for w in windows]).T
    assert torch.equal(targets[weight > 0], torch.from_numpy(np.asarray(corpus.data.valid[1:], np.int64)))
    assert [bool(w.fresh.all()) for w in windows] == [True] + [False] * (len(windows) - 1)


def test_a_limit_takes_the_beginning(tmp_path: Path) -> None:
    """With a limit only so many steps are scored, from the start of the split; lines stay whole."""
    text = Corpus.load("text", write_text(tmp_path / "a.txt"))
    assert sum(float(w.weight.sum()) for w in text.evaluation("valid", 20, limit=100)) == 100
    ink = Corpus.load("ink", write_ink(tmp_path / "a.npz", lines=80))
    scored = sum(float(w.weight.sum()) for w in ink.evaluation("train", 20, limit=300, batch=4))
    lengths = [len(line) - 1 for line in ink.data.train]
    assert scored in np.cumsum(lengths)
    assert scored <= 450


def test_rows_cut_a_window() -> None:
    """A worker's share of a window is its columns of everything."""
    window = training_window(fixture("ink").streams(5, 6, seed=2))
    part = window.rows(1, 4)
    for name, whole, cut in zip(window._fields, window, part, strict=True):
        assert torch.equal(cut, whole[1:4] if name in ("fresh", "text", "writer") else whole[:, 1:4])


def test_separators_are_for_text() -> None:
    """A text says which symbols separate; ink has none."""
    separators = fixture("text").separators
    assert separators is not None
    symbols = fixture("text").codec.symbols  # type: ignore[union-attr]
    assert {symbols[n] for n in np.flatnonzero(separators)} >= {" ", "\n"}
    assert fixture("ink").separators is None


@pytest.mark.parametrize(("split", "streams"), [("train", 64), ("valid", 8), ("test", 8)])
def test_a_text_is_measured_in_few_streams(split: str, streams: int, tmp_path: Path) -> None:
    """One for each 50,000 symbols, 64 at most and 8 at least; as many as wanted where that is said; each of 1,000."""
    (tmp_path / "long.txt").write_text("all work and no play. " * 200_000)
    corpus = Corpus.load("text", tmp_path / "long.txt")
    assert len(next(corpus.evaluation(split, 10)).fresh) == streams
    assert len(next(corpus.evaluation(split, 10, 900_000)).fresh) == min(streams, 18)
    assert len(next(corpus.evaluation(split, 10, 3_000)).fresh) == 3
    assert len(next(corpus.evaluation(split, 10, batch=5)).fresh) == 5
