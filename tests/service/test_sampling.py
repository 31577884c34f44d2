"""Draws are pure functions of (seed, choice, position), rows do not see each other, and filters keep what they say."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service import sampling

SEEDS = st.integers(-(2**63), 2**63 - 1)
SHARES = st.floats(0, 1, exclude_max=True)


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


def draw_text(scores: Any, uniform: Any, **options: Any) -> Any:
    """Draw from logits with one setting for all rows."""
    rows, num_symbols = scores.shape
    return sampling.sample_text(
        scores,
        np.full(rows, options.get("temperature", 1.0)),
        np.full(rows, options.get("top_p", 1.0)),
        np.full(rows, options.get("top_k", 0), np.int64),
        np.asarray(uniform, np.float64),
        options.get("barred", np.zeros(num_symbols, np.bool_)),
        options.get("bias"),
    )


class TestUniforms:
    def test_is_philox(self) -> None:
        """The bits are those of Philox4x64-10 as published with Random123 for key 0 and counter 0."""
        words = (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)
        assert sampling.uniforms(0, 0, 0, 1)[0].tolist() == [(word >> 11) / 2**53 for word in words]

    @given(SEEDS, st.integers(0, 127), st.integers(0, 2**40), st.integers(1, 130), st.data())
    def test_depends_on_the_position_alone(
        self, seed: int, choice: int, start: int, count: int, data: st.DataObject
    ) -> None:
        """A position's draw is the same however the positions around it are fetched."""
        block = sampling.uniforms(seed, choice, start, count)
        index = data.draw(st.integers(0, count - 1))
        alone = sampling.uniforms(seed, choice, start + index, 1)
        assert np.array_equal(block[index], alone[0])
        assert block.shape == (count, sampling.DRAWS)
        assert 0 <= block.min() <= block.max() < 1

    def test_seeds_choices_and_positions_differ(self) -> None:
        """No two of a thousand seeds, choices or positions share a draw."""
        drawn = [sampling.uniforms(seed, 0, 0, 1) for seed in range(-500, 500)]
        drawn += [sampling.uniforms(0, choice, 0, 1) for choice in range(1, 1000)]
        drawn += list(sampling.uniforms(0, 0, 1, 999)[:, None])
        assert len(np.unique(np.concatenate(drawn)[:, 0])) == 500 * 2 + 999 + 999

    def test_is_uniform(self) -> None:
        """Ten thousand draws fill each of the four columns evenly."""
        drawn = sampling.uniforms(5, 0, 0, 10_000)
        for column in drawn.T:
            counts, _ = np.histogram(column, bins=10, range=(0, 1))
            assert abs(counts - 1000).max() < 150


class TestRowsDoNotSeeEachOther:
    @pytest.mark.parametrize("kind", ["plain", "narrow"])
    def test_text(self, kind: str) -> None:
        """Every row's symbol and every row's weights are the same bits in any batch, whatever it holds besides."""
        scores, uniform = logits(64, 97), sampling.uniforms(1, 0, 0, 64)[:, 0]
        options = {"temperature": 0.7} | ({"top_p": 0.9, "top_k": 30} if kind == "narrow" else {})
        whole = draw_text(scores, uniform, **options)
        for size in (1, 2, 3, 5, 7, 8, 16, 31, 63):
            for start in range(0, 64 - size + 1, size):
                part = slice(start, start + size)
                assert np.array_equal(draw_text(scores[part], uniform[part], **options), whole[part])

    def test_weights_bit_for_bit(self) -> None:
        """The numbers a draw rests on, not only the draw, are the same bits alone and in a batch."""
        weights = np.exp(logits(64, 97).astype(np.float64))
        top_p, top_k = np.full(64, 0.8), np.full(64, 20)
        whole = sampling.keep_likeliest(weights, top_p, top_k)
        for row in range(64):
            alone = sampling.keep_likeliest(weights[row : row + 1], top_p[:1], top_k[:1])
            assert alone.tobytes() == whole[row].tobytes()
            assert np.exp(logits(64, 97)[row : row + 1].astype(np.float64)).tobytes() == weights[row].tobytes()

    def test_likelihoods(self) -> None:
        """Every row's likelihoods and their order are the same bits in any batch."""
        scores = logits(64, 97)
        whole = sampling.log_likelihoods(scores)
        order = sampling.likeliest(whole, 5)
        for size in (1, 2, 3, 5, 7, 8, 16, 31, 63):
            for start in range(0, 64 - size + 1, size):
                part = slice(start, start + size)
                alone = sampling.log_likelihoods(scores[part])
                assert alone.tobytes() == whole[part].tobytes()
                assert np.array_equal(sampling.likeliest(alone, 5), order[part])

    def test_another_rows_bias_changes_nothing(self) -> None:
        """A bias acts on its own row; to have none is to have one of zeros."""
        scores, uniform = logits(64, 97), sampling.uniforms(1, 0, 0, 64)[:, 0]
        bias = np.zeros((64, 97))
        bias[::2, 7] = 100
        drawn = draw_text(scores, uniform, bias=bias)
        assert set(drawn[::2]) == {7}
        assert np.array_equal(drawn[1::2], draw_text(scores, uniform)[1::2])

    def test_ink(self) -> None:
        """Every row's offset is the same bits in any batch."""
        parameters, uniform, bias = mixture(64), sampling.uniforms(2, 0, 0, 64), np.linspace(0, 3, 64)
        whole = sampling.sample_ink(parameters, bias, uniform)
        for size in (1, 2, 3, 5, 7, 8, 16, 31, 63):
            for start in range(0, 64 - size + 1, size):
                part = slice(start, start + size)
                alone = sampling.sample_ink(parameters[part], bias[part], uniform[part])
                assert alone.tobytes() == whole[part].tobytes()


class TestLikelihoods:
    @given(hnp.arrays(np.float32, (3, 9), elements=st.floats(-80, 80, width=32)), st.integers(0, 12))
    def test_are_the_softmax_in_order(self, scores: Any, count: int) -> None:
        """Probabilities sum to 1, differences are those of the logits, and the likeliest come first, ties by id."""
        found = sampling.log_likelihoods(scores)
        assert np.allclose(np.exp(found).sum(axis=1), 1, atol=1e-12)
        assert np.allclose(found - found[:, :1], scores.astype(float) - scores[:, :1].astype(float), atol=1e-9)
        order = sampling.likeliest(found, count)
        for row, ids in zip(found, order, strict=True):
            assert ids.tolist() == sorted(range(9), key=lambda each: (-row[each], each))[:count]


class TestText:
    def test_follows_the_softmax(self) -> None:
        """Twenty thousand draws come as often as the softmax of logits over temperature says."""
        scores = np.array([[0.0, 1.0, 2.0, -1.0]], np.float32)
        weights = np.exp(scores[0].astype(float) / 0.8)
        drawn = draw_text(np.repeat(scores, 20_000, 0), sampling.uniforms(0, 0, 0, 20_000)[:, 0], temperature=0.8)
        shares = np.bincount(drawn, minlength=4) / 20_000
        assert abs(shares - weights / weights.sum()).max() < 0.012

    @given(
        hnp.arrays(np.float32, (3, 9), elements=st.floats(-80, 80, width=32)),
        hnp.arrays(np.float64, 3, elements=SHARES),
    )
    def test_temperature_zero_takes_the_likeliest(self, scores: Any, uniform: Any) -> None:
        """At temperature 0 the draw does not matter, and of equals the first is taken."""
        assert np.array_equal(draw_text(scores, uniform, temperature=0.0), scores.argmax(axis=1))

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

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_a_broken_row_fails_alone(self, bad: float) -> None:
        """A row that is not finite is reported, and the rows beside it draw what they draw without it."""
        scores, uniform = logits(3), np.array([0.1, 0.5, 0.9])
        whole = draw_text(scores, uniform)
        scores[1, 7] = bad
        drawn = draw_text(scores, uniform)
        assert drawn.tolist() == [whole[0], sampling.FAILED, whole[2]]

    @pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9, 2.0])
    def test_extreme_temperatures_and_logits_draw_something(self, temperature: float) -> None:
        """No temperature overflows, and a certain symbol stays certain."""
        scores = np.full((1, 5), -3e38, np.float32)
        scores[0, 2] = 3e38
        assert draw_text(scores, [0.999], temperature=temperature).tolist() == [2]


class TestKeepLikeliest:
    @given(
        hnp.arrays(np.float64, (3, 12), elements=st.floats(1e-6, 1e3)),
        st.floats(0, 1),
        st.integers(0, 14),
    )
    def test_keeps_the_smallest_set_with_that_mass(self, weights: Any, top_p: float, top_k: int) -> None:
        """What is kept are the likeliest symbols; they hold top_p of top_k's mass, and without the last they do not."""
        kept = sampling.keep_likeliest(weights, np.full(3, top_p), np.full(3, top_k))
        for before, after in zip(weights, kept, strict=True):
            ranked = np.sort(before)[::-1][: top_k or 12]
            size = np.count_nonzero(after)
            assert 1 <= size <= (top_k or 12)
            assert np.array_equal(np.sort(after)[::-1][:size], ranked[:size])
            assert set(after) <= {0.0, *before}
            mass = ranked.cumsum()
            assert mass[size - 1] >= top_p * mass[-1] * (1 - 1e-12)
            assert size == 1 or mass[size - 2] < top_p * mass[-1]

    def test_all_is_kept_by_one_and_none(self) -> None:
        """top_p of 1 with top_k of 0 changes nothing, however small the smallest weight."""
        weights = np.array([[1.0, 1e-30, 0.5, 1e-300]])
        assert np.array_equal(sampling.keep_likeliest(weights, np.ones(1), np.zeros(1, np.int64)), weights)

    def test_of_equals_the_lower_id_stays(self) -> None:
        """Ties are broken by id, so the set is the same on every machine."""
        kept = sampling.keep_likeliest(np.ones((1, 5)), np.array([0.5]), np.zeros(1, np.int64))
        assert kept.tolist() == [[1, 1, 1, 0, 0]]


class TestInk:
    def test_follows_the_mixture(self) -> None:
        """The mean, spread and correlation of many draws are those of the component that has all the weight."""
        parameters = np.zeros((1, 13), np.float32)
        parameters[0, :2] = [0.0, -80.0]
        parameters[0, 2], parameters[0, 4] = 1.5, -0.5
        parameters[0, 6], parameters[0, 8] = np.log(2.0), np.log(0.5)
        parameters[0, 10], parameters[0, 12] = 0.6, np.log(0.25 / 0.75)
        uniform = sampling.uniforms(3, 0, 0, 40_000)
        drawn = sampling.sample_ink(np.repeat(parameters, 40_000, 0), np.zeros(40_000), uniform)
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
        uniform = sampling.uniforms(4, 0, 0, 20_000)
        spread = [
            sampling.sample_ink(parameters, np.full(20_000, bias), uniform)[:, 0].std() for bias in (0.0, 1.0, 5.0)
        ]
        assert spread[0] > spread[1] > spread[2]

    def test_the_pen_is_0_or_1(self) -> None:
        """pen_up is a bit, also for logits beyond what exp can take."""
        parameters = mixture(4)
        parameters[:, -1] = [-1e30, 1e30, -800, 800]
        drawn = sampling.sample_ink(parameters, np.zeros(4), np.full((4, 4), 0.5))
        assert drawn[:, 2].tolist() == [0, 1, 0, 1]

    def test_a_broken_row_fails_alone(self) -> None:
        """A row that is not finite becomes NaN, and the rows beside it draw what they draw without it."""
        parameters, uniform = mixture(3), sampling.uniforms(1, 0, 0, 3)
        whole = sampling.sample_ink(parameters, np.zeros(3), uniform)
        parameters[1, 30] = np.nan
        drawn = sampling.sample_ink(parameters, np.zeros(3), uniform)
        assert np.isnan(drawn[1]).all()
        assert np.array_equal(drawn[[0, 2]], whole[[0, 2]])


@given(
    hnp.arrays(np.float64, (4, 7), elements=st.one_of(st.just(0.0), st.floats(1e-300, 1e300))),
    hnp.arrays(np.float64, 4, elements=SHARES),
)
def test_invert_never_returns_an_index_of_weight_0(weights: Any, uniform: Any) -> None:
    """Inversion lands on a positive weight, also at the very ends of [0, 1)."""
    weights[:, 3] += 1.0
    uniform[0], uniform[1] = 0.0, np.nextafter(1, 0)
    found = sampling.invert(weights, uniform)
    assert (weights[np.arange(4), found] > 0).all()
