"""The page over connections that are really cut: what it shows in the end is what an uncut stream would have shown."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.service.live_server import PATIENCE_S, Server, running
from tests.service.web.browsing import open_page, said, wait_for
from tests.service.web.cutting import CuttingProxy
from tests.service.web.test_ink import LINES, bodies, drawn, whole

COMPANY = 400  # streams that slow another one down
CUTS = [1500, 2600, 700, 90, 1900, 3100]  # bytes; the 90 end within the head of a reply


@pytest.fixture
def proxy(server: Server) -> Iterator[CuttingProxy]:
    """A proxy before the server that cuts nothing yet."""
    with CuttingProxy(port_of(server)) as started:
        yield started


def port_of(server: Server) -> int:
    """Return where a server listens."""
    port = urlsplit(server.url).port
    assert port
    return port


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    """A browser's window whose console may complain of lost connections."""
    opened = browser.new_context(viewport={"width": 1100, "height": 1000}, reduced_motion="reduce")
    yield opened
    opened.close()


def write(page: Any, desk: str = "text") -> None:
    """Press Write."""
    page.locator(f"#{desk}-form .go").click()


def fill_text(page: Any, server: Server, count: int = 400) -> str:
    """Fill the text desk and return what the server writes for it in one piece."""
    page.get_by_label("Begin with").fill("It ")
    page.locator("#text-form").get_by_label("Characters").fill(str(count))
    page.locator("#text-form").get_by_label("Seed").fill("8")
    reply = server.complete(prompt="It ", max_tokens=count, seed=8, temperature=0.7)
    return "It " + str(reply["choices"][0]["text"])


def keep_busy(server: Server) -> None:
    """Ask for many long texts at once, beside which one more is slow; how that ends is the server's affair."""
    many = {"model": "small-text", "prompt": "It ", "n": COMPANY, "max_tokens": 4096, "seed": 1}
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{server.url}/v1/completions", json=many, timeout=PATIENCE_S)


def paper(page: Any) -> str:
    """Return what stands on the paper of the text desk."""
    words: str = page.locator("#text-paper").evaluate("element => element.textContent")
    return words


def cut_after_some(page: Any, proxy: CuttingProxy, absences: int) -> None:
    """Press Write, cut the connection when some text stands on the paper, and let so many new tries meet nobody."""
    proxy.budgets, proxy.hushes = [4000, *[0] * absences], True  # a reset right away could overtake the text
    write(page)
    wait_for(page, "document.querySelector('#text-paper').textContent.length > 'It '.length")
    proxy.hushes = False
    proxy.cut()


def test_a_text_goes_on_at_the_exact_character(context: Any, proxy: CuttingProxy, server: Server) -> None:
    """However often and wherever the connection is cut, the text and its boundaries are those of one piece."""
    page = open_page(context, proxy.url)
    expected = fill_text(page, server, 1200)
    write(page)
    said(page, "text")
    uncut = page.locator("#text-paper").inner_html()
    proxy.budgets = list(CUTS)
    write(page)
    words = said(page, "text")
    assert proxy.num_cuts == len(CUTS)
    assert paper(page) == expected
    assert page.locator("#text-paper").inner_html() == uncut
    assert "1200 characters" in words
    assert page.locator("#text-layers .layer span").first.inner_text() == "1,200 · 100 %"


@pytest.mark.parametrize("writer", ["copybook", "small-ink"])
def test_ink_goes_on_at_the_exact_point(context: Any, proxy: CuttingProxy, server: Server, writer: str) -> None:
    """The sheet shows each point once, in order, as though nothing had happened."""
    page = open_page(context, proxy.url, "ink")
    page.locator("#ink-form").get_by_label("Writer").select_option(writer)
    made = bodies(page)
    proxy.budgets = [4000, 7000, 300, 6000]
    write(page, "ink")
    assert "points in" in said(page, "ink")
    assert proxy.num_cuts == 4
    assert {body["seed"] for body in made} == {made[0]["seed"]}
    reply = whole(server, made[0])
    assert drawn(page.evaluate(LINES)) == list(zip(reply["x"], reply["y"], strict=True))


def test_it_says_so_while_the_server_is_away(context: Any, proxy: CuttingProxy, server: Server) -> None:
    """As long as nobody answers the page says that it tries; when somebody does, it goes on."""
    page = open_page(context, proxy.url)
    expected = fill_text(page, server)
    cut_after_some(page, proxy, 2)
    page.get_by_text("The connection broke; going on where it did").wait_for()
    said(page, "text")
    assert paper(page) == expected


def test_a_restart_of_the_server_leaves_no_trace(
    context: Any, proxy: CuttingProxy, server: Server, bundles: Path
) -> None:
    """A server that is told to stop ends the stream with an error; its successor goes on with the same text."""
    with running(bundles, drain_s=0.01, rows=COMPANY + 1, max_choices=COMPANY, max_total_tokens=10**7) as first:
        proxy.port = port_of(first)
        page = open_page(context, proxy.url)
        expected = fill_text(page, server, 4096)
        asked = bodies(page)
        # Alone, the small network writes 4,096 characters before anything could stop it.
        company = threading.Thread(target=keep_busy, args=(first,))
        company.start()
        first.gauges_when(lambda gauges: gauges["running"] == COMPANY)
        write(page)
        wait_for(page, "document.querySelector('#text-layers .layer') !== null")
        proxy.port = port_of(server)
        first.stop()
        company.join(PATIENCE_S)
        assert "4096 characters" in said(page, "text")
        assert paper(page) == expected
        assert asked[-1]["resume_at"] > 0


def test_it_gives_up_after_a_bounded_number_of_tries(context: Any, proxy: CuttingProxy, server: Server) -> None:
    """A server that stays away is asked a few times; then a sentence says what is left, and the text stays."""
    page = open_page(context, proxy.url)
    expected = fill_text(page, server)
    page.clock.install()
    asked = bodies(page)
    cut_after_some(page, proxy, 100)
    while page.locator("#text-form .go").is_disabled():
        page.clock.run_for(1000)
    words = page.locator("#text-status").inner_text()
    assert words == "The connection broke and could not be taken up again. What is written stays; Write begins anew."
    assert 3 <= len(asked) <= 10
    assert len(paper(page)) > len("It ")
    assert expected.startswith(paper(page))
    proxy.budgets = []
    write(page)
    assert "400 characters" in said(page, "text")


def test_stop_stops_the_trying(context: Any, proxy: CuttingProxy, server: Server) -> None:
    """A visitor need not wait until the page gives up."""
    page = open_page(context, proxy.url)
    fill_text(page, server)
    proxy.budgets = [4000, *[0] * 100]
    write(page)
    page.get_by_text("The connection broke").wait_for()
    page.locator("#text-form .stop").click()
    assert said(page, "text") == "Stopped."
    server.gauges_when(lambda gauges: gauges["running"] == 0)


def test_a_connection_that_falls_silent_is_left(context: Any, proxy: CuttingProxy, server: Server) -> None:
    """One that stays open but brings nothing, not even a sign of life, is given up for a new one after a minute."""
    page = open_page(context, proxy.url)
    expected = fill_text(page, server)
    page.clock.install()
    asked = bodies(page)
    proxy.budgets, proxy.hushes = [3000], True
    write(page)
    wait_for(page, "document.querySelector('#text-layers .layer') !== null")
    page.clock.run_for(40_000)
    assert len(asked) == 1
    while len(asked) == 1:  # what was on its way when the clock was put forward has begun another minute
        page.clock.run_for(10_000)
    said(page, "text")
    assert proxy.num_cuts == 1
    assert asked[1]["resume_at"] > 0
    assert paper(page) == expected
