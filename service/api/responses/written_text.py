"""The bodies of replies and events: JSON columns piece by piece, or a picture of the whole.

A reply answered whole is the same bytes for the same request: nothing in it tells of time or place.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.api.responses.ink_columns import CHUNK, WHOLE, Columns, pages_json
from service.api.schemas.handwriting import HandwritingRequest, refusal
from service.engine.operations import Hierarchy
from service.handwriting.copybook import writer as copybook
from service.handwriting.copybook.writer import Copybook
from service.handwriting.drawing.document import Box, Document, Ink
from service.handwriting.drawing.formats import MEDIA_TYPES, render
from service.handwriting.drawing.layout import Layout, LayoutError, Row
from service.handwriting.writer import Substitution, TextWriter
from service.registry.fingerprint import VERSION

EVENT_POINTS = 256


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
        self._set_sampling, self._seed, self._text = wish, seed, wish.text
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
        if self._set_sampling.format == "strokes":
            return self._end(WHOLE, document.ink[self._pass_over(document.ink) :], document.pages, tail)
        try:
            return render(document, self._set_sampling.format, self._set_sampling.making())
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
        count = min(len(ink), max(0, self._set_sampling.resume_at - self._columns.num_points))
        self._columns.pass_over(ink[:count])
        return count

    def document(self) -> Document:
        """Return the text written on its sheet."""
        return self._document(self._layout.lines(self._rows, self._text, self._writer))

    def _document(self, lines: Iterable[Ink]) -> Document:
        ink = Ink.join(lines)
        pages = self._layout.pages(len(self._rows), ink)
        return Document(ink, pages, self._text, self._text, self._set_sampling.look())

    def _end(self, kind: str, ink: Ink, pages: tuple[Box, ...], more: dict[str, Any] | None = None) -> bytes:
        points, strokes = self._columns.num_points + len(ink), self._columns.num_strokes + int(ink.pen.sum())
        tail = {
            "seed": self._seed,
            "pages": pages_json(pages),
            "substituted": [
                {"index": each.index, "code_point": f"U+{each.code_point:04X}", "drawn": each.drawn}
                for each in self._substitutions
            ],
            "usage": {"points": points, "strokes": strokes},
        }
        return self._columns.json(kind, ink, "stop", tail | (more or {}))


def _unwritable(found: Substitution) -> LayoutError:
    return LayoutError(f"U+{found.code_point:04X} at position {found.index} cannot be written", "text")
