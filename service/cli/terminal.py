"""Standard output and standard error: coloured for people, exact bytes for programs."""

import sys
import unicodedata
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

# The colour of a character at which layers 0 (none), 1, 2, ... and all below end a segment. A background, so that it
# shows on a space too.
BANDS = ("", "black on cyan", "black on magenta", "black on yellow", "black on green")
LINE_BREAK = "↵"


def output() -> Console:
    """Return standard output; it `is_terminal` where it shows colours, or where FORCE_COLOR asks for them."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def messages() -> Console:
    """Return standard error."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def write_bytes(content: bytes) -> None:
    """Write bytes to standard output unchanged, and flush."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def levels(z: Sequence[Sequence[int]], length: int) -> list[int]:
    """Return for each character the highest layer that ends a segment there, 0 where none does.

    Args:
        z: per layer with a detector, from layer 1 up, 0 or 1 per character.
        length: characters.
    """
    return [max((layer for layer, row in enumerate(z, 1) if row[at]), default=0) for at in range(length)]


def painted(text: str, z: Sequence[Sequence[int]]) -> Text:
    """Return a text in which each character that ends a segment has the colour of the highest layer it ends one of.

    A line break has no place to put a colour on, so one that ends a segment gets a sign before it.
    """
    shown = Text()
    for character, level in zip(printable(text), levels(z, len(text)), strict=True):
        if character == "\n" and level:
            shown.append(LINE_BREAK, BANDS[level])
            shown.append(character)
        else:
            shown.append(character, BANDS[level])
    return shown


def legend(num_detectors: int) -> Text:
    """Return a line that explains the colours."""
    words = [Text.assemble((f" layer {layer} ", BANDS[layer])) for layer in range(1, num_detectors + 1)]
    return Text(" ").join([Text("a segment ends:"), *words]) if words else Text("this network has no boundaries")


def printable(text: str) -> str:
    """Return a text that cannot steer a terminal: control characters but line break and tab are replaced."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _steers(character) else character for character in text)


def _steers(character: str) -> bool:
    return unicodedata.category(character) == "Cc" and character not in "\n\t"
