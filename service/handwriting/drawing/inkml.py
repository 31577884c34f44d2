"""Ink as InkML: one trace of x, y and time per stroke, in nested trace groups for lines, words and letters."""

from xml.etree import ElementTree as ET

from service.handwriting.drawing.document import NONE, TIME_DECIMALS, Document, Ink, number, printable

NAMESPACE = "http://www.w3.org/2003/InkML"
_CHANNELS = (("X", "mm"), ("Y", "mm"), ("T", "s"))


def render(document: Document) -> bytes:
    """Return a document as InkML, in UTF-8."""
    root = ET.Element("ink", {"xmlns": NAMESPACE})
    definitions = ET.SubElement(root, "definitions")
    context = ET.SubElement(definitions, "context", {"xml:id": "page"})
    source = ET.SubElement(context, "inkSource", {"xml:id": "pen"})
    layout = ET.SubElement(source, "traceFormat", {"xml:id": "points"})
    for name, units in _CHANNELS:
        ET.SubElement(layout, "channel", {"name": name, "type": "decimal", "units": units})
    _annotate(root, "truth", document.text or document.title)
    for _, words in document.lines():
        line = ET.SubElement(root, "traceGroup", {"contextRef": "#page"})
        _annotate(line, "type", "line")
        for word, letters in words:
            group = ET.SubElement(line, "traceGroup")
            _annotate(group, "type", "word")
            if word != NONE:
                _annotate(group, "index", str(word))
            for character, strokes in letters:
                _letter(group, character, strokes, document)
    content: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return content


def _letter(word: ET.Element, character: int, strokes: list[Ink], document: Document) -> None:
    """Add the trace group of one letter to a word."""
    group = ET.SubElement(word, "traceGroup")
    _annotate(group, "type", "letter")
    if character != NONE:
        _annotate(group, "index", str(character))
        _annotate(group, "truth", document.text[character])
    for stroke in strokes:
        points = zip(stroke.xy.tolist(), stroke.time.tolist(), strict=True)
        trace = ET.SubElement(group, "trace")
        trace.text = ", ".join(f"{number(x)} {number(y)} {number(time, TIME_DECIMALS)}" for (x, y), time in points)


def _annotate(element: ET.Element, kind: str, text: str) -> None:
    ET.SubElement(element, "annotation", {"type": kind}).text = printable(text)
