"""The handwriting desk before a server whose network writes given texts: what the page learns of it from the server."""

from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.service.api.responses.test_written_text import TEXT, folder, scribe
from tests.service.live_server import Server
from tests.service.web.browsing import open_page, said, send
from tests.service.web.cutting import CuttingProxy
from tests.service.web.test_ink import LINES, bodies, drawn, whole

__all__ = ["folder", "scribe"]  # the server, as fixtures


@pytest.fixture
def page(browser: Any, scribe: Server) -> Any:
    """The handwriting desk with the network chosen, through a proxy that can cut."""
    port = urlsplit(scribe.url).port
    assert port
    context = browser.new_context(reduced_motion="reduce")
    with CuttingProxy(port) as proxy:
        page = open_page(context, proxy.url, "ink")
        page.proxy = proxy
        form = page.locator("#ink-form")
        form.get_by_label("Writer").select_option("scribe")
        form.get_by_label("Text to write").fill(TEXT)
        yield page
        context.close()


def test_its_hands_and_fields_are_offered(page: Any) -> None:
    """It has hands of its own, tries of a line and ink to begin from, and no number of points."""
    assert [name.strip() for name in page.locator(".style").all_inner_texts()] == [f"tree-{n}" for n in range(1, 9)]
    for summary in page.locator("#ink-form summary").all():
        summary.click()
    for label in ("Tries a line", "Wobble", "What it says"):
        assert page.get_by_label(label).is_visible()
    assert page.get_by_label("Segments").is_visible()
    assert not page.locator("#ink-form").get_by_label("Points").is_visible()
    assert (
        "scribe, made from none: the weights are random. Use: non-commercial research."
        in page.locator("#ink .terms").inner_text()
    )


def test_its_ink_has_segments_and_survives_a_cut(page: Any, scribe: Server) -> None:
    """The sheet, cut connections or not, and every file show the points of one reply, coloured by their segments."""
    made = bodies(page)
    page.get_by_role("radio", name="tree-3").check()
    page.proxy.budgets = [3000, 4000]
    assert "points in" in send(page, "ink")
    assert page.proxy.num_cuts == 2
    assert made[0]["candidates"] == 4
    assert made[0]["style"] == "tree-3"
    reply = whole(scribe, made[0])
    lines = page.evaluate(LINES)
    assert drawn(lines) == list(zip(reply["x"], reply["y"], strict=True))
    named = [line["names"] for line in lines for _ in line["points"]]
    assert named == [f"s1-{one % 3} s2-{two % 3}" for one, two in zip(*reply["segment"], strict=True)]
    with page.expect_download() as download:
        page.locator("[data-format=svg]").click()
    body = {name: value for name, value in made[0].items() if name != "stream"} | {"format": "svg"}
    assert download.value.path().read_bytes() == scribe.post("/v1/handwriting", **body).content


def test_it_reads_ink_with_its_words_first(page: Any, scribe: Server) -> None:
    """Ink of one's own is sent with what it says; without that the page says what is missing."""
    own = scribe.post("/v1/handwriting", text="the end", format="inkml", seed=1).content
    page.get_by_text("Begin in a hand of your own").click()
    page.locator("#pad-file").set_input_files({"name": "own.inkml", "mimeType": "text/plain", "buffer": own})
    page.get_by_text("own.inkml will be read first.").wait_for()
    made = bodies(page)
    assert send(page, "ink").startswith("What it says: ")
    page.get_by_label("What it says").fill("the end")
    assert "points in" in send(page, "ink")
    assert made[-1]["prime_text"] == "the end"
    assert said(page, "ink")
    assert whole(scribe, made[-1])["x"] == [x for x, _ in drawn(page.evaluate(LINES))]
