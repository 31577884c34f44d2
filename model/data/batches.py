"""Streams cut into windows: what an update of training sees, and where the next one goes on.

State is carried from window to window: row b of a window continues row b of the window before, unless the row is marked
as fresh. The position of the streams is a few integers; saved and loaded, they go on with the same windows.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.data.errors import DataError

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class TextStreams:
    """B parallel streams over one text, cut into windows of T steps, without end.

    A pass uses the longest run of characters that divides into B streams of whole windows. The few left over (fewer
    than B * T) are at the end of the text in even passes and at its start in odd ones, so two passes see every
    character. All streams end together.

    Args:
        ids: (n,) ids of the text.
        batch: number of streams, B.
        window: steps of a window, T.
        start: number of windows already given.

    Attributes:
        windows_per_pass: windows until the streams wrap.
        wrapped: whether the window given last was the first of a pass, so that no state may be carried into it.

    Raises:
        DataError: the text is shorter than one window of all streams.
    """

    def __init__(self, ids: NDArray[Any], batch: int, window: int, start: int = 0) -> None:
        self._ids = ids
        self._batch = batch
        self._window = window
        self.windows_per_pass = (len(ids) - 1) // (batch * window)
        if self.windows_per_pass < 1:
            raise DataError(
                f"{batch} streams in windows of {window} steps need at least {batch * window + 1} characters, "
                f"but the split has {len(ids)}: take a smaller batch or window, or a longer text"
            )
        self._drawn = start
        self.wrapped = False

    def next(self) -> tuple[Ids, Ids]:
        """Return inputs and targets, each int64 (T, B); the target of a character is the one after it."""
        number, place = divmod(self._drawn, self.windows_per_pass)
        stream = self.windows_per_pass * self._window
        left_over = len(self._ids) - 1 - self._batch * stream
        begin = place * self._window + (left_over if number % 2 else 0)
        rows = begin + stream * np.arange(self._batch) + np.arange(self._window)[:, None]
        self._drawn += 1
        self.wrapped = place == 0
        return self._ids[rows].astype(np.int64), self._ids[rows + 1].astype(np.int64)

    @property
    def passes(self) -> float:
        """Passes done, with the fraction of the one in progress."""
        return self._drawn / self.windows_per_pass

    def skip(self, passes: float) -> None:
        """Skip what an earlier training has read: a number of passes, whatever its batch and window were."""
        self._drawn += round(passes * self.windows_per_pass)

    def state_dict(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        return {"drawn": self._drawn} | self._shape()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: that was over a text of another length, or with another batch or window.
        """
        _check_same(state, self._shape())
        self._drawn = int(state["drawn"])
        self.wrapped = self._drawn > 0 and (self._drawn - 1) % self.windows_per_pass == 0

    def _shape(self) -> dict[str, int]:
        """What a saved position depends on: it fits no other streams."""
        return {"ids": len(self._ids), "batch": self._batch, "window": self._window}


class Caption(NamedTuple):
    """What a line of ink says, and who wrote it.

    Attributes:
        text: ids of sentinels and characters, int64 (n,), none of them 0.
        writer: number of the writer's vector, 0 for an unknown hand.
    """

    text: Ids
    writer: int


class InkWindow(NamedTuple):
    """T steps of B streams of ink.

    Attributes:
        inputs: float32 (T, B, 3), the points [dx, dy, pen_up].
        targets: float32 (T, B, 3), the point after each.
        weight: float32 (T, B), 1 where the target is a point of the line, 0 where it is padding.
        fresh: bool (B,), streams that begin a line here, so that no state may be carried into them.
        text: int64 (B, U), what the line says, 0 after its end; U is 0 for lines without captions.
        writer: int64 (B,), whose hand, 0 for an unknown one.
        last: float32 (T, B), 1 where the input is the line's last point; always 0 for lines without captions.
    """

    inputs: Floats
    targets: Floats
    weight: Floats
    fresh: NDArray[np.bool_]
    text: Ids
    writer: Ids
    last: Floats

    @classmethod
    def zeros(cls, steps: int, batch: int, characters: int) -> "InkWindow":
        """An empty window (T, B) with room for texts of U ids."""
        points, flags = (steps, batch, 3), (steps, batch)
        return cls(
            np.zeros(points, np.float32),
            np.zeros(points, np.float32),
            np.zeros(flags, np.float32),
            np.zeros(batch, np.bool_),
            np.zeros((batch, characters), np.int64),
            np.zeros(batch, np.int64),
            np.zeros(flags, np.float32),
        )

    def write(self, row: int, line: Floats, step: int, caption: Caption | None) -> int:
        """Write a line into a row, from its point `step` on, as much as fits; return how many steps are scored.

        A line with a caption is read to its last point, so that the network learns where lines end.
        """
        steps = len(self.weight)
        target = line[step + 1 : step + 1 + steps]
        read = line[step : step + (len(target) if caption is None else steps)]
        self.inputs[: len(read), row] = read
        self.targets[: len(target), row] = target
        self.weight[: len(target), row] = 1
        if caption is not None:
            self.text[row, : len(caption.text)] = caption.text
            self.writer[row] = caption.writer
            if len(target) < len(read):
                self.last[len(target), row] = 1
        return len(target)


class Stretch(NamedTuple):
    """Draws lines larger or smaller, on each axis by another factor, because no hand writes in one size only.

    Attributes:
        spread: standard deviation of the factors' logarithms.
        origin: where a pen that stays put lies on each axis, in standardised units.
    """

    spread: float
    origin: tuple[float, float]

    def __call__(self, line: Floats, *seed: int) -> Floats:
        """Return the line (n, 3), stretched by factors that only the seed decides."""
        bits = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(4)
        # Box and Muller: NumPy promises the raw numbers for ever, but not what its distributions make of them.
        one, two = ((bits[:2] >> 11) + 0.5) / 2**53, (bits[2:] >> 11) / 2**53
        factors = np.exp(self.spread * np.sqrt(-2 * np.log(one)) * np.cos(2 * np.pi * two))
        stretched = line.copy()
        stretched[:, :2] = self.origin + factors * (line[:, :2] - self.origin)
        return stretched


class InkStreams:
    """B parallel streams, each giving one line after another in windows of T steps, without end.

    A stream whose line is done takes the next one of a queue. Each pass of the queue is all lines in a new order, which
    only seed and pass decide. A line of n points gives n - 1 scored steps and is padded up to whole windows.

    Args:
        lines: (n, 3) float32 arrays, each of at least 2 points.
        batch: number of streams, B.
        window: steps of a window, T.
        seed: of the orders.
        captions: of the lines, where they are written from a text.
        stretch: how the lines are stretched, where they are.

    Raises:
        DataError: there is no line, or one of fewer than 2 points.
    """

    def __init__(
        self,
        lines: Sequence[Floats],
        batch: int,
        window: int,
        seed: int,
        captions: Sequence[Caption] | None = None,
        stretch: Stretch | None = None,
    ) -> None:
        _check_lines(lines)
        self._lines = lines
        self._stretch = stretch
        self._captions = captions
        self._characters = _longest(captions)
        self._window = window
        self._seed = seed
        self._taken = 0  # lines taken from the queue
        self._scored = 0  # steps with weight 1 that were given
        self._steps_per_pass = sum(len(line) - 1 for line in lines)
        self._order = (-1, np.empty(0, np.int64))
        # Of each stream: its line, the line's number in the queue, and the next point.
        self._line_of = [-1] * batch
        self._taken_of = [-1] * batch
        self._step_of = [0] * batch

    @property
    def passes(self) -> float:
        """Passes done, as a fraction, counted in scored steps."""
        return self._scored / self._steps_per_pass

    def next(self) -> InkWindow:
        """Return the next window of all streams."""
        filled = InkWindow.zeros(self._window, len(self._line_of), self._characters)
        for row in range(len(self._line_of)):
            self._fill(filled, row)
        return filled

    def state_dict(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        return {
            "seed": self._seed,
            "taken": self._taken,
            "scored": self._scored,
            # Checkpoints have these names, from when a stream was called a lane.
            "lane_line": list(self._line_of),
            "lane_taken": list(self._taken_of),
            "lane_step": list(self._step_of),
        } | self._shape()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: that was over other lines, or with another batch or window.
        """
        _check_same(state, self._shape())
        self._seed = int(state["seed"])
        self._taken = int(state["taken"])
        self._scored = int(state["scored"])
        self._line_of = [int(line) for line in state["lane_line"]]
        self._taken_of = [int(taken) for taken in state.get("lane_taken", self._taken_of)]
        self._step_of = [int(step) for step in state["lane_step"]]
        self._order = (-1, np.empty(0, np.int64))

    def _shape(self) -> dict[str, int]:
        """What a saved position depends on: it fits no other streams."""
        return {
            "lines": len(self._lines),
            "steps_per_pass": self._steps_per_pass,
            "batch": len(self._line_of),
            "window": self._window,
        }

    def _fill(self, window: InkWindow, row: int) -> None:
        """Write a stream's next steps into a window of zeros."""
        unread = 1 if self._captions is None else 0  # the last point of a line: nothing follows it
        if self._line_of[row] < 0 or self._step_of[row] >= len(self._lines[self._line_of[row]]) - unread:
            self._taken_of[row] = self._taken
            self._line_of[row] = self._take()
            self._step_of[row] = 0
            window.fresh[row] = True
        number = self._line_of[row]
        line = self._lines[number]
        if self._stretch is not None:
            line = self._stretch(line, self._seed, self._taken_of[row])
        caption = None if self._captions is None else self._captions[number]
        self._scored += window.write(row, line, self._step_of[row], caption)
        self._step_of[row] += self._window

    def _take(self) -> int:
        """Index of the next line of the queue."""
        number, place = divmod(self._taken, len(self._lines))
        if self._order[0] != number:
            self._order = (number, shuffled(len(self._lines), self._seed, number))
        self._taken += 1
        return int(self._order[1][place])


def shuffled(count: int, *seed: int) -> NDArray[np.int64]:
    """Return 0 .. count-1 in an order that only the seed decides, on any machine and in any release of NumPy.

    NumPy promises the raw numbers of a bit generator for ever, but not what its `permutation` makes of them.
    """
    keys = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)
    return np.argsort(keys, kind="stable")


def evaluation_text(ids: NDArray[Any], batch: int) -> tuple[Ids, Ids, Floats]:
    """Lay a text out as B contiguous streams that together score every character but the first, once.

    Args:
        ids: (n,) ids, at least 2.
        batch: number of streams, B.

    Returns:
        inputs and targets, int64 (T, B), and weight, float32 (T, B): 1 where the target counts, 0 where it is padding.
        T is (n - 1) / B, rounded up; stream b begins at character b * T.

    Raises:
        DataError: the text has fewer than 2 characters.
    """
    if len(ids) < 2:  # one to read, one to score
        raise DataError(f"a text to evaluate needs at least 2 characters, but this split has {len(ids)}")
    scored = len(ids) - 1
    steps = -(-scored // batch)
    places = np.arange(batch) * steps + np.arange(steps)[:, None]
    real = places < scored
    places = np.minimum(places, scored - 1)
    inputs, targets = ids[places].astype(np.int64), ids[places + 1].astype(np.int64)
    return inputs, targets, real.astype(np.float32)


def evaluation_lines(
    lines: Sequence[Floats], batch: int, captions: Sequence[Caption] | None = None
) -> Iterator[InkWindow]:
    """Give every line whole and once, at most B at a time, the shortest first so that little is padding.

    Args:
        lines: (n, 3) float32 arrays, each of at least 2 points.
        batch: number of lines of a batch, B; the last batch may have fewer.
        captions: of the lines, where they are written from a text.

    Yields:
        windows of whole lines; T is the longest line of the batch, less one where there are no captions.

    Raises:
        DataError: there is no line, or one of fewer than 2 points.
    """
    _check_lines(lines)
    order = np.argsort([len(line) for line in lines], kind="stable")
    for begin in range(0, len(order), batch):
        chosen = order[begin : begin + batch].tolist()
        texts = None if captions is None else [captions[i] for i in chosen]
        steps = max(len(lines[i]) for i in chosen) - (captions is None)
        filled = InkWindow.zeros(steps, len(chosen), _longest(texts))
        filled.fresh[:] = True
        for row, i in enumerate(chosen):
            filled.write(row, lines[i], 0, None if texts is None else texts[row])
        yield filled


def _longest(captions: Sequence[Caption] | None) -> int:
    """Ids of the longest text; 0 where there are no captions."""
    return max((len(caption.text) for caption in captions), default=0) if captions is not None else 0


def _check_lines(lines: Sequence[Floats]) -> None:
    """Raise DataError unless there are lines and each has a step to score."""
    if not lines or min(len(line) for line in lines) < 2:  # one to read, one to score
        raise DataError("streams of ink need at least one line, and every line at least 2 points")


def _check_same(state: dict[str, Any], shape: dict[str, int]) -> None:
    """Raise ValueError unless a saved position belongs to streams of this shape."""
    for name, value in shape.items():
        if state[name] != value:
            raise ValueError(f"the saved place is one of streams with {name} {state[name]}, not {value}")
