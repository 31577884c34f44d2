"""The static site: it builds without a warning, a broken link fails, and no page asks anybody else for anything."""

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.service.live_server import ROOT

MISSING = [name for name in ("sphinx", "myst_parser", "furo") if importlib.util.find_spec(name) is None]
LIMIT_S = 300
OUTSIDE = re.compile(r"^(https?:)?//", re.IGNORECASE)
OUTSIDE_CSS = re.compile(r"""(url\(\s*["']?|@import\s+["']?)(https?:)?//""", re.IGNORECASE)
FETCHED = {"src", "srcset", "data", "poster"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"the site needs {', '.join(MISSING)}: pip install --editable '.[docs]'"),
]


def build(sources: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site as `make docs` does."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "--quiet", "-c", "docs"]
    return subprocess.run(
        [*command, "-b", "html", ".", str(site)], cwd=sources, capture_output=True, text=True, timeout=LIMIT_S,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Requests(HTMLParser):
    """Collects what a browser fetches to show a page; links that a reader may follow are not among it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the address in an attribute that is fetched."""
        for name, value in attrs:
            if value and (name in FETCHED or (tag == "link" and name == "href")):
                self.found.append(value)


def requests_of(page: str) -> list[str]:
    """Return the addresses that a page of HTML fetches."""
    parser = Requests()
    parser.feed(page)
    return parser.found


def test_every_page_is_in_it(site: Path) -> None:
    """Each Markdown file of the documentation becomes a page, and the site's address leads to the first."""
    for source in [*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in ("README.md", "CHANGELOG.md"))]:
        assert (site / source.relative_to(ROOT).with_suffix(".html")).is_file()
    assert "docs/index.html" in (site / "index.html").read_text(encoding="utf-8")


def test_nothing_comes_from_outside(site: Path) -> None:
    """No page and no style sheet fetches from another host."""
    for page in site.rglob("*.html"):
        outside = [address for address in requests_of(page.read_text(encoding="utf-8")) if OUTSIDE.match(address)]
        assert not outside, page
    for sheet in site.rglob("*.css"):
        assert not OUTSIDE_CSS.search(sheet.read_text(encoding="utf-8")), sheet


def test_a_request_to_the_outside_would_be_noticed() -> None:
    """The check sees scripts, styles and pictures of other hosts, and lets a link pass."""
    page = '<script src="https://a/x.js"></script><link href="//b/x.css"><img src="http://c/x.png"><a href="https://d">'
    assert [address for address in requests_of(page) if OUTSIDE.match(address)] == [
        "https://a/x.js", "//b/x.css", "http://c/x.png",
    ]  # fmt: skip
    assert OUTSIDE_CSS.search("src: url('https://fonts/x.woff2')")


@pytest.mark.parametrize("link", ["missing.md", "index.md#no-such-heading", "../service/missing.py"])
def test_a_broken_link_fails(tmp_path: Path, link: str) -> None:
    """A page, a heading or a file that is not there ends the build with an error that names it."""
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "conf.py", tmp_path / "docs")
    (tmp_path / "docs" / "index.md").write_text(f"# One\n\n[broken]({link})\n", encoding="utf-8")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert link.rsplit("#", maxsplit=1)[-1].removesuffix(".md") in done.stderr
