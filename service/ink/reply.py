"""The bodies of replies and events: JSON columns piece by piece, or a picture of the whole.

A reply answered whole is the same bytes for the same request: nothing in it tells of time or place.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from service.catalogue import VERSION, InkModel
from service.engine.sequence import Delta, End, InkParams
from service.engine.trace import Hierarchy
from service.ink import copybook
from service.ink.copybook import Copybook, Substitution
from service.ink.document import Box, Document, Ink
from service.ink.formats import MEDIA_TYPES, render
from service.ink.layout import Layout, LayoutError, Row
from service.ink.pen import Pen
from service.ink.schemas import HandwritingRequest, refusal
from service.replies import work

WHOLE, CHUNK = "handwriting", "handwriting.chunk"
EVENT_POINTS = 256


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

    def json(self, kind: str, ink: Ink, reason: str | None, tail: dict[str, Any]) -> bytes:
        """Return the next piece.

        Args:
            kind: of object.
            ink: that follows what was told before.
            reason: why it ended, or None while it goes on.
            tail: further members.
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
            **tail,
        }
        self.num_points += len(ink)
        self.num_strokes += int(ink.pen.sum())
        return orjson.dumps(body)

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
    """

    def __init__(self, model: InkModel, params: InkParams, wish: HandwritingRequest) -> None:
        self.media_type = MEDIA_TYPES[wish.format]
        self._model, self._params, self._wish = model, params, wish
        self._layout = wish.layout()
        self._pen = Pen(model.codec, self._layout)
        self._is_down = False
        about = {"model": model.name, "system_fingerprint": model.fingerprint}
        self._columns = Columns(about, model.hierarchy, has_text=False)
        self._box: Box | None = None

    def event(self, delta: Delta) -> list[bytes]:
        """Return the JSON of the event that tells a delta."""
        return [self._json(CHUNK, self._draw(delta), delta.end)]

    def whole(self, delta: Delta, end: End) -> bytes:
        """Return a drawing told at once.

        Raises:
            InvalidRequestError: the sheet is too large for the format.
        """
        ink = self._draw(delta)
        if self._wish.format == "strokes":
            return self._json(WHOLE, ink, end)
        title = f"{len(ink)} points written freely by {self._model.name}, seed {self._params.seed}"
        document = Document(ink, self._pages(ink), title, look=self._wish.look())
        try:
            return render(document, self._wish.format, self._wish.making())
        except LayoutError as error:
            raise refusal(error) from None

    def _draw(self, delta: Delta) -> Ink:
        return self._pen.draw(np.array(delta.items, np.float32).reshape(-1, 3), delta.trace)

    def _pages(self, ink: Ink) -> tuple[Box, ...]:
        return self._layout.pages(self._pen.num_lines, ink)

    def _json(self, kind: str, ink: Ink, end: End | None) -> bytes:
        if len(ink):
            box, self._is_down = Box.around(ink.xy), not ink.pen[-1]
            self._box = self._box.with_(box) if self._box else box
        if end is None:
            return self._columns.json(kind, ink, None, {})
        corners = self._box.corners if self._box else np.zeros((1, 2))
        usage = {
            "points": self._columns.num_points + len(ink),
            "strokes": self._columns.num_strokes + int(ink.pen.sum()) + self._is_down,
            **work(self._model.hierarchy, end.trace),
        }
        pages = self._layout.pages_around(self._pen.num_lines, corners)
        tail = {"seed": self._params.seed, "pages": _pages_json(pages), "usage": usage}
        return self._columns.json(kind, ink, end.reason, tail)


class TextReply:
    """Writes and renders one text with the copybook.

    Args:
        wish: the request; its text is set.
        seed: that is used.
        max_pages: that may be filled.

    Raises:
        InvalidRequestError: the wishes leave no room, fill too many pages, or a character cannot be written and is to
            be an error.
    """

    def __init__(self, wish: HandwritingRequest, seed: int, max_pages: int) -> None:
        assert wish.text is not None, "the copybook writes texts"
        self.media_type = MEDIA_TYPES[wish.format]
        self._wish, self._seed, self._text = wish, seed, wish.text
        style = wish.hand()
        self._layout: Layout = wish.layout()
        self._writer = Copybook(
            self._text, style, seed, wish.bias, wish.wobble, skips_unsupported=wish.unsupported == "skip"
        )
        self._substitutions = self._writer.substitutions()
        if wish.unsupported == "error" and self._substitutions:
            raise refusal(_unwritable(self._substitutions[0]))
        self._rows: list[Row] = self._layout.wrap(self._text, self._writer)
        num_pages = len(self._layout.pages_around(len(self._rows), np.zeros((1, 2))))
        if num_pages > max_pages:
            raise refusal(LayoutError(f"it would fill {num_pages} pages; at most {max_pages} are written here", "text"))
        fingerprint = f"copyist-{VERSION}-{copybook.fingerprint()[:12]}"
        about = {"model": copybook.NAME, "system_fingerprint": fingerprint, "style": style.name}
        self._columns = Columns(about, None, has_text=True)

    @property
    def headers(self) -> dict[str, str]:
        """What a picture cannot tell: which characters are not drawn as they stand, the first of them in a header."""
        listed = [f"{each.index}=U+{each.code_point:04X}" for each in self._substitutions[:32]]
        return {"x-substituted": " ".join([str(len(self._substitutions)), *listed])}

    def events(self) -> Iterator[bytes]:
        """Write line by line and yield the JSON of events: the first letter alone, the last with the end."""
        corners: list[Any] = []
        for ink in self._layout.lines(self._rows, self._text, self._writer):
            corners += [ink.xy.min(axis=0), ink.xy.max(axis=0)]
            at = 0
            while at < len(ink):
                is_first = self._columns.num_points == 0
                count = int((ink.character == ink.character[0]).cumprod().sum()) if is_first else EVENT_POINTS
                yield self._columns.json(CHUNK, ink[at : at + count], None, {})
                at += count
        yield self._end(
            CHUNK, Ink.empty(), self._layout.pages_around(len(self._rows), np.array(corners or [(0.0, 0.0)]))
        )

    def whole(self) -> bytes:
        """Return the reply as one body.

        Raises:
            InvalidRequestError: the sheet is too large for the format.
        """
        document = self.document()
        if self._wish.format == "strokes":
            return self._end(WHOLE, document.ink, document.pages)
        try:
            return render(document, self._wish.format, self._wish.making())
        except LayoutError as error:
            raise refusal(error) from None

    def document(self) -> Document:
        """Return the text written on its sheet."""
        ink = Ink.join(self._layout.lines(self._rows, self._text, self._writer))
        pages = self._layout.pages(len(self._rows), ink)
        return Document(ink, pages, self._text, self._text, self._wish.look())

    def _end(self, kind: str, ink: Ink, pages: tuple[Box, ...]) -> bytes:
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
        return self._columns.json(kind, ink, "stop", tail)


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
