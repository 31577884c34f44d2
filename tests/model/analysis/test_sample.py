"""What a network writes: the same for the same seed, and made of what its codec knows."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.analysis.sample import draw_point, mark_boundaries, sample_ink, sample_text, strokes_svg
from model.checkpoints.checkpoint import Checkpoint
from model.codec import REPLACEMENT, InkCodec, TextCodec
from model.config import TrainConfig
from model.network.heads import mixture_of, pack
from tests.model.networks import config_for, make_network, walk
from tests.strategies import seeds

SYMBOLS = (*"abcdefg .\n", REPLACEMENT)


def text_checkpoint(**changes: Any) -> Checkpoint:
    """A random network over eleven symbols, the last one for unknown characters."""
    config = config_for(**changes)
    network = make_network(config, dtype=torch.float32)
    return Checkpoint(config, TrainConfig(), TextCodec(SYMBOLS, "replace"), {}, network.state_dict())


def ink_checkpoint(**changes: Any) -> Checkpoint:
    """A random network over offsets."""
    config = config_for("ink", **changes)
    network = make_network(config, dtype=torch.float32)
    return Checkpoint(config, TrainConfig(), InkCodec((8.0, 0.0), (40.0, 35.0)), {}, network.state_dict())


@settings(max_examples=10)
@given(st.text("abcdefg .", max_size=6), st.integers(0, 12), seeds)
def test_text_begins_with_its_prompt(prompt: str, length: int, seed: int) -> None:
    """Prompt and as many symbols as asked for, one row of z for each, never the symbol for the unknown."""
    text, z = sample_text(text_checkpoint(), prompt, length, 1.0, seed)
    assert text.startswith(prompt)
    assert len(text) == len(prompt) + length
    assert z.shape == (len(text), 2)
    assert set(np.unique(z)) <= {0, 1}
    assert REPLACEMENT not in text[len(prompt) :]
    again, z_again = sample_text(text_checkpoint(), prompt, length, 1.0, seed)
    assert text == again
    assert np.array_equal(z, z_again)


def test_text_depends_on_its_seed() -> None:
    """Other seeds write other texts; at temperature 0 the seed does not matter."""
    warm = {sample_text(text_checkpoint(), "a", 30, 1.0, seed)[0] for seed in range(4)}
    cold = {sample_text(text_checkpoint(), "a", 30, 0.0, seed)[0] for seed in range(4)}
    assert len(warm) == 4
    assert len(cold) == 1


def test_cold_text_is_the_most_probable_and_its_boundaries_are_the_networks() -> None:
    """At temperature 0 each symbol has the largest logit of a walk over the text itself, and z is that walk's."""
    checkpoint = text_checkpoint()
    text, z = sample_text(checkpoint, "abc", 20, 0.0, 1)
    ids = torch.from_numpy(checkpoint.codec.encode(text))
    with torch.no_grad():
        seen = walk(checkpoint.network(), ids[:, None])
    assert np.array_equal(z, seen.z[:, 0, :-1].numpy().astype(np.int64))
    best = seen.outputs[2:-1, 0, :-1].argmax(1)
    assert torch.equal(best, ids[3:])


@pytest.mark.parametrize("changes", [{"cell": "lstm"}, {"hidden": (6,)}])
def test_networks_without_boundaries_write_too(changes: dict[str, Any]) -> None:
    """The control and a single layer write text; what they mark is nothing."""
    text, z = sample_text(text_checkpoint(**changes), "ab", 5, 1.0, 1)
    assert not z.any()
    assert mark_boundaries(text, z) == text


def test_sampled_detectors_write_the_same_for_the_same_seed() -> None:
    """Invariant 12: a network whose boundaries are drawn too writes text and ink that its seed decides."""
    text, ink = text_checkpoint(detector="sample"), ink_checkpoint(detector="sample")
    texts = [sample_text(text, "ab", 30, 1.0, seed) for seed in (1, 1, 2)]
    assert texts[0][0] == texts[1][0] != texts[2][0]
    assert np.array_equal(texts[0][1], texts[1][1])
    points = [sample_ink(ink, 20, 0.0, seed) for seed in (1, 1, 2)]
    assert np.array_equal(points[0], points[1])
    assert not np.array_equal(points[0], points[2])


def test_marks_follow_the_boundaries() -> None:
    """A dot after z1, a bar after z2 and higher."""
    assert mark_boundaries("abcd", np.array([[0, 0], [1, 0], [1, 1], [0, 0]])) == "ab·c|d"
    assert mark_boundaries("ab", np.array([[1, 1, 1], [1, 0, 0]])) == "a|b·"


@settings(max_examples=10)
@given(seeds, st.integers(1, 12))
def test_ink_is_raw_offsets(seed: int, length: int) -> None:
    """As many points as asked for, finite, the pen 0 or 1, the same for the same seed."""
    points = sample_ink(ink_checkpoint(), length, 0.5, seed)
    assert points.shape == (length, 3)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    assert set(np.unique(points[:, 2])) <= {0, 1}
    assert np.array_equal(points, sample_ink(ink_checkpoint(), length, 0.5, seed))


def test_drawn_points_have_the_mixtures_moments() -> None:
    """Without bias the draws of one component have its mean, deviations, correlation and pen rate."""
    raw = torch.tensor([[0.0, 1.5, -2.0, 0.3, -0.4, 0.6, -1.0]])  # weight, means, log scales, correlation, pen
    mixture = mixture_of(raw)
    count = 40_000
    points = draw_point(pack(mixture).expand(count, -1), 0.0, torch.Generator().manual_seed(2)).double()
    near = 5 / count**0.5  # five standard errors of a mean, in deviations
    scale = [float(part.exp()) for part in (mixture.log_scale_x, mixture.log_scale_y)]
    assert float(points[:, 0].mean()) == pytest.approx(1.5, abs=near * scale[0])
    assert float(points[:, 1].mean()) == pytest.approx(-2.0, abs=near * scale[1])
    assert points[:, :2].std(0).tolist() == pytest.approx(scale, rel=near)
    assert float(torch.corrcoef(points[:, :2].T)[0, 1]) == pytest.approx(float(mixture.correlation), abs=near)
    assert float(points[:, 2].mean()) == pytest.approx(float(torch.sigmoid(raw[0, -1])), abs=near)


def test_bias_sharpens() -> None:
    """A large bias leaves the mean of the heaviest component."""
    raw = torch.tensor([[0.0, 2.0, -5.0, 1.0, -5.0, 3.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    points = draw_point(pack(mixture_of(raw)).expand(50, -1), 20.0, torch.Generator().manual_seed(3))
    torch.testing.assert_close(points[:, :2], torch.tensor([[1.0, 3.0]]).expand(50, -1), rtol=0, atol=1e-5)


def test_each_kind_refuses_the_other() -> None:
    """A text checkpoint does not draw, an ink checkpoint does not spell."""
    with pytest.raises(TypeError, match="writes ink, not text"):
        sample_text(ink_checkpoint(), "", 3, 1.0, 1)
    with pytest.raises(TypeError, match="writes text, not ink"):
        sample_ink(text_checkpoint(), 3, 0.5, 1)


def test_svg_has_a_path_for_each_stroke(tmp_path: Path) -> None:
    """Strokes end where the pen is lifted; every point is in the picture."""
    offsets = np.array([[0, 0, 0], [10, 5, 1], [30, 0, 0], [5, 5, 1], [-80, 40, 0]], np.float32)
    (tmp_path / "a.svg").write_text(strokes_svg(offsets), encoding="utf-8")
    root = ET.parse(tmp_path / "a.svg").getroot()  # noqa: S314 (our own output)
    paths = [path.attrib["d"] for path in root.iter("{http://www.w3.org/2000/svg}path")]
    assert paths == ["M0.0 0.0L10.0 5.0", "M40.0 5.0L45.0 10.0", "M-35.0 50.0"]
    left, top, width, height = (float(value) for value in root.attrib["viewBox"].split())
    assert left < -35 < 45 < left + width
    assert top < 0
    assert top + height > 50
