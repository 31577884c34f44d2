"""One sheet with a sample of every hand, each below its name."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_WIDE, _LABEL, _GAP = 150.0, 4.0, 3.0  # mm: the widest a sample may be, the height of a name, and between two hands
_SIZE = re.compile(r'\bwidth="([\d.]+)mm" height="([\d.]+)mm"')


def sheet(cards: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG with a sample of each hand.

    Args:
        cards: the entries of `GET /v1/handwriting/styles`, each with an SVG as its preview.
    """
    parts, y = [], _GAP
    for card in cards:
        name = escape(f"{card['id']} ({card['model']}): {card['description']}")
        look = 'font-family="sans-serif" font-size="2.6" fill="#777"'
        parts.append(f'<text x="{_GAP}" y="{y + 0.7 * _LABEL:.2f}" {look}>{name}</text>')
        y += _LABEL
        preview = card["preview"][card["preview"].index("<svg") :]
        found = _SIZE.search(preview)
        width, height = (float(size) for size in found.groups()) if found else (_WIDE, 10.0)
        scale = min(1.0, _WIDE / width)
        place = f'x="{_GAP}" y="{y:.2f}" width="{width * scale:.2f}" height="{height * scale:.2f}"'
        parts.append(_SIZE.sub(place, preview, count=1))
        y += height * scale + _GAP
    wide = _WIDE + 2 * _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}mm" height="{y:.2f}mm" viewBox="0 0 {wide} {y:.2f}">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
