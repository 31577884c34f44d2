"""Takes the README's pictures of the page: `python -m tests.service.web.pictures` from the repository's root.

They show the shipped bundles' own output, with fixed seeds. With a folder, `... pictures FOLDER`, every desk is taken
there, on a telephone and on a screen, light and dark, to be looked at before a change of the page is kept.
"""

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from tests.service.live_server import ROOT, running
from tests.service.web.browsing import CHROMIUM, DESKS, SWITCHES, open_page, send

COLOURS = 256
SCREENS = {"phone": (360, 740), "screen": (1100, 900)}


def take(page: Any, file: Path) -> None:
    """Save what the page shows from top to bottom as a small PNG."""
    shot = Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB")
    shot.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, optimize=True)


def text(page: Any) -> None:
    """Let `prose` write."""
    page.locator("#text-form [name=seed]").fill("4")
    send(page, "text")


def ink(page: Any, writer: str = "copybook") -> None:
    """Let someone write by hand."""
    form = page.locator("#ink-form")
    form.locator("[name=model]").select_option(writer)
    form.locator("[name=seed]").fill("4")
    if writer == "copybook":
        form.get_by_role("radio", name="quick").check()
        page.get_by_label("Text to write").fill("Dear reader,\nCOPY is the operation that costs nothing.")
    else:
        page.locator("#ink-segments").select_option("by-1")
    send(page, "ink")


def for_readme(browser: Browser, url: str, folder: Path) -> None:
    """Take the two pictures that are shown."""
    for desk, write in (("text", text), ("ink", ink)):
        context = browser.new_context(viewport={"width": 1000, "height": 300}, reduced_motion="reduce")
        page = open_page(context, url, desk)
        write(page)
        take(page, folder / f"page-{desk}.png")
        context.close()


def of_all(browser: Browser, url: str, folder: Path) -> None:
    """Take every desk in every way."""
    for screen, (width, height) in SCREENS.items():
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
            )
            page = open_page(context, url)
            for desk, name in (*DESKS.items(), ("served", "Served")):
                page.get_by_role("link", name=name, exact=True).click()
                if desk in DESKS:
                    ink(page) if desk == "ink" else text(page) if desk == "text" else send(page, desk)
                take(page, folder / f"{desk}-{screen}-{scheme}.png")
            page.get_by_role("link", name="Handwriting").click()
            ink(page, "ink-free")
            take(page, folder / f"free-{screen}-{scheme}.png")
            context.close()


def main() -> None:
    """Start the service as it ships and take the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with running(ROOT / "service" / "bundles") as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            of_all(browser, server.url, folder)
        else:
            for_readme(browser, server.url, ROOT / "docs" / "pictures")
        browser.close()


if __name__ == "__main__":
    main()
