"""Make `strokes.npz` from a folder of single-line fonts: python -m service.handwriting.copybook.fonts.pack FOLDER.

FOLDER holds `stroke_fonts.npz` (dx, dy, eos, offsets, x0, y0, text, text_offsets, font, font_name, advance). Only the
fonts that a style uses are packed, under names of our own, because the licence reserves the fonts' names.
"""

import io
import sys
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SOURCES = {
    "plain": "EMSDelight",
    "draft": "EMSTech",
    "round": "EMSPancakes",
    "slant": "EMSReadabilityItalic",
    "pencil": "EMSNeato",
    "note": "EMSCasualHand",
    "slim": "EMSBird",
    "chancery": "EMSFelix",
    "school": "EMSPepita",
    "quick": "EMSAllure",
    "formal": "EMSDecorousScript",
    "penman": "HersheyScript1",
}
TARGET = Path(__file__).parent / "strokes.npz"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(folder: Path) -> bytes:
    """Return the archive. The same fonts give the same bytes."""
    with np.load(folder / "stroke_fonts.npz") as source:
        fonts = {name: source[name] for name in source.files}
    names = [name.decode() for name in fonts["font_name"]]
    text = fonts["text"].tobytes()
    labels = [text[start:stop].decode() for start, stop in _spans(fonts["text_offsets"])]
    spans = _spans(fonts["offsets"])
    chosen = [
        (style, index)
        for style, source_name in enumerate(SOURCES.values())
        for index in np.flatnonzero(fonts["font"] == names.index(source_name)).tolist()
    ]
    points = [np.arange(*spans[index]) for _, index in chosen]
    order = np.concatenate(points)
    return _archive(
        {
            "dx": fonts["dx"][order],
            "dy": fonts["dy"][order],
            "lifts": fonts["eos"][order],
            "counts": np.array([len(piece) for piece in points], np.uint16),
            "x0": fonts["x0"][[index for _, index in chosen]].astype(np.int16),
            "y0": fonts["y0"][[index for _, index in chosen]].astype(np.int16),
            "advance": fonts["advance"][[index for _, index in chosen]],
            "character": np.array([ord(labels[index]) for _, index in chosen], np.uint32),
            "style": np.array([style for style, _ in chosen], np.uint8),
            "style_name": np.array([name.encode() for name in SOURCES]),
        }
    )


def _spans(offsets: NDArray[Any]) -> list[tuple[int, int]]:
    """Return (start, stop) of each piece."""
    bounds: list[int] = offsets.tolist()
    return list(pairwise(bounds))


def _archive(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return an npz file with a fixed time, so that its bytes depend on the arrays alone."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), member.getvalue(), zipfile.ZIP_DEFLATED)
    return target.getvalue()


if __name__ == "__main__":
    TARGET.write_bytes(pack(Path(sys.argv[1])))
