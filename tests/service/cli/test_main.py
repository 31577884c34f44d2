"""What holds for every command: help, completion, keys, exit codes, and a name on the path."""

import importlib
import json
import os
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from service.cli import __main__ as start
from tests.programs import started
from tests.service.cli.command import COPYIST, copyist, environment
from tests.service.cli.conftest import Run
from tests.service.live_server import PATIENCE_S, ROOT, Server

COMMANDS = ("serve", "generate", "write", "segment", "score", "bundles", "bench", "doctor")


def test_help_names_every_command_and_exit_code(run: Run) -> None:
    """Who knows nothing gets there from `copyist --help`."""
    code, out, _ = run("--help")
    assert code == 0
    words = out.decode().split()
    assert set(COMMANDS) <= set(words)
    assert {"0", "1", "2", "3", "130"} <= set(words)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(run: Run, command: str) -> None:
    """With an example where there is something to say."""
    code, out, _ = run(command, "--help")
    assert code == 0
    assert b"--help" in out
    assert command not in ("generate", "write", "serve") or f"copyist {command}" in out.decode()


def test_the_package_installs_it() -> None:
    """The console script that pip makes calls what these tests call."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, name = scripts["copyist"].partition(":")
    assert importlib.import_module(module) is start
    assert getattr(start, name) is start.main


def test_the_default_install_has_it() -> None:
    """Where the service is installed without PyTorch, `copyist` is on the path and writes."""
    interpreter = Path(os.environ.get("COPYIST_SERVE_PYTHON", ""))
    if not interpreter.is_file():
        pytest.skip("COPYIST_SERVE_PYTHON names no interpreter of the default install (`make test` sets it)")
    done = subprocess.run(
        [interpreter.parent / "copyist", "generate", "Once", "--max-tokens", "20", "--seed", "1"],
        env=environment({}), stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.decode()) == 20


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_it(run: Run, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    """The completion script that a shell is given knows the program."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code, out, _ = run("--show-completion", shell)
    assert code == 0
    assert b"_COPYIST_COMPLETE" in out


def test_settings_that_cannot_be_are_wrong_usage(bundles: Path) -> None:
    """A command that would run the service itself names the variable."""
    done = copyist("bundles", bundles=bundles, rows="many")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: COPYIST_ROWS: ")
    assert done.stderr.count(b"\n") == 1


def test_no_bundles_to_serve_is_no_service(tmp_path: Path) -> None:
    """The sentence says which folder and which variable."""
    done = copyist("bundles", bundles=tmp_path)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.decode() == (
        f"error: There are no bundles in {tmp_path}; set COPYIST_BUNDLES to a folder that holds some.\n"
    )


@contextmanager
def listener(keys: list[str | None]) -> Iterator[str]:
    """Any server that wants a key: it notes the one it is shown and says no."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers["Authorization"])
            body = json.dumps({"error": {"message": "This key will not do.", "type": "", "param": None, "code": None}})
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - so is its argument
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(PATIENCE_S)


def test_the_key_is_sent_and_a_refusal_repeated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """COPYIST_API_KEY goes with the request as OpenAI's clients send theirs; the server's own words come back."""
    keys: list[str | None] = []
    monkeypatch.setenv("COPYIST_API_KEY", "sesame")
    with listener(keys) as url:
        monkeypatch.setenv("COPYIST_URL", url)
        assert run("bundles") == (1, b"", "error: This key will not do.\n")
        monkeypatch.delenv("COPYIST_API_KEY")
        run("bundles")
    assert keys == ["Bearer sesame", None]


def test_a_server_that_dies_in_the_middle_is_exit_code_3(bundles: Path) -> None:
    """What had come is there, and the sentence says that the rest is not."""
    server = Server(bundles)
    try:
        with started(
            [*COPYIST, "generate", "a", "-n", "4096"], cwd=ROOT, env=environment({"url": server.url}),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(1)
            server.kill()
            process.stdout.read()
            err = process.stderr.read().decode()
    finally:
        server.kill()
    assert process.returncode == 3
    assert err.startswith(f"error: The connection to {server.url} was lost")
    assert err.count("\n") == 1


def test_a_reader_that_leaves_is_no_fault(server: Server) -> None:
    """`copyist generate | head -c 1` ends without a word."""
    with started(
        [*COPYIST, "generate", "a", "-n", "4096"], cwd=ROOT, env=environment({"url": server.url}),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    server.gauges_when(lambda gauges: gauges["running"] == 0)


def test_serve_serves_until_it_is_told_to_stop(bundles: Path) -> None:
    """`copyist serve` is the service: it says where it listens, answers there, and ends with 0."""
    with started(
        [*COPYIST, "serve", "--port", "0", "--host", "127.0.0.1"], cwd=ROOT,
        env=environment({"bundles": bundles, "log_format": "json"}), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        entries = (json.loads(line) for line in process.stderr)
        listening = next(entry for entry in entries if entry["event"] == "listening")
        ready = httpx.get(f"http://{listening['host']}:{listening['port']}/readyz", timeout=PATIENCE_S)
        assert ready.json()["status"] == "ready"
        process.terminate()
        assert list(entries)
    assert process.returncode == 0
