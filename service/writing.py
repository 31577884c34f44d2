"""Writing a text with a network, line by line: several candidates side by side, the most legible one is taken.

All that is drawn for a piece of a line depends on (seed, number of the piece, number of the candidate) and on nothing
that happens meanwhile, so a text is the same ink alone and under load. With one candidate a stream tells points as the
pen draws them; with more, line after line. A line that no candidate ended by itself is tried once more.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import structlog
from anyio import to_thread
from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.catalogue import Hand, LineModel, fresh_seed
from service.engine.lines import Line, LineSequence
from service.engine.sequence import Delta, End, Offset
from service.engine.snapshot import Snapshot
from service.errors import CopyistError, EngineFailureError, InvalidRequestError, QueueFullError
from service.ink.document import Ink
from service.ink.layout import RETURN_S
from service.ink.reply import Author, TextReply
from service.ink.schemas import MAX_CANDIDATES, HandwritingRequest, StyleCard
from service.ink.scribe import Live, Piece, Scribe, Written
from service.routes import SEED_HEADER, Service
from service.streaming import DONE, EVENT_STREAM, PING, Choices, EventIds, error_of, log_ends

_log = structlog.get_logger(__name__)

LONGEST_PIECE = 56  # characters; the data's longest line has 64
_TRIES = 2
_STREAMS = 2 * MAX_CANDIDATES  # draws of one piece, all tries together
_AT_A_TIME = 16  # sequences that one request keeps in the engine
_BUSY_S = 0.05
_PREVIEW = "The quick brown fox, 0123"
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


async def follow_writing(
    model: LineModel, body: HandwritingRequest, request: Request, here: Service, ids: EventIds | None
) -> Response:
    """Return the response that writes a text with a network.

    Raises:
        InvalidRequestError: there is no such hand, or a wish cannot be met.
        QueueFullError: as many wait for this model as may.
    """
    wish = await _wish(model, body, here)
    scribe = _scribe(wish, body)
    about = {"model": model.name, "system_fingerprint": model.fingerprint, "style": wish.hand.name}
    author = Author(scribe, about, model.hierarchy)
    reply = await to_thread.run_sync(TextReply, body, wish.seed, here.settings.max_pages, author)
    await here.rates.charge(request, len(body.text or "") * wish.candidates)
    writing = Writing(here, wish, scribe, reply, body.text or "")
    writing.begin()
    headers = {SEED_HEADER: str(wish.seed), **reply.headers}
    if not body.stream:
        return _WholeText(writing, headers, reply.media_type)
    is_live = wish.candidates == 1 and body.align == "left"
    no_store = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    frames = _frames(writing, ids, here.settings.heartbeat_s, is_live=is_live)
    return StreamingResponse(frames, headers=headers | no_store, media_type=EVENT_STREAM)


async def _wish(model: LineModel, body: HandwritingRequest, here: Service) -> Wish:
    name = body.style or next(iter(model.hands))
    if name not in model.hands:
        raise InvalidRequestError(
            f"style: {model.name} has none of this name; it has: {', '.join(model.hands)}.", "style"
        )
    seed = fresh_seed() if body.seed is None else body.seed
    wish = Wish(model, model.hands[name], seed, body.bias, body.num_candidates)
    if body.prime is None or body.prime_text is None:
        return wish
    prime = await to_thread.run_sync(body.read_first, model.codec.ink, here.settings)
    unknown = model.codec.unsupported(body.prime_text)
    if unknown:
        raise InvalidRequestError(f"prime_text: this model does not know U+{ord(unknown[0]):04X}.", "prime_text")
    return replace(wish, prime=prime, prime_text=body.prime_text.strip() + " ")


def _scribe(wish: Wish, body: HandwritingRequest) -> Scribe:
    longest = min(LONGEST_PIECE, wish.model.longest - len(wish.prime_text))
    hand, skips = wish.hand, body.unsupported == "skip"
    text = body.text or ""
    return Scribe(text, wish.model.codec, hand.scale, hand.advance, longest, body.wobble, skips_unsupported=skips)


class Writing:
    """One text on its way through the engine.

    Args:
        here: what there is to work with.
        wish: what is written.
        scribe: turns it into ink.
        reply: lays it out.
        text: all of it.
    """

    def __init__(self, here: Service, wish: Wish, scribe: Scribe, reply: TextReply, text: str) -> None:
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
                engine.submit(wish.model.lane, sequence, followers)
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
            choices = Choices([self._here.engine.submit(wish.model.lane, sequence)])
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


class _WholeText(Response):
    """A text as one body, sent when it is written."""

    def __init__(self, writing: Writing, headers: dict[str, str], media_type: str) -> None:
        super().__init__(headers=headers, media_type=media_type)
        self._writing = writing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body, or nothing if the client leaves first.

        Raises:
            CopyistError: the engine could not finish it, or the sheet is too large.
        """
        task = asyncio.create_task(self._body())
        watch = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return
            self.body = task.result()
        finally:
            watch.cancel()
            task.cancel()
            self._writing.cancel()
        self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)

    async def _body(self) -> bytes:
        inks = [ink async for ink in self._writing.lines()]
        tail = self._writing.last()
        return await to_thread.run_sync(self._writing.reply.whole_of, inks, tail)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _frames(writing: Writing, ids: EventIds | None, heartbeat_s: float, *, is_live: bool) -> AsyncIterator[bytes]:
    """Frame events as they come; a comment keeps a silent stream alive, an error is the last event."""
    reply = writing.reply
    inks = writing.live() if is_live else writing.lines()
    following = asyncio.ensure_future(anext(inks, None))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=heartbeat_s)
            if not done:
                yield PING
                continue
            ink = following.result()
            if ink is None:
                break
            following = asyncio.ensure_future(anext(inks, None))
            for event in reply.tell(ink):
                yield _framed(event, reply, ids)
        yield _framed(reply.last(writing.last()), reply, ids)
    except CopyistError as error:
        yield b"data: " + error.body + b"\n\n"
    except Exception as error:  # noqa: BLE001 - the status is sent: whatever went wrong is told in the stream
        _log.error("unforeseen", exc_info=error)
        yield b"data: " + EngineFailureError("The service failed to write on.").body + b"\n\n"
    finally:
        following.cancel()
        writing.cancel()
    yield DONE


def _framed(event: bytes, reply: TextReply, ids: EventIds | None) -> bytes:
    label = ids.at(reply.position, has_ended=reply.has_ended) if ids else b""
    return label + b"data: " + event + b"\n\n"


async def network_styles(here: Service) -> list[StyleCard]:
    """Return the hands of all networks; each sample is written once, one after the other."""
    kept: dict[tuple[str, str], StyleCard] = here.__dict__.setdefault("samples", {})
    for model, hand in _hands(here):
        if (model.name, hand.name) not in kept:
            kept[model.name, hand.name] = await _card(model, hand, here)
    return [kept[model.name, hand.name] for model, hand in _hands(here)]


def _hands(here: Service) -> Iterator[tuple[LineModel, Hand]]:
    for model in here.catalogue:
        if isinstance(model, LineModel):
            yield from ((model, hand) for hand in model.hands.values())


async def _card(model: LineModel, hand: Hand, here: Service) -> StyleCard:
    body = HandwritingRequest(
        text=_PREVIEW, model=model.name, style=hand.name, format="svg", seed=1, bias=1.0, line_width_mm=300
    )
    wish = await _wish(model, body, here)
    scribe = _scribe(wish, body)
    reply = TextReply(body, 1, 1, Author(scribe, {}, model.hierarchy))
    writing = Writing(here, wish, scribe, reply, _PREVIEW)
    inks = [ink async for ink in writing.lines()]
    return StyleCard(
        id=hand.name,
        object="handwriting.style",
        model=model.name,
        description=hand.description,
        joined=True,
        licence=str(model.bundle.data["licence"]),
        use=str(model.bundle.data["use"]),
        preview=reply.whole_of(inks, {}).decode(),
    )
