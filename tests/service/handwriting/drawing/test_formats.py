"""Every format, read back by independent readers, holds the same strokes in the same places, in mm."""

import io
import re
import xml.etree.ElementTree as ET
from ctypes import c_float
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium
import pytest
from gcodeparser import parse_gcode_lines
from PIL import Image
from svgpathtools import svgstr2paths

from model.data.inkml import read_inkml
from service.handwriting.copybook.writer import STYLES, CopybookWriter
from service.handwriting.drawing import formats, png
from service.handwriting.drawing.document import Document, Ink, Look
from service.handwriting.drawing.formats import Making, Picture
from service.handwriting.drawing.layout import Layout, LayoutError
from service.handwriting.drawing.outline import widths

TEXT = "Dear Ada,\nit works: 3 < 5 & i!"
PAPER = Layout(paper=(70.0, 40.0), margin=8.0, x_height=2.5)
GOLDEN = Path(__file__).parents[3] / "golden" / "ink"
INKML = "{http://www.w3.org/2003/InkML}"
POINTS_PER_MM = 72 / 25.4


def document(layout: Layout = PAPER, text: str = TEXT, style: str = "plain", look: Look = Look()) -> Document:  # noqa: B008
    """Return a document of a written text."""
    writer = CopybookWriter(text, STYLES[style], 7)
    rows = layout.wrap(text, writer)
    ink = Ink.join(layout.lines(rows, text, writer))
    return Document(ink, layout.pages(len(rows), ink), text, text, look)


def render(made: Document, picture: Picture, making: Making = Making()) -> bytes:  # noqa: B008
    """Render a document."""
    return formats.render(made, picture, making)


def ends(strokes: list[Ink]) -> np.ndarray:
    """First and last points of strokes, (n, 4)."""
    return np.array([[*stroke.xy[0], *stroke.xy[-1]] for stroke in strokes])


def pdf_paths(content: bytes) -> list[list[np.ndarray]]:
    """Points (n, 2) of the paths of each page as PDFium reads them, in mm from the page's bottom left."""
    with pypdfium2.PdfDocument(content) as opened:
        return [[points_of(item.raw) for item in page.get_objects([pdfium.FPDF_PAGEOBJ_PATH])] for page in opened]


def points_of(path: Any) -> np.ndarray:
    """Points of one path."""
    found = []
    x, y = c_float(), c_float()
    for index in range(pdfium.FPDFPath_CountSegments(path)):
        pdfium.FPDFPathSegment_GetPoint(pdfium.FPDFPath_GetPathSegment(path, index), x, y)
        found.append((x.value / POINTS_PER_MM, y.value / POINTS_PER_MM))
    return np.array(found)


@pytest.mark.parametrize("style", ["plain", "quick"])
def test_all_formats_have_the_same_strokes(style: str) -> None:
    """svgpathtools, ElementTree, PDFium and gcodeparser find as many strokes as the JSON's columns have."""
    made = document(style=style)
    count = int(made.ink.pen.sum())
    assert count == len(made.ink.strokes()) > 10
    for picture in ("svg", "svg-animated"):
        paths, _ = svgstr2paths(render(made, picture).decode())
        assert len(paths) == count
    root = ET.fromstring(render(made, "inkml"))  # noqa: S314 - our own
    assert len(list(root.iter(f"{INKML}trace"))) == count
    assert sum(map(len, pdf_paths(render(made, "pdf")))) == count
    moves = parse_gcode_lines(render(made, "gcode").decode())
    assert sum(move.command == ("G", 1) and move.params.get("Z") == 0 for move in moves) == count
    outlined = document(style=style, look=Look(outline=True))
    assert len(svgstr2paths(render(outlined, "svg").decode())[0]) == count
    assert sum(map(len, pdf_paths(render(outlined, "pdf")))) == count


def test_svg_has_the_columns_points() -> None:
    """svgpathtools reads each stroke's points back, in mm, from groups that name line, word and character."""
    made = document()
    content = render(made, "svg").decode()
    paths, _ = svgstr2paths(content)
    for path, stroke in zip(paths, made.ink.strokes(), strict=True):
        points = [path.start, *(segment.end for segment in path)]
        assert np.allclose([(point.real, point.imag) for point in points][: len(stroke)], stroke.xy, atol=1e-9)
    root = ET.fromstring(content)  # noqa: S314 - our own
    space = "{http://www.w3.org/2000/svg}"
    assert root.attrib["viewBox"] == "0 0 70 40"
    assert (root.attrib["width"], root.attrib["height"]) == ("70mm", "40mm")
    assert root.findtext(f"{space}title") == TEXT.replace("\n", " ")
    groups = [group for group in root.iter(f"{space}g") if group.get("class") == "letter"]
    named = [int(group.attrib["data-character"]) for group in groups]
    assert named == sorted(named)
    assert {TEXT[index] for index in named} == set(TEXT) - set(" \n")
    words = [group.attrib["data-word"] for group in root.iter(f"{space}g") if group.get("class") == "word"]
    assert words == [str(index) for index in range(len(TEXT.split()))]


def test_the_animated_svg_keeps_the_pens_time_and_needs_no_script() -> None:
    """Each stroke has the start and duration of the pen, by style alone, and respects reduced motion."""
    made = document()
    content = render(made, "svg-animated").decode()
    assert "<script" not in content
    assert "prefers-reduced-motion" in content
    timings = re.findall(r"animation-delay:([\d.]+)s;animation-duration:([\d.]+)s", content)
    for (delay, duration), stroke in zip(timings, made.ink.strokes(), strict=True):
        assert float(delay) == pytest.approx(stroke.time[0], abs=1e-3)
        assert float(duration) == pytest.approx(max(stroke.time[-1] - stroke.time[0], 0.01), abs=1e-3)


def test_inkml_is_grouped_and_timed() -> None:
    """Another reader of InkML finds the points, and every trace lies in letter, word and line with its truth."""
    made = document()
    content = render(made, "inkml")
    offsets = read_inkml(Path("our.inkml"), content)
    assert np.allclose(offsets[1:, :2], np.diff(made.ink.xy, axis=0), atol=1e-6)
    assert offsets[:, 2].tolist() == made.ink.pen.tolist()
    root = ET.fromstring(content)  # noqa: S314 - our own
    channels = [channel.attrib for channel in root.iter(f"{INKML}channel")]
    assert [(channel["name"], channel["units"]) for channel in channels] == [("X", "mm"), ("Y", "mm"), ("T", "s")]
    times = [point.split()[2] for trace in root.iter(f"{INKML}trace") for point in str(trace.text).split(",")]
    assert np.allclose(np.array(times, float), made.ink.time, atol=1e-9)
    lines = root.findall(f"{INKML}traceGroup")
    assert len(lines) == 2
    words = [word for line in lines for word in line.findall(f"{INKML}traceGroup")]
    letters = [letter for word in words for letter in word.findall(f"{INKML}traceGroup")]
    truths = [letter.findtext(f"{INKML}annotation[@type='truth']") for letter in letters]
    assert "".join(map(str, truths)) == "".join(TEXT.split())


def test_pdf_pages_hold_their_strokes() -> None:
    """PDFium sees pages of the paper's size in points, each stroke where it lies, and the same bytes every time."""
    made = document(text=TEXT + "\nand\nmore\nof\nit\nall")
    content = render(made, "pdf")
    assert content == render(made, "pdf")
    with pypdfium2.PdfDocument(content) as opened:
        assert len(opened) == len(made.pages) > 1
        assert all(np.allclose(page.get_size(), (70 * POINTS_PER_MM, 40 * POINTS_PER_MM), atol=0.01) for page in opened)
        assert opened.get_metadata_dict()["Title"].startswith("Dear Ada,")
    found = [points for page in pdf_paths(content) for points in page]
    for points, stroke in zip(found, made.ink.strokes(), strict=True):
        page = made.pages[made.page_of(stroke)]
        expected = np.column_stack([stroke.xy[:, 0], page.bottom - stroke.xy[:, 1]])
        assert np.allclose(points[: len(expected)], expected, atol=1e-3)


def test_png_shows_what_the_pdf_shows() -> None:
    """Pillow opens a picture of the page's size at its resolution, and PDFium's picture of the PDF has its ink."""
    made = document(look=Look(pen_mm=0.5, colour="#203080"))
    picture = Image.open(io.BytesIO(render(made, "png", Making(dpi=127))))
    assert picture.size == (350, 200)
    assert round(picture.info["dpi"][0]) == 127
    assert picture.info["Title"] == TEXT.replace("\n", " ")
    with pypdfium2.PdfDocument(render(made, "pdf")) as opened:
        page = opened[0].render(scale=127 / 72, rev_byteorder=True).to_pil()
    dark, other = (np.asarray(each.convert("L").resize((350, 200)), float) < 160 for each in (picture, page))
    assert 0.7 < dark.sum() / other.sum() < 1.4
    assert (dark & other).sum() > 0.7 * min(dark.sum(), other.sum())
    darkest = np.asarray(picture.convert("RGB")).reshape(-1, 3).min(axis=0)
    assert np.allclose(darkest, (0x20, 0x30, 0x80), atol=3)


def test_gcode_draws_only_with_the_pen_down_and_within_the_page() -> None:
    """A reader of G-code follows the pen: up when it travels, on the paper when it draws, millimetres, y upwards."""
    made = document(text=TEXT + "\nand\nmore\nof\nit\nall")
    content = render(made, "gcode", Making(feed=1234)).decode()
    assert "Ada" not in content
    words = [line.command for line in parse_gcode_lines(content)]
    assert ("G", 21) in words
    assert ("G", 90) in words
    assert words[-1] == ("M", 2)
    assert words.count(("M", 0)) == len(made.pages) - 1 > 0
    z, drawn, place = None, [], None
    for move in parse_gcode_lines(content):
        z = move.params.get("Z", z)
        if "X" in move.params:
            assert (move.command == ("G", 1)) == (z == 0), "draws down, travels up"
            place = (move.params["X"], move.params["Y"])
            assert 0 <= place[0] <= 70
            assert 0 <= place[1] <= 40
            if z == 0:
                assert move.params["F"] == 1234
                drawn.append(place)
    expected = [
        (x, made.pages[made.page_of(stroke)].bottom - y)
        for stroke in made.ink.strokes()
        for x, y in stroke.xy[1:].tolist()
    ]
    assert np.allclose(drawn, expected, atol=0.006)


def test_an_outline_is_broad_where_the_pen_is_slow() -> None:
    """Widths vary around the pen's width, and are larger at a stroke's slow end than where it is fastest."""
    stroke = max(document(style="formal").ink.strokes(), key=len)
    broad = widths(stroke, 0.4)
    steps = np.hypot(*np.diff(stroke.xy, axis=0).T)
    assert 0.2 < broad.min() < broad.max() < 0.6
    assert broad[0] > broad[1 + int(steps.argmax())]


def test_without_paper_the_sheet_fits_the_ink() -> None:
    """Every point lies inside the view box with its margin, even for a text without ink."""
    made = document(Layout(margin=3.0))
    sheet = made.sheet
    low, high = made.ink.xy.min(axis=0), made.ink.xy.max(axis=0)
    assert np.allclose([sheet.left, sheet.top], low - 3.0)
    assert np.allclose([sheet.right, sheet.bottom], high + 3.0)
    blank = document(Layout(margin=3.0), text=" \n ")
    assert len(blank.ink) == 0
    for picture in formats.PICTURES:
        assert render(blank, picture)


def test_sheets_too_large_for_a_format_are_refused() -> None:
    """A PNG is limited in pixels, a PDF in length; the error names the field, and just below the limit it works."""
    made = document()
    with pytest.raises(LayoutError) as caught:
        render(document(Layout(paper=(3000.0, 3000.0))), "png", Making(dpi=150))
    assert caught.value.field == "dpi"
    width, height = png.size_px(made.sheet, 1200)
    assert width * height < png.MAX_PIXELS
    with pytest.raises(LayoutError) as caught:
        render(document(Layout(), text="a\n" * 600 + "a"), "pdf")
    assert caught.value.field == "page"


@pytest.mark.parametrize("picture", formats.PICTURES)
def test_nothing_a_text_holds_breaks_a_format(picture: Picture) -> None:
    """Texts with markup, control characters, lone surrogates and marks give valid files."""
    text = 'a</title><script>"&\x00\x08\ud800]]>\u202e\u0301\n;M30 (x) 你🙂'
    content = render(document(Layout(), text=text), picture)
    if picture in {"svg", "svg-animated", "inkml"}:
        root = ET.fromstring(content)  # noqa: S314 - our own
        assert not [element for element in root.iter() if element.tag.endswith("script")]
    elif picture == "gcode":
        assert content.decode().isascii()
        assert b"M30" not in content


@pytest.mark.parametrize("style", ["plain", "quick", "formal"])
def test_golden_pictures(style: str, renew_golden: bool) -> None:
    """The styles look as in the golden pictures."""
    path = GOLDEN / f"dear-ada-in-{style}.svg"
    content = render(document(style=style, look=Look(outline=style == "formal")), "svg")
    if renew_golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert content == path.read_bytes()
