"""Finds stop strings in a text whose characters come one by one."""

from collections.abc import Sequence


class StopMatcher:
    """Matches stop strings and knows how much of the text's end may yet become one.

    There is a Knuth-Morris-Pratt automaton for each stop string, so a character costs a few comparisons on average,
    however long the stop strings are.

    Args:
        stops: stop strings of at least one character.

    Attributes:
        held: number of last characters of the text that may be the beginning of a stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._borders = tuple(_borders(stop) for stop in stops)
        self._matched = [0] * len(stops)
        self.held = 0

    def push(self, character: str) -> int:
        """Take the next character of the text.

        Returns:
            The length of the stop string that ends with this character, or 0. Of several it is the longest, which
            begins first. Afterwards `held` is the number of last characters that may be the beginning of a stop string.
        """
        if not self._stops:
            return 0
        found = 0
        for index, stop in enumerate(self._stops):
            borders, length = self._borders[index], self._matched[index]
            while length and stop[length] != character:
                length = borders[length]
            length += stop[length] == character
            if length == len(stop):
                found = max(found, length)
                length = borders[length]
            self._matched[index] = length
        self.held = max(self._matched, default=0)
        return found


def _borders(stop: str) -> list[int]:
    """Return for each prefix length the length of its longest proper suffix that is also a prefix."""
    borders = [0] * (len(stop) + 1)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[length] != stop[index]:
            length = borders[length]
        length += stop[length] == stop[index]
        borders[index + 1] = length
    return borders
