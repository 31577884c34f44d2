"""The evaluator, against models whose score is known and against a walk step by step."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from model.config import Kind
from model.data.corpus import Corpus, Window
from model.ink import CORRELATION_LIMIT
from model.network.fast.window import WindowOptions
from model.network.heads import mixture_nll, mixture_of, text_nll
from model.network.reference import COPY
from model.network.stack import Network
from model.training.evaluate import evaluate, noise_for, stacked_z, summarise, window_nll
from tests.model.corpora import write_ink, write_text
from tests.model.networks import FLOAT64, config_for, make_network, random_state, walk


def network_for(corpus: Corpus, seed: int = 0, **changes: object) -> Network:
    """A small float64 network over a corpus."""
    config = config_for(corpus.kind, **changes)
    if corpus.kind == "text":
        config = config_for("text", vocabulary=corpus.codec.size, **changes)  # type: ignore[union-attr]
    return make_network(config, seed)


def doubled(windows: Iterator[Window]) -> Iterator[Window]:
    """The same windows with float64 offsets."""
    for window in windows:
        yield window._replace(inputs=window.inputs.double()) if window.inputs.dim() == 3 else window


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A few thousand characters; 6 % of them to evaluate on."""
    return Corpus.load("text", write_text(tmp_path_factory.mktemp("text") / "small.txt"))


@pytest.fixture(scope="module")
def ink(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A few short lines, several to evaluate on."""
    return Corpus.load("ink", write_ink(tmp_path_factory.mktemp("ink") / "small.npz", lines=60))


def test_a_uniform_model_needs_log2_v_bits(text: Corpus) -> None:
    """With all logits equal, bits per character are log2 V, whatever the text."""
    network = network_for(text)
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.bias.fill_(3.0)
    found = evaluate(network, text.evaluation("test", 50), FLOAT64)
    assert found["steps"] == len(text.data.test) - 1
    expected = math.log2(text.codec.size)  # type: ignore[union-attr]
    said = summarise(text, "test", found)
    assert said["bpc"] == pytest.approx(expected, abs=1e-12)
    assert said["streams"] == len(next(text.evaluation("test", 50)).fresh)


def test_a_unigram_model_needs_the_entropy_of_the_counts(text: Corpus) -> None:
    """With the log counts of a split as logits, bits per character are the entropy of that split's targets."""
    network = network_for(text)
    targets = np.asarray(text.data.valid[1:], np.int64)
    counts = np.bincount(targets, minlength=network.config.vocabulary)
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.bias.copy_(torch.from_numpy(np.log(np.maximum(counts, 1e-300))))
    shares = counts[counts > 0] / counts.sum()
    found = evaluate(network, text.evaluation("valid", 33), FLOAT64)
    assert summarise(text, "valid", found)["bpc"] == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-9)


@pytest.mark.parametrize("cell", ["hmlstm", "lstm"])
def test_text_equals_a_walk(text: Corpus, cell: str) -> None:
    """Windows of any length give the nats of reading the whole split step by step, state carried from end to end."""
    network = network_for(text, cell=cell)
    ids = torch.from_numpy(np.asarray(text.data.test, np.int64))
    with torch.no_grad():
        seen = walk(network, ids[:-1, None])
        nats = float(text_nll(seen.outputs[:, 0], ids[1:]).sum())
    for window in (1, 7, 50, 1000):
        found = evaluate(network, text.evaluation("test", window), FLOAT64)
        assert found["nats"] == pytest.approx(nats, rel=1e-9)
    if cell == "hmlstm":
        assert found["z_rates"] == pytest.approx(seen.z[..., :-1].mean((0, 1)).tolist())
        active = (seen.operations()[..., 1:] != COPY).mean((0, 1)).tolist()
        assert found["active_rates"] == pytest.approx(active)
        assert 0 < found["cell_work_share"] < 1
    else:
        assert "z_rates" not in found


def test_carrying_the_state_matters(text: Corpus) -> None:
    """The comparison above can fail: with the state zeroed at each window the nats are others."""
    network = network_for(text)
    forgetful = [w._replace(fresh=torch.ones_like(w.fresh)) for w in text.evaluation("test", 7)]
    carried = evaluate(network, text.evaluation("test", 7), FLOAT64)["nats"]
    assert abs(evaluate(network, forgetful, FLOAT64)["nats"] - carried) > 1e-3


def test_ink_is_scored_line_by_line(ink: Corpus) -> None:
    """Nats per line are the mean over lines of the log-likelihood summed over a line, each line from a zero state."""
    network = network_for(ink, mixtures=3)
    total = 0.0
    lines = ink.data.test
    assert len(lines) > 2
    with torch.no_grad():
        for line in lines:
            points = torch.from_numpy(np.asarray(line)).double()
            seen = walk(network, points[:-1, None])
            raw = network(points[:-1, None], network.zeros(1), FLOAT64, torch.tensor(1.0, dtype=torch.float64)).raw
            assert seen.outputs.shape == raw.shape
            total -= float(mixture_nll(mixture_of(raw[:, 0]), points[1:]).sum())
    for window, batch in ((1000, 64), (7, 2), (16, 1)):
        found = summarise(ink, "test", evaluate(network, doubled(ink.evaluation("test", window, None, batch)), FLOAT64))
        assert found["nats_per_line"] == pytest.approx(total / len(lines), rel=1e-6)
        assert found["lines"] == len(lines)
        assert found["steps"] == sum(len(line) - 1 for line in lines)
        assert found["nats_per_step"] == pytest.approx(total / found["steps"], rel=1e-6)
        raw_units = found["nats_per_step"] - ink.codec.log_scale  # type: ignore[union-attr]
        assert found["nats_per_step_raw_units"] == pytest.approx(raw_units)


def test_boundaries_in_padding_do_not_count(ink: Corpus) -> None:
    """Rates over lines padded to one length are the rates over the lines alone."""
    network = network_for(ink, mixtures=3)
    alone = evaluate(network, doubled(ink.evaluation("test", 9, None, 1)), FLOAT64)
    padded = evaluate(network, doubled(ink.evaluation("test", 9, None, 64)), FLOAT64)
    for name in ("z_rates", "active_rates", "live_rates"):
        assert padded[name] == pytest.approx(alone[name])


@pytest.mark.parametrize("kind", ["text", "ink"])
@pytest.mark.parametrize("hidden", [(6,), (5, 4)])
def test_any_depth_can_be_evaluated(kind: Kind, hidden: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    """Networks of one layer (no detector at all) and of two are measured like any other."""
    corpus: Corpus = request.getfixturevalue(kind)
    found = evaluate(network_for(corpus, hidden=hidden), doubled(corpus.evaluation("valid", 20)), FLOAT64)
    assert math.isfinite(found["nats"])
    assert len(found.get("z_rates", [])) == len(hidden) - 1


def test_a_sampled_detector_is_measured_the_same_twice(text: Corpus) -> None:
    """Two evaluations of one checkpoint give one figure, whatever else drew random numbers in between."""
    network = network_for(text, detector="sample")
    first = evaluate(network, text.evaluation("test", 20), FLOAT64)
    torch.rand(5)
    assert evaluate(network, text.evaluation("test", 20), FLOAT64) == first


def test_noise_is_for_sampled_detectors_only(text: Corpus) -> None:
    """Draws (T, B, L-1) where they are needed, else None."""
    window = next(text.evaluation("test", 5))
    assert noise_for(network_for(text), window) is None
    noise = noise_for(network_for(text, detector="sample"), window, torch.Generator().manual_seed(1))
    assert noise is not None
    assert noise.shape == (*window.weight.shape, 2)


def test_stacked_z_leaves_the_top_layer_out() -> None:
    """z of the layers with a detector, side by side, down to no column at all."""
    for hidden in ((3,), (3, 2), (3, 2, 4)):
        state = random_state(config_for(hidden=hidden), 5, seed=1)
        stacked = stacked_z(state)
        assert stacked.shape == (5, len(hidden) - 1)
        for index in range(len(hidden) - 1):
            assert torch.equal(stacked[:, index], state.layers[index].z)


def test_window_nll_is_zero_where_the_weight_is(text: Corpus) -> None:
    """A padded step scores exactly 0 even where the network gave NaN."""
    network = network_for(text)
    window = next(text.evaluation("test", 4))
    raw = torch.full((4, window.weight.shape[1], network.config.vocabulary), torch.nan)
    weightless = window._replace(weight=torch.zeros_like(window.weight))
    assert not window_nll(network, raw, weightless).any()


def test_bfloat16_operands_measure_nearly_the_same(text: Corpus) -> None:
    """A figure measured with bf16 operands is within half a percent of the float32 one: 8 bits, averaged over steps."""
    network = network_for(text).float()
    exact = evaluate(network, text.evaluation("test", 50), WindowOptions(torch.float32))
    rounded = evaluate(network, text.evaluation("test", 50), WindowOptions(torch.bfloat16))
    assert rounded["nats"] == pytest.approx(exact["nats"], rel=5e-3)


def test_a_constant_gaussian_scores_what_its_formula_says(ink: Corpus) -> None:
    """Mean, deviations, correlation and pen of a split's own offsets, as the bias of a head that sees nothing.

    Its nats are then minus the entropy of that Gaussian and of that coin: the whole evaluator in one closed form.
    """
    network = network_for(ink, mixtures=3)
    targets = np.concatenate([line[1:] for line in ink.data.valid]).astype(np.float64)
    mean, std = targets[:, :2].mean(0), targets[:, :2].std(0)
    tie = float(((targets[:, :2] - mean) / std).prod(1).mean())
    lifted = float(targets[:, 2].mean())
    fitted = np.array([0.0, *mean, *np.log(std), np.arctanh(tie / CORRELATION_LIMIT)]).repeat(3)
    fields = np.append(fitted, np.log(lifted / (1 - lifted)))
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.bias.copy_(torch.from_numpy(fields))
    found = summarise(ink, "valid", evaluate(network, doubled(ink.evaluation("valid", 13)), FLOAT64))
    gaussian = 1 + math.log(2 * math.pi) + float(np.log(std).sum()) + 0.5 * math.log(1 - tie**2)
    coin = -(lifted * math.log(lifted) + (1 - lifted) * math.log(1 - lifted))
    assert found["nats_per_step"] == pytest.approx(-gaussian - coin, rel=1e-6)
    assert found["nats_per_line"] == pytest.approx(-(gaussian + coin) * len(targets) / len(ink.data.valid), rel=1e-6)
    assert found["nats_per_step_raw_units"] == pytest.approx(found["nats_per_step"] - found["log_scale"])
