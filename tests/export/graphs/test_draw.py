"""The graph draws what the reference draws, filters keep what they should, and rows do not depend on each other."""

from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from export.graphs.draw import draw
from export.graphs.nodes import Graph, serialise
from export.graphs.specs import drawn_spec, output_spec, sampling_specs
from model.config import ModelConfig
from tests.export.reference_sampling import FAILED, keep_likeliest, sample_ink, sample_text

SHARES = st.floats(2**-52, 1 - 2**-52)


@cache
def session(kind: str, size: int, *, single: bool = False) -> Any:
    """Only the nodes that draw, from an output of V symbols or M components."""
    sizes: dict[str, Any] = {"vocabulary": size} if kind == "text" else {"kind": "ink", "mixtures": size}
    config = ModelConfig(hidden=(2,), embedding=2, output=2, **sizes)
    graph = Graph("", "float32", 1 if single else "batch")
    graph.rename(draw(graph, config), "drawn")
    content = serialise(graph, [output_spec(config), *sampling_specs(config)], [drawn_spec(config)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def sampling_inputs(scores: Any, noise: Any, **options: Any) -> dict[str, Any]:
    """One setting for all rows, or an array of them."""
    rows, size = scores.shape
    bias = np.broadcast_to(np.asarray(options.get("bias", 0.0), np.float32), (rows, size)).copy()
    bias[:, options.get("barred", np.zeros(size, bool))] = -np.inf
    return {
        "temperature": np.broadcast_to(
            np.maximum(np.float32(options.get("temperature", 1.0)), np.float32(1e-20)), rows
        ),
        "top_p": np.broadcast_to(np.float32(options.get("top_p", 1.0)), rows),
        "top_k": np.broadcast_to(np.int64(options.get("top_k", 0)), rows),
        "logit_bias": bias,
        "noise": np.asarray(noise, np.float64),
    }


def draw_text(scores: Any, noise: Any, **options: Any) -> Any:
    """Draw symbols from logits in the graph."""
    given = sampling_inputs(scores, noise, **options)
    return session("text", scores.shape[1]).run(["drawn"], {"logits": scores, **given})[0]


def draw_ink(parameters: Any, bias: Any, noise: Any) -> Any:
    """Draw offsets from mixtures in the graph."""
    count = (parameters.shape[1] - 1) // 6
    given = {"bias": np.asarray(bias, np.float32), "noise": noise}
    return session("ink", count).run(["drawn"], {"mixture": parameters, **given})[0]


def ink_noise(rows: int, seed: int = 0) -> Any:
    """Noise for ink (rows, 4)."""
    random = np.random.default_rng(seed)
    normal = random.standard_normal((rows, 2))
    return np.concatenate([random.random((rows, 1)), normal, random.random((rows, 1))], 1)


def logits(rows: int, num_symbols: int = 50, seed: int = 0) -> Any:
    """Plausible logits (rows, V) float32."""
    return (np.random.default_rng(seed).normal(size=(rows, num_symbols)) * 3).astype(np.float32)


def mixture(rows: int, num_components: int = 20, seed: int = 0) -> Any:
    """Plausible mixture parameters (rows, 6M+1) float32, in the columns of the network's head."""
    random = np.random.default_rng(seed)
    raw = random.normal(size=(rows, 6, num_components))
    raw[:, 0] -= np.log(np.exp(raw[:, 0]).sum(axis=1, keepdims=True))
    raw[:, 5] = np.tanh(raw[:, 5])
    return np.concatenate([raw.reshape(rows, -1), random.normal(size=(rows, 1))], axis=1).astype(np.float32)


def test_symbols_are_those_of_the_reference() -> None:
    """Twenty thousand rows of every setting, all in one batch: the very ids that float64 arithmetic chooses.

    Float32 exponentials shift a border between two symbols by about 1e-7 of the mass, so of so many draws at most one
    or two may fall between the borders.
    """
    rows, size = 20_000, 98
    random = np.random.default_rng(0)
    scores, noise = logits(rows, size), random.random(rows)
    options = {
        "temperature": random.choice([0.0, 0.3, 0.7, 1.0, 1.7], rows).astype(np.float32),
        "top_p": random.choice([0.0, 0.3, 0.9, 0.99, 1.0], rows).astype(np.float32),
        "top_k": random.choice([0, 0, 1, 2, 40, 98, 500], rows),
    }
    barred = np.arange(size) == 7
    bias = (random.normal(size=(rows, size)) * (random.random((rows, size)) < 0.1)).astype(np.float32)
    found = draw_text(scores, noise, bias=bias, barred=barred, **options)
    temperature, top_p = options["temperature"].astype(float), options["top_p"].astype(float)
    wanted = sample_text(scores, temperature, top_p, options["top_k"], noise, barred, bias.astype(float))
    assert (found != wanted).sum() <= 2
    assert len(np.unique(found)) > 90


def test_offsets_are_those_of_the_reference() -> None:
    """Components and pen exactly, distances to float32's last digits."""
    rows = 20_000
    parameters, noise = mixture(rows), ink_noise(rows)
    bias = np.random.default_rng(1).choice([0.0, 0.5, 3.0], rows)
    found, wanted = draw_ink(parameters, bias, noise), sample_ink(parameters, bias, noise)
    far = np.abs(found - wanted).max(1) > 1e-4 * (1 + np.abs(wanted).max(1))
    assert far.sum() <= 2
    assert found.dtype == np.float32


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16, 31, 63])
def test_a_draw_does_not_depend_on_the_batch(size: int) -> None:
    """Whether or not others ask for sorting, and alone in the graph for one row too."""
    random = np.random.default_rng(size)
    scores, noise, parameters = logits(64, 97), random.random(64), mixture(64)
    options = {"temperature": 0.7, "top_p": random.choice([1.0, 0.6], 64), "top_k": random.choice([0, 9], 64)}
    given, ink = (
        sampling_inputs(scores, noise, **options),
        {"bias": random.random(64).astype(np.float32), "noise": ink_noise(64)},
    )
    for kind, name, output, sampling in (("text", "logits", scores, given), ("ink", "mixture", parameters, ink)):
        running = session(kind, 97 if kind == "text" else 20)
        (whole,) = running.run(["drawn"], {name: output, **sampling})
        chosen = random.permutation(64)[:size]
        picked = {name: output[chosen], **{key: values[chosen] for key, values in sampling.items()}}
        assert running.run(["drawn"], picked)[0].tobytes() == whole[chosen].tobytes()
        if size == 1:
            alone = session(kind, 97 if kind == "text" else 20, single=True)
            assert alone.run(["drawn"], picked)[0].tobytes() == whole[chosen].tobytes()


class TestText:
    def test_follows_the_softmax(self) -> None:
        """Twenty thousand draws come as often as the softmax of logits over temperature says."""
        scores = np.array([[0.0, 1.0, 2.0, -1.0]], np.float32)
        weights = np.exp(scores[0].astype(float) / 0.8)
        drawn = draw_text(np.repeat(scores, 20_000, 0), np.random.default_rng(0).random(20_000), temperature=0.8)
        shares = np.bincount(drawn, minlength=4) / 20_000
        assert abs(shares - weights / weights.sum()).max() < 0.012

    @given(
        hnp.arrays(np.float32, (3, 9), elements=st.floats(-80, 80, width=16, allow_subnormal=False)),
        hnp.arrays(np.float64, 3, elements=SHARES),
    )
    def test_temperature_zero_takes_the_likeliest(self, scores: Any, uniform: Any) -> None:
        """At temperature 0 one of the likeliest is taken whatever the noise, and with the smallest the first."""
        drawn = draw_text(scores, uniform, temperature=0.0)
        assert np.array_equal(scores[np.arange(3), drawn], scores.max(axis=1))
        assert np.array_equal(draw_text(scores, np.full(3, 2.0**-52), temperature=0.0), scores.argmax(axis=1))

    @given(
        hnp.arrays(np.float32, (2, 9), elements=st.floats(-80, 80, width=32)), SHARES, st.floats(0, 2), st.floats(0, 1)
    )
    def test_barred_symbols_are_never_drawn(
        self, scores: Any, uniform: float, temperature: float, top_p: float
    ) -> None:
        """A barred symbol is not drawn, were it by far the likeliest."""
        scores[:, 4] = 90
        barred = np.arange(9) == 4
        drawn = draw_text(scores, [uniform] * 2, temperature=temperature, top_p=top_p, barred=barred)
        assert 4 not in drawn

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_broken_row_fails_alone(self, bad: float) -> None:
        """A row with NaN or infinity is reported, and the rows beside it draw what they draw without it."""
        scores, uniform = logits(3), np.array([0.1, 0.5, 0.9])
        whole = draw_text(scores, uniform)
        scores[1, 7] = bad
        drawn = draw_text(scores, uniform)
        assert drawn.tolist() == [whole[0], FAILED, whole[2]]

    @pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9, 2.0])
    def test_extreme_temperatures_and_logits_draw_something(self, temperature: float) -> None:
        """No temperature overflows, and a certain symbol stays certain."""
        scores = np.full((1, 5), -1e4, np.float32)
        scores[0, 2] = 1e4
        assert draw_text(scores, [0.999], temperature=temperature).tolist() == [2]

    @given(
        hnp.arrays(np.float32, (3, 12), elements=st.floats(-8, 8, width=32)),
        st.floats(0, 1, width=32),
        st.integers(0, 14),
    )
    @settings(max_examples=50)
    def test_draws_only_from_the_smallest_set_with_that_mass(self, scores: Any, top_p: float, top_k: int) -> None:
        """Over noise that sweeps [0, 1) the whole set of the reference is drawn, nothing else; of equals the first."""
        scores = np.round(scores)  # so that there are equals
        sweep = (np.arange(4000) + 0.5) / 4000
        for row in scores:
            weights = np.exp(row.astype(float) - row.max())[None]
            kept = keep_likeliest(weights, np.array([float(np.float32(top_p))]), np.array([top_k]))[0]
            drawn = draw_text(np.repeat(row[None], 4000, 0), sweep, top_p=top_p, top_k=top_k)
            likely = np.flatnonzero(kept > kept.sum() / 1000)
            assert set(likely) <= set(drawn.tolist())
            extra = set(drawn.tolist()) - set(np.flatnonzero(kept).tolist())
            # Where a share falls on the very edge of a set, float32 may take one symbol more.
            assert len(extra) <= (0 < top_p < 1)

    def test_the_ends_of_the_noise_draw_something_sound(self) -> None:
        """The smallest and the largest noise there is take symbols that are not barred."""
        scores = logits(300, 50)
        barred = np.isin(np.arange(50), [0, 49])
        for noise in (2**-52, 1 - 2**-52):
            drawn = draw_text(scores, np.full(300, noise), barred=barred)
            assert not np.isin(drawn, [0, 49]).any()


class TestInk:
    def test_follows_the_mixture(self) -> None:
        """The mean, spread and correlation of many draws are those of the component that has all the weight."""
        parameters = np.zeros((1, 13), np.float32)
        parameters[0, :2] = [0.0, -80.0]
        parameters[0, 2], parameters[0, 4] = 1.5, -0.5
        parameters[0, 6], parameters[0, 8] = np.log(2.0), np.log(0.5)
        parameters[0, 10], parameters[0, 12] = 0.6, np.log(0.25 / 0.75)
        noise = ink_noise(40_000)
        drawn = draw_ink(np.repeat(parameters, 40_000, 0), np.zeros(40_000), noise)
        dx, dy, pen = drawn.astype(float).T
        assert abs(dx.mean() - 1.5) < 0.04
        assert abs(dy.mean() + 0.5) < 0.02
        assert abs(dx.std() - 2.0) < 0.03
        assert abs(dy.std() - 0.5) < 0.01
        assert abs(np.corrcoef(dx, dy)[0, 1] - 0.6) < 0.02
        assert abs(pen.mean() - 0.25) < 0.01

    def test_bias_narrows(self) -> None:
        """With a bias of b scales are divided by e^b, and the likelier component is drawn more often."""
        parameters = np.repeat(mixture(1, seed=4), 20_000, 0)
        noise = ink_noise(20_000)
        spread = [draw_ink(parameters, np.full(20_000, bias), noise)[:, 0].std() for bias in (0.0, 1.0, 5.0)]
        assert spread[0] > spread[1] > spread[2]

    def test_the_pen_is_0_or_1(self) -> None:
        """pen_up is a bit, also for logits beyond what exp can take."""
        parameters = mixture(4)
        parameters[:, -1] = [-1e30, 1e30, -800, 800]
        drawn = draw_ink(parameters, np.zeros(4), np.tile([0.5, 0.1, 0.2, 0.5], (4, 1)))
        assert drawn[:, 2].tolist() == [0, 1, 0, 1]

    def test_a_broken_row_fails_alone(self) -> None:
        """A row that is not finite becomes NaN, and the rows beside it draw what they draw without it."""
        parameters, noise = mixture(3), ink_noise(3)
        whole = draw_ink(parameters, np.zeros(3), noise)
        parameters[1, 30] = np.nan
        drawn = draw_ink(parameters, np.zeros(3), noise)
        assert np.isnan(drawn[1]).all()
        assert np.array_equal(drawn[[0, 2]], whole[[0, 2]])
