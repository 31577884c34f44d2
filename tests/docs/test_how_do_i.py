"""docs/how-do-i.md: every command runs as it stands, or is named here with the test that runs it."""

import json
from pathlib import Path

import pytest

from tests.docs.blocks import Block, Shell, blocks
from tests.service.live_server import ROOT, Server

PAGE = ROOT / "docs" / "how-do-i.md"

pytestmark = pytest.mark.xdist_group("service")


def of(*languages: str) -> list[Block]:
    """The page's blocks in these languages."""
    return [block for block in blocks(PAGE) if block.language in languages]


@pytest.mark.parametrize("block", of("bash"), ids=str)
def test_commands_run(block: Block, shell: Shell) -> None:
    """Each succeeds in an empty folder, and what it says it writes is there."""
    shell.run(block.text)


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_programs_run(block: Block, shell: Shell, tmp_path: Path) -> None:
    """Each runs to its end and prints something."""
    (tmp_path / "program.py").write_text(block.text.replace("http://127.0.0.1:8000", "$URL"), encoding="utf-8")
    out = shell.run('sed -i "s|[$]URL|$COPYIST_URL|" program.py && python program.py')
    assert out


def test_what_is_resumed_is_the_rest(shell: Shell, shipped_server: Server) -> None:
    """The commands under that heading give exactly what one uncut request gives from there on."""
    resume, token = (block for block in blocks(PAGE) if block.heading == "Resume a stream")
    body = {"model": "prose", "prompt": "Once", "max_tokens": 120, "seed": 1}
    whole = shipped_server.post("/v1/completions", **body).json()["choices"][0]["text"]
    events = [event for event in shell.run(resume.text).split("data: ") if event.startswith("{")]
    rest = "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])
    assert rest == whole[40:60]
    assert json.loads(shell.run(token.text))["choices"][0]["text"] == whole[60:]
