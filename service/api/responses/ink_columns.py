import struct
from typing import Any

import numpy as np
import orjson

from service.engine.operations import MAX_LAYERS, Hierarchy
from service.handwriting.drawing.document import Box, Ink

WHOLE, CHUNK = "handwriting", "handwriting.chunk"


COLUMNS = struct.Struct(f"<II{MAX_LAYERS}I")


class Columns:
    """Renders ink as JSON columns; remembers how far it has come.

    Args:
        about: members that every piece carries.
        hierarchy: of the network that wrote it, or None.
        has_text: whether points belong to characters.
    """

    def __init__(self, about: dict[str, Any], hierarchy: Hierarchy | None, *, has_text: bool) -> None:
        self._about = about
        self._hierarchy = hierarchy
        self._has_text = has_text
        self.num_points = self.num_strokes = 0
        self._segments = [0] * (hierarchy.num_detectors if hierarchy else 0)

    def note(self) -> bytes:
        """Return how far it has come, for `restore`."""
        segments = (*self._segments, *[0] * (MAX_LAYERS - len(self._segments)))
        return COLUMNS.pack(self.num_points, self.num_strokes, *segments)

    def restore(self, note: bytes) -> None:
        """Continue where the columns of an earlier reply ended."""
        self.num_points, self.num_strokes, *segments = COLUMNS.unpack(note)
        self._segments = segments[: len(self._segments)]

    def json(self, kind: str, ink: Ink, reason: str | None, tail: dict[str, Any]) -> bytes:
        """Return the next piece, with further members."""
        return orjson.dumps(self.members(kind, ink, reason) | tail)

    def members(self, kind: str, ink: Ink, reason: str | None) -> dict[str, Any]:
        """Return the members of the next piece.

        Args:
            kind: of object.
            ink: that follows what was sent before.
            reason: why it ended, or None while there is more to come.
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
        """Count ink that was sent before."""
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


def pages_json(pages: tuple[Box, ...]) -> list[dict[str, float]]:
    """Return the boxes of pages as JSON shows them, in millimetres."""
    return [
        {
            "left": round(page.left, 2),
            "top": round(page.top, 2),
            "width": round(page.width, 2),
            "height": round(page.height, 2),
        }
        for page in pages
    ]
