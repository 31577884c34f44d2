"""docs/cli.md says what `--help` says, for every command of every program."""

import argparse
from typing import Any

import pytest

from service.__main__ import main as serve
from service.cli.main import app as client
from tests.docs.commands import PROGRAMS, render
from tests.service.live_server import ROOT

PAGE = ROOT / "docs" / "cli.md"


@pytest.fixture(scope="module")
def server() -> argparse.ArgumentParser:
    """The parser of `python -m service`, as it is when it is asked for help."""
    made: list[argparse.ArgumentParser] = []

    def noted(parser: argparse.ArgumentParser, *_: Any) -> None:
        made.append(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "print_help", noted)
        with pytest.raises(SystemExit) as ended:
            serve(["--help"])
    assert ended.value.code == 0
    return made[0]


@pytest.fixture(scope="module")
def apps() -> dict[str, Any]:
    """The typer application of each program but the server."""
    pytest.importorskip("torch", reason="training needs PyTorch, which is not installed here")
    from export.cli import app as exporter
    from model.cli.main import app as trainer

    return {"copyist": client, "python -m model": trainer, "python -m export": exporter}


def test_the_page_says_what_the_commands_say(
    apps: dict[str, Any], server: argparse.ArgumentParser, renew_golden: bool
) -> None:
    """Every command, argument, option and default is on the page, in the words of `--help`."""
    page = render(apps, server)
    if renew_golden:
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, "renew the page: pytest tests/docs --renew-golden"


def test_every_program_has_commands_there() -> None:
    """The four programs have a section each, and the client's commands are those of its application."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == list(PROGRAMS)
    names = {command.name or command.callback.__name__ for command in client.registered_commands if command.callback}
    assert names == {line.split()[2].strip("`") for line in lines if line.startswith("### `copyist ")}
