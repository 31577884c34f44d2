from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.handwriting.drawing.document import NONE
from service.handwriting.drawing.layout import Writer


@dataclass(frozen=True)
class Substitution:
    """A character that could not be drawn, and what was.

    Attributes:
        index: of the character in the text, in code points.
        code_point: of it.
        drawn: what stands in its place; "" for nothing.
    """

    index: int
    code_point: int
    drawn: str


def words_of(text: str) -> NDArray[np.int64]:
    """Return for each character of a text which word it belongs to, NONE for what lies between words."""
    words = np.full(len(text), NONE, np.int64)
    word, was_space = -1, True
    for index, character in enumerate(text):
        if not character.isspace():
            word += was_space
            words[index] = word
        was_space = character.isspace()
    return words


class TextWriter(Writer, Protocol):
    """A writer that says what it does not write as it stands."""

    def substitutions(self) -> list[Substitution]:
        """Return what is not drawn as it stands in the text, in the text's order."""
        ...
