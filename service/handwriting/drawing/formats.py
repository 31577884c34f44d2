"""The output formats, and one function that renders a document in any of them."""

from dataclasses import dataclass
from typing import Literal, get_args

from service.handwriting.drawing import gcode, inkml, svg
from service.handwriting.drawing.document import Document
from service.handwriting.drawing.layout import LayoutError

Format = Literal["strokes", "svg", "svg-animated", "png", "pdf", "inkml", "gcode"]
Picture = Literal["svg", "svg-animated", "png", "pdf", "inkml", "gcode"]
PICTURES: tuple[Picture, ...] = get_args(Picture)
MEDIA_TYPES: dict[Format, str] = {
    "strokes": "application/json",
    "svg": "image/svg+xml",
    "svg-animated": "image/svg+xml",
    "png": "image/png",
    "pdf": "application/pdf",
    "inkml": "application/inkml+xml",
    "gcode": "text/x-gcode; charset=utf-8",
}


@dataclass(frozen=True)
class Making:
    """Options that only one format needs.

    Attributes:
        dpi: resolution of a PNG, in pixels per inch.
        feed: feed rate of a G-code program, in mm per minute.
    """

    dpi: int = 150
    feed: int = 1500


def render(document: Document, picture: Picture, making: Making) -> bytes:
    """Return a document as the bytes of a file.

    Raises:
        LayoutError: the pages are too large for the format.
    """
    if picture == "png":
        return _png(document, making.dpi)
    if picture == "pdf":
        return _pdf(document)
    if picture == "inkml":
        return inkml.render(document)
    if picture == "gcode":
        return gcode.render(document, making.feed).encode()
    return svg.render(document, animated=picture == "svg-animated").encode()


def _png(document: Document, dpi: int) -> bytes:
    from service.handwriting.drawing import png  # imports a library that other formats do not need

    width, height = png.size_px(document.sheet, dpi)
    if width * height > png.MAX_PIXELS:
        raise LayoutError(f"the picture would have {width} x {height} pixels; at most {png.MAX_PIXELS} in all", "dpi")
    return png.render(document, dpi)


def _pdf(document: Document) -> bytes:
    from service.handwriting.drawing import pdf  # imports a library that other formats do not need

    longest = max(max(page.width, page.height) for page in document.pages)
    if longest > pdf.MAX_MM:
        raise LayoutError(f"a page would be {longest:.0f} mm long; in a PDF at most {pdf.MAX_MM:g}", "page")
    return pdf.render(document)
