"""A real browser, and the page in it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.live_server import Server
from tests.service.web.browsing import CHROMIUM, SWITCHES, open_page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, of one module: while Playwright is on, a loop counts as running and asyncio's tests fail."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
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
    asked: list[str] = []
    complaints: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    # Chromium reports a refused request as an error; that is for the page to show, and tests ask for it.
    context.on(
        "console",
        lambda message: (
            complaints.append(message.text) if message.type == "error" and "400" not in message.text else None
        ),
    )
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield open_page(context, server.url)
    context.close()
    assert not complaints
    assert all(url.startswith((server.url, f"blob:{server.url}")) for url in asked)
