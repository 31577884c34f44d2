"""The recogniser that goes into a bundle reads as the trained one does, and ranks as CTC is defined."""

import itertools

import numpy as np
import pytest
import torch

from export.graphs.recogniser import build_recogniser
from model.codec import HandwritingCodec, InkCodec, TextCodec
from model.recogniser.network import Recogniser as Trained
from model.recogniser.network import RecogniserConfig
from service.registry.recogniser import Recogniser, ctc_nats

CODEC = HandwritingCodec(
    InkCodec((8.0, 0.0), (40.0, 36.0)), TextCodec(tuple("abcd \N{REPLACEMENT CHARACTER}"), "replace"), ()
)


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A small one with random weights."""
    torch.manual_seed(3)
    return Trained(RecogniserConfig(channels=6, hidden=7), CODEC).eval()


@pytest.mark.parametrize("points", [5, 64, 131])
def test_the_graph_reads_as_the_network(trained: Trained, points: int) -> None:
    """Log-probabilities of every frame agree, up to the float16 in which weights are stored."""
    raw = np.random.default_rng(points).normal(0, 60, (points, 3)) * (1, 1, 0)
    raw[::9, 2] = 1
    found = Recogniser(build_recogniser(trained), CODEC).scores(raw)
    with torch.no_grad():
        wanted, frames = trained(torch.from_numpy(CODEC.encode(raw))[None], torch.tensor([points]))
    assert len(found) == int(frames[0])
    np.testing.assert_allclose(found, wanted[:, 0].numpy(), atol=2e-2)


def test_both_say_the_same_text(trained: Trained) -> None:
    """The likeliest labels, merged, are one text."""
    raw = np.random.default_rng(1).normal(0, 60, (200, 3)) * (1, 1, 0)
    assert Recogniser(build_recogniser(trained), CODEC).read(raw) == trained.read([CODEC.encode(raw)])[0]


@pytest.mark.parametrize("text", [[1, 2], [1, 1], [2], []])
def test_the_nats_are_those_of_all_alignments(text: list[int]) -> None:
    """The sum over every sequence of labels that merges to the text, counted one by one."""
    scores = np.log(np.random.default_rng(0).dirichlet(np.ones(3), 4))
    total = 0.0
    for labels in itertools.product(range(3), repeat=4):
        merged = [label for label, _ in itertools.groupby(labels) if label]
        if merged == text:
            total += np.exp(sum(scores[frame, label] for frame, label in enumerate(labels)))
    assert ctc_nats(scores, np.array(text, np.int64)) == pytest.approx(-np.log(total))


def test_what_cannot_be_aligned_is_infinitely_improbable() -> None:
    """Three labels do not fit two frames."""
    assert ctc_nats(np.log(np.full((2, 3), 1 / 3)), np.array([1, 2, 1])) == np.inf
