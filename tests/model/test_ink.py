"""The end of a written line: one rule for training, export and the service."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.ink import LEAST_POINTS, POINTS_PER_CHARACTER, is_line_over, max_points, next_place

IDS = 5  # a text of three characters: sentinel, 1, 2, 3, sentinel


@pytest.mark.parametrize(
    ("place", "stop_logit", "pen_up", "over"),
    [
        (1, 9.0, 1.0, False),  # a stop before the last character is ignored
        (2, 9.0, 1.0, False),
        (3, 9.0, 0.0, True),  # on the last character the network decides
        (3, 0.0, 1.0, False),
        (3, -1.0, 1.0, False),
        (4, 0.1, 0.0, True),  # on the sentinel after it too
        (4, -1.0, 1.0, False),
        (5, -1.0, 0.0, False),  # behind the text a lifted pen ends the line
        (5, -1.0, 1.0, True),
        (6, -1.0, 1.0, True),
    ],
)
def test_where_a_line_ends(place: int, stop_logit: float, pen_up: float, *, over: bool) -> None:
    """It ends on the last character where the network says so, or behind the text with a lifted pen."""
    assert is_line_over(place, IDS, stop_logit, pen_up) is over


@pytest.mark.parametrize(
    ("place", "largest", "then"), [(1, 1, 1), (1, 2, 2), (1, 9, 2), (4, 1, 4), (4, float("nan"), 4)]
)
def test_the_place_goes_forward_by_one(place: int, largest: float, then: int) -> None:
    """A place never goes back, and one point moves it by one character at most."""
    assert next_place(place, largest) == then


@given(
    st.lists(
        st.tuples(
            st.integers(1, 9), st.integers(1, 9), st.integers(3, 8), st.floats(-2, 2), st.sampled_from([0.0, 1.0])
        ),
        min_size=1,
    )
)
def test_many_lines_at_once_are_each_line_by_itself(rows: list[tuple[int, int, int, float, int]]) -> None:
    """Arrays of rows give what the numbers of each row give, and places stay whole numbers."""
    place, largest, num_ids, stop_logit, pen_up = (np.array(column) for column in zip(*rows, strict=True))
    moved = next_place(place, largest)
    assert moved.dtype == np.int64
    assert moved.tolist() == [next_place(row[0], row[1]) for row in rows]
    over = is_line_over(moved, num_ids, stop_logit, pen_up)
    alone = [is_line_over(next_place(row[0], row[1]), *row[2:]) for row in rows]
    assert over.tolist() == alone


def test_longer_texts_may_have_more_points() -> None:
    """The limit grows with the text, and leaves room for a single character."""
    assert max_points(1) == LEAST_POINTS + POINTS_PER_CHARACTER
    assert max_points(40) - max_points(39) == POINTS_PER_CHARACTER
