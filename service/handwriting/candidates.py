"""Writing a text with a network, line by line: several candidates side by side, the most legible one is taken.

All that is drawn for a piece of a line depends on (seed, number of the piece, number of the candidate) and on nothing
that happens meanwhile, so a text is the same ink alone and under load. With one candidate a stream tells points as the
pen draws them; with more, line after line. A line that no candidate ended by itself is tried once more.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from anyio import to_thread

from service.api.deps import Service
from service.api.responses.written_text import TextReply
from service.api.schemas.handwriting import MAX_CANDIDATES
from service.engine.sequences.base import Delta, End, Offset
from service.engine.sequences.ink_lines import Line, LineSequence
from service.engine.sequences.snapshot import Snapshot
from service.engine.streams import Choices, error_of
from service.errors import QueueFullError
from service.handwriting.drawing.document import Ink
from service.handwriting.drawing.layout import RETURN_S
from service.handwriting.network_writer import Live, NetworkWriter, Piece, Written
from service.registry.served import Hand, LineModel
from service.telemetry.log import log_ends

_TRIES = 2
_STREAMS = 2 * MAX_CANDIDATES  # draws of one piece, all tries together
_AT_A_TIME = 16  # sequences that one request keeps in the engine
_BUSY_S = 0.05
_PRIMES = 64  # primed states that are kept


@dataclass(frozen=True)
class Wish:
    """What is written for a request.

    Attributes:
        model, hand: who writes.
        seed, bias, candidates: how.
        prime, prime_text: ink that is read before every line, and what it says.
    """

    model: LineModel
    hand: Hand
    seed: int
    bias: float
    candidates: int
    prime: Seq[Offset] = ()
    prime_text: str = ""


class Writing:
    """One text on its way through the engine.

    Args:
        here: what there is to work with.
        wish: what is written.
        scribe: turns it into ink.
        reply: lays it out.
        text: all of it.
    """

    def __init__(self, here: Service, wish: Wish, scribe: NetworkWriter, reply: TextReply, text: str) -> None:
        self._here, self.wish, self._scribe, self.reply = here, wish, scribe, reply
        self._lines: list[list[tuple[int, Piece]]] = []
        number = 0
        for row in reply.rows:
            shown = len(text[row.start : row.stop].rstrip())
            pieces = scribe.pieces(row.start, row.start + shown)
            self._lines.append([(number + index, piece) for index, piece in enumerate(pieces)])
            number += len(pieces)
        self._open: set[Choices] = set()
        self._first: tuple[int, Choices] | None = None
        self._primed: Snapshot | None = None
        self._ends: list[End] = []
        self._report: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Submit the first piece, so that a full queue is told before anything else is.

        Raises:
            QueueFullError: as many wait as may. ShuttingDownError: the engine drains.
        """
        first = next(((n, piece) for line in self._lines for n, piece in line if piece.text), None)
        if first and not self.wish.prime:
            self._first = first[0], self._submit(*first, 0)

    async def lines(self) -> AsyncIterator[Ink]:
        """Write and yield the lines that have ink, each where it lies on the sheet."""
        clock, number = 0.0, 0
        try:
            await self._prime()
            while number < len(self._lines):
                group = self._group(number)
                await asyncio.gather(*[self._line(line) for line in group])
                for line in group:
                    ink = self._scribe.write(0, 0, line)
                    if len(ink):
                        placed = self.reply.placed(ink, line, clock)
                        clock = float(placed.time[-1]) + RETURN_S
                        yield placed
                number = group.stop
        finally:
            self.cancel()

    async def live(self) -> AsyncIterator[Ink]:
        """Write with one candidate and yield ink as it comes."""
        clock = 0.0
        try:
            await self._prime()
            for line, pieces in enumerate(self._lines):
                x, at = 0.0, 0.0
                for number, piece in pieces:
                    if piece.text:
                        pen = self._scribe.live(piece, line, x, at)
                        async for ink in self._live_piece(number, piece, pen, line):
                            yield self.reply.placed_live(ink, line, clock)
                        x, at = pen.end
                    else:
                        self._scribe.put(line, [replace(piece, gap=0.0)], [None])
                        drawn = self._scribe.write(0, 0, line)
                        drawn.xy[:, 0] += x + piece.gap
                        yield self.reply.placed_live(replace(drawn, time=drawn.time + at), line, clock)
                        x, at = float(drawn.xy[:, 0].max()), at + float(drawn.time[-1])
                clock += at + RETURN_S if pieces else 0.0
        finally:
            self.cancel()

    def last(self) -> dict[str, Any]:
        """What the end of the reply says besides."""
        if self._ends:
            log_ends(self._ends)
        return {"lines": sorted(self._report, key=lambda each: int(each["line"]))}

    def cancel(self) -> None:
        """Have all end that is under way."""
        for choices in self._open:
            choices.cancel()
        if self._first:
            self._first[1].cancel()

    def _group(self, number: int) -> range:
        """The next lines to be written side by side: the first alone, as it is waited for."""
        stop, sequences = number + 1, len(self._lines[number]) * self.wish.candidates
        while number > 0 and stop < len(self._lines):
            sequences += len(self._lines[stop]) * self.wish.candidates
            if sequences > _AT_A_TIME:
                break
            stop += 1
        return range(number, stop)

    async def _line(self, line: int) -> None:
        """Write all pieces of a line and hand them to the scribe."""
        pieces = self._lines[line]
        written = await asyncio.gather(*[self._best(line, number, piece) for number, piece in pieces])
        self._scribe.put(line, [piece for _, piece in pieces], written)

    async def _best(self, line: int, number: int, piece: Piece) -> Written | None:
        """Write a piece as often as is wished and return the most legible; None where a font draws it."""
        if not piece.text:
            return None
        found: list[Written] = []
        for attempt in range(_TRIES):
            found += await self._candidates(number, piece, attempt)
            if any(each.is_whole for each in found):
                break
        best = min(found, key=lambda each: (not each.is_whole, each.nats or 0.0))
        self._tell(line, len(found), best)
        return best

    async def _candidates(self, number: int, piece: Piece, attempt: int) -> list[Written]:
        choices = await self._submitted(number, piece, attempt)
        deltas: list[Delta] = []
        try:
            while not choices.is_over:
                delta = await choices.take()
                if delta:
                    deltas.append(self._checked(delta))
        finally:
            choices.cancel()
            self._open.discard(choices)
        written = [self._written(delta) for delta in sorted(deltas, key=lambda each: each.choice)]
        if self.wish.model.recogniser is None or len(written) == 1:
            return written
        return await to_thread.run_sync(self._ranked, written, piece.text)

    def _ranked(self, written: Seq[Written], text: str) -> list[Written]:
        """What was written, with how improbable the recogniser finds it."""
        recogniser, codec = self.wish.model.recogniser, self.wish.model.codec
        assert recogniser, "asked for where there is one"
        return [replace(one, nats=recogniser.nats(codec.decode(one.items[:, :3]), text)) for one in written]

    def _written(self, delta: Delta) -> Written:
        items = np.array(delta.items, np.float32).reshape(-1, 4)
        items[:, 3] -= self._read
        assert delta.end, "a whole one is told at its end"
        return Written(items, delta.trace, delta.end.reason == "stop")

    async def _live_piece(self, number: int, piece: Piece, pen: Live, line: int) -> AsyncIterator[Ink]:
        choices = await self._submitted(number, piece, 0, whole=False)
        try:
            while not choices.is_over:
                delta = await choices.take()
                if delta is None:
                    continue
                self._checked(delta)
                items = np.array(delta.items, np.float32).reshape(-1, 4)
                items[:, 3] -= self._read
                yield pen.draw(items, delta.trace, is_last=delta.end is not None)
                if delta.end:
                    self._tell(line, 1, Written(items[:0], b"", delta.end.reason == "stop"))
        finally:
            choices.cancel()
            self._open.discard(choices)

    def _checked(self, delta: Delta) -> Delta:
        """Note an end.

        Raises:
            CopyistError: it is none of the client's doing.
        """
        if delta.end:
            self._ends.append(delta.end)
            error = error_of(delta.end)
            if error:
                raise error
        return delta

    def _tell(self, line: int, written: int, best: Written) -> None:
        nats = None if best.nats is None else round(best.nats, 4)
        same = next((each for each in self._report if each["line"] == line), None)
        if same is None:
            self._report.append({"line": line, "written": written, "complete": best.is_whole, "nats": nats})
        else:  # of several pieces the worst is told
            same["written"] = max(same["written"], written)
            same["complete"] = same["complete"] and best.is_whole
            same["nats"] = max(same["nats"] or 0.0, nats or 0.0) if nats is not None else same["nats"]

    @property
    def _read(self) -> int:
        """Ids of a line before its own first character."""
        return 1 + len(self.wish.prime_text)

    async def _submitted(self, number: int, piece: Piece, attempt: int, *, whole: bool = True) -> Choices:
        """Submit the candidates of a piece, waiting where the queue is full: the reply has begun."""
        if whole and attempt == 0 and self._first and self._first[0] == number:
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
        wish = self.wish
        line = wish.model.line(piece.text, wish.hand, wish.prime, wish.prime_text)
        return self._run(line, number, range(attempt * wish.candidates, (attempt + 1) * wish.candidates), whole=whole)

    def _run(self, line: Line, number: int, candidates: range, *, whole: bool) -> Choices:
        wish, engine = self.wish, self._here.engine
        sequences = [
            LineSequence(
                wish.model.start, line, wish.seed, wish.bias, _STREAMS * number + each, whole=whole, after=self._primed
            )
            for each in candidates
        ]
        return Choices(
            [
                engine.submit(wish.model.executor, sequence, followers)
                for sequence, followers in zip(sequences, reversed(range(len(sequences))), strict=True)
            ]
        )

    async def _prime(self) -> None:
        """Have the prime read once; every line goes on from there."""
        if not self.wish.prime or self._primed is not None:
            return
        wish = self.wish
        key = (wish.model.name, wish.hand.name, wish.prime_text, tuple(wish.prime))
        kept: OrderedDict[Any, Snapshot] = self._here.__dict__.setdefault("primed", OrderedDict())
        if key not in kept:
            ids = wish.model.codec.encode_text(wish.prime_text)
            given = wish.model.reader.read(ids, wish.hand.writer)
            line = Line(len(ids), given, wish.prime, len(ids) - 1)
            sequence = LineSequence(wish.model.start, line, wish.seed, wish.bias)
            choices = Choices([self._here.engine.submit(wish.model.executor, sequence)])
            try:
                while not choices.is_over:
                    delta = await choices.take()
                    if delta:
                        self._checked(delta)
            finally:
                choices.cancel()
            assert sequence.primed, "it has read its prime"
            kept[key] = sequence.primed
            while len(kept) > _PRIMES:
                kept.popitem(last=False)
        kept.move_to_end(key)
        self._primed = kept[key]
