"""copyist score: bits per character as the service's own likelihoods give them."""

import json
import math
from pathlib import Path

import pytest

from service.cli.score import PIECE_CHARS
from tests.service.cli.command import on_a_terminal
from tests.service.cli.conftest import Run
from tests.service.live_server import ROOT, Server

FIXTURES = ROOT / "tests" / "fixtures"
TEXT = "It was a dark and stormy night; the rain fell in torrents.\n"


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    """A text in a file."""
    path = tmp_path / "letter.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def bits(server: Server) -> float:
    """What the text takes, added up by hand from what each character's probability is."""
    reply = server.complete(prompt=TEXT, echo=True, max_tokens=0, logprobs=0)
    told = reply["choices"][0]["logprobs"]["token_logprobs"]
    assert len(told) == len(TEXT)
    assert told[0] is None
    return sum(-math.log2(math.exp(nats)) for nats in told[1:])


def test_it_is_the_sum_of_what_the_server_says(run: Run, at: tuple[str, str], server: Server, letter: Path) -> None:
    """As one JSON object, with what it was measured on."""
    code, out, err = run("score", letter, "--json", *at)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["model"], report["characters"]) == ("small-text", len(TEXT) - 1)
    assert report["bits"] == pytest.approx(bits(server))
    assert report["bits_per_character"] == pytest.approx(bits(server) / (len(TEXT) - 1))


def test_a_long_text_is_read_once_in_pieces(run: Run, at: tuple[str, str], server: Server, tmp_path: Path) -> None:
    """Twice as long as a prompt may be is no trouble: the pieces add up to the text, and nothing is read again."""
    text = (FIXTURES / "text.txt").read_text(encoding="utf-8")[: 2 * 8192 + 100]
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    before = server.gauges()["row_steps"]
    report = json.loads(run("score", tmp_path / "long.txt", "--json", *at)[1])
    num_steps = server.gauges()["row_steps"] - before
    assert len(text) <= num_steps <= len(text) + len(text) // PIECE_CHARS  # a step at each seam
    assert report["characters"] == len(text) - 1
    (tmp_path / "part.txt").write_text(text[: PIECE_CHARS + 9], encoding="utf-8")
    part = json.loads(run("score", tmp_path / "part.txt", "--json", *at)[1])
    whole = server.complete(prompt=text[: PIECE_CHARS + 9], echo=True, max_tokens=0, logprobs=0)["choices"][0]
    nats = whole["logprobs"]["token_logprobs"][1:]
    assert part["bits"] == pytest.approx(-math.fsum(nats) / math.log(2), rel=1e-12)


def test_in_a_pipe_there_is_the_figure_alone(run: Run, at: tuple[str, str], server: Server, letter: Path) -> None:
    """Ready for a program; on a terminal it says what it is."""
    code, out, _ = run("score", letter, *at)
    assert code == 0
    assert float(out) == pytest.approx(bits(server) / (len(TEXT) - 1), abs=1e-5)
    code, written = on_a_terminal("score", letter, url=server.url)
    assert code == 0
    assert f"{float(out):.4f} bits per character" in written


def test_what_cannot_be_measured_is_wrong_usage(run: Run, at: tuple[str, str], tmp_path: Path) -> None:
    """A file that is not there, no text, or too little of it."""
    odd, short = tmp_path / "odd.txt", tmp_path / "short.txt"
    odd.write_bytes(b"caf\xe9")
    short.write_bytes(b"a")
    for path, words in (
        (tmp_path / "none.txt", "cannot be read"),
        (odd, "not UTF-8 (byte 3)"),
        (short, "fewer than two"),
    ):
        code, out, err = run("score", path, *at)
        assert (code, out, err.count("\n")) == (2, b"", 1)
        assert words in err
