"""Sphinx builds the documentation as a static site: `make docs`. The pages are Markdown and read well without it."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

project = "Copyist"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md"]
exclude_patterns = [
    ".*", "bench", "build", "bundles", "docker", "export", "model", "runs", "service", "shared", "tests",
]  # fmt: skip
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # a shell line is not always valid in its lexer
myst_heading_anchors = 3

html_theme = "furo"  # brings its scripts and styles along: a page asks nobody else for anything
html_title = "Copyist"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False

_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def prepare(_: Any, name: str, source: list[str]) -> None:
    """Adapt a page to the site: links to folders become words, and the links of an index its table of contents."""
    folder = (ROOT / name).parent
    source[0] = _LINK.sub(lambda link: link[1] if (folder / link[2]).is_dir() else link[0], source[0])
    if Path(name).name == "index":
        pages = dict.fromkeys(target for _, target in _LINK.findall(source[0]) if target.endswith(".md"))
        lines = "\n".join(f"{page.removesuffix('.md')}" for page in pages)
        source[0] += f"\n```{{toctree}}\n:hidden:\n{lines}\n```\n"


def open_at_index(app: Any, error: Exception | None) -> None:
    """Let the site's own address lead to the first page."""
    if error is None:
        page = '<!doctype html><title>Copyist</title><meta http-equiv="refresh" content="0; url=docs/index.html">\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Any) -> None:
    """Listen to Sphinx, which calls this."""
    app.connect("source-read", prepare)
    app.connect("build-finished", open_at_index)
