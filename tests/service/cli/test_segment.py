"""copyist segment: the tree of the API as bands for people and as brackets for programs."""

import json
import re
from pathlib import Path

from service.cli.segment import band, bracketed, rows_of
from service.cli.terminal import LINE_BREAK
from tests.service.cli.command import copyist, on_a_terminal
from tests.service.live_server import Server

TEXT = "It was a dark and stormy night;\nthe rain fell in torrents, except at times."
COLOUR = re.compile(r"\x1b\[[\d;]*m")


def test_json_is_the_reply_of_the_api(server: Server) -> None:
    """Columns, tree and usage, as they are."""
    done = copyist("segment", "-", "--json", "--url", server.url, stdin=TEXT.encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == server.post("/v1/segment", model="small-text", text=TEXT).json()


def test_in_a_pipe_brackets_are_the_tree(server: Server) -> None:
    """A line for each segment of layer 2, in it those of layer 1: they end where z is 1, and no character is lost."""
    done = copyist("segment", "-", url=server.url, stdin=TEXT.encode())
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert all(line.startswith("[[") and line.endswith("]]") for line in lines)
    assert "".join(lines).replace("[", "").replace("]", "").replace(LINE_BREAK, "\n") == TEXT
    first, second = server.post("/v1/segment", text=TEXT, model="small-text").json()["z"]
    assert ends("".join(lines), 1) | {len(TEXT)} == {at for at, z in enumerate(first, 1) if z} | {len(TEXT)}
    assert ends("".join(lines), 2) | {len(TEXT)} == {at for at, z in enumerate(second, 1) if z} | {len(TEXT)}
    assert len(lines) > 2


def ends(line: str, layer: int) -> set[int]:
    """Characters before each place where brackets say that a segment of a layer ends."""
    num_read, found, depth = 0, set(), 0
    for sign in line:
        if sign == "[":
            depth += 1
        elif sign == "]":
            if depth == 3 - layer:
                found.add(num_read)
            depth -= 1
        else:
            num_read += 1
    return found


def test_on_a_terminal_bands_run_below_the_text(server: Server, tmp_path: Path) -> None:
    """Each row of text has a band for each layer below it, whose closed ends are where z is 1."""
    file = tmp_path / "a.txt"
    file.write_text(TEXT, encoding="utf-8")
    code, written = on_a_terminal("segment", file, url=server.url)
    rows = COLOUR.sub("", written).splitlines()
    assert code == 0
    assert len(rows) == 6
    assert "".join(rows[::3]).replace(LINE_BREAK, "\n") == TEXT
    for layer, z in enumerate(server.post("/v1/segment", text=TEXT, model="small-text").json()["z"], 1):
        band = "".join(rows[layer::3])
        assert [sign in "┘│" for sign in band] == [fired == 1 for fired in z]
        # A segment begins where the one before it has ended.
        assert [sign in "└│" for sign in band] == [True, *(fired == 1 for fired in z[:-1])]


def test_wide_signs_and_segments_within_a_character() -> None:
    """Bands are as wide as what stands above them, and a segment that ends within a character takes no room."""
    text = "春眠a\n"
    leaves = [(0, 1, True), (1, 1, True), (1, 3, True), (3, 4, False)]
    nodes = [{"layer": 1, "start": start, "end": end, "complete": done} for start, end, done in leaves]
    assert band(text, nodes) == ["└┘", "└─", "┘", "└"]
    assert list(rows_of(text, 4)) == [(0, 2), (2, 4)]
    tree = {"layer": 2, "start": 0, "end": 4, "complete": False, "segments": nodes}
    assert bracketed(text, tree) == ["[春]", "[]", "[眠a]", f"[{LINE_BREAK}]"]


def test_a_network_without_boundaries_is_one_segment() -> None:
    """As the control's is."""
    assert bracketed("ab", {"layer": 1, "start": 0, "end": 2, "complete": False}) == ["[ab]"]
