from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import orjson

from model.codec import TextCodec
from service.api.responses.completions import JSON
from service.api.responses.usage import work
from service.engine.sequences.base import Delta, End
from service.handwriting.priming import PrimedInk
from service.registry.served import InkModel, ServedModel, TextModel


class SegmentRenderer:
    """Renders the boundaries of what was read, at once: a segment is known when it has ended.

    Args:
        model: that read it.
        columns: further ones, with an entry per step.
        places: where one is after each number of steps, for the tree of segments.
    """

    media_type = JSON

    def __init__(self, model: ServedModel, columns: Mapping[str, Seq[Any]], places: Mapping[str, Seq[int]]) -> None:
        self._model = model
        self._columns = columns
        self._places = places

    @classmethod
    def of_text(cls, model: TextModel, text: str) -> Self:
        """Return the reply for a text."""
        offsets = Offsets.of(text, model.codec)
        return cls(model, {"char": offsets.characters[:-1]}, offsets.places)

    @classmethod
    def of_ink(cls, model: InkModel, ink: PrimedInk) -> Self:
        """Return the reply for ink."""
        given = ink.given.tolist()
        x, y = ink.xy.T.tolist()
        columns = {"point": [count - 1 for count in given], "x": x, "y": y, "pen": ink.pen.tolist()}
        return cls(model, columns, {"": [0, *given], "step_": range(len(given) + 1)})

    def whole(self, _: Delta, end: End) -> bytes:
        """Return the JSON of columns and tree."""
        hierarchy = self._model.hierarchy
        about = {"object": "segmentation", "model": self._model.name, "system_fingerprint": self._model.fingerprint}
        rest = {
            "tree": tree(hierarchy.boundaries(end.trace), self._places),
            "usage": work(hierarchy, end.trace),
        }
        members = (
            orjson.dumps({**about, **self._columns})[:-1],
            hierarchy.columns(end.trace).encode(),
            orjson.dumps(rest)[1:],
        )
        return b",".join(members)


@dataclass(frozen=True)
class Offsets:
    """Where the text is after each number of steps; entry 0 is its start, and there is one more than there are steps.

    Attributes:
        characters: index of the character that the next step belongs to: whole characters read so far.
        utf8: bytes of the text's UTF-8 read so far.
    """

    characters: list[int]
    utf8: list[int]

    @property
    def places(self) -> dict[str, list[int]]:
        """As `tree` takes them."""
        return {"": self.characters, "utf8_": self.utf8}

    @classmethod
    def of(cls, text: str, codec: TextCodec) -> "Offsets":
        """Return the offsets in a text that a codec turns into steps: a symbol each, or a byte each."""
        symbols, has_bytes = frozenset(codec.symbols), codec.unknown == "bytes"
        characters, utf8 = [0], [0]
        for index, character in enumerate(text):
            size = len(character.encode("utf-8", "surrogatepass"))
            if has_bytes and character not in symbols:
                characters += [index] * (size - 1)
                utf8 += range(utf8[-1] + 1, utf8[-1] + size)
            characters.append(index + 1)
            utf8.append(utf8[-1] + 1 if has_bytes and character not in symbols else utf8[-1] + size)
        return cls(characters, utf8)


def tree(boundaries: Seq[str], places: Mapping[str, Seq[int]]) -> dict[str, Any]:
    """Return the segments as JSON values, all that was read at the root.

    Args:
        boundaries: for each layer with a detector, from layer 1 up, a digit 0 or 1 per step.
        places: where one is after each number of steps, from 0 on, in each unit in which places are given: a segment
            has its first place as `start` and the one after its last as `end`, after the name of the unit.
    """
    cuts: list[list[int]] = []
    above: set[int] = set()
    for digits in reversed(boundaries):
        above = above | {step + 1 for step, digit in enumerate(digits) if digit == "1"}
        cuts.insert(0, sorted(above))

    def grow(layer: int, start: int, end: int, *, is_complete: bool) -> dict[str, Any]:
        node: dict[str, Any] = {"layer": layer}
        for name, place in places.items():
            node |= {f"{name}start": place[start], f"{name}end": place[end]}
        node["complete"] = is_complete
        if layer > 1 and boundaries:
            below = cuts[layer - 2]
            first, last = bisect_right(below, start), bisect_left(below, end)
            ends_there = last < len(below) and below[last] == end
            edges = [start, *below[first:last], end]
            node["segments"] = [
                grow(layer - 1, left, right, is_complete=right < end or ends_there) for left, right in pairwise(edges)
            ]
        return node

    num_steps = min(map(len, places.values())) - 1
    return grow(len(boundaries) + 1, 0, num_steps, is_complete=False)
