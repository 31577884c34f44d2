"""Draws are pure functions of (seed, choice, position), and rows do not see each other."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.engine import sampling

SEEDS = st.integers(-(2**63), 2**63 - 1)


def logits(rows: int, num_symbols: int = 50, seed: int = 0) -> Any:
    """Plausible logits (rows, V) float32."""
    return (np.random.default_rng(seed).normal(size=(rows, num_symbols)) * 3).astype(np.float32)


class TestUniforms:
    def test_is_philox(self) -> None:
        """The bits are those of Philox4x64-10 as published with Random123 for key 0 and counter 0."""
        words = (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)
        assert sampling.uniforms(0, 0, 0, 1)[0].tolist() == [((word >> 13) + 0.5) / 2**51 for word in words]

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
        assert sampling.SMALLEST <= block.min() <= block.max() <= 1 - sampling.SMALLEST

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


def test_deviates_are_standard_normal() -> None:
    """The middle two of the four numbers become independent normal deviates, and the outer two stay as they are."""
    uniform = sampling.uniforms(3, 0, 0, 40_000)
    found = sampling.deviates(uniform)
    assert np.array_equal(found[:, [0, 3]], uniform[:, [0, 3]])
    assert abs(found[:, 1:3].mean(0)).max() < 0.02
    assert abs(np.cov(found[:, 1:3].T) - np.eye(2)).max() < 0.03
    assert abs(np.corrcoef(found[:, 0], found[:, 1])[0, 1]) < 0.02


def test_deviates_depend_on_their_position_alone() -> None:
    """The same bits whichever positions are fetched along with one."""
    whole = sampling.deviates(sampling.uniforms(1, 0, 0, 64))
    for start, count in ((0, 1), (3, 2), (5, 31), (63, 1), (8, 8)):
        part = sampling.deviates(sampling.uniforms(1, 0, start, count))
        assert part.tobytes() == whole[start : start + count].tobytes()
