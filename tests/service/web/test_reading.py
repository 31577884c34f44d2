"""The reading desk in a real browser: a text of one's own, cut as /v1/segment cuts it."""

from typing import Any

import pytest

from tests.service.live_server import Server
from tests.service.web.browsing import open_page, said, send

# The page reads it in two requests, cut after 4,000 characters.
LONG = ("The old house stood alone, and nobody knew why. \n🙂" * 100)[:4300]


def marks(page: Any) -> list[tuple[str, int]]:
    """Return each span of the reading as (text, level)."""
    found = page.evaluate(
        "[...document.querySelectorAll('#reading-paper span')].map(s => [s.textContent, s.className])"
    )
    return [(text, int(level[1])) for text, level in found]


def segments(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a tree's nodes."""
    return [node, *(each for child in node.get("segments") or [] for each in segments(child))]


@pytest.fixture
def reading(page: Any) -> Any:
    """The page with the reading desk."""
    page.get_by_role("link", name="Reading").click()
    return page


@pytest.mark.parametrize("text", ["It was, and it was not. ", "今天天气很好。我们去公园吧!🙂 ok", LONG])
def test_a_text_is_cut_as_the_api_cuts_it(reading: Any, server: Server, text: str) -> None:
    """Each character of a text in any script is there once, marked where the tree's segments end, however long."""
    reading.get_by_label("Text to read").fill(text)
    words = send(reading, "reading")
    reply = server.post("/v1/segment", text=text).json()
    nodes = segments(reply["tree"])
    levels = [0] * len(text)
    for node in nodes:
        if node["complete"]:
            levels[node["end"] - 1] = max(levels[node["end"] - 1], node["layer"])
    shown = marks(reading)
    assert "".join(part for part, _ in shown) == text
    assert [level for part, level in shown for _ in part] == levels
    assert f"{len(text):,} characters read" in words
    assert f"{100 * reply['usage']['work_spared']:.0f} %" in words
    rows = reading.locator("#reading-table tbody tr").all_inner_texts()
    counts = [sum(node["layer"] == layer for node in nodes) for layer in (1, 2, 3)]
    assert [row.split("\t")[1] for row in rows] == [f"{count:,}" for count in counts]


def test_a_text_that_is_refused_is_said_so_in_words(browser: Any, small_limits: Server) -> None:
    """The limit is named, the text stays, and it may be tried again."""
    context = browser.new_context()
    page = open_page(context, small_limits.url, "reading")
    field = page.get_by_label("Text to read")
    field.fill("x" * 101)
    assert send(page, "reading") == "Text to read: at most 100 characters are served here."
    assert "101 characters" in page.locator("#reading-count").inner_text()
    assert field.input_value() == "x" * 101
    field.fill("x" * 100)
    assert "100 characters read" in send(page, "reading")
    context.close()


def test_stop_stops(reading: Any, server: Server) -> None:
    """Stop gives the row of a text that is being read back."""
    reading.get_by_label("Text to read").fill(LONG)
    with reading.expect_request("**/v1/completions"):
        reading.locator("#reading-form .go").click()
    reading.locator("#reading-form .stop").click()
    assert said(reading, "reading") == "Stopped."
    server.gauges_when(lambda gauges: gauges["running"] == gauges["waiting"] == 0)
