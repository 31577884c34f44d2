"""Ink as a PDF with vector paths, one page per page. The same document gives the same bytes."""

import io

from reportlab.lib.colors import HexColor
from reportlab.pdfgen.canvas import Canvas
from reportlab.pdfgen.pathobject import PDFPathObject

from service.handwriting.drawing.document import MM_PER_INCH, Box, Document, Floats, printable
from service.handwriting.drawing.outline import outline

MAX_MM = 5080.0  # most PDF readers refuse pages of more than 14,400 points a side
_POINTS_PER_MM = 72 / MM_PER_INCH


def render(document: Document) -> bytes:
    """Return a document as PDF. No side of a page may be longer than MAX_MM."""
    target = io.BytesIO()
    canvas = Canvas(target, invariant=1, pageCompression=1, initialFontName="Helvetica")
    canvas.setTitle(printable(document.title))
    canvas.setCreator("Copyist")
    by_page: list[list[Floats]] = [[] for _ in document.pages]
    for stroke in document.ink.strokes():
        shape = outline(stroke, document.look.pen_mm) if document.look.outline else stroke.xy
        by_page[document.page_of(stroke)].append(shape)
    for page, shapes in zip(document.pages, by_page, strict=True):
        _page(canvas, page, shapes, document)
    canvas.save()
    return target.getvalue()


def _page(canvas: Canvas, page: Box, shapes: list[Floats], document: Document) -> None:
    """Draw one page, and start the next."""
    look = document.look
    colour = HexColor(look.colour or "#000000")
    canvas.setPageSize((page.width * _POINTS_PER_MM, page.height * _POINTS_PER_MM))
    canvas.setLineWidth(look.pen_mm * _POINTS_PER_MM)
    canvas.setLineCap(1)
    canvas.setLineJoin(1)
    canvas.setStrokeColor(colour)
    canvas.setFillColor(colour)
    for shape in shapes:
        path = canvas.beginPath()
        _follow(path, shape, page)
        if look.outline:
            path.close()
            canvas.drawPath(path, stroke=0, fill=1, fillMode=1)  # 1: the nonzero rule
        else:
            canvas.drawPath(path, stroke=1, fill=0)
    canvas.showPage()


def _follow(path: PDFPathObject, shape: Floats, page: Box) -> None:
    """Add points to a path, with y upwards. A single point becomes a line of no length, which its round ends show."""
    (x, y), *rest = (((px - page.left), (page.bottom - py)) for px, py in shape.tolist())
    path.moveTo(x * _POINTS_PER_MM, y * _POINTS_PER_MM)
    for px, py in rest or [(x, y)]:
        path.lineTo(px * _POINTS_PER_MM, py * _POINTS_PER_MM)
