"""Ink as G-code for pen plotters: millimetres, absolute, the origin at the bottom left of each page.

Z lifts the pen and lowers it; between pages the machine pauses for a fresh sheet. Comments are our own words only: what
was written never gets into a program.
"""

from service.handwriting.drawing.document import Document, Ink, number

UP_MM, DOWN_MM = 5, 0
_PLUNGE = 600  # mm per minute, for lowering the pen


def render(document: Document, feed: int) -> str:
    """Return the program of a document.

    Args:
        document: to be drawn.
        feed: of the lowered pen, in mm per minute.
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
