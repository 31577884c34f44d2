import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.handwriting.drawing.document import NONE
from service.handwriting.drawing.layout import Measure


@dataclass(frozen=True)
class Substitution:
    """A character that could not be drawn, and what was drawn instead.

    Attributes:
        index: of the character in the text, in code points.
        code_point: of it.
        drawn: what stands in its place; "" for nothing.
    """

    index: int
    code_point: int
    drawn: str


def words_of(text: str) -> NDArray[np.int64]:
    """Return for each character of a text the index of its word, NONE for what lies between words."""
    words = np.full(len(text), NONE, np.int64)
    word, was_space = -1, True
    for index, character in enumerate(text):
        if not character.isspace():
            word += was_space
            words[index] = word
        was_space = character.isspace()
    return words


def clusters(text: str, start: int = 0) -> Iterator[tuple[int, str]]:
    """Yield (index, character with the marks that combine with it) for each character of a text.

    Args:
        text: a part of the whole text.
        start: index of its first character in the whole text; indices count from there.
    """
    at = 0
    while at < len(text):
        stop = at + 1
        while stop < len(text) and unicodedata.combining(text[stop]) and not text[at].isspace():
            stop += 1
        yield start + at, text[at:stop]
        at = stop


class TextWriter(Measure, Protocol):
    """A writer of one text: it says how wide its words come out, and what it does not write as it stands."""

    def substitutions(self) -> list[Substitution]:
        """Return what is not drawn as it stands in the text, in the text's order."""
        ...
