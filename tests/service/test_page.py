"""The page in a real browser: characters and ink arrive, boundaries are coloured, and nobody else is asked."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.server import ROOT, Server

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SWITCHES += ["--disable-component-update", "--disable-sync"]
PATIENCE_MS = 120_000

# Counts pixels that were drawn, and those of the two colours of boundaries.
COUNT_INK = """() => {
  const canvas = document.querySelector("#ink-canvas");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const style = getComputedStyle(canvas);
  const rgb = (name) => {
    const digits = style.getPropertyValue(name).trim().slice(1);
    return [0, 2, 4].map((at) => parseInt(digits.slice(at, at + 2), 16));
  };
  const counts = { ink: 0, z1: 0, z2: 0 };
  const [z1, z2] = [rgb("--z1-dot"), rgb("--z2-dot")];
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] === 0) continue;
    counts.ink += 1;
    const is = (colour) => colour.every((value, channel) => value === data[at + channel]);
    if (is(z1)) counts.z1 += 1;
    if (is(z2)) counts.z2 += 1;
  }
  return counts;
}"""


NAME_OF_FOCUS = """() => {
  const element = document.activeElement;
  const label = element.labels?.[0] ?? element;
  return element.getAttribute("aria-label") ?? label.textContent.trim();
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the path (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page, loaded; at the end it must have asked nobody else and complained of nothing."""
    context = browser.new_context(viewport={"width": 1100, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    asked: list[str] = []
    complaints: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    # Chromium reports a refused request as an error; that is for the page to show, and one test asks for it.
    opened.on(
        "console",
        lambda message: (
            complaints.append(message.text) if message.type == "error" and "400" not in message.text else None
        ),
    )
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(server.url)
    opened.locator(".card").first.wait_for()
    yield opened
    context.close()
    assert not complaints
    assert all(url.startswith((server.url, f"blob:{server.url}")) for url in asked)


def wait_for(page: Any, expression: str) -> None:
    """Look at the page frame by frame until something holds on it; the page itself may not evaluate strings."""
    for _ in range(60_000):
        if page.evaluate(expression):
            return
        page.evaluate("new Promise(requestAnimationFrame)")
    raise AssertionError(f"never came true: {expression}")


def test_characters_arrive_coloured(page: Any, server: Server) -> None:
    """The server's characters appear after the prompt, and those at boundaries are coloured as the API says."""
    page.get_by_label("Begin with").fill("It was ")
    form = page.locator("#text-form")
    form.get_by_label("Characters").fill("300")
    form.get_by_label("Seed").fill("12")
    form.get_by_role("button", name="Write").click()
    wait_for(page, "document.querySelector('#text-status').textContent.includes('seed 12')")
    expected = server.complete(prompt="It was ", max_tokens=300, seed=12, temperature=0.7, boundaries=True)["choices"][
        0
    ]
    paper = page.locator("#text-paper")
    assert paper.evaluate("element => element.textContent") == "It was " + expected["text"]
    for level in (1, 2):
        found = page.evaluate(
            f"[...document.querySelectorAll('#text-paper .b{level}')].map(span => span.textContent).join('')"
        )
        fires = zip(expected["text"], *expected["z"], strict=True)
        assert found == "".join(character for character, *z in fires if sum(z) == level)
        assert found
    drawn = "[0, 1, 2].map(n => getComputedStyle(document.querySelector(`#text-paper .b${n}`)).background)"
    ways = {}
    for way in ("as bands", "as colours", "hidden"):
        page.get_by_label("Boundaries", exact=True).select_option(way)
        ways[way] = page.evaluate(drawn)
    assert len(set(ways["as bands"])) == len(set(ways["as colours"])) == 3
    assert len(set(ways["hidden"])) == 1
    shares = page.locator("#text-layers .layer span").all_inner_texts()
    assert shares[0] == "100 %"
    assert len(shares) == 3


def test_ink_appears_point_by_point(page: Any) -> None:
    """The pen moves while the page looks on, boundaries are coloured on demand, and the picture can be saved."""
    assert page.evaluate(COUNT_INK)["ink"] == 0
    form = page.locator("#ink-form")
    form.get_by_label("Points").fill("500")
    form.get_by_label("Seed").fill("7")
    form.get_by_role("button", name="Write").click()
    wait_for(page, f"({COUNT_INK})().ink > 40")
    early = page.evaluate(COUNT_INK)["ink"]
    wait_for(page, f"({COUNT_INK})().ink > {early}")
    wait_for(page, "document.querySelector('#ink-status').textContent.includes('seed 7')")
    plain = page.evaluate(COUNT_INK)
    assert plain["ink"] > early
    assert plain["z1"] == plain["z2"] == 0
    page.locator("#ink-boundaries").check()
    coloured = page.evaluate(COUNT_INK)
    assert coloured["z1"] > 20
    assert coloured["z2"] > 20
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as SVG").click()
    assert "<path" in download.value.path().read_text()
    assert "500 points" in page.locator("#ink-canvas").get_attribute("aria-label")


def test_a_request_can_be_taken_along(page: Any, server: Server, tmp_path: Path) -> None:
    """What the page copies does, in a terminal or with OpenAI's client, what the page's own button does."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    prompt = 'It\'s "so" $HOME\n'
    page.get_by_label("Begin with").fill(prompt)
    form = page.locator("#text-form")
    form.get_by_label("Characters").fill("40")
    form.get_by_label("Seed").fill("5")
    expected = server.complete(prompt=prompt, max_tokens=40, seed=5, temperature=0.7)["choices"][0]["text"]
    words = {}
    for desk in ("text", "ink"):
        for way in ("curl", "Python"):
            page.locator(f"#{desk}").get_by_role("button", name=f"Copy as {way}").click()
            page.locator(f"#{desk}-status", has_text="Copied").wait_for()
            words[desk, way] = page.evaluate("navigator.clipboard.readText()")
            page.locator(f"#{desk}-status").evaluate("element => { element.textContent = ''; }")

    def run(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    streamed = run("sh", "-c", words["text", "curl"])
    events = [line.removeprefix("data: ") for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == expected
    assert run(sys.executable, "-c", words["text", "Python"]) == expected
    for way, program in (("curl", "sh"), ("Python", sys.executable)):
        run(program, "-c", words["ink", way])
        picture = tmp_path / "copyist.svg"
        assert "<path" in picture.read_text()
        picture.unlink()


def test_stop_stops(page: Any, server: Server) -> None:
    """Stop ends the writing on the page and frees the row on the server; writing again works."""
    form = page.locator("#ink-form")
    form.get_by_label("Points").fill("4096")
    form.get_by_role("button", name="Write").click()
    wait_for(page, f"({COUNT_INK})().ink > 40")
    form.get_by_role("button", name="Stop").click()
    wait_for(page, "document.querySelector('#ink-status').textContent === 'Stopped.'")
    assert form.get_by_role("button", name="Write").is_enabled()
    server.gauges_when(lambda gauges: gauges["running"] == 0)
    form.get_by_label("Points").fill("5")
    form.get_by_role("button", name="Write").click()
    wait_for(page, "document.querySelector('#ink-status').textContent.includes('5 points')")


def test_works_by_keyboard_alone(page: Any) -> None:
    """Ctrl+Enter writes; every control is reached with Tab, has a name, and Enter on the button writes again."""
    page.get_by_label("Begin with").focus()
    page.keyboard.press("Control+Enter")
    wait_for(page, "document.querySelector('#text-status').textContent.includes('seed')")
    page.get_by_role("link", name="Skip to the desk").focus()
    names = []
    for _ in range(40):
        page.keyboard.press("Tab")
        names.append(page.evaluate(NAME_OF_FOCUS))
        if names[-1].startswith("openapi"):
            break
    assert all(names)
    for expected in ("Begin with", "Temperature", "Write", "What was written", "Neatness", "Colour the boundaries"):
        assert any(name.startswith(expected) for name in names), (expected, names)
    page.locator("#text-form .go").focus()
    page.keyboard.press("Enter")
    page.locator("#text-form .stop:not([disabled])").wait_for()


def test_a_refusal_is_shown_in_words(page: Any) -> None:
    """What the server refuses stands on the page in its words."""
    page.evaluate("document.querySelector('#text-form').noValidate = true")
    page.locator("#text-form").get_by_label("Characters").fill("5000")
    with page.expect_response("**/v1/completions") as response:
        page.locator("#text-form .go").click()
    assert response.value.status == 400
    page.get_by_text("max_tokens: at most 4096 are served here.").wait_for()


def test_what_is_served_stands_on_the_page(page: Any) -> None:
    """Each bundle is named with its licence, what it may be used for, and its figures."""
    for name in ("small-text", "small-ink"):
        card = page.locator(".card", has=page.get_by_role("heading", name=name))
        words = card.inner_text()
        assert "CC0-1.0" in words
        assert "any" in words
        assert "0.3, 0.1" in words


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_fits_the_screen_in_both_schemes(browser: Any, server: Server, scheme: str, width: int) -> None:
    """Nothing sticks out to the side, and text stands out from its ground by at least 4.5 to 1, coloured or not."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(server.url)
    page.locator(".card").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ratios = page.evaluate("""() => {
      const style = getComputedStyle(document.documentElement);
      const light = (name) => {
        const digits = style.getPropertyValue(name).trim().slice(1);
        const [r, g, b] = [0, 2, 4].map((at) => parseInt(digits.slice(at, at + 2), 16) / 255)
          .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ratio = (one, other) => {
        const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
        return (high + 0.05) / (low + 0.05);
      };
      return [["--ink", "--paper"], ["--ink", "--z1"], ["--ink", "--z2"], ["--soft", "--paper"], ["--soft", "--ground"],
        ["--go-text", "--go"], ["--bad", "--paper"], ["--go", "--paper"]].map(([a, b]) => [a, b, ratio(a, b)]);
    }""")
    context.close()
    assert all(ratio >= 4.5 for *_, ratio in ratios), ratios


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_anyone(browser: Any, server: Server, scheme: str) -> None:
    """axe-core finds no violation, neither on the fresh page nor on one that is written on."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(server.url)
    page.locator(".card").first.wait_for()
    fresh = axe.Axe().run(page)
    for desk in ("text", "ink"):
        page.locator(f"#{desk}-form .go").click()
        wait_for(page, f"document.querySelector('#{desk}-status').textContent.includes('seed')")
    written = axe.Axe().run(page)
    context.close()
    for found in (fresh, written):
        assert found.violations_count == 0, found.generate_report()


def test_files_are_cached_by_their_content(server: Server) -> None:
    """A page already had is not sent again, and the browser is told to load from here only."""
    for path in ("/", "/app.js", "/copy.js", "/ink.js", "/style.css", "/icon.svg"):
        first = server.client.get(path)
        assert first.status_code == 200
        assert "default-src 'none'" in first.headers["content-security-policy"]
        assert first.headers["x-content-type-options"] == "nosniff"
        again = server.client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_nothing_on_the_page_points_elsewhere() -> None:
    """The files name no other host; the SVG namespace is a name and no address."""
    for file in (ROOT / "service" / "web").iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("\n//", "").removeprefix("//") or "://" not in text, file.name
