"""copyist generate: the server's text, plain in a pipe, coloured on a terminal, from a server or without one."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from service.cli.problems import INTERRUPTED
from service.cli.terminal import LINE_BREAK, printable
from service.cli.terminal import painted as paint
from tests.programs import PATIENCE_S, started
from tests.service.cli.command import COPYIST, copyist, environment, on_a_terminal
from tests.service.cli.conftest import Run
from tests.service.live_server import ROOT, Server, running

BANDS = {"46": 1, "45": 2}  # codes of the backgrounds, and the layers they stand for
WISH = {"temperature": 0.7, "max_tokens": 200, "seed": 1}


def expected(server: Server, prompt: str, **wishes: object) -> str:
    """The text that the server itself gives."""
    text: str = server.complete(prompt=prompt, **{**WISH, **wishes})["choices"][0]["text"]
    return text


def test_in_a_pipe_there_is_the_text_and_nothing_else(run: Run, at: tuple[str, str], server: Server) -> None:
    """Standard output is the text of the API, byte for byte; standard error stays empty."""
    assert run("generate", "Once", "--seed", 1, *at) == (0, expected(server, "Once").encode(), "")


def test_every_option_reaches_the_server(run: Run, at: tuple[str, str], server: Server) -> None:
    """Each wish changes what it says it does."""
    wishes = {"max_tokens": 90, "temperature": 1.3, "top_p": 0.9, "top_k": 12, "seed": 5}
    text = expected(server, "It ", **wishes)
    options = [part for name, value in wishes.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert run("generate", "It ", *options, "--model", "small-text", *at)[1].decode() == text
    stop = text[40:43]
    assert run("generate", "It ", *options, "--stop", stop, *at)[1].decode() == text[: text.index(stop)]
    assert run("generate", "It ", *options, "--echo", *at)[1].decode() == "It " + text


def test_json_is_the_reply_of_the_api(run: Run, at: tuple[str, str], server: Server) -> None:
    """With --json the whole reply is printed, boundaries and usage included."""
    code, out, err = run("generate", "Once", "--seed", 1, "--json", *at)
    assert (code, err) == (0, "")
    assert out.count(b"\n") == 1
    reply = json.loads(out)
    assert reply["choices"] == server.complete(prompt="Once", boundaries=True, **WISH)["choices"]
    assert reply["usage"]["completion_tokens"] == 200


def test_without_a_server_the_same_bytes_come(bundles: Path, server: Server) -> None:
    """A command that runs the service itself, fed as `echo` feeds it, writes what a server would have sent."""
    done = copyist("generate", "--seed", 1, stdin=b"Once\n", bundles=bundles)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, expected(server, "Once"), b"")


def test_on_a_terminal_colours_are_the_boundaries(server: Server) -> None:
    """Each character is there once, and its background is that of the highest layer that ends a segment at it."""
    code, written = on_a_terminal("generate", "It was", "--seed", 1, url=server.url)
    choice = server.complete(prompt="It was", boundaries=True, **WISH)["choices"][0]
    assert code == 0
    body, _, notes = written.rpartition("\n\x1b[2m")
    characters, levels = painted(body)
    assert characters == choice["text"]
    first, second = choice["z"]
    assert levels == [2 if upper else lower for lower, upper in zip(first, second, strict=True)]
    assert "seed 1" in notes
    assert "200 characters by small-text" in notes


def painted(written: str) -> tuple[str, list[int]]:
    """Return the characters of what a terminal got, and the layer that the background of each stands for."""
    characters, levels = "", []
    for code, text in re.findall(r"(?:\x1b\[([\d;]*)m)?([^\x1b]*)", written):
        level = max((BANDS.get(part, 0) for part in code.split(";")), default=0)
        for character in text:
            if character == "\n" and characters.endswith(LINE_BREAK):
                characters = characters.removesuffix(LINE_BREAK) + character
            else:
                characters += character
                levels.append(level)
    return characters, levels


def test_characters_come_as_they_are_written(bundles: Path) -> None:
    """The first of a text that takes minutes is there at once: the reader leaves, and the server hears of it."""
    with (
        running(bundles, max_tokens=1_000_000) as server,
        started(
            [*COPYIST, "generate", "a", "-n", "1000000", "--model", "small-text"],
            cwd=ROOT, env=environment({"url": server.url}),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_S) == INTERRUPTED
        assert server.gauges_when(lambda gauges: gauges["running"] == 0)["cancelled"] == 1


def test_no_control_character_reaches_a_terminal() -> None:
    """A network that learned escape sequences cannot steer the reader's terminal."""
    assert printable("a\x1b[2J\x07b\n\tc\x9b") == "a\ufffd[2J\ufffdb\n\tc\ufffd"
    assert paint("\x1bx", [[0, 1], [0, 0]]).plain == "\ufffdx"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--max-tokens", 4097), 1, "error: max_tokens: at most 4096 are served here.\n"),
        (("--model", "nobody"), 1, "error: There is no such model; there are: small-ink, small-text.\n"),
        (("--url", "http://127.0.0.1:1"), 3, "error: No server answers at http://127.0.0.1:1.\n"),
        (("--url", "nonsense"), 2, "error: 'nonsense' is not a URL such as http://127.0.0.1:8000.\n"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    run: Run, at: tuple[str, str], arguments: tuple[object, ...], code: int, sentence: str
) -> None:
    """The exit code says whose fault it is, standard error says what, standard output nothing."""
    assert run("generate", "x", *at, *arguments) == (code, b"", sentence)


def test_a_wrong_option_is_exit_code_2(run: Run) -> None:
    """What cannot be parsed is never sent."""
    code, out, err = run("generate", "x", "--max-tokens", "many")
    assert (code, out) == (2, b"")
    assert "--max-tokens" in err


def test_a_server_that_is_none_of_ours_is_told_apart(run: Run, server: Server) -> None:
    """Anything else that answers HTTP is named in a sentence, not in a traceback."""
    code, _, err = run("generate", "x", "--url", f"{server.url}/healthz")
    assert code == 1
    assert err == f"error: {server.url}/healthz/v1/models answered 404 Not Found.\n" or "Not Found" in err
