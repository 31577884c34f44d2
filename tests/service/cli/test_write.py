"""copyist write: the drawing of the API in a file whose name says the format, whole or not at all."""

import itertools
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.service.cli.command import copyist, on_a_terminal
from tests.service.cli.conftest import Run
from tests.service.live_server import Server

WISH = {"seed": 3, "max_points": 60}
OPTIONS = ("--seed", 3, "--max-points", 60)


@pytest.mark.parametrize(("name", "format_"), [("a.svg", "svg"), ("b.JSON", "strokes")])
def test_the_file_is_the_reply(
    run: Run, at: tuple[str, str], server: Server, tmp_path: Path, name: str, format_: str
) -> None:
    """The end of the name chooses the format, and the file holds the reply of the API, byte for byte."""
    assert run("write", "-o", tmp_path / name, *OPTIONS, *at) == (0, b"", "")
    content = (tmp_path / name).read_bytes()
    assert content == server.post("/v1/handwriting", format=format_, **WISH).content
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_without_a_file_it_goes_to_standard_output(bundles: Path, server: Server) -> None:
    """As SVG, the same whether a server writes it or the command itself."""
    done = copyist("write", *OPTIONS, bundles=bundles)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == server.post("/v1/handwriting", format="svg", **WISH).content
    assert ET.fromstring(done.stdout).tag.endswith("svg")  # noqa: S314 - our own output


def test_every_option_reaches_the_server(run: Run, at: tuple[str, str], server: Server) -> None:
    """Model, bias and format are what was said."""
    out = run("write", "--model", "small-ink", "--bias", 2, "--format", "strokes", *OPTIONS, *at)[1]
    assert json.loads(out) == server.draw(model="small-ink", bias=2.0, **WISH)


def test_a_refusal_leaves_the_file_alone(run: Run, at: tuple[str, str], tmp_path: Path) -> None:
    """What was there before is there afterwards, and nothing else."""
    path = tmp_path / "a.svg"
    path.write_text("mine")
    code, out, err = run("write", "-o", path, "--bias", 99, *at)
    assert (code, out) == (1, b"")
    assert err.startswith("error: bias: ")
    assert path.read_text() == "mine"
    assert [found.name for found in tmp_path.iterdir()] == ["a.svg"]


def test_files_that_cannot_be(run: Run, tmp_path: Path) -> None:
    """A name without a format, or in a folder that is not there, is wrong usage and says so in a sentence."""
    code, _, err = run("write", "-o", tmp_path / "a.doc")
    assert (code, err.count("\n")) == (2, 1)
    assert ".svg" in err


def test_a_folder_that_is_not_there(run: Run, at: tuple[str, str], tmp_path: Path) -> None:
    """The sentence names the file."""
    path = tmp_path / "nowhere" / "a.svg"
    assert run("write", "-o", path, *OPTIONS, *at) == (
        2, b"", f"error: {path} cannot be written: No such file or directory.\n",
    )  # fmt: skip


def test_no_binary_on_a_terminal() -> None:
    """A picture in bytes is for files and pipes."""
    code, written = on_a_terminal("write", "--format", "png")
    assert code == 2
    assert "name a file" in written


def test_a_sheet_shows_every_hand(run: Run, at: tuple[str, str], server: Server, tmp_path: Path) -> None:
    """Each hand's own sample, inside of the sheet, below the one before; in no other format."""
    path = tmp_path / "hands.svg"
    assert run("write", "--styles", "-o", path, *at) == (0, b"", "")
    root = ET.fromstring(path.read_text())  # noqa: S314 - our own output
    cards = server.client.get("/v1/handwriting/styles").json()["data"]
    samples = [part for part in root if part.tag.endswith("svg")]
    assert len(samples) == len(cards)
    assert [text.split(" ")[0] for part in root if (text := part.text) and part.tag.endswith("text")] == [
        card["id"] for card in cards
    ]
    boxes = [[float(part.attrib[name]) for name in ("x", "y", "width", "height")] for part in samples]
    assert all(below[1] >= above[1] + above[3] for above, below in itertools.pairwise(boxes))
    wide, tall = (float(root.attrib[name].removesuffix("mm")) for name in ("width", "height"))
    assert all(x + width <= wide and y + height <= tall for x, y, width, height in boxes)
    code, _, err = run("write", "--styles", "-o", tmp_path / "hands.png", *at)
    assert (code, "ends in .svg" in err) == (2, True)
