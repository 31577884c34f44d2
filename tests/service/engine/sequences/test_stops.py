"""A stop string is found at its last character, and nothing that may become one is published before."""

from hypothesis import given
from hypothesis import strategies as st

from service.engine.sequences.stops import StopMatcher

# Two letters make every kind of overlap likely.
TEXTS = st.text("ab", max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=6), max_size=4)


@given(TEXTS, STOPS)
def test_finds_the_first_and_longest(text: str, stops: list[str]) -> None:
    """The stop string reported is the longest of those that end first."""
    matcher = StopMatcher(stops)
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        assert matcher.push(text[end - 1]) == max((len(stop) for stop in ending), default=0)
        if ending:
            break


@given(TEXTS, STOPS)
def test_holds_back_exactly_what_may_become_one(text: str, stops: list[str]) -> None:
    """`held` is the length of the longest end of the text with which a stop string begins."""
    matcher = StopMatcher(stops)
    for end in range(1, len(text) + 1):
        if matcher.push(text[end - 1]):
            return
        beginnings = [n for n in range(1, end + 1) if any(stop.startswith(text[end - n : end]) for stop in stops)]
        assert matcher.held == max(beginnings, default=0)
