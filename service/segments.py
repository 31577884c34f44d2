"""From the boundaries of a text's steps to the tree of its segments.

A segment of layer l ends with the step at which that layer fires, so it is what layer l + 1 reads as one piece. The
layer on top never fires: the whole text is its one segment and the root of the tree. Segments lie within each other;
where a network would let a layer fire although the one below does not, the one below ends there too.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from model.codec import TextCodec


@dataclass(frozen=True)
class Offsets:
    """Where the text is after each number of steps; entry 0 is its start, and there is one more than there are steps.

    Attributes:
        characters: index of the character that the next step belongs to: whole characters read so far.
        utf8: bytes of the text's UTF-8 read so far.
    """

    characters: list[int]
    utf8: list[int]

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


def tree(boundaries: Seq[str], offsets: Offsets) -> dict[str, Any]:
    """Return the segments of a text as JSON values, the whole text at the root.

    Args:
        boundaries: for each layer with a detector, from layer 1 up, a digit 0 or 1 per step.
        offsets: of the steps.
    """
    cuts: list[list[int]] = []
    above: set[int] = set()
    for digits in reversed(boundaries):
        above = above | {step + 1 for step, digit in enumerate(digits) if digit == "1"}
        cuts.insert(0, sorted(above))

    def grow(layer: int, start: int, end: int, *, is_complete: bool) -> dict[str, Any]:
        node: dict[str, Any] = {
            "layer": layer,
            "start": offsets.characters[start],
            "end": offsets.characters[end],
            "utf8_start": offsets.utf8[start],
            "utf8_end": offsets.utf8[end],
            "complete": is_complete,
        }
        if layer > 1 and boundaries:
            below = cuts[layer - 2]
            first, last = bisect_right(below, start), bisect_left(below, end)
            ends_there = last < len(below) and below[last] == end
            edges = [start, *below[first:last], end]
            node["segments"] = [
                grow(layer - 1, left, right, is_complete=right < end or ends_there) for left, right in pairwise(edges)
            ]
        return node

    return grow(len(boundaries) + 1, 0, len(offsets.utf8) - 1, is_complete=False)
