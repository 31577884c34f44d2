"""Ink as SVG in millimetres: one path per stroke, grouped by line, word and letter.

The animated picture draws its strokes at the times of the pen. It needs only a style sheet, so it also runs where
scripts do not, and it stands still for readers who prefer reduced motion.
"""

from xml.sax.saxutils import escape

from service.handwriting.drawing.document import NONE, Document, Floats, Ink, number, printable
from service.handwriting.drawing.outline import outline

_ANIMATION = """<style>
@keyframes write {
  from { visibility: visible; stroke-dashoffset: 1.02 }
  to { visibility: visible; stroke-dashoffset: 0 }
}
@keyframes show { to { visibility: visible } }
path { visibility: hidden; stroke-dasharray: 1 1.1; animation: write linear forwards }
path.dot { stroke-dasharray: none; animation: show 1ms linear forwards }
@media (prefers-reduced-motion: reduce) {
  path { visibility: visible; animation: none !important; stroke-dasharray: none }
}
</style>
"""


def render(document: Document, *, animated: bool = False) -> str:
    """Return a document as SVG.

    Args:
        document: the document.
        animated: whether the picture draws itself. Strokes are then lines of one width, never outlines.
    """
    # The head: size and paint for all strokes.
    sheet, look = document.sheet, document.look
    view = " ".join(number(value) for value in (sheet.left, sheet.top, sheet.width, sheet.height))
    has_outline = look.outline and not animated
    colour = look.colour or "currentColor"
    paint = (
        f'fill="{colour}" stroke="none"'
        if has_outline
        else f'fill="none" stroke="{colour}" stroke-width="{number(look.pen_mm)}" stroke-linecap="round" '
        'stroke-linejoin="round"'
    )
    size = f'viewBox="{view}" width="{number(sheet.width)}mm" height="{number(sheet.height)}mm"'
    pieces = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n',
        f"<title>{escape(printable(document.title))}</title>\n",
        _ANIMATION if animated else "",
        f"<g {paint}>\n",
    ]
    # Nested groups of lines, words and letters.
    for line, words in document.lines():
        pieces.append(f'<g class="line" data-line="{line}">\n')
        for word, letters in words:
            pieces.append(f'<g class="word" data-word="{word}">\n' if word != NONE else '<g class="word">\n')
            for character, strokes in letters:
                name = f' data-character="{character}"' if character != NONE else ""
                paths = "\n".join(_path(stroke, document, animated=animated) for stroke in strokes)
                pieces.append(f'<g class="letter"{name}>\n{paths}\n</g>\n')
            pieces.append("</g>\n")
        pieces.append("</g>\n")
    return "".join([*pieces, "</g>\n</svg>\n"])


def _path(stroke: Ink, document: Document, *, animated: bool) -> str:
    """Return the path of one stroke."""
    if animated:
        start, took = float(stroke.time[0]), max(float(stroke.time[-1] - stroke.time[0]), 0.01)
        timing = f"animation-delay:{number(start, 3)}s;animation-duration:{number(took, 3)}s"
        kind = 'class="dot" ' if len(stroke) == 1 else 'pathLength="1" '
        return f'<path {kind}style="{timing}" d="{path_data(stroke.xy)}"/>'
    if document.look.outline:
        return f'<path d="{path_data(outline(stroke, document.look.pen_mm))}Z"/>'
    return f'<path d="{path_data(stroke.xy)}"/>'


def path_data(xy: Floats) -> str:
    """Return points (n, 2) as the `d` attribute of an SVG path. A single point becomes a line of no length."""
    pairs = [f"{number(x)},{number(y)}" for x, y in xy.tolist()]
    if len(pairs) == 1:
        return f"M{pairs[0]}h0"
    return f"M{pairs[0]}L{' '.join(pairs[1:])}"
