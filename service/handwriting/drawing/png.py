"""Ink as a PNG: in black or a colour, on white."""

import io

from PIL import Image, ImageColor, ImageDraw, PngImagePlugin

from service.handwriting.drawing.document import MM_PER_INCH, Box, Document, Floats, Ink, printable
from service.handwriting.drawing.outline import widths

MAX_PIXELS = 25_000_000
_SMOOTHING = 3  # the picture is drawn this many times larger and then reduced
_BAND_PX = 512  # height of the part that is drawn at a time, which bounds the memory


def size_px(sheet: Box, dpi: int) -> tuple[int, int]:
    """Return the width and height of a sheet in pixels, each at least 1."""
    scale = dpi / MM_PER_INCH
    return max(1, round(sheet.width * scale)), max(1, round(sheet.height * scale))


def render(document: Document, dpi: int) -> bytes:
    """Return a document as PNG of the size `size_px`, with its title as a text chunk."""
    sheet, scale = document.sheet, dpi / MM_PER_INCH
    width, height = size_px(sheet, dpi)
    strokes = [_Line(stroke, document, scale * _SMOOTHING) for stroke in document.ink.strokes()]
    # Draw band by band, enlarged; the reduced bands say how much of each pixel is covered by ink.
    cover = Image.new("L", (width, height), 0)
    for top in range(0, height, _BAND_PX):
        band_px = min(_BAND_PX, height - top)
        band = Image.new("L", (width * _SMOOTHING, band_px * _SMOOTHING), 0)
        draw = ImageDraw.Draw(band)
        for stroke in strokes:
            stroke.draw(draw, top * _SMOOTHING, (top + band_px) * _SMOOTHING)
        cover.paste(band.reduce(_SMOOTHING), (0, top))
    # Colour on white, by coverage.
    picture = Image.new("RGB", (width, height), "white")
    picture.paste(ImageColor.getrgb(document.look.colour or "#000000"), mask=cover)
    about = PngImagePlugin.PngInfo()
    about.add_itxt("Title", printable(document.title))
    target = io.BytesIO()
    picture.save(target, "PNG", dpi=(dpi, dpi), pnginfo=about)
    return target.getvalue()


class _Line:
    """One stroke, in pixels of the enlarged picture."""

    def __init__(self, stroke: Ink, document: Document, scale: float) -> None:
        look, sheet = document.look, document.sheet
        self._xy: Floats = (stroke.xy - (sheet.left, sheet.top)) * scale
        broad = widths(stroke, look.pen_mm) if look.outline else widths(stroke, look.pen_mm) * 0 + look.pen_mm
        self._half: Floats = (broad * scale / 2).clip(min=0.75)
        margin = float(self._half.max())
        self._top = float(self._xy[:, 1].min()) - margin
        self._bottom = float(self._xy[:, 1].max()) + margin

    def draw(self, draw: ImageDraw.ImageDraw, top: int, bottom: int) -> None:
        """Draw the part of the stroke that lies between two rows of the picture."""
        if self._bottom < top or self._top > bottom:
            return
        points = [(x, y - top) for x, y in self._xy.tolist()]
        halves = self._half.tolist()
        for (x, y), half in zip(points, halves, strict=True):
            draw.ellipse((x - half, y - half, x + half, y + half), fill=255)
        for start, stop, half in zip(points[:-1], points[1:], halves, strict=False):
            draw.line((start, stop), fill=255, width=max(1, round(2 * half)))
