"""Where letters end: the path spells the text and is the best one, ends are in order and words end on lifts."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.bundle import folder as bundle
from export.restore import restore_recogniser
from model.analysis.boundaries import score_letters
from model.analysis.letters import best_path, find_letters, spelled, widened
from model.codec import HandwritingCodec
from model.config import ModelConfig
from model.data.ink import InkCorpus, load_ink
from model.network.stack import Network
from model.recogniser.network import BLANK, Recogniser, save_recogniser, spoken
from tests.model.cli.test_main import SMALL, command
from tests.model.corpora import PATHS

SHIPPED = Path(__file__).parents[3] / "service" / "bundles" / "ink"
NAMES = {"letter end", "joined letter end"}


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    """The one that is shipped."""
    return restore_recogniser(bundle.load(SHIPPED))


@pytest.fixture(scope="module")
def corpus() -> InkCorpus:
    """The fixture's lines with their texts."""
    return load_ink(PATHS["ink"], texts=True)


def states_of(labels: list[int]) -> np.ndarray:
    """Labels with blanks around them."""
    states = np.full(2 * len(labels) + 1, BLANK)
    states[1::2] = labels
    return states


def collapse(path: list[int]) -> list[int]:
    """What a path of labels spells."""
    return [label for label, _ in itertools.groupby(path) if label != BLANK]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 2), min_size=1, max_size=2), st.integers(0, 2**32 - 1))
def test_the_path_is_the_best_of_those_that_spell_the_text(labels: list[int], seed: int) -> None:
    """Against every sequence of labels there is."""
    frames = 5
    scores = np.log(np.random.default_rng(seed).dirichlet(np.ones(3), frames))
    states = states_of(labels)
    path = best_path(scores[:, states], states)
    assert collapse(states[path].tolist()) == labels
    total = scores[np.arange(frames), states[path]].sum()
    every = (
        sum(scores[t, label] for t, label in enumerate(rival))
        for rival in itertools.product(range(3), repeat=frames)
        if collapse(list(rival)) == labels
    )
    assert total == pytest.approx(max(every))


def test_ends_are_in_order_and_where_letters_part(recogniser: Recogniser, corpus: InkCorpus) -> None:
    """Every letter but a line's last ends once; the copybook lifts its pen between words, and there the ends are."""
    assert isinstance(corpus.codec, HandwritingCodec)
    lines = [recogniser.codec.encode(corpus.codec.decode(line)) for line in corpus.test]
    texts = spoken(corpus.codec, corpus.captions["test"])
    for line, text in zip(lines, texts, strict=True):
        seen = spelled(recogniser, line, text)
        assert len(seen) == len(text)
        assert all(a <= b < len(line) for a, b in itertools.pairwise(seen))
    found = find_letters(recogniser, lines, texts)
    for text, ends, word_ends in zip(texts, found.ends, found.word_ends, strict=True):
        assert ends.sum() <= sum(not own.isspace() for own in text[:-1])
        assert not (word_ends & ~ends).any()
    facts = found.facts([line[:, 2] > 0 for line in lines])
    assert set(facts["delays"]) == {"letter", "blank"}
    assert facts["word_ends_at_lifts"] > 0.5


def test_a_text_longer_than_its_line_is_refused(recogniser: Recogniser) -> None:
    """A line of 8 points has 2 frames; no path spells 9 letters in them."""
    with pytest.raises(ValueError, match="2 frames cannot spell"):
        spelled(recogniser, np.zeros((8, 3), np.float32), "nineteen!")


def test_flags_widen() -> None:
    """By so many steps on either side, and no further than the line."""
    flags = np.array([1, 0, 0, 0, 0, 1, 0, 0], np.bool_)
    assert widened(flags, 2).tolist() == [True, True, True, True, True, True, True, True]
    assert widened(flags, 1).tolist() == [True, True, False, False, True, True, True, False]


@pytest.mark.parametrize("writes_text", [False, True], ids=["freely", "a text"])
def test_boundaries_are_scored_on_letters(writes_text: bool, recogniser: Recogniser, corpus: InkCorpus) -> None:
    """Of networks that write freely and of ones that write a text, in the network's own numbers."""
    codec = corpus.codec
    assert isinstance(codec, HandwritingCodec)
    config = ModelConfig("ink", embedding=8, hidden=(8, 8, 8), output=8, mixtures=2)
    if writes_text:
        config = replace(config, characters=codec.num_characters, writers=codec.num_hands)
    torch.manual_seed(0)
    report = score_letters(Network(config), corpus, "test", recogniser)
    assert report["lines"] == len(corpus.test)
    assert {row["event"] for row in report["scores"]} == {row["event"] for row in report["rules"]} == NAMES
    assert {row["tolerance"] for row in report["scores"]} == {2, 5}


def test_from_the_command_line(recogniser: Recogniser, tmp_path: Path) -> None:
    """A recogniser's file and a training of ink that has no texts: the scores stand beside the others."""
    done = command("train", "tiny-ink", "--data", PATHS["ink"], "--out", tmp_path / "run", "--updates", 2, *SMALL)
    assert done.exit_code == 0, done.exception
    save_recogniser(tmp_path / "recogniser.safetensors", recogniser, {})
    told = ("--letters", tmp_path / "recogniser.safetensors")
    report = json.loads(command("boundaries", tmp_path / "run", "--data", PATHS["ink"], *told).stdout)
    assert {row["event"] for row in report["letters"]["scores"]} == NAMES
    assert "pen-up" in {row["event"] for row in report["scores"]}
