import struct

import numpy as np
import orjson

from service.api.responses.ink_columns import CHUNK, COLUMNS, WHOLE, Columns, pages_json
from service.api.responses.usage import work
from service.api.resume import Resumption
from service.api.schemas.handwriting import HandwritingRequest, refusal
from service.engine.sequences.base import Delta, End
from service.engine.sequences.free_ink import InkParams
from service.errors import InvalidTokenError
from service.handwriting.drawing.document import Box, Document, Ink
from service.handwriting.drawing.formats import MEDIA_TYPES, render
from service.handwriting.drawing.layout import LayoutError
from service.handwriting.free_pen import NOTE_BYTES, Pen
from service.registry.served import InkModel

_SHEET = struct.Struct("<4d?")


class FreeInkRenderer:
    """Renders one drawing of an ink bundle, written freely.

    Args:
        model: that draws it.
        params: it is drawn with.
        request: what is asked for.
        resumption: where the stream starts.

    Raises:
        InvalidTokenError: the state that it continues holds nothing about its sheet.
    """

    def __init__(self, model: InkModel, params: InkParams, request: HandwritingRequest, resumption: Resumption) -> None:
        self.media_type = MEDIA_TYPES[request.format]
        self._model = model
        self._params = params
        self._request = request
        self._layout = request.layout()
        self._pen = Pen(model.codec, self._layout)
        self._is_down = False
        about = {"model": model.name, "system_fingerprint": model.fingerprint}
        self._columns = Columns(about, model.hierarchy, has_text=False)
        self._box: Box | None = None
        self._seal = resumption.seal
        if resumption.note:
            self._restore(resumption.note)

    def event(self, delta: Delta) -> list[bytes]:
        """Return the JSON of the event that shows a delta."""
        return [self._json(CHUNK, self._draw(delta), delta)]

    def whole(self, delta: Delta, _: End) -> bytes:
        """Return a drawing as one body.

        Raises:
            InvalidRequestError: the sheet is too large for the format.
        """
        ink = self._draw(delta)
        if self._request.format == "strokes":
            return self._json(WHOLE, ink, delta)
        title = f"{len(ink)} points written freely by {self._model.name}, seed {self._params.seed}"
        document = Document(ink, self._pages(ink), title, look=self._request.look())
        try:
            return render(document, self._request.format, self._request.making())
        except LayoutError as error:
            raise refusal(error) from None

    def _draw(self, delta: Delta) -> Ink:
        """Return the ink to send; points that were sent before are drawn too, because the others follow from them."""
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
        """Return what the reply that continues this one needs."""
        corners = self._box.corners.ravel() if self._box else np.full(4, np.nan)
        return self._pen.note() + self._columns.note() + _SHEET.pack(*corners, self._is_down)

    def _restore(self, note: bytes) -> None:
        """Continue the sheet of an earlier reply.

        Raises:
            InvalidTokenError: it is of another kind.
        """
        if len(note) != NOTE_BYTES + COLUMNS.size + _SHEET.size:
            raise InvalidTokenError("broken", "state: what this token holds is not a state of this model.", "state")
        pen, columns, sheet = note[:NOTE_BYTES], note[NOTE_BYTES : -_SHEET.size], note[-_SHEET.size :]
        self._pen.restore(pen)
        self._columns.restore(columns)
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
        tail = {"seed": self._params.seed, "pages": pages_json(pages), "usage": usage}
        if end.snapshot:
            tail["state"] = self._seal(end.snapshot, delta.choice, self._note())
        return orjson.dumps(members | tail)
