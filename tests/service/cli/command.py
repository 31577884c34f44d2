"""The command line as people run it: a process of its own, its streams pipes or a pseudo-terminal."""

import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.service.live_server import PATIENCE_S, ROOT

COPYIST = [sys.executable, "-m", "service.cli"]


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """Return this environment without its COPYIST_ variables and wishes for colour, and with these settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COPYIST_")}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        kept.pop(name, None)
    given = {f"COPYIST_{name.upper()}": str(value) for name, value in settings.items()}
    return kept | {"TERM": "xterm-256color", "PYTHONWARNINGS": "error"} | given


def copyist(
    *arguments: object, stdin: bytes = b"", cwd: Path = ROOT, **settings: object
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with pipes for streams.

    Args:
        arguments: of the command.
        stdin: what is piped in.
        cwd: folder to run in.
        settings: environment variables without COPYIST_, in lower case.
    """
    return subprocess.run(
        [*COPYIST, *(str(argument) for argument in arguments)],
        input=stdin, cwd=cwd, env=environment(settings) | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def on_a_terminal(*arguments: object, **settings: object) -> tuple[int, str]:
    """Run a command on a pseudo-terminal; return its exit code and everything it wrote there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COPYIST, *(str(argument) for argument in arguments)],
        cwd=ROOT, env=environment(settings), stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    written = bytearray()
    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # Linux says so when the last writer has gone
            piece = b""
        if not piece:
            break
        written += piece
    os.close(ours)
    return process.wait(PATIENCE_S), written.decode().replace("\r\n", "\n")
