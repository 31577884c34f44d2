"""Ways to look at the page that its strict policy allows."""

import shutil
from typing import Any

CHROMIUM = shutil.which("chromium")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SWITCHES += ["--disable-component-update", "--disable-sync"]
PATIENCE_MS = 120_000
DESKS = {"text": "Text", "reading": "Reading", "ink": "Handwriting"}


def wait_for(page: Any, expression: str) -> None:
    """Look at the page frame by frame until something holds on it; the page itself may not evaluate strings."""
    for _ in range(60_000):
        if page.evaluate(expression):
            return
        page.evaluate("new Promise(requestAnimationFrame)")
    raise AssertionError(f"never came true: {expression}")


def open_page(context: Any, url: str, desk: str = "text") -> Any:
    """Return the page with one of its desks, once it knows what is served."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{url}/#{desk}")
    page.locator(".card").first.wait_for(state="attached")
    return page


def send(page: Any, desk: str) -> str:
    """Press the button of a desk, wait for the end of what it does, and return what the desk says then."""
    page.locator(f"#{desk}-form .go").click()
    return said(page, desk)


def said(page: Any, desk: str) -> str:
    """Wait for the end of what a desk does and return what it says then."""
    page.locator(f"#{desk}-form .go:not([disabled])").wait_for()
    words: str = page.locator(f"#{desk}-status").inner_text()
    return words
