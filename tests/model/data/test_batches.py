"""Streams: everything is seen once, what continues continues, and a saved place is found again to the step."""

import json
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.data.batches import (
    InkStreams,
    InkWindow,
    Stretch,
    TextStreams,
    evaluation_lines,
    evaluation_text,
    shuffled,
)
from model.data.errors import DataError

batches = st.integers(1, 5)
windows = st.integers(1, 7)
line_lengths = st.lists(st.integers(2, 25), min_size=1, max_size=9)


def numbered_lines(lengths: list[int]) -> list[NDArray[np.float32]]:
    """Lines whose points are (line, point, 1), so that every number says where it comes from."""
    return [
        np.column_stack([np.full(n, i), np.arange(n), np.ones(n)]).astype(np.float32) for i, n in enumerate(lengths)
    ]


class TestTextStreams:
    @given(batches, windows, st.integers(1, 4), st.data())
    def test_a_pass_sees_each_place_once(self, batch: int, window: int, passes: int, data: st.DataObject) -> None:
        """No target comes twice in a pass, fewer than batch * window are left out, and two passes leave out none."""
        n = data.draw(st.integers(batch * window + 1, batch * window * 4 + 1))
        streams = TextStreams(np.arange(n, dtype=np.uint16), batch, window)
        seen = []
        for _ in range(passes):
            targets = np.concatenate([streams.next()[1].ravel() for _ in range(streams.windows_per_pass)])
            assert len(np.unique(targets)) == targets.size > n - 1 - batch * window
            seen.append(targets)
        if passes > 1:
            assert np.array_equal(np.unique(np.concatenate(seen[:2])), np.arange(1, n))

    @given(batches, windows, st.data())
    def test_rows_continue_until_all_wrap_together(self, batch: int, window: int, data: st.DataObject) -> None:
        """The first input of a row is the last target of the row before, except where `wrapped` says so."""
        n = data.draw(st.integers(batch * window + 1, batch * window * 4 + 1))
        streams = TextStreams(np.arange(n, dtype=np.uint16), batch, window)
        drawn = [(*streams.next(), streams.wrapped) for _ in range(2 * streams.windows_per_pass + 1)]
        for inputs, targets, _ in drawn:
            assert inputs.shape == targets.shape == (window, batch)
            assert inputs.dtype == targets.dtype == np.int64
            assert np.array_equal(inputs + 1, targets)
        for number, (before, (inputs, _, wrapped)) in enumerate(pairwise(drawn), 1):
            assert wrapped == (number % streams.windows_per_pass == 0)
            assert wrapped or np.array_equal(inputs[0], before[1][-1])
        assert drawn[0][2]

    @given(batches, windows, st.integers(0, 12), st.data())
    def test_a_saved_place_goes_on_exactly(self, batch: int, window: int, drawn: int, data: st.DataObject) -> None:
        """Fresh streams with the state loaded, or started there, give the very same windows."""
        ids = np.arange(data.draw(st.integers(batch * window + 1, batch * window * 4 + 1)), dtype=np.uint16)
        streams = TextStreams(ids, batch, window)
        for _ in range(drawn):
            streams.next()
        loaded = TextStreams(ids, batch, window)
        loaded.next()
        loaded.load_state_dict(json.loads(json.dumps(streams.state_dict())))
        started = TextStreams(ids, batch, window, start=drawn)
        assert loaded.wrapped == streams.wrapped
        for _ in range(5):
            wanted = streams.next()
            for other in (loaded, started):
                assert np.array_equal(other.next(), wanted)
                assert other.wrapped == streams.wrapped
        assert loaded.passes == streams.passes

    @pytest.mark.parametrize("changed", [{"ids": 40}, {"batch": 3}, {"window": 4}])
    def test_a_place_in_other_streams_is_refused(self, changed: dict[str, int]) -> None:
        """A place among other characters, streams or windows means nothing here."""
        shape = {"ids": 41, "batch": 2, "window": 5} | changed
        other = TextStreams(np.arange(shape["ids"]), shape["batch"], shape["window"])
        with pytest.raises(ValueError, match=next(iter(changed))):
            TextStreams(np.arange(41), 2, 5).load_state_dict(other.state_dict())

    def test_a_text_shorter_than_one_window_is_refused(self) -> None:
        """The sentence says how many characters are needed and how many there are."""
        with pytest.raises(DataError, match="at least 13 characters, but the split has 12"):
            TextStreams(np.arange(12), 3, 4)
        assert TextStreams(np.arange(13), 3, 4).windows_per_pass == 1


class TestInkStreams:
    @given(line_lengths, batches, windows)
    def test_each_pass_of_the_queue_is_every_line_once(self, lengths: list[int], batch: int, window: int) -> None:
        """Lines begin in an order of which each stretch of len(lines) is all of them."""
        begun = [showing.line for showing in _showings(lengths, batch, window)]
        assert len(begun) >= 2 * len(lengths)
        for start in range(0, len(begun) - len(lengths) + 1, len(lengths)):
            assert sorted(begun[start : start + len(lengths)]) == list(range(len(lengths)))

    @given(line_lengths, batches, windows)
    def test_a_line_is_scored_once_and_in_order(self, lengths: list[int], batch: int, window: int) -> None:
        """From its fresh window on, a stream scores points 1, 2, ... of its line, each once, up to the last."""
        for line, scored, is_over in _showings(lengths, batch, window):
            end = lengths[line] if is_over else len(scored) + 1
            assert scored == list(range(1, end))

    @given(line_lengths, batches, windows)
    def test_inputs_precede_targets_and_padding_is_zero(self, lengths: list[int], batch: int, window: int) -> None:
        """The target is the point after the input, and padding is zeros that weigh nothing."""
        streams = InkStreams(numbered_lines(lengths), batch, window, seed=3)
        for _ in range(10):
            drawn = streams.next()
            assert drawn.inputs.shape == drawn.targets.shape == (window, batch, 3)
            assert drawn.weight.shape == (window, batch)
            assert {part.dtype for part in drawn[:3]} == {np.dtype(np.float32)}
            real = drawn.weight == 1
            assert np.array_equal(drawn.inputs[real] + [0, 1, 0], drawn.targets[real])
            assert not drawn.inputs[~real].any()
            assert not drawn.targets[~real].any()
            assert not drawn.weight[~real].any()

    @given(line_lengths, batches, windows, st.integers(0, 20))
    def test_a_saved_place_goes_on_exactly(self, lengths: list[int], batch: int, window: int, drawn: int) -> None:
        """Fresh streams with the state loaded give the very same windows, whatever they showed before."""
        streams = InkStreams(numbered_lines(lengths), batch, window, seed=5)
        for _ in range(drawn):
            streams.next()
        loaded = InkStreams(numbered_lines(lengths), batch, window, seed=6)
        loaded.next()
        loaded.load_state_dict(json.loads(json.dumps(streams.state_dict())))
        for _ in range(8):
            assert _equal(loaded.next(), streams.next())
            assert loaded.passes == streams.passes

    @given(line_lengths, batches, windows, st.integers(0, 20))
    def test_a_saved_place_keeps_its_stretch(self, lengths: list[int], batch: int, window: int, drawn: int) -> None:
        """The rest of a line is as large as its beginning, and so are the lines after it."""
        stretch = Stretch(0.3, (0.1, -0.2))
        streams, loaded = (InkStreams(numbered_lines(lengths), batch, window, seed, None, stretch) for seed in (5, 6))
        for _ in range(drawn):
            streams.next()
        loaded.load_state_dict(json.loads(json.dumps(streams.state_dict())))
        for _ in range(8):
            assert _equal(loaded.next(), streams.next())

    def test_a_stretch_scales_movements_and_nothing_else(self) -> None:
        """Each axis by one factor a line, about the pen that stays put; lifts, weights and order are as ever."""
        lines, origin = numbered_lines([40, 30, 50, 20]), np.array([0.25, -0.5], np.float32)
        plain = InkStreams(lines, 2, 15, 3)
        stretched = InkStreams(lines, 2, 15, 3, None, Stretch(0.2, (0.25, -0.5)))
        factors: list[float] = []
        factor = np.ones((2, 2))
        for _ in range(400):
            before, after = plain.next(), stretched.next()
            assert np.array_equal(before.weight, after.weight)
            assert np.array_equal(before.fresh, after.fresh)
            real = before.weight == 1
            assert np.array_equal(before.inputs[..., 2], after.inputs[..., 2])
            for row in range(2):
                moved = before.inputs[real[:, row], row, :2] - origin
                ratio = (after.inputs[real[:, row], row, :2] - origin) / moved
                if before.fresh[row]:
                    factor[row] = ratio[0]
                    factors += factor[row].tolist()
                assert np.allclose(ratio, factor[row], rtol=1e-3)
        assert len(set(factors)) == len(factors)
        assert abs(np.mean(np.log(factors))) < 0.05
        assert 0.17 < np.std(np.log(factors)) < 0.23

    def test_passes_count_scored_steps(self) -> None:
        """One stream that has shown every line has made one pass."""
        streams = InkStreams(numbered_lines([5, 9, 2]), 1, 4, seed=0)
        for _ in range(1 + 2 + 1):
            streams.next()
        assert streams.passes == 1.0

    def test_seed_and_pass_decide_the_order(self) -> None:
        """Same seed, same windows; another seed or pass, another order."""
        lines = numbered_lines([3] * 30)
        first, again, other = (InkStreams(lines, 30, 2, seed) for seed in (1, 1, 2))
        window = first.next()
        assert _equal(again.next(), window)
        assert not np.array_equal(other.next().inputs, window.inputs)
        assert not np.array_equal(first.next().inputs, window.inputs)

    @pytest.mark.parametrize("changed", [{"batch": 3}, {"window": 5}, {"lines": [4, 4, 5]}, {"lines": [4, 4]}])
    def test_a_place_in_other_streams_is_refused(self, changed: dict[str, Any]) -> None:
        """A place among other lines, streams or windows means nothing here."""
        shape: dict[str, Any] = {"lines": [4, 4, 4], "batch": 2, "window": 4}
        shape |= changed
        other = InkStreams(numbered_lines(shape["lines"]), shape["batch"], shape["window"], seed=0)
        with pytest.raises(ValueError, match="the saved place"):
            InkStreams(numbered_lines([4, 4, 4]), 2, 4, seed=0).load_state_dict(other.state_dict())

    @pytest.mark.parametrize("lengths", [[], [5, 1]])
    def test_lines_without_a_step_are_refused(self, lengths: list[int]) -> None:
        """No line, or a line of one point, has nothing to learn."""
        with pytest.raises(DataError, match="at least"):
            InkStreams(numbered_lines(lengths), 2, 4, seed=0)
        with pytest.raises(DataError, match="at least"):
            next(evaluation_lines(numbered_lines(lengths), 2))


class TestEvaluationLayouts:
    @given(st.integers(2, 80), st.integers(1, 9))
    def test_every_character_but_the_first_is_scored_once(self, n: int, batch: int) -> None:
        """The targets of weight 1 are characters 1 .. n-1, each once, in contiguous columns."""
        inputs, targets, weight = evaluation_text(np.arange(n, dtype=np.uint16), batch)
        real = weight == 1
        assert inputs.dtype == targets.dtype == np.int64
        assert inputs.shape == targets.shape == weight.shape == (-(-(n - 1) // batch), batch)
        assert np.array_equal(targets.T[real.T], np.arange(1, n))
        assert np.array_equal(inputs[real] + 1, targets[real])
        assert weight.sum() == n - 1

    def test_one_character_cannot_be_scored(self) -> None:
        """A text of one character has no target."""
        with pytest.raises(DataError, match="at least 2"):
            evaluation_text(np.zeros(1, np.uint16), 1)

    @given(line_lengths, batches)
    def test_every_line_is_given_whole_and_once(self, lengths: list[int], batch: int) -> None:
        """Each row is one line from its first point, padded to the longest of its batch."""
        given_lines, longest = [], 0
        for inputs, targets, weight, *_ in evaluation_lines(numbered_lines(lengths), batch):
            assert inputs.shape == targets.shape == (*weight.shape, 3)
            assert weight.shape[1] <= batch
            assert weight.shape[0] >= longest
            longest = weight.shape[0]
            for row in range(weight.shape[1]):
                steps = int(weight[:, row].sum())
                assert weight[:steps, row].all()
                assert inputs[:steps, row, 1].tolist() == list(range(steps))
                assert targets[:steps, row, 1].tolist() == list(range(1, steps + 1))
                line = int(inputs[0, row, 0])
                assert steps == lengths[line] - 1
                given_lines.append(line)
        assert sorted(given_lines) == list(range(len(lengths)))


class TestShuffled:
    @given(st.integers(0, 50), st.integers(0, 5), st.integers(0, 5))
    def test_is_an_order_of_all(self, count: int, seed: int, number: int) -> None:
        """Every index comes once."""
        assert sorted(shuffled(count, seed, number)) == list(range(count))

    def test_never_changes(self) -> None:
        """Published figures rest on this order: it is written down here."""
        assert shuffled(12, 0).tolist() == [11, 3, 2, 1, 8, 6, 0, 7, 4, 10, 5, 9]
        assert shuffled(12, 0, 1).tolist() == [7, 10, 4, 11, 5, 1, 9, 8, 6, 2, 0, 3]


def _equal(one: InkWindow, other: InkWindow) -> bool:
    """Whether two windows agree in every number."""
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))


class Showing(NamedTuple):
    """A line that a stream began: its number, the points scored so far, and whether the stream went on to another."""

    line: int
    scored: list[int]
    is_over: bool


def _showings(lengths: list[int], batch: int, window: int) -> list[Showing]:
    """Return what the streams show in at least two passes, in the order in which it began."""
    streams = InkStreams(numbered_lines(lengths), batch, window, seed=1)
    shown: list[Showing] = []
    present: list[int] = [-1] * batch
    while streams.passes < 2 + batch / len(lengths):
        drawn = streams.next()
        for row in range(batch):
            if drawn.fresh[row]:
                if present[row] >= 0:
                    shown[present[row]] = shown[present[row]]._replace(is_over=True)
                present[row] = len(shown)
                shown.append(Showing(int(drawn.inputs[0, row, 0]), [], is_over=False))
            real = drawn.weight[:, row] == 1
            assert (drawn.targets[real, row, 0] == shown[present[row]].line).all()
            shown[present[row]].scored.extend(drawn.targets[real, row, 1].astype(int).tolist())
    return shown
