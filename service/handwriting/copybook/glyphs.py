"""Letters as pen strokes, from single-line fonts. Accents are composed; characters that no font has are replaced.

Lengths are in x-heights: a lower-case x is 1 high. The baseline is at y = 0, with y downwards.
"""

import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from service.handwriting.copybook.pacing import smooth

Floats = NDArray[np.float64]

BOX = "\u25a1"  # drawn in place of a character that no rule covers
_FLAT = "acemnorsuvwxz"  # letters that stand on the baseline and end at the x-height
_MARK_GAP = 0.22

# Marks above or below a letter, centred at x = 0; y counts from the edge of the gap, in x-heights.
_ABOVE: dict[str, list[list[tuple[float, float]]]] = {
    "\u0300": [[(-0.16, -0.3), (0.12, 0.0)]],  # grave
    "\u0301": [[(0.16, -0.3), (-0.12, 0.0)]],  # acute
    "\u0302": [[(-0.22, 0.0), (0.0, -0.26), (0.22, 0.0)]],  # circumflex
    "\u0303": [[(-0.26, -0.02), (-0.13, -0.16), (0.0, -0.09), (0.13, -0.02), (0.26, -0.16)]],  # tilde
    "\u0304": [[(-0.25, -0.08), (0.25, -0.08)]],  # macron
    "\u0306": [[(-0.22, -0.24), (-0.12, -0.06), (0.0, 0.0), (0.12, -0.06), (0.22, -0.24)]],  # breve
    "\u0307": [[(-0.02, -0.1), (0.02, -0.07)]],  # dot
    "\u0308": [[(-0.2, -0.1), (-0.17, -0.07)], [(0.17, -0.1), (0.2, -0.07)]],  # diaeresis
    "\u0309": [[(-0.1, -0.26), (0.04, -0.31), (0.1, -0.22), (0.0, -0.12), (0.0, 0.0)]],  # hook
    "\u030a": [[(0.0, -0.3), (-0.14, -0.15), (0.0, 0.0), (0.14, -0.15), (0.0, -0.3)]],  # ring
    "\u030b": [[(-0.02, -0.3), (-0.22, 0.0)], [(0.26, -0.3), (0.06, 0.0)]],  # double acute
    "\u030c": [[(-0.22, -0.26), (0.0, 0.0), (0.22, -0.26)]],  # caron
    "\u030f": [[(-0.26, -0.3), (-0.06, 0.0)], [(0.02, -0.3), (0.22, 0.0)]],  # double grave
    "\u0311": [[(-0.22, 0.0), (-0.12, -0.18), (0.0, -0.24), (0.12, -0.18), (0.22, 0.0)]],  # inverted breve
    "\u0313": [[(0.06, -0.3), (0.08, -0.2), (-0.02, -0.08)]],  # comma above
    "\u031b": [[(0.3, -0.02), (0.42, -0.12), (0.42, -0.28)]],  # horn
}
_BELOW: dict[str, list[list[tuple[float, float]]]] = {
    "\u0323": [[(-0.02, 0.1), (0.02, 0.13)]],  # dot
    "\u0324": [[(-0.2, 0.1), (-0.17, 0.13)], [(0.17, 0.1), (0.2, 0.13)]],  # diaeresis
    "\u0325": [[(0.0, 0.02), (-0.12, 0.14), (0.0, 0.26), (0.12, 0.14), (0.0, 0.02)]],  # ring
    "\u0326": [[(0.04, 0.04), (0.05, 0.16), (-0.06, 0.3)]],  # comma
    "\u0327": [[(0.02, -0.2), (-0.02, -0.06), (0.12, 0.04), (0.04, 0.18), (-0.14, 0.16)]],  # cedilla
    "\u0328": [[(0.1, -0.2), (-0.06, 0.0), (0.02, 0.16), (0.18, 0.12)]],  # ogonek
    "\u032d": [[(-0.2, 0.3), (0.0, 0.08), (0.2, 0.3)]],  # circumflex
    "\u032e": [[(-0.22, 0.08), (-0.12, 0.26), (0.0, 0.32), (0.12, 0.26), (0.22, 0.08)]],  # breve
    "\u0331": [[(-0.25, 0.14), (0.25, 0.14)]],  # macron
}
# Letters with a line through them, which Unicode does not decompose: base letter and ends of the line, in shares of
# the letter's box.
_ACROSS: dict[str, tuple[str, tuple[float, float], tuple[float, float]]] = {
    "\u0142": ("l", (-0.1, 0.62), (1.1, 0.38)),
    "\u0141": ("L", (-0.15, 0.6), (0.55, 0.35)),
    "\u0127": ("h", (-0.2, 0.2), (0.6, 0.2)),
    "\u0126": ("H", (-0.1, 0.22), (1.1, 0.22)),
    "\u0167": ("t", (0.0, 0.6), (1.0, 0.6)),
    "\u0166": ("T", (0.2, 0.5), (0.8, 0.5)),
    "\u0180": ("b", (-0.2, 0.25), (0.6, 0.25)),
    "\u01b5": ("Z", (0.1, 0.5), (0.9, 0.5)),
    "\u01b6": ("z", (0.1, 0.5), (0.9, 0.5)),
    "\u0268": ("i", (-0.3, 0.7), (1.3, 0.7)),
}
# Characters that are written with others of the same meaning. Each use is reported to the client.
INSTEAD = {
    "\u2026": "...", "\u2018": "'", "\u2019": "'", "\u201a": ",", "\u201b": "'", "\u201e": '"', "\u201f": '"',
    "\u2032": "'", "\u2033": '"', "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2015": "-", "\u2212": "-",
    "\u2022": "*", "\u2043": "-", "\u2044": "/", "\u2215": "/", "\u2217": "*", "\u00b7": ".", "\u2219": ".",
    "\u0152": "OE", "\u0153": "oe", "\u00c6": "AE", "\u00e6": "ae", "\u1e9e": "SS", "\u00de": "Th", "\u00fe": "th",
    "\u2190": "<-", "\u2192": "->", "\u2194": "<->", "\u21d2": "=>", "\u2264": "<=", "\u2265": ">=", "\u2260": "=/=",
    "\u2248": "~", "\u00ac": "-", "\u00a7": "S", "\u00b6": "P", "\u2020": "+", "\u2021": "+", "\u00a4": "$",
    "\u2116": "No", "\u2713": "v", "\u2714": "v", "\u2717": "x", "\u2718": "x", "\u017f": "s", "\u014a": "N",
    "\u014b": "n", "\u00f0": "\u0111", "\u0138": "k", "\u0237": "j", "\u2039": "<", "\u203a": ">",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Glyph:
    """The strokes of a letter.

    Attributes:
        strokes: float64 (n, 2) each, n at least 1.
        advance: distance to the next letter, in x-heights.
    """

    strokes: tuple[Floats, ...]
    advance: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Bounding box as (left, top, right, bottom); without strokes, the advance on the baseline."""
        if not self.strokes:
            return 0.0, 0.0, self.advance, 0.0
        points = np.concatenate(self.strokes)
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return left, top, right, bottom


@dataclass(frozen=True)
class Drawn:
    """What is drawn for one character of a text.

    Attributes:
        glyphs: the glyphs in order; none for a character that is left out.
        instead: the characters drawn in its place ("" for none), or None if the character itself is drawn.
    """

    glyphs: tuple[Glyph, ...]
    instead: str | None = None


class Font:
    """A single-line font.

    Args:
        glyphs: the font's glyphs by character. Each is made smooth when it is first drawn.
    """

    def __init__(self, glyphs: dict[str, Glyph]) -> None:
        self._raw = glyphs
        self._smooth: dict[str, Glyph] = {}
        self._drawn: dict[str, Drawn] = {}

    def draw(self, cluster: str) -> Drawn:
        """Return what is drawn for a cluster: a character and the marks that combine with it.

        A space is a glyph without strokes. A cluster that no rule covers is drawn as an empty box.
        """
        found = self._drawn.get(cluster)
        if found is None:
            found = self._settle(cluster)
            if len(self._drawn) < 4096:  # bounds the memory, whatever clients send
                self._drawn[cluster] = found
        return found

    def _settle(self, cluster: str) -> Drawn:
        """Choose what is drawn: the font's own letter, or a composed one, or other characters, or a box."""
        glyph = self._compose(unicodedata.normalize("NFC", cluster))
        if glyph:
            return Drawn((glyph,))
        if cluster.isspace():
            return Drawn((self._letter(" "),))
        if all(unicodedata.category(character) in {"Cc", "Cf"} for character in cluster):
            return Drawn((), "")
        for instead in (INSTEAD.get(cluster[0], ""), unicodedata.normalize("NFKC", cluster), cluster[0]):
            glyphs = [self._compose(character) for character in instead]
            if instead and all(glyphs):
                return Drawn(tuple(glyph for glyph in glyphs if glyph), instead)
        return Drawn((_box(),), BOX)

    def _compose(self, character: str) -> Glyph | None:
        """Return a letter of the font, a letter with a line or with marks, or None."""
        if character in self._raw:
            return self._letter(character)
        if character in _ACROSS:
            base, *ends = _ACROSS[character]
            return _struck(self._letter(base), np.array(ends))
        letter, *marks = tuple(unicodedata.normalize("NFD", character))
        if not marks or letter not in self._raw or letter.isspace():
            return None
        if any(mark not in _ABOVE and mark not in _BELOW for mark in marks):
            return None
        is_topped = any(mark in _ABOVE for mark in marks)
        glyph = self._dotless(letter) if is_topped and letter in "ij" else self._letter(letter)
        for mark in marks:
            glyph = marked(glyph, mark)
        return glyph

    def _letter(self, character: str) -> Glyph:
        """Return a letter of the font as smooth curves."""
        if character not in self._smooth:
            raw = self._raw[character]
            self._smooth[character] = Glyph(tuple(smooth(stroke) for stroke in raw.strokes), raw.advance)
        return self._smooth[character]

    def _dotless(self, letter: str) -> Glyph:
        """Return an i or j without its dot."""
        if letter == "i" and "\u0131" in self._raw:
            return self._letter("\u0131")
        glyph = self._letter(letter)
        kept = tuple(stroke for stroke in glyph.strokes if stroke[:, 1].max() > -1.0)
        return Glyph(kept or glyph.strokes, glyph.advance)


def marked(glyph: Glyph, mark: str) -> Glyph:
    """Return a letter with one mark above or below it."""
    left, top, right, bottom = glyph.box
    strokes = _ABOVE.get(mark) or _BELOW[mark]
    centre = (left + right) / 2
    if mark in _ABOVE:
        place = (right - 0.3, top + 0.05) if mark == "\u031b" else (centre, top - _MARK_GAP)
    else:
        place = (centre, bottom if mark in "\u0327\u0328" else bottom + _MARK_GAP / 2)
    drawn = tuple(smooth(np.array(points) + place) for points in strokes)
    return Glyph(glyph.strokes + drawn, glyph.advance)


def is_mark(character: str) -> bool:
    """Whether a combining character can be drawn with a letter."""
    return character in _ABOVE or character in _BELOW


def _struck(glyph: Glyph, ends: Floats) -> Glyph:
    """Return a letter with a line through it. The ends of the line are in shares of the letter's box."""
    left, top, right, bottom = glyph.box
    size = (max(right - left, 0.35), bottom - top)
    line = smooth(ends * size + ((left + right - size[0]) / 2, top))
    return Glyph((*glyph.strokes, line), glyph.advance)


def _box() -> Glyph:
    """Return an empty box."""
    corners = np.array([(0.1, 0.0), (0.1, -1.4), (1.0, -1.4), (1.0, 0.0), (0.1, 0.0)])
    return Glyph((smooth(corners),), 1.15)


@cache
def fonts() -> dict[str, Font]:
    """Return the fonts by name. They are read once."""
    source = resources.files("service.handwriting.copybook.fonts") / "strokes.npz"
    with resources.as_file(source) as path, np.load(path, allow_pickle=False) as archive:
        data = {name: archive[name] for name in archive.files}
    # Glyphs are stored one after the other, as differences between points; `lifts` marks the ends of strokes.
    ends = np.cumsum(data["counts"], dtype=np.int64)
    raw: dict[str, dict[str, tuple[list[Floats], float]]] = {}
    names = [name.decode() for name in data["style_name"]]
    for index, (start, stop) in enumerate(zip(ends - data["counts"], ends, strict=True)):
        steps = np.column_stack([data["dx"][start:stop], data["dy"][start:stop]]).astype(np.float64)
        points = steps.cumsum(axis=0) + np.array([data["x0"][index], data["y0"][index]])
        cuts = np.flatnonzero(data["lifts"][start:stop]) + 1
        strokes = [piece for piece in np.split(points, cuts) if len(piece)]
        character = chr(int(data["character"][index]))
        letters = raw.setdefault(names[int(data["style"][index])], {})
        letters[character] = ([] if character.isspace() else strokes, float(data["advance"][index]))
    return {name: Font(_scaled(letters)) for name, letters in raw.items()}


def _scaled(letters: dict[str, tuple[list[Floats], float]]) -> dict[str, Glyph]:
    """Convert a font's letters to x-heights from the baseline. Both are measured on the letters without ascenders."""
    flat = [np.concatenate(letters[letter][0])[:, 1] for letter in _FLAT]
    baseline = float(np.median([y.max() for y in flat]))
    x_height = baseline - float(np.median([y.min() for y in flat]))
    return {
        character: Glyph(tuple((stroke - (0.0, baseline)) / x_height for stroke in strokes), advance / x_height)
        for character, (strokes, advance) in letters.items()
    }
