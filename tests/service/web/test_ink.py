"""The handwriting desk in a real browser: texts and free writing, by pen, and what one takes home."""

import json
from typing import Any

import pytest

from tests.service.live_server import Server
from tests.service.web.browsing import PATIENCE_MS, open_page, said, send, wait_for

# Each line of the sheet begins where the one before ended or with its first point twice: one point more than it has.
POINTS = """[...document.querySelectorAll("#ink-sheet polyline")]
  .reduce((sum, line) => sum + line.getAttribute("points").split(" ").length - 1, 0)"""
LINES = """[...document.querySelectorAll("#ink-sheet polyline")].map((line) => ({
  points: line.getAttribute("points").split(" ").slice(1).map((point) => point.split(",").map(Number)),
  names: line.getAttribute("class") ?? "",
  colour: getComputedStyle(line).stroke,
}))"""
FORMATS = ("svg", "svg-animated", "png", "pdf", "inkml", "gcode", "strokes")


def bodies(page: Any) -> list[dict[str, Any]]:
    """Return a list that gets the body of each request for handwriting that the page makes."""
    made: list[dict[str, Any]] = []
    page.on(
        "request",
        lambda request: made.append(json.loads(request.post_data)) if request.method == "POST" else None,
    )
    return made


def drawn(lines: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return the points of the sheet in their order."""
    return [(x, y) for line in lines for x, y in line["points"]]


def whole(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    """Return the reply at once to what the page asked for as a stream."""
    return server.draw(**{name: value for name, value in body.items() if name not in ("stream", "resume_at")})


@pytest.fixture
def ink(page: Any) -> Any:
    """The page with the handwriting desk."""
    page.get_by_role("link", name="Handwriting").click()
    return page


def test_a_text_is_written_while_one_looks_on(ink: Any, server: Server) -> None:
    """The pen goes where the server says, and the character under it is the one that is pointed at."""
    text = "Ada, does it work? ✎"
    ink.get_by_label("Text to write").fill(text)
    ink.get_by_label("Seed").last.fill("3")
    ink.get_by_text("Paper and pen").click()
    ink.get_by_label("Page").select_option("a6")
    made = bodies(ink)
    looks: list[tuple[int, int]] = []
    ink.locator("#ink-form .go").click()
    wait_for(ink, "document.querySelector('#ink-sheet polyline') !== null")
    look = f"[{POINTS}, [...document.querySelector('#ink-said .written').textContent].length]"
    while ink.locator("#ink-form .go").is_disabled():
        looks.append(tuple(ink.evaluate(look)))
    words = said(ink, "ink")
    reply = whole(server, made[0])
    assert made[0]["page"] == "a6"
    assert drawn(ink.evaluate(LINES)) == list(zip(reply["x"], reply["y"], strict=True))
    live = [(count, index) for count, index in looks if 0 < count < len(reply["x"])]
    assert len({count for count, _ in live}) > 3
    assert all(reply["character"][count - 1] == index for count, index in live)
    assert f"{len(reply['x']):,} points" in words
    assert "✎ as" in words
    assert ink.locator("#ink-said").inner_text() == text
    box = ink.locator("#ink-sheet").get_attribute("viewBox")
    assert box == "0 0 105 148"


def test_styles_are_shown_and_chosen(ink: Any, server: Server) -> None:
    """Every hand is there with its sample, by its name and what it is like; the chosen one writes."""
    styles = server.client.get("/v1/handwriting/styles").json()["data"]
    cards = ink.locator(".style")
    assert [card.strip() for card in cards.all_inner_texts()] == [style["id"] for style in styles]
    assert cards.locator("svg path").count() == sum(style["preview"].count("<path") for style in styles)
    made = bodies(ink)
    ink.get_by_label("Text to write").fill("ok")
    ink.get_by_role("radio", name="school").check()
    send(ink, "ink")
    assert made[0]["style"] == "school"


def test_free_writing_shows_its_segments_on_demand(ink: Any, server: Server) -> None:
    """Points come while the page looks on, and each is coloured by its segment of the layer one chooses."""
    made = bodies(ink)
    form = ink.locator("#ink-form")
    form.get_by_label("Writer").select_option("small-ink")
    assert not form.get_by_label("Text to write").is_visible()
    assert not form.get_by_role("radio").first.is_visible()
    form.get_by_label("Points").fill("200")
    form.get_by_role("button", name="Write").click()
    wait_for(ink, f"{POINTS} > 40")
    early = ink.evaluate(POINTS)
    assert "200 points" in said(ink, "ink")
    reply = whole(server, made[0])
    assert early < 200
    for way, layer in (("not coloured", None), ("of layer 1 coloured", 0), ("of layer 2 coloured", 1)):
        ink.get_by_label("Segments").select_option(way)
        lines = ink.evaluate(LINES)
        assert drawn(lines) == list(zip(reply["x"], reply["y"], strict=True))
        colours = [line["colour"] for line in lines for _ in line["points"]]
        if layer is None:
            assert len(set(colours)) == 1
            continue
        by_segment = {(segment % 3, colour) for segment, colour in zip(reply["segment"][layer], colours, strict=True)}
        assert len(by_segment) == len({colour for _, colour in by_segment}) == 3
    computed = [sum(letter != "C" for letter in letters) for letters in reply["op"]]
    shown = ink.locator("#ink-layers .layer span").all_inner_texts()
    assert [words.partition(" ")[0] for words in shown] == [str(count) for count in computed]


def test_every_format_is_saved_as_it_is_seen(ink: Any, server: Server) -> None:
    """Each button saves the file that the API makes of the very ink on the sheet."""
    ink.get_by_label("Text to write").fill("One line.")
    made = bodies(ink)
    send(ink, "ink")
    ink.get_by_label("Text to write").fill("Not this one.")
    for name in FORMATS:
        with ink.expect_download() as download:
            ink.locator(f"[data-format={name}]").click()
        body = {key: value for key, value in made[0].items() if key != "stream"} | {"format": name}
        assert download.value.path().read_bytes() == server.post("/v1/handwriting", **body).content
        assert f"Saved {download.value.suggested_filename}" in said(ink, "ink")


@pytest.mark.parametrize("writer", ["copybook", "small-ink"])
def test_stop_stops(ink: Any, server: Server, writer: str) -> None:
    """Stop ends the writing on the page and on the server; writing again works."""
    form = ink.locator("#ink-form")
    form.get_by_label("Writer").select_option(writer)
    if writer == "copybook":
        form.get_by_label("Text to write").fill("All work and no play. " * 400)
    else:
        form.get_by_label("Points").fill("4096")
    form.get_by_role("button", name="Write").click()
    wait_for(ink, f"{POINTS} > 40")
    form.get_by_role("button", name="Stop").click()
    assert said(ink, "ink") == "Stopped."
    assert ink.get_by_role("group", name="Save what is written").is_visible()
    server.gauges_when(lambda gauges: gauges["running"] == 0)
    if writer == "copybook":
        form.get_by_label("Text to write").fill("ok")
    else:
        form.get_by_label("Points").fill("5")
    assert "points in" in send(ink, "ink")


def test_a_text_that_is_too_long_to_save_is_said_so(ink: Any) -> None:
    """A long text is streamed; that it is too long for a file is said in the server's words."""
    ink.get_by_label("Text to write").fill("word " * 401)
    ink.get_by_label("Pace").select_option("at once")
    assert "points in" in send(ink, "ink")
    ink.get_by_role("button", name="PDF").click()
    ink.get_by_text("at most 2000 characters are written here").wait_for()


def test_a_finger_writes_what_the_network_reads_first(browser: Any, server: Server) -> None:
    """On a phone the pad takes a finger's strokes, they are sent as the prime, and the ink follows from them."""
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, reduced_motion="reduce")
    page = open_page(context, server.url, "ink")
    page.locator("#ink-form").get_by_label("Writer").select_option("small-ink")
    page.get_by_text("Begin in a hand of your own").click()
    pad = page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    finger = context.new_cdp_session(page)

    def touch(kind: str, *at: float) -> None:
        points = [{"x": box["x"] + at[0], "y": box["y"] + at[1]}] if at else []
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    for stroke in range(3):
        touch("touchStart", 30 + 50 * stroke, 40)
        for step in range(1, 12):
            touch("touchMove", 30 + 50 * stroke + 3 * step, 40 + (20 if step % 2 else 0))
        touch("touchEnd")
    page.get_by_role("button", name="Undo a stroke").click()
    page.get_by_text("2 strokes will be read first.").wait_for()
    made = bodies(page)
    page.locator("#ink-form").get_by_label("Points").fill("60")
    send(page, "ink")
    prime = made[0]["prime"]
    assert sum(prime["pen"]) == 2
    assert min(prime["y"]) == pytest.approx(40, abs=1)
    assert max(prime["x"]) == pytest.approx(80 + 33, abs=1)
    reply = whole(server, made[0])
    assert drawn(page.evaluate(LINES)) == list(zip(reply["x"], reply["y"], strict=True))
    unprimed = whole(server, {name: value for name, value in made[0].items() if name != "prime"})
    assert unprimed["x"] != reply["x"]
    page.get_by_role("button", name="Clear").click()
    send(page, "ink")
    assert "prime" not in made[-1]
    context.close()


def test_a_file_of_ink_is_read_first(ink: Any, server: Server) -> None:
    """Whoever cannot draw opens InkML, or strokes as the API told them; nonsense is refused in words."""
    form = ink.locator("#ink-form")
    form.get_by_label("Writer").select_option("small-ink")
    form.get_by_label("Points").fill("20")
    ink.get_by_text("Begin in a hand of your own").click()
    made = bodies(ink)
    for name in ("inkml", "strokes"):
        own = server.post("/v1/handwriting", text="a few words", format=name, seed=1).content
        ink.locator("#pad-file").set_input_files({"name": f"own.{name}", "mimeType": "text/plain", "buffer": own})
        ink.get_by_text(f"own.{name} will be read first.").wait_for()
        assert "20 points" in send(ink, "ink")
    assert "<ink" in made[0]["prime"]
    assert set(made[1]["prime"]) == {"x", "y", "pen"}
    ink.locator("#pad-file").set_input_files({"name": "own.txt", "mimeType": "text/plain", "buffer": b"nonsense"})
    ink.get_by_text("own.txt will be read first.").wait_for()
    assert "Begin in a hand of your own: it is no well-formed InkML." in send(ink, "ink")


def test_without_motion_ink_is_there_at_once(browser: Any, server: Server) -> None:
    """Who wants no motion gets what came, not a pen at a hand's pace."""
    context = browser.new_context(reduced_motion="reduce")
    page = open_page(context, server.url, "ink")
    page.set_default_timeout(PATIENCE_MS)
    page.get_by_label("Text to write").fill("Slowly, " * 60)
    page.get_by_label("Pace").select_option("unhurried")
    made = bodies(page)
    began = page.evaluate("performance.now()")
    send(page, "ink")
    took_s = (page.evaluate("performance.now()") - began) / 1000
    assert took_s < whole(server, made[0])["t"][-1]
    context.close()
