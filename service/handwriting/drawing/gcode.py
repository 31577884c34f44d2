"""Ink as G-code for pen plotters, in absolute millimetres from the bottom left of each page.

The Z axis lifts and lowers the pen. Between pages the machine pauses for a new sheet. Comments never hold the text that
was written, because text could contain commands.
"""

from service.handwriting.drawing.document import Document, Ink, number

UP_MM, DOWN_MM = 5, 0
_PLUNGE = 600  # feed rate for lowering the pen, in mm per minute


def render(document: Document, feed: int) -> str:
    """Return a program that draws a document.

    Args:
        document: the document.
        feed: feed rate of the lowered pen, in mm per minute.
    """
    by_page: list[list[Ink]] = [[] for _ in document.pages]
    for stroke in document.ink.strokes():
        by_page[document.page_of(stroke)].append(stroke)
    lines = ["; Copyist", "G21 ; millimetres", "G90 ; absolute", "G94 ; feed per minute", f"G0 Z{UP_MM} ; pen up"]
    for index, (page, strokes) in enumerate(zip(document.pages, by_page, strict=True)):
        if index:
            lines += ["G0 X0 Y0", "M0 ; next page"]
        lines.append(f"; page {index + 1} of {len(document.pages)}: {number(page.width)} x {number(page.height)} mm")
        for stroke in strokes:
            (x, y), *rest = ((px - page.left, page.bottom - py) for px, py in stroke.xy.tolist())
            lines += [f"G0 X{number(x)} Y{number(y)}", f"G1 Z{DOWN_MM} F{_PLUNGE} ; pen down"]
            lines += [f"G1 X{number(px)} Y{number(py)} F{feed}" for px, py in rest]
            lines.append(f"G0 Z{UP_MM} ; pen up")
    return "\n".join([*lines, "G0 X0 Y0", "M2", ""])
