"""The bodies of replies and events: JSON columns piece by piece, or a picture of the whole.

A reply answered whole is the same bytes for the same request: nothing in it tells of time or place.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from service.course import Course
from service.engine.operations import MAX_LAYERS, Hierarchy
from service.engine.sequences.base import Delta, End
from service.engine.sequences.free_ink import InkParams
from service.errors import InvalidTokenError
from service.handwriting.copybook import writer as copybook
from service.handwriting.copybook.writer import Copybook
from service.handwriting.drawing.document import Box, Document, Ink
from service.handwriting.drawing.formats import MEDIA_TYPES, render
from service.handwriting.drawing.layout import Layout, LayoutError, Row
from service.handwriting.free_pen import NOTE_BYTES, Pen
from service.handwriting.writer import Substitution, TextWriter
from service.ink.schemas import HandwritingRequest, refusal
from service.registry.fingerprint import VERSION
from service.registry.served import InkModel
from service.replies import work

WHOLE, CHUNK = "handwriting", "handwriting.chunk"
EVENT_POINTS = 256
_COLUMNS = struct.Struct(f"<II{MAX_LAYERS}I")
_SHEET = struct.Struct("<4d?")


class Columns:
    """Renders ink as JSON columns; remembers how far it has come.

    Args:
        about: members that every piece carries.
        hierarchy: of the network that wrote it, or None.
        has_text: whether points belong to characters.
    """

    def __init__(self, about: dict[str, Any], hierarchy: Hierarchy | None, *, has_text: bool) -> None:
        self._about, self._hierarchy, self._has_text = about, hierarchy, has_text
        self.num_points = self.num_strokes = 0
        self._segments = [0] * (hierarchy.num_detectors if hierarchy else 0)

    def note(self) -> bytes:
        """Return how far it has come, for `take_up`."""
        segments = (*self._segments, *[0] * (MAX_LAYERS - len(self._segments)))
        return _COLUMNS.pack(self.num_points, self.num_strokes, *segments)

    def take_up(self, note: bytes) -> None:
        """Go on where others had come."""
        self.num_points, self.num_strokes, *segments = _COLUMNS.unpack(note)
        self._segments = segments[: len(self._segments)]

    def json(self, kind: str, ink: Ink, reason: str | None, tail: dict[str, Any]) -> bytes:
        """Return the next piece, with further members."""
        return orjson.dumps(self.members(kind, ink, reason) | tail)

    def members(self, kind: str, ink: Ink, reason: str | None) -> dict[str, Any]:
        """Return the members of the next piece.

        Args:
            kind: of object.
            ink: that follows what was told before.
            reason: why it ended, or None while it goes on.
        """
        body = {
            "object": kind,
            **self._about,
            "start": self.num_points,
            "x": ink.xy[:, 0].tolist(),
            "y": ink.xy[:, 1].tolist(),
            "t": ink.time.tolist(),
            "pen": ink.pen.tolist(),
            **({"character": ink.character.tolist(), "word": ink.word.tolist()} if self._has_text else {}),
            "line": ink.line.tolist(),
            **self._layers(ink.trace),
            "finish_reason": reason,
        }
        self.num_points += len(ink)
        self.num_strokes += int(ink.pen.sum())
        return body

    def pass_over(self, ink: Ink) -> None:
        """Count what was told before."""
        self.num_points += len(ink)
        self.num_strokes += int(ink.pen.sum())
        self._layers(ink.trace)

    def _layers(self, trace: bytes) -> dict[str, Any]:
        """Boundaries, operations and segments; a segment ends with the point whose boundary is 1."""
        if self._hierarchy is None:
            return {"z": [], "op": [], "segment": []}
        z = [[int(bit) for bit in digits] for digits in self._hierarchy.boundaries(trace)]
        segments = []
        for layer, bits in enumerate(z):
            ends = np.cumsum([self._segments[layer], *bits])
            self._segments[layer] = int(ends[-1])
            segments.append(ends[:-1].tolist())
        return {"z": z, "op": self._hierarchy.operations(trace), "segment": segments}


class FreeReply:
    """Renders one drawing of an ink bundle, written freely.

    Args:
        model: that draws it.
        params: it is drawn with.
        wish: the request.
        course: of the stream.

    Raises:
        InvalidTokenError: the state it goes on from says nothing of its sheet.
    """

    def __init__(self, model: InkModel, params: InkParams, wish: HandwritingRequest, course: Course) -> None:
        self.media_type = MEDIA_TYPES[wish.format]
        self._model, self._params, self._wish = model, params, wish
        self._layout = wish.layout()
        self._pen = Pen(model.codec, self._layout)
        self._is_down = False
        about = {"model": model.name, "system_fingerprint": model.fingerprint}
        self._columns = Columns(about, model.hierarchy, has_text=False)
        self._box: Box | None = None
        self._seal = course.seal
        if course.told:
            self._take_up(course.told)

    def event(self, delta: Delta) -> list[bytes]:
        """Return the JSON of the event that tells a delta."""
        return [self._json(CHUNK, self._draw(delta), delta)]

    def whole(self, delta: Delta, _: End) -> bytes:
        """Return a drawing told at once.

        Raises:
            InvalidRequestError: the sheet is too large for the format.
        """
        ink = self._draw(delta)
        if self._wish.format == "strokes":
            return self._json(WHOLE, ink, delta)
        title = f"{len(ink)} points written freely by {self._model.name}, seed {self._params.seed}"
        document = Document(ink, self._pages(ink), title, look=self._wish.look())
        try:
            return render(document, self._wish.format, self._wish.making())
        except LayoutError as error:
            raise refusal(error) from None

    def _draw(self, delta: Delta) -> Ink:
        """The ink that is to be told; what was told before is drawn too, for what comes after it."""
        ink = self._pen.draw(np.array(delta.items, np.float32).reshape(-1, 3), delta.trace)
        if delta.skipped:
            before, ink = ink[: delta.skipped], ink[delta.skipped :]
            self._extend(before)
            self._columns.pass_over(before)
        return ink

    def _extend(self, ink: Ink) -> None:
        """Let the sheet hold this ink too."""
        if len(ink):
            box, self._is_down = Box.around(ink.xy), not ink.pen[-1]
            self._box = self._box.with_(box) if self._box else box

    def _note(self) -> bytes:
        """What a reply that goes on needs to know."""
        corners = self._box.corners.ravel() if self._box else np.full(4, np.nan)
        return self._pen.note() + self._columns.note() + _SHEET.pack(*corners, self._is_down)

    def _take_up(self, told: bytes) -> None:
        """Go on with the sheet of an earlier reply.

        Raises:
            InvalidTokenError: it is of another kind.
        """
        if len(told) != NOTE_BYTES + _COLUMNS.size + _SHEET.size:
            raise InvalidTokenError("broken", "state: what this token holds is not a state of this model.", "state")
        pen, columns, sheet = told[:NOTE_BYTES], told[NOTE_BYTES : -_SHEET.size], told[-_SHEET.size :]
        self._pen.take_up(pen)
        self._columns.take_up(columns)
        *corners, self._is_down = _SHEET.unpack(sheet)
        self._box = None if np.isnan(corners).any() else Box(*corners)

    def _pages(self, ink: Ink) -> tuple[Box, ...]:
        return self._layout.pages(self._pen.num_lines, ink)

    def _json(self, kind: str, ink: Ink, delta: Delta) -> bytes:
        self._extend(ink)
        end = delta.end
        if end is None:
            return self._columns.json(kind, ink, None, {})
        members = self._columns.members(kind, ink, end.reason)
        corners = self._box.corners if self._box else np.zeros((1, 2))
        usage = {
            "points": self._columns.num_points,
            "strokes": self._columns.num_strokes + self._is_down,
            **work(self._model.hierarchy, end.trace),
        }
        pages = self._layout.pages_around(self._pen.num_lines, corners)
        tail = {"seed": self._params.seed, "pages": _pages_json(pages), "usage": usage}
        if end.snapshot:
            tail["state"] = self._seal(end.snapshot, delta.choice, self._note())
        return orjson.dumps(members | tail)


@dataclass(frozen=True)
class Author:
    """Who writes a text.

    Attributes:
        writer: of lines.
        about: what every piece of the reply says of it.
        hierarchy: of its layers, where it is a network.
    """

    writer: TextWriter
    about: dict[str, Any]
    hierarchy: Hierarchy | None = None

    @classmethod
    def copybook(cls, wish: HandwritingRequest, seed: int) -> "Author":
        """Return the copybook in the hand that is wished for.

        Raises:
            InvalidRequestError: it has no such hand.
        """
        style = wish.hand()
        text, skips = wish.text or "", wish.unsupported == "skip"
        writer = Copybook(text, style, seed, wish.bias, wish.wobble, skips_unsupported=skips)
        fingerprint = f"copyist-{VERSION}-{copybook.fingerprint()[:12]}"
        return cls(writer, {"model": copybook.NAME, "system_fingerprint": fingerprint, "style": style.name})


class TextReply:
    """Renders one text that is written line by line.

    Args:
        wish: the request; its text is set.
        seed: that is used.
        max_pages: that may be filled.
        author: who writes; the copybook without one.

    Raises:
        InvalidRequestError: the wishes leave no room, fill too many pages, or a character cannot be written and is to
            be an error.
    """

    def __init__(self, wish: HandwritingRequest, seed: int, max_pages: int, author: Author | None = None) -> None:
        assert wish.text is not None, "a text is written"
        self.media_type = MEDIA_TYPES[wish.format]
        self._wish, self._seed, self._text = wish, seed, wish.text
        author = author or Author.copybook(wish, seed)
        self._layout: Layout = wish.layout()
        self._writer = author.writer
        self._substitutions = self._writer.substitutions()
        if wish.unsupported == "error" and self._substitutions:
            raise refusal(_unwritable(self._substitutions[0]))
        self._rows: list[Row] = self._layout.wrap(self._text, self._writer)
        num_pages = len(self._layout.pages_around(len(self._rows), np.zeros((1, 2))))
        if num_pages > max_pages:
            raise refusal(LayoutError(f"it would fill {num_pages} pages; at most {max_pages} are written here", "text"))
        self._columns = Columns(author.about, author.hierarchy, has_text=True)
        self._corners: list[Any] = []
        self.has_ended = False

    @property
    def headers(self) -> dict[str, str]:
        """What a picture cannot tell: which characters are not drawn as they stand, the first of them in a header."""
        listed = [f"{each.index}=U+{each.code_point:04X}" for each in self._substitutions[:32]]
        return {"x-substituted": " ".join([str(len(self._substitutions)), *listed])}

    def events(self) -> Iterator[bytes]:
        """Write line by line and yield the JSON of events: the first letter alone, the last with the end."""
        for ink in self._layout.lines(self._rows, self._text, self._writer):
            yield from self.tell(ink)
        yield self.last()

    def tell(self, ink: Ink) -> Iterator[bytes]:
        """Yield the JSON of the events that tell the next ink: the very first letter alone."""
        if not len(ink):
            return
        self._corners += [ink.xy.min(axis=0), ink.xy.max(axis=0)]
        at = self._pass_over(ink)
        while at < len(ink):
            is_first = self._columns.num_points == 0
            count = int((ink.character == ink.character[0]).cumprod().sum()) if is_first else EVENT_POINTS
            yield self._columns.json(CHUNK, ink[at : at + count], None, {})
            at += count

    def last(self, tail: dict[str, Any] | None = None) -> bytes:
        """Return the JSON of the last event, with further members."""
        self.has_ended = True
        corners = np.array(self._corners or [(0.0, 0.0)])
        return self._end(CHUNK, Ink.empty(), self._layout.pages_around(len(self._rows), corners), tail)

    def whole(self, tail: dict[str, Any] | None = None) -> bytes:
        """Return the reply as one body, with further members.

        Raises:
            InvalidRequestError: the sheet is too large for the format.
        """
        return self.whole_of(self._layout.lines(self._rows, self._text, self._writer), tail)

    def whole_of(self, lines: Iterable[Ink], tail: dict[str, Any] | None = None) -> bytes:
        """Return the reply that tells these lines, each where it lies on the sheet.

        Raises:
            InvalidRequestError: the sheet is too large for the format.
        """
        document = self._document(lines)
        if self._wish.format == "strokes":
            return self._end(WHOLE, document.ink[self._pass_over(document.ink) :], document.pages, tail)
        try:
            return render(document, self._wish.format, self._wish.making())
        except LayoutError as error:
            raise refusal(error) from None

    @property
    def position(self) -> int:
        """Points written so far, those included that are not told again."""
        return self._columns.num_points

    @property
    def rows(self) -> list[Row]:
        """The lines that are written."""
        return self._rows

    def placed(self, ink: Ink, number: int, start_s: float) -> Ink:
        """Return a line's ink, in x-heights, where it lies on the sheet, from a time on."""
        return self._layout.placed(ink, number, self._rows[number], start_s)

    def placed_live(self, ink: Ink, number: int, start_s: float) -> Ink:
        """Return a part of a line's ink likewise; nothing is known of the rest, so it stands at the left as it is."""
        return ink.placed(ink.xy * self._layout.x_height + self._layout.origin(number), number, start_s)

    def _pass_over(self, ink: Ink) -> int:
        """Count those of the next points that were told before the request was repeated, and return how many."""
        count = min(len(ink), max(0, self._wish.resume_at - self._columns.num_points))
        self._columns.pass_over(ink[:count])
        return count

    def document(self) -> Document:
        """Return the text written on its sheet."""
        return self._document(self._layout.lines(self._rows, self._text, self._writer))

    def _document(self, lines: Iterable[Ink]) -> Document:
        ink = Ink.join(lines)
        pages = self._layout.pages(len(self._rows), ink)
        return Document(ink, pages, self._text, self._text, self._wish.look())

    def _end(self, kind: str, ink: Ink, pages: tuple[Box, ...], more: dict[str, Any] | None = None) -> bytes:
        points, strokes = self._columns.num_points + len(ink), self._columns.num_strokes + int(ink.pen.sum())
        tail = {
            "seed": self._seed,
            "pages": _pages_json(pages),
            "substituted": [
                {"index": each.index, "code_point": f"U+{each.code_point:04X}", "drawn": each.drawn}
                for each in self._substitutions
            ],
            "usage": {"points": points, "strokes": strokes},
        }
        return self._columns.json(kind, ink, "stop", tail | (more or {}))


def _unwritable(found: Substitution) -> LayoutError:
    return LayoutError(f"U+{found.code_point:04X} at position {found.index} cannot be written", "text")


def _pages_json(pages: tuple[Box, ...]) -> list[dict[str, float]]:
    return [
        {
            "left": round(page.left, 2),
            "top": round(page.top, 2),
            "width": round(page.width, 2),
            "height": round(page.height, 2),
        }
        for page in pages
    ]
