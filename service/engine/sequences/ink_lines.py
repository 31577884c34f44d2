"""Lines of a given text on their way through the engine, and the bundle that writes them at work.

What a line says and whose hand it is are sampling inputs of its row, made once; the network says at every point on
which character the window over the text rests, and whether the line is over.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.sampling import deviates
from service.engine.sequences.base import Offset, Sequence, prefillable_prime
from service.engine.sequences.snapshot import WHOLE, Snapshot

LEAST_POINTS = 100
POINTS_PER_CHARACTER = 45  # a usual one takes 22, and hardly any takes more than twice that


@dataclass(frozen=True, eq=False)
class Line:
    """What is to be written.

    Attributes:
        ids: how many there are of sentinels and characters.
        given: sampling inputs of its row by name, each without the axis of rows.
        prime: standardised offsets that are read first, with as many characters of the text.
        read: ids, with the first sentinel, that belong to the prime; 1 without one.
    """

    ids: int
    given: Mapping[str, NDArray[np.float32]]
    prime: Seq[Offset] = ()
    read: int = 1

    @property
    def max_points(self) -> int:
        """The most that are drawn before the line counts as one that does not end; 0 if there is only a prime."""
        characters = self.ids - self.read - 1
        return LEAST_POINTS + POINTS_PER_CHARACTER * characters if characters else 0


class LineSequence(Sequence):
    """A line; an item is (dx, dy, pen_up, place), told once it has been read, the fixed first point included.

    It ends with "stop" where the network says so on the last character, or has left the text with its pen lifted, and
    with "length" where it does neither in time. A stop that is foretold before the last character is not believed.

    Args:
        start: standardised offset of the first point, where the pen is set down.
        line: what to write.
        seed: of the draws.
        bias: 0 draws as learned, more draws neater.
        choice: of the draws; settles which of many.
        whole: whether everything is told at the end only.
        after: the row as it is once the prime has been read but for its last point, if somebody has read it.
    """

    def __init__(
        self,
        start: Offset,
        line: Line,
        seed: int,
        bias: float,
        choice: int = 0,
        *,
        whole: bool = True,
        after: Snapshot | None = None,
    ) -> None:
        super().__init__(seed, choice, boundaries=True, whole=whole, part=WHOLE)
        self.line, self.bias = line, bias
        self.num_prompt = len(line.prime)
        unread = [after.last] if after else list(line.prime)
        self._start = after
        self._rest = start
        self._unread = unread[::-1]
        self.next_input = self._unread.pop() if unread else start
        self._num_points = -1 if not unread else -len(unread)
        self._place = line.read
        self.must_save = len(unread) == 1 and after is None

    NO_DRAW = (0.0,) * 5

    @property
    def primed(self) -> Snapshot | None:
        """What other lines with the same prime can go on from."""
        return self._snapshot

    def _numbers(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        return deviates(uniform)

    def advance(self, code: int, choice: Seq[float]) -> None:
        """Take in a step: the point just read stands, and is on the character told; the one drawn is read next."""
        *drawn, over, largest = choice
        self._trace.append(code)
        self._num_points += 1
        if self._num_points >= 0 and not self._unread:
            # A hand goes forward, and not two letters at once: where the share of another is largest for a point, by
            # chance, nobody is led astray for long.
            self._place += largest > self._place
            if self._num_points > 0 or not self.num_prompt:
                self._stand(code)
            if self._num_points > 0 and self._is_over(over):
                self.finish("stop")
                return
        if self._unread:
            self.next_input = self._unread.pop()
            self.must_save = not self._unread
        elif drawn[0] != drawn[0]:
            self.finish("error")
        elif self._num_points >= self.line.max_points:
            self.finish("length")
        else:
            self._num_drawn += 1
            self.next_input = drawn

    def prefillable(self, limit: int) -> Seq[Offset]:
        """Return what is left of the prime but for its last point."""
        return prefillable_prime(self.next_input, self._unread, limit)

    def _stand(self, code: int) -> None:
        """Keep the point just read; where a prime came before, the first one is where the drawing begins."""
        dx, dy, pen_up = self.next_input
        if self.num_prompt and self._num_points == 1:
            dx, dy = self._rest[:2]
        self._items.append((dx, dy, pen_up, self._place))
        self._item_trace.append(code)

    def _is_over(self, over: float) -> bool:
        has_left = self._place >= self.line.ids and self.next_input[2] > 0
        return has_left or (over > 0 and self._place >= self.line.ids - 2)
