"""The page for everyone: by keyboard alone, on a phone, in the dark, to a screen reader; and what it says of itself."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.service.live_server import ROOT, Server, running
from tests.service.web.browsing import DESKS, open_page, said, send

NAME_OF_FOCUS = """() => {
  const element = document.activeElement;
  const label = element.labels?.[0] ?? element;
  return (element.getAttribute("aria-label") ?? label.textContent).trim();
}"""
REACHED = {
    "text": ("Begin with", "Model", "Temperature", "Characters", "Seed", "Write", "What was written", "Boundaries"),
    "reading": ("Text to read", "Model", "Read", "What was read", "Boundaries"),
    "ink": ("Text to write", "plain", "Writer", "Neatness", "Pace", "Write", "Paper and pen", "The sheet"),
}
RATIOS = """() => {
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
  return [["--ink", "--paper", 4.5], ["--ink", "--z1", 4.5], ["--ink", "--z2", 4.5], ["--soft", "--paper", 4.5],
    ["--soft", "--ground", 4.5], ["--go-text", "--go", 4.5], ["--bad", "--paper", 4.5], ["--go", "--paper", 4.5],
    ["--z1-dot", "--paper", 3], ["--z2-dot", "--paper", 3], ["--z3-dot", "--paper", 3],
  ].map(([a, b, least]) => [a, b, least, ratio(a, b)]);
}"""


@pytest.mark.parametrize("desk", DESKS)
def test_works_by_keyboard_alone(page: Any, desk: str) -> None:
    """A desk is opened with Enter; every control is reached with Tab and has a name; Ctrl+Enter writes."""
    page.get_by_role("link", name=DESKS[desk], exact=True).focus()
    page.keyboard.press("Enter")
    page.locator(f"#{desk}").wait_for()
    names: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        names.append(page.evaluate(NAME_OF_FOCUS))
        if names[-1].startswith("openapi"):
            break
    assert all(names)
    missed = [each for each in REACHED[desk] if not any(name.startswith(each) for name in names)]
    assert not missed, names
    page.locator(f"#{desk}-form textarea").fill("ok")
    page.keyboard.press("Control+Enter")
    assert said(page, desk)
    page.locator(f"#{desk}-form .go").focus()
    page.keyboard.press("Enter")
    assert "Copied" not in said(page, desk)


def test_arrows_choose_a_style(page: Any) -> None:
    """The styles are one stop of Tab, and arrows go through them."""
    page.get_by_role("link", name="Handwriting").click()
    page.get_by_role("radio", name="plain").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="draft").is_checked()


@pytest.mark.parametrize("width", [360, 1100])
def test_fits_the_screen(browser: Any, server: Server, width: int) -> None:
    """On no desk, written on or with everything open, does anything stick out to the side."""
    context = browser.new_context(viewport={"width": width, "height": 740}, reduced_motion="reduce")
    page = open_page(context, server.url)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    for desk, name in (*DESKS.items(), ("served", "Served")):
        page.get_by_role("link", name=name, exact=True).click()
        assert page.evaluate(fits), desk
        if desk in DESKS:
            page.locator(f"#{desk}-form textarea").fill("Donaudampfschifffahrtsgesellschaft" * 6)
            send(page, desk)
        for summary in page.locator(f"#{desk} summary:visible").all():
            summary.click()
        assert page.evaluate(fits), desk
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_anyone(browser: Any, server: Server, scheme: str) -> None:
    """axe-core finds no violation on any desk, fresh or written on; and colours stand out from their ground."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    page = open_page(context, server.url)
    ratios = page.evaluate(RATIOS)
    assert all(ratio >= least for *_, least, ratio in ratios), ratios

    def check() -> None:
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()

    for desk, name in DESKS.items():
        page.get_by_role("link", name=name, exact=True).click()
        check()
        send(page, desk)
        if desk == "ink":
            page.locator("#ink-form").get_by_label("Writer").select_option("small-ink")
            for summary in page.locator("#ink-form summary").all():
                summary.click()
            send(page, desk)
        check()
    page.get_by_role("link", name="Served").click()
    page.locator(".card summary").first.click()
    check()
    context.close()


def test_what_is_served_stands_on_the_page(page: Any) -> None:
    """Each model is named with its licence, its permitted use and its figures; the chosen one also at its desk."""
    page.get_by_role("link", name="Served").click()
    for name in ("small-text", "small-ink"):
        card = page.locator(".card", has=page.get_by_role("heading", name=name))
        card.locator("summary").click()
        words = card.inner_text()
        assert "CC0-1.0" in words
        assert "any" in words
        assert "0.3, 0.1" in words
    assert "SIL Open Font License" in page.locator(".card", has_text="copybook").inner_text()
    page.get_by_role("link", name="Handwriting").click()
    assert (
        "copybook, made from single-line fonts. Use: any, commercial use included." in page.locator("#ink").inner_text()
    )


def test_a_server_with_keys_is_given_one(browser: Any, bundles: Path) -> None:
    """A page that is refused asks for a key, says when it is wrong, and works with the right one."""
    key = "a key of forty characters or thereabouts"
    with running(bundles, api_keys=f"visitor:{hashlib.sha256(key.encode()).hexdigest()}") as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        field = page.get_by_label("This server asks for an API key")
        field.wait_for()
        assert page.locator("#text-form .go").is_disabled()
        field.fill("another")
        page.get_by_role("button", name="Use it").click()
        page.locator("#text-status", has_text="The API key is not known here.").wait_for()
        field.fill(key)
        page.get_by_role("button", name="Use it").click()
        page.locator(".card").first.wait_for(state="attached")
        assert not field.is_visible()
        assert "400 characters" in send(page, "text")
        context.close()


def test_files_are_cached_by_their_content(server: Server) -> None:
    """Every file is served; one already had is not sent again, and the browser is told to load from here only."""
    names = [file.name for file in (ROOT / "service" / "web" / "static").iterdir()]
    for path in ["/" if name == "index.html" else f"/{name}" for name in names]:
        first = server.client.get(path)
        assert first.status_code == 200
        policy = first.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; ")
        assert "unsafe" not in policy
        assert first.headers["x-content-type-options"] == "nosniff"
        again = server.client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_nothing_on_the_page_points_elsewhere() -> None:
    """The files name no other host; the SVG namespace is a name and no address."""
    for file in (ROOT / "service" / "web" / "static").iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, file.name
