"""Stop strings found while characters come in one by one, wherever events happen to be cut."""

from collections.abc import Sequence


class StopMatcher:
    """Follows a text and says how much of its end may yet become a stop string.

    One Knuth-Morris-Pratt automaton for each stop string: a character costs a few comparisons, whatever the lengths.

    Args:
        stops: strings of at least one character.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._borders = tuple(_borders(stop) for stop in stops)
        self._matched = [0] * len(stops)
        self.held = 0

    def push(self, character: str) -> int:
        """Take the next character of the text.

        Returns:
            0, or the length of the stop string that ends here; of several the longest, which begins first.
            `held` is then the number of last characters, this one included, that may be the beginning of one.
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
    """For each prefix length, the length of its longest proper suffix that is also a prefix."""
    borders = [0] * (len(stop) + 1)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[length] != stop[index]:
            length = borders[length]
        length += stop[length] == stop[index]
        borders[index + 1] = length
    return borders
