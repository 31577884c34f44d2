"""Ink as a PNG: black, or a colour, on white."""

import io

from PIL import Image, ImageColor, ImageDraw, PngImagePlugin

from service.handwriting.drawing.document import MM_PER_INCH, Box, Document, Floats, Ink, printable
from service.handwriting.drawing.outline import widths

MAX_PIXELS = 25_000_000
_SMOOTHING = 3  # drawn so many times larger, then reduced
_BAND_PX = 512  # of the picture's rows, drawn at a time: bounds the memory


def size_px(sheet: Box, dpi: int) -> tuple[int, int]:
    """Return width and height of the picture of a sheet."""
    scale = dpi / MM_PER_INCH
    return max(1, round(sheet.width * scale)), max(1, round(sheet.height * scale))


def render(document: Document, dpi: int) -> bytes:
    """Return the picture of a document, `size_px` large, with its title as a text chunk."""
    sheet, scale = document.sheet, dpi / MM_PER_INCH
    width, height = size_px(sheet, dpi)
    strokes = [_Line(stroke, document, scale * _SMOOTHING) for stroke in document.ink.strokes()]
    cover = Image.new("L", (width, height), 0)
    for top in range(0, height, _BAND_PX):
        band_px = min(_BAND_PX, height - top)
        band = Image.new("L", (width * _SMOOTHING, band_px * _SMOOTHING), 0)
        draw = ImageDraw.Draw(band)
        for stroke in strokes:
            stroke.draw(draw, top * _SMOOTHING, (top + band_px) * _SMOOTHING)
        cover.paste(band.reduce(_SMOOTHING), (0, top))
    picture = Image.new("RGB", (width, height), "white")
    picture.paste(ImageColor.getrgb(document.look.colour or "#000000"), mask=cover)
    about = PngImagePlugin.PngInfo()
    about.add_itxt("Title", printable(document.title))
    target = io.BytesIO()
    picture.save(target, "PNG", dpi=(dpi, dpi), pnginfo=about)
    return target.getvalue()


class _Line:
    """A stroke in pixels of the enlarged picture."""

    def __init__(self, stroke: Ink, document: Document, scale: float) -> None:
        look, sheet = document.look, document.sheet
        self._xy: Floats = (stroke.xy - (sheet.left, sheet.top)) * scale
        broad = widths(stroke, look.pen_mm) if look.outline else widths(stroke, look.pen_mm) * 0 + look.pen_mm
        self._half: Floats = (broad * scale / 2).clip(min=0.75)
        margin = float(self._half.max())
        self._top, self._bottom = float(self._xy[:, 1].min()) - margin, float(self._xy[:, 1].max()) + margin

    def draw(self, draw: ImageDraw.ImageDraw, top: int, bottom: int) -> None:
        """Draw what lies between two rows."""
        if self._bottom < top or self._top > bottom:
            return
        points = [(x, y - top) for x, y in self._xy.tolist()]
        halves = self._half.tolist()
        for (x, y), half in zip(points, halves, strict=True):
            draw.ellipse((x - half, y - half, x + half, y + half), fill=255)
        for start, stop, half in zip(points[:-1], points[1:], halves, strict=False):
            draw.line((start, stop), fill=255, width=max(1, round(2 * half)))
