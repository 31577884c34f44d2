"""The commands of a page, and a shell to run them in as a reader would, against a server of the test's own."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.service.live_server import PATIENCE_S, ROOT

ADDRESS = "http://127.0.0.1:8000"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the heading above it and its line."""

    language: str
    text: str
    heading: str
    line: int

    def __str__(self) -> str:
        """Name it in the list of tests."""
        return f"line {self.line}: {self.heading}"


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page of Markdown."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        above = text[: match.start()]
        headings = re.findall(r"^#+ (.*)$", above, re.MULTILINE)
        found.append(Block(match[1], match[2], headings[-1] if headings else "", above.count("\n") + 1))
    return found


class Shell:
    """bash in a folder, in which `copyist`, `python` and `curl` are what a reader would have.

    Args:
        folder: to run in.
        url: of the server that stands for the one in the page; also COPYIST_URL.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self._tools = folder / ".tools"
        self._tools.mkdir()
        self._tool("copyist", f'exec "{sys.executable}" -m service.cli "$@"')
        self._tool("python", f'exec "{sys.executable}" "$@"')
        # A reply that says no is a failure here; a reader would see it.
        self._tool("curl", f'exec "{shutil.which("curl")}" --fail-with-body "$@"')

    def run(self, commands: str) -> str:
        """Run commands, each of which must succeed, and return what they wrote to standard output."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COPYIST_")}
        environment |= {
            "PATH": f"{self._tools}{os.pathsep}{environment['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COPYIST_URL": self._url,
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands.replace(ADDRESS, self._url)], cwd=self._folder,
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _tool(self, name: str, line: str) -> None:
        path = self._tools / name
        path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        path.chmod(0o755)
