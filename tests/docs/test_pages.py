"""All pages: links lead somewhere, and every command is run by a test or excused with a reason."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import Block, blocks
from tests.service.live_server import PATIENCE_S, ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = ("bash", "console", "make", "python")
RUN = {  # page: the languages in which every block is run, and the test that does it
    "README.md": (("bash", "make"), "test_readme.py, test_walk.py"),
    "docs/api.md": (("bash",), "test_api.py"),
    "docs/bundle.md": (("python",), "below"),
    "docs/how-do-i.md": (("bash", "python"), "test_how_do_i.py"),
    "docs/training.md": (("make",), "test_walk.py"),
}
EXCUSED = {  # (page, heading): why it is not run here
    ("CONTRIBUTING.md", "Set up"): "these commands are what runs the tests",
    ("docs/bundle.md", "The manifest"): "tests/export runs them; measuring needs a corpus",
    ("docs/how-do-i.md", "Get it"): "downloads the dependencies; every `make` does it",
    ("docs/how-do-i.md", "Run it in a container"): "tests/test_docker.py does it",
    ("docs/training.md", "Serve it"): "test_walk.py asks the same of the service over HTTP",
}
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    """A page's path within the repository."""
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The names by which a link may lead to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file or a folder that is there, and a heading that the file has."""
    for target in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        file, _, heading = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        assert not heading or heading in anchors(found), target


def test_every_command_is_run_or_excused() -> None:
    """A block of commands is in a language that its page's test runs, or is excused; no excuse is left over."""
    used = set()
    for page in PAGES:
        for block in blocks(page):
            if block.language not in COMMANDS or block.language in RUN.get(name_of(page), ((), ""))[0]:
                continue
            assert (name_of(page), block.heading) in EXCUSED, f"{name_of(page)}, {block}"
            used.add((name_of(page), block.heading))
    assert used == set(EXCUSED)


@pytest.mark.parametrize("block", [b for b in blocks(ROOT / "docs" / "bundle.md") if b.language == "python"], ids=str)
def test_a_bundle_is_loaded_without_copyist(block: Block, tmp_path: Path) -> None:
    """The few lines that load a graph run as they stand, import nothing of ours, and print a symbol of the codec."""
    if not (ROOT / "service" / "bundles" / "prose").is_dir():
        pytest.skip("no bundle prose ships in service/bundles")
    if "torch" in block.text:
        pytest.importorskip("torch", reason="TorchScript needs PyTorch, which is not installed here")
    (tmp_path / "service").symlink_to(ROOT / "service")
    program = block.text + "import sys\nassert not {'model', 'export', 'service'} & set(sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0 <= int(done.stdout) < 98  # the symbols of prose
