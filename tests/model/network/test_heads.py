"""What comes out: densities that are densities, and scores on the published scale."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from model.codec import InkCodec
from model.data.batches import evaluation_lines
from model.data.corpus import Window
from model.ink import CORRELATION_LIMIT, LOG_SCALE_CEILING, LOG_SCALE_FLOOR
from model.network.heads import (
    Mixture,
    mixture_nll,
    mixture_of,
    pack,
    text_nll,
)
from model.training.evaluate import window_nll
from tests.model.networks import config_for, make_network
from tests.strategies import seeds

Floats = NDArray[np.float64]
DATA = Path(os.environ.get("COPYIST_DATA", "not-given"))
IAM = DATA / "iam_ondb" / "iam_ondb.npz"


def random_raw(seed: int, components: int, *shape: int) -> Tensor:
    """Raw head outputs (..., 6M + 1) in float64."""
    return torch.randn((*shape, 6 * components + 1), generator=torch.Generator().manual_seed(seed)).double()


def literal_log_density(raw: Floats, target: Floats) -> float:
    """Graves 2013, Eqs. 18-26, one step, written out: raw (6M + 1,), target (3,) [dx, dy, pen_up]."""
    count = (len(raw) - 1) // 6
    weight, mean_x, mean_y, scale_x, scale_y, correlation = raw[:-1].reshape(6, count)
    total = 0.0
    for j in range(count):
        pi = math.exp(weight[j]) / np.exp(weight).sum()
        s1, s2, rho = math.exp(scale_x[j]), math.exp(scale_y[j]), CORRELATION_LIMIT * math.tanh(correlation[j])
        x, y = target[0] - mean_x[j], target[1] - mean_y[j]
        z = x**2 / s1**2 + y**2 / s2**2 - 2 * rho * x * y / (s1 * s2)
        total += pi * math.exp(-z / (2 * (1 - rho**2))) / (2 * math.pi * s1 * s2 * math.sqrt(1 - rho**2))
    pen = 1 / (1 + math.exp(-raw[-1]))
    return math.log(total) + float(target[2]) * math.log(pen) + (1 - float(target[2])) * math.log(1 - pen)


@settings(max_examples=50)
@given(seeds, st.integers(1, 5), st.sampled_from((0.0, 1.0)))
def test_mixture_is_graves_formula(seed: int, components: int, pen_up: float) -> None:
    """Log-space and literal form agree."""
    raw = random_raw(seed, components) * 0.5  # in linear space densities soon underflow
    target = torch.cat([random_raw(seed + 1, 1)[:2], torch.tensor([pen_up])])
    found = -float(mixture_nll(mixture_of(raw), target))
    assert found == pytest.approx(literal_log_density(raw.numpy(), target.numpy()), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_density_integrates_to_one(seed: int) -> None:
    """Invariant 11: over a grid of offsets, and over both states of the pen, the probability sums to 1."""
    raw = random_raw(seed, 3)
    raw[9:18] *= 0.5  # scales and correlations that a grid of this size resolves
    mixture = mixture_of(raw)
    reach = 9 * math.exp(float(raw[9:15].max())) + float(raw[3:9].abs().max())
    axis = torch.linspace(-reach, reach, 501, dtype=torch.float64)
    dx, dy = torch.meshgrid(axis, axis, indexing="ij")
    everywhere = Mixture._make(part.expand(501, 501, *part.shape) for part in mixture)
    total = 0.0
    for pen_up in (0.0, 1.0):
        nll = mixture_nll(everywhere, torch.stack([dx, dy, torch.full_like(dx, pen_up)], -1))
        total += float(torch.exp(-nll).sum()) * float(axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1, abs=1e-6)


@settings(max_examples=30)
@given(seeds, st.integers(1, 4), st.floats(0.1, 10), st.floats(0.1, 10))
def test_scaling_law(seed: int, components: int, k_x: float, k_y: float) -> None:
    """Invariant 11: measuring offsets in units k_x, k_y times as small costs exactly ln(k_x k_y) nats a step."""
    mixture = mixture_of(random_raw(seed, components, 7))
    target = random_raw(seed + 1, 1, 7)[:, :3].clamp(0, 1)
    scaled = mixture._replace(
        mean_x=mixture.mean_x * k_x,
        mean_y=mixture.mean_y * k_y,
        log_scale_x=mixture.log_scale_x + math.log(k_x),
        log_scale_y=mixture.log_scale_y + math.log(k_y),
    )
    moved = mixture_nll(scaled, target * torch.tensor([k_x, k_y, 1.0], dtype=torch.float64)) - mixture_nll(
        mixture, target
    )
    torch.testing.assert_close(moved, torch.full_like(moved, math.log(k_x * k_y)), rtol=0, atol=1e-9)


def test_codec_constant_is_the_scaling_law() -> None:
    """Nats in standardised units less the codec's log_scale are nats in raw units."""
    codec = InkCodec((8.0, 0.1), (42.0, 37.0))
    raw = np.array([[10.0, -3.0, 0], [55.0, 20.0, 1]])
    gaussian = mixture_of(torch.zeros(2, 7, dtype=torch.float64))  # mean 0 and deviation 1, standardised
    standardised = mixture_nll(gaussian, torch.from_numpy(codec.encode(raw).astype(np.float64)))
    in_raw_units = gaussian._replace(
        mean_x=torch.full((2, 1), 8.0),
        mean_y=torch.full((2, 1), 0.1),
        log_scale_x=torch.full((2, 1), math.log(42.0)),
        log_scale_y=torch.full((2, 1), math.log(37.0)),
    )
    expected = mixture_nll(in_raw_units, torch.from_numpy(raw))
    torch.testing.assert_close(standardised + codec.log_scale, expected, rtol=0, atol=1e-5)  # codes are float32


@settings(max_examples=20)
@given(seeds, st.integers(1, 9), st.sampled_from(("text", "ink")))
def test_padding_scores_nothing(seed: int, padding: int, kind: str) -> None:
    """Invariant 11: steps of weight 0 add exactly 0, whatever stands there, and leave the real ones as they are."""
    network = make_network(config_for(kind))
    raw = torch.randn(6 + padding, 2, network.config.num_outputs, generator=torch.Generator().manual_seed(seed))
    raw[6:] *= 1e20
    targets = torch.zeros(6 + padding, 2, dtype=torch.int64) if kind == "text" else torch.rand(6 + padding, 2, 3)
    weight = torch.ones(6 + padding, 2)
    weight[6:] = 0
    fresh = torch.ones(2, dtype=torch.bool)
    padded = window_nll(network, raw, Window(targets, targets, weight, fresh))
    plain = window_nll(network, raw[:6], Window(targets[:6], targets[:6], weight[:6], fresh))
    assert torch.equal(padded[:6], plain)
    assert not padded[6:].any()


@settings(max_examples=30)
@given(seeds, st.integers(2, 30))
def test_text_nll_is_log_softmax(seed: int, vocabulary: int) -> None:
    """Text is scored by the log-softmax of its logits, each target by itself."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 3, vocabulary, generator=generator).double() * 10
    targets = torch.randint(0, vocabulary, (4, 3), generator=generator)
    expected = -torch.log_softmax(logits, 2).gather(2, targets[..., None])[..., 0]
    torch.testing.assert_close(text_nll(logits, targets), expected)


def test_raw_outputs_become_valid_parameters() -> None:
    """Weights sum to 1, scales and correlation keep their limits, for raw outputs of any size."""
    for factor in (1.0, 1e3, 1e30):
        mixture = mixture_of(random_raw(1, 4, 50).float() * factor)
        torch.testing.assert_close(mixture.log_weight.exp().sum(-1), torch.ones(50))
        for scale in (mixture.log_scale_x, mixture.log_scale_y):
            assert (scale >= LOG_SCALE_FLOOR).all()
            assert (scale <= LOG_SCALE_CEILING).all()
        assert (mixture.correlation.abs() <= CORRELATION_LIMIT).all()
        assert mixture.pen_up.shape == (50,)


@pytest.mark.parametrize("target", [(0.0, 0.0, 0.0), (80.0, -80.0, 1.0)])
def test_extreme_outputs_stay_finite(target: tuple[float, float, float]) -> None:
    """Loss and gradients are finite in float32 at the limits of scales and correlation, and far off."""
    for weight, scale, correlation, pen in ((0, -50, 50, 50), (90, 50, -50, -50), (-90, -50, -50, 0)):
        row = torch.tensor([[weight, 0, 0, 0, scale, scale, correlation, -correlation, pen]]).float()
        raw = torch.cat([row[:, :2], torch.zeros(1, 4), row[:, 4:5].repeat(1, 4), row[:, 6:8], row[:, 8:]], 1)
        raw.requires_grad_()
        nll = mixture_nll(mixture_of(raw), torch.tensor([target]))
        nll.sum().backward()
        assert torch.isfinite(nll).all()
        assert raw.grad is not None
        assert torch.isfinite(raw.grad).all()


@settings(max_examples=20)
@given(seeds, st.integers(1, 4))
def test_pack_keeps_the_order_of_the_fields(seed: int, components: int) -> None:
    """A packed mixture is log_weight, mean_x, mean_y, log_scale_x, log_scale_y, correlation, pen_up, side by side."""
    raw = random_raw(seed, components, 5)
    mixture = mixture_of(raw)
    packed = pack(mixture)
    assert packed.shape == raw.shape
    for place, name in enumerate(Mixture._fields[:-1]):
        columns = slice(place * components, (place + 1) * components)
        assert torch.equal(packed[:, columns], getattr(mixture, name))
    assert torch.equal(packed[:, -1], mixture.pen_up)


class _Fit:
    """A full Gaussian over offsets and a Bernoulli over the pen, as a mixture of one component."""

    def __init__(self, points: Floats) -> None:
        self.mean = points[:, :2].mean(0)
        self.std = points[:, :2].std(0)
        self.correlation = float(np.corrcoef(points[:, 0], points[:, 1])[0, 1])
        rate = float(points[:, 2].mean())
        self.pen_logit = math.log(rate / (1 - rate))

    def fields(self) -> list[float]:
        """Mixture parameters in the order of the fields."""
        return [0.0, *self.mean, *np.log(self.std), self.correlation, self.pen_logit]


def trivial_nats_per_line(train: list[Floats], test: list[NDArray[np.float32]], *, by_pen: bool) -> float:
    """Mean log-likelihood of test lines under one Gaussian for all steps, or one in strokes and one after a pen-up."""
    targets = np.concatenate([line[1:] for line in train])
    lifted = np.concatenate([line[:-1, 2] for line in train]) > 0
    inside, after = (_Fit(targets[~lifted]), _Fit(targets[lifted])) if by_pen else (_Fit(targets), _Fit(targets))
    total = 0.0
    for inputs, following, weight, *_ in evaluation_lines(test, 64):
        was_up = torch.from_numpy(inputs[..., 2] > 0)[..., None]
        packed = torch.where(was_up, torch.tensor(after.fields()), torch.tensor(inside.fields())).double()
        mixture = Mixture._make([*packed[..., :6].split(1, -1), packed[..., 6]])
        nll = mixture_nll(mixture, torch.from_numpy(following).double())
        total -= float((nll * torch.from_numpy(weight)).sum())
    return total / len(test)


@pytest.mark.slow
@pytest.mark.skipif(not IAM.exists(), reason="needs IAM-OnDB: set COPYIST_DATA to the folder of the data sets")
def test_trivial_models_of_iam_ondb_score_what_they_should() -> None:
    """One Gaussian gives about -1895 nats a line, one in strokes plus one after a pen-up about -883.

    The published pair was measured on another random 582 of the 11,628 lines. The standard error of a mean over 582
    lines is about 15 and 12 nats here, so two and a half of them.
    """
    from model.data.ink import load_ink

    corpus = load_ink(IAM)
    assert [len(part) for part in (corpus.train, corpus.valid, corpus.test)] == [10465, 581, 582]
    train = [line.astype(np.float64) for line in corpus.train]
    assert trivial_nats_per_line(train, corpus.test, by_pen=False) == pytest.approx(-1895, abs=38)
    assert trivial_nats_per_line(train, corpus.test, by_pen=True) == pytest.approx(-883, abs=30)


def second_order(lines: list[Floats]) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """For every scored step what a linear prediction may see, what it may not, and what followed.

    Returns:
        the two offsets before it within its stroke (0 where there is none) and 1 (n, 5); whether the pen was lifted
        before it (n,); the offset and pen that followed (n, 3).
    """
    pieces = []
    for line in lines:
        lifted = line[:-1, 2] > 0
        begins = np.concatenate([[True], lifted[:-1]])  # the offset before was the jump to this stroke
        one = np.where(begins[:, None], 0.0, line[:-1, :2])
        two = np.concatenate([np.zeros((1, 2)), one[:-1]])
        two = np.where(begins[:, None], 0.0, two)
        pieces.append((np.hstack([one, two, np.ones((len(one), 1))]), lifted, line[1:]))
    before, was_up, following = zip(*pieces, strict=True)
    return np.concatenate(before), np.concatenate(was_up), np.concatenate(following)


@pytest.mark.slow
@pytest.mark.skipif(not IAM.exists(), reason="needs IAM-OnDB: set COPYIST_DATA to the folder of the data sets")
def test_a_second_order_model_of_iam_ondb_scores_what_it_should() -> None:
    """A linear prediction from two offsets within strokes, and one Gaussian for jumps, give about -133 nats a line.

    Lines differ so much in this model that the standard error over 582 of them is 31 nats: the published figure of one
    random test split holds ours to two and a half of these, and no closer. What pins it is the mean over all training
    lines, which no draw of a split enters beyond the third digit.
    """
    from model.data.ink import load_ink

    corpus = load_ink(IAM)
    train = [line.astype(np.float64) for line in corpus.train]
    before, was_up, following = second_order(train)
    weights = np.linalg.lstsq(before[~was_up], following[~was_up, :2], rcond=None)[0]
    residuals = following - np.hstack([before @ weights, np.zeros((len(before), 1))])
    inside, after = _Fit(residuals[~was_up]), _Fit(following[was_up])

    def nats_per_line(lines: list[Floats]) -> float:
        before, was_up, following = second_order(lines)
        packed = np.where(was_up[:, None], after.fields(), inside.fields())
        packed[~was_up, 1:3] += (before @ weights)[~was_up]
        fields = torch.from_numpy(packed)
        mixture = Mixture._make([*fields[:, :6].split(1, -1), fields[:, 6]])
        return -float(mixture_nll(mixture, torch.from_numpy(following)).sum()) / len(lines)

    assert nats_per_line([line.astype(np.float64) for line in corpus.test]) == pytest.approx(-133, abs=78)
    assert nats_per_line(train) == pytest.approx(-101.9, abs=0.5)
