"""Tesseract as a measure of legibility: it reads pictures of lines and knows nothing about how a pen moves.

Its two modes for a picture of one line (page segmentation modes 7 and 13) fail on different lines, so the reading with
the higher confidence counts; the true text is not used. Height and width of the strokes change its errors by some
percent, so they are fixed: a line is 72 pixels high and its strokes are 3 pixels wide.
"""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

HEIGHT, PEN, MARGIN, FINER = 72, 3, 20, 3
WIDEST = 20_000  # pixels of the picture before it is reduced by FINER
MODES = ("SINGLE_LINE", "RAW_LINE")
DATA = (Path("/usr/share/tesseract-ocr/5/tessdata"), Path("/usr/share/tessdata"))


def is_here() -> bool:
    """Return whether tesserocr (PyPI) and its English data (Debian: tesseract-ocr-eng) are installed."""
    return importlib.util.find_spec("tesserocr") is not None and _data() is not None


def read(lines: Iterable[NDArray[np.float64]]) -> list[str]:
    """Return what Tesseract reads in lines of raw offsets, each (n, 3)."""
    import tesserocr

    readers = [tesserocr.PyTessBaseAPI(path=str(_data()), psm=getattr(tesserocr.PSM, mode)) for mode in MODES]
    found = [max((_reading(reader, picture) for reader in readers), key=_confidence) for picture in map(draw, lines)]
    for reader in readers:
        reader.End()
    return [text for _, text in found]


def draw(offsets: NDArray[np.float64]) -> Image.Image:
    """Return a picture of a line of ink, black on white, with its slope removed."""
    path = offsets[:, :2].cumsum(axis=0)
    x, y = path.T
    if np.ptp(x) > 0:
        y = y - np.polyfit(x, y, 1)[0] * x
    scale = FINER * HEIGHT / max(float(np.ptp(y)), 1e-9)
    scale = min(scale, WIDEST / max(float(np.ptp(x)), 1e-9))
    points = np.column_stack([x - x.min(), y - y.min()]) * scale + FINER * MARGIN
    size = np.ceil(points.max(axis=0) + FINER * MARGIN).astype(int)
    picture = Image.new("L", (int(size[0]), int(size[1])), 255)
    canvas = ImageDraw.Draw(picture)
    for stroke in np.split(points, np.flatnonzero(offsets[:, 2]) + 1):
        _stroke(canvas, stroke)
    return picture.resize((max(1, picture.width // FINER), max(1, picture.height // FINER)), Image.Resampling.LANCZOS)


def _stroke(canvas: ImageDraw.ImageDraw, points: NDArray[np.float64]) -> None:
    if not len(points):
        return
    width, corners = PEN * FINER, [(float(x), float(y)) for x, y in points]
    if len(corners) > 1:
        canvas.line(corners, 0, width, joint="curve")
    for x, y in (corners[0], corners[-1]):
        canvas.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), 0)


def _reading(reader: Any, picture: Image.Image) -> tuple[int, str]:
    reader.SetImage(picture)
    text = " ".join(reader.GetUTF8Text().split())
    return (reader.MeanTextConf() if text else -1), text


def _confidence(reading: tuple[int, str]) -> int:
    return reading[0]


def _data() -> Path | None:
    return next((folder for folder in DATA if (folder / "eng.traineddata").exists()), None)
