"""Writing a text with a network, line by line: several candidates are written side by side, the most legible is taken.

The random numbers of a piece of a line depend on (seed, number of the piece, number of the candidate) and not on other
requests, so a text is the same ink alone and under load. With one candidate points can be sent as the pen draws them;
with more, line after line. A piece that no candidate finished is tried once more.
"""

import asyncio
from collections.abc import AsyncGenerator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray

from service.engine.loop import Engine
from service.engine.sequences.base import Delta, End, Offset
from service.engine.sequences.ink_lines import Line, LineSequence
from service.engine.sequences.snapshot import Snapshot
from service.engine.streams import Choices, error_of, submit_all
from service.errors import QueueFullError
from service.handwriting.drawing.document import Ink
from service.handwriting.drawing.layout import RETURN_S
from service.handwriting.drawing.sheet import Sheet
from service.handwriting.network_writer import LivePiece, NetworkWriter, Piece, Written
from service.handwriting.priming import PrimedStates
from service.registry.served import Hand, LineModel

MAX_CANDIDATES = 8
LONGEST_PIECE = 56  # characters; the data's longest line has 64
_TRIES = 2
_CHOICES_PER_PIECE = _TRIES * MAX_CANDIDATES  # numbers of draws that are reserved for each piece
_AT_A_TIME = 16  # lines join a group while it has at most so many sequences; one line may have more
_BUSY_S = 0.05  # before a full queue is tried again


@dataclass(frozen=True)
class WritingParams:
    """How a network writes a text.

    Attributes:
        model, hand: what writes, and in which hand.
        seed, bias: how points are drawn: the seed of the random numbers, and how much neater than learned.
        candidates: how often each piece of a line is written.
        prime, prime_text: ink that the network reads before every line, and what it says.
    """

    model: LineModel
    hand: Hand
    seed: int
    bias: float
    candidates: int
    prime: Seq[Offset] = ()
    prime_text: str = ""

    def writer(self, text: str, wobble: float, *, skips_unsupported: bool) -> NetworkWriter:
        """Return what cuts a text into pieces for the network, and turns its points into ink.

        Args:
            text: all of it.
            wobble: how much of a line's slope is kept; 0 sets lines straight.
            skips_unsupported: whether what the network cannot write is left out.
        """
        longest = min(LONGEST_PIECE, self.model.longest - len(self.prime_text))
        hand, codec = self.hand, self.model.codec
        return NetworkWriter(
            text, codec, hand.scale, hand.advance, longest, wobble, skips_unsupported=skips_unsupported
        )


class CandidateWriter:
    """Writes one text with a network.

    Args:
        engine: steps the network.
        params: how to write.
        writer: turns what the network wrote into ink.
        sheet: places the ink; its lines are written.
        primed: cache of networks' states that have read a prime.
    """

    def __init__(
        self, engine: Engine, params: WritingParams, writer: NetworkWriter, sheet: Sheet, primed: PrimedStates
    ) -> None:
        self._engine = engine
        self._params = params
        self._writer = writer
        self._sheet = sheet
        self._primed_states = primed
        self._lines: list[list[tuple[int, Piece]]] = []
        number = 0
        for start, stop in sheet.spans():
            pieces = writer.pieces(start, stop)
            self._lines.append([(number + index, piece) for index, piece in enumerate(pieces)])
            number += len(pieces)
        self._open: set[Choices] = set()
        self._first: tuple[int, Choices] | None = None
        self._priming: tuple[LineSequence, Choices] | None = None
        self._primed: Snapshot | None = None
        self._ends: list[End] = []
        self._report: list[dict[str, Any]] = []

    def begin(self, *, is_live: bool) -> None:
        """Submit what runs first, so that a full queue is known before the reply begins.

        That is the first piece, or the prime if its state is not in the cache: all pieces start from that state.

        Args:
            is_live: whether `live` will be asked for, and not `lines`.

        Raises:
            QueueFullError: as many requests wait as may.
            ShuttingDownError: the engine drains.
        """
        first = next(((n, piece) for line in self._lines for n, piece in line if piece.text), None)
        if first is None:
            return
        if self._needs_prime():
            self._priming = self._submit_prime()
        else:
            self._first = first[0], self._submit(*first, 0, whole=not is_live)

    async def lines(self) -> AsyncGenerator[Ink, None]:
        """Write and yield the lines that have ink, each where it lies on the sheet.

        Raises:
            CopyistError: the engine could not finish a line.
        """
        clock, number = 0.0, 0
        try:
            await self._prime()
            while number < len(self._lines):
                group = self._group(number)
                inks = await asyncio.gather(*[self._line(line) for line in group])
                for line, ink in zip(group, inks, strict=True):
                    if len(ink):
                        placed = self._sheet.placed(ink, line, clock)
                        clock = float(placed.time[-1]) + RETURN_S
                        yield placed
                number = group.stop
        finally:
            self.cancel()

    async def live(self) -> AsyncGenerator[Ink, None]:
        """Write with one candidate and yield ink as it comes; errors as for `lines`."""
        clock = 0.0
        try:
            await self._prime()
            for line, pieces in enumerate(self._lines):
                x, at = 0.0, 0.0
                for number, piece in pieces:
                    if piece.text:
                        pen = self._writer.live(piece, line, x, at)
                        async for ink in self._live_piece(number, piece, pen, line):
                            yield self._sheet.placed_live(ink, line, clock)
                        x, at = pen.end
                    else:
                        drawn = self._writer.line(line, [replace(piece, gap=0.0)], [None])
                        drawn.xy[:, 0] += x + piece.gap
                        yield self._sheet.placed_live(replace(drawn, time=drawn.time + at), line, clock)
                        x, at = float(drawn.xy[:, 0].max()), at + float(drawn.time[-1])
                clock += at + RETURN_S if pieces else 0.0
        finally:
            self.cancel()

    @property
    def ends(self) -> Seq[End]:
        """How the engine's sequences ended, those that have."""
        return self._ends

    @property
    def report(self) -> list[dict[str, Any]]:
        """How each line went, in the form of `LineReport` in the API."""
        return sorted(self._report, key=lambda each: int(each["line"]))

    def cancel(self) -> None:
        """End all sequences that still run."""
        for choices in self._open:
            choices.cancel()
        if self._first:
            self._first[1].cancel()

    def _group(self, number: int) -> range:
        """Return the next lines to write side by side; the first line is written alone, so that it comes soonest."""
        stop, sequences = number + 1, len(self._lines[number]) * self._params.candidates
        while number > 0 and stop < len(self._lines):
            sequences += len(self._lines[stop]) * self._params.candidates
            if sequences > _AT_A_TIME:
                break
            stop += 1
        return range(number, stop)

    async def _line(self, line: int) -> Ink:
        """Write all pieces of a line and return its ink, in x-heights."""
        pieces = self._lines[line]
        written = await asyncio.gather(*[self._best(line, number, piece) for number, piece in pieces])
        return self._writer.line(line, [piece for _, piece in pieces], written)

    async def _best(self, line: int, number: int, piece: Piece) -> Written | None:
        """Write all candidates of a piece and return the most legible; None where a font draws the piece."""
        if not piece.text:
            return None
        found: list[Written] = []
        for attempt in range(_TRIES):
            found += await self._candidates(number, piece, attempt)
            if any(each.is_whole for each in found):
                break
        best = min(found, key=lambda each: (not each.is_whole, each.nats or 0.0))
        self._note(line, len(found), best)
        return best

    async def _candidates(self, number: int, piece: Piece, attempt: int) -> list[Written]:
        """Write the candidates of one attempt, and rank them where there is a recogniser and a choice."""
        choices = await self._submitted(number, piece, attempt)
        deltas: list[Delta] = []
        try:
            while not choices.is_over:
                deltas.append(self._checked(await choices.take()))
        finally:
            choices.cancel()
            self._open.discard(choices)
        written = [self._written(delta) for delta in sorted(deltas, key=lambda each: each.choice)]
        if self._params.model.recogniser is None or len(written) == 1:
            return written
        return await to_thread.run_sync(self._ranked, written, piece.text)

    def _ranked(self, written: Seq[Written], text: str) -> list[Written]:
        """Return what was written with the recogniser's score of it; runs on another thread."""
        recogniser, codec = self._params.model.recogniser, self._params.model.codec
        assert recogniser, "called only with a recogniser"
        return [replace(one, nats=recogniser.nats(codec.decode(one.items[:, :3]), text)) for one in written]

    def _written(self, delta: Delta) -> Written:
        assert delta.end, "a whole sequence is sent at its end"
        return Written(self._items(delta), delta.trace, delta.end.reason == "stop")

    def _items(self, delta: Delta) -> NDArray[np.float32]:
        """Return the items of a delta, their places counted from the piece's own first character."""
        items = np.array(delta.items, np.float32).reshape(-1, 4)
        items[:, 3] -= 1 + len(self._params.prime_text)  # the start of the line and the prime's text come before
        return items

    async def _live_piece(self, number: int, piece: Piece, pen: LivePiece, line: int) -> AsyncGenerator[Ink, None]:
        choices = await self._submitted(number, piece, 0, whole=False)
        try:
            while not choices.is_over:
                delta = self._checked(await choices.take())
                items = self._items(delta)
                yield pen.draw(items, delta.trace, is_last=delta.end is not None)
                if delta.end:
                    self._note(line, 1, Written(items[:0], b"", delta.end.reason == "stop"))
        finally:
            choices.cancel()
            self._open.discard(choices)

    def _checked(self, delta: Delta) -> Delta:
        """Return a delta; its end is noted, if it has one.

        Raises:
            CopyistError: the engine failed or stops.
        """
        if delta.end:
            self._ends.append(delta.end)
            error = error_of(delta.end)
            if error:
                raise error
        return delta

    def _note(self, line: int, written: int, best: Written) -> None:
        """Add a piece of a line to the report; of several pieces the worst counts."""
        nats = None if best.nats is None else round(best.nats, 4)
        same = next((each for each in self._report if each["line"] == line), None)
        if same is None:
            self._report.append({"line": line, "written": written, "complete": best.is_whole, "nats": nats})
        else:
            same["written"] = max(same["written"], written)
            same["complete"] = same["complete"] and best.is_whole
            same["nats"] = max(same["nats"] or 0.0, nats or 0.0) if nats is not None else same["nats"]

    async def _submitted(self, number: int, piece: Piece, attempt: int, *, whole: bool = True) -> Choices:
        """Submit the candidates of a piece. The reply has begun, so where the queue is full this waits for room."""
        if attempt == 0 and self._first and self._first[0] == number:
            choices, self._first = self._first[1], None
            self._open.add(choices)
            return choices
        while True:
            try:
                choices = self._submit(number, piece, attempt, whole=whole)
            except QueueFullError:
                await asyncio.sleep(_BUSY_S)
            else:
                self._open.add(choices)
                return choices

    def _submit(self, number: int, piece: Piece, attempt: int, *, whole: bool = True) -> Choices:
        params = self._params
        line = params.model.line(piece.text, params.hand, params.prime, params.prime_text)
        first = _CHOICES_PER_PIECE * number + attempt * params.candidates
        sequences = [self._sequence(line, first + index, whole=whole) for index in range(params.candidates)]
        return submit_all(self._engine, params.model.executor, sequences)

    def _sequence(self, line: Line, choice: int, *, whole: bool) -> LineSequence:
        params = self._params
        return LineSequence(params.model.start, line, params.seed, params.bias, choice, whole=whole, after=self._primed)

    def _needs_prime(self) -> bool:
        """Whether the network must read a prime first: there is one, and the cache does not hold its state."""
        if self._params.prime and self._primed is None:
            self._primed = self._primed_states.get(self._prime_key)
        return bool(self._params.prime) and self._primed is None

    @property
    def _prime_key(self) -> tuple[Any, ...]:
        params = self._params
        return params.model.name, params.hand.name, params.prime_text, tuple(params.prime)

    async def _prime(self) -> None:
        """Have the network read the prime, unless the cache holds its state; every line starts from there."""
        if not self._needs_prime():
            return
        sequence, choices = self._priming or self._submit_prime()
        try:
            while not choices.is_over:
                self._checked(await choices.take())
        finally:
            choices.cancel()
        assert sequence.primed, "the sequence has read its prime"
        self._primed = sequence.primed
        self._primed_states.put(self._prime_key, self._primed)

    def _submit_prime(self) -> tuple[LineSequence, Choices]:
        """Submit the prime alone."""
        params = self._params
        ids = params.model.codec.encode_text(params.prime_text)
        given = params.model.reader.read(ids, params.hand.writer)
        line = Line(len(ids), given, params.prime, len(ids) - 1)
        sequence = LineSequence(params.model.start, line, params.seed, params.bias)
        return sequence, submit_all(self._engine, params.model.executor, [sequence])
