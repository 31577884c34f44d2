"""Renders docs/cli.md from the commands themselves: what each does, its arguments, its options and their defaults."""

import argparse
from collections.abc import Iterator
from typing import Any

import typer

PROGRAMS = ("copyist", "python -m service", "python -m model", "python -m export")
ABOUT = {
    "copyist": (
        "The client, installed with the service. A command with `--url` (or `COPYIST_URL`) asks a server; without, it "
        "runs the service inside itself. Exit codes: 0 done, 1 the server refused, 2 wrong usage, 3 no server, "
        "130 Ctrl-C."
    ),
    "python -m service": "The server. Everything else is set by [environment variables](operating.md#settings).",
    "python -m model": "Training and analysis; needs the extra `train` (`make train` installs it).",
    "python -m export": "From a checkpoint to a bundle. Without a command's name, the arguments are those of `build`.",
}
HEAD = """# Commands

This page is generated from the commands' own `--help`, by `pytest tests/docs --renew-golden`.
[How do I](how-do-i.md) has examples that run, and `make help` lists the targets of the Makefile.
"""


def render(apps: dict[str, Any], server: argparse.ArgumentParser) -> str:
    """Return the page.

    Args:
        apps: of each program but the server, its typer application.
        server: the parser of `python -m service`.
    """
    parts = [HEAD]
    for program in PROGRAMS:
        parts += [f"## {program}", "", ABOUT[program], ""]
        if program in apps:
            for name, command in _commands(typer.main.get_command(apps[program])):
                parts += _command(f"{program} {name}", command)
        else:
            rows = [_row(", ".join(f"`{flag}`" for flag in a.option_strings), "", a.help) for a in server._actions]
            parts += [*_table([row for row in rows if "--help" not in row]), ""]
    return "\n".join(parts).rstrip() + "\n"


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command of a group and of the groups in it, by its whole name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def _command(name: str, command: Any) -> list[str]:
    """Return the section of one command."""
    help_text = (command.help or "").split("\n\n")[0]
    rows = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            rows.append(
                _row(f"`{parameter.metavar or parameter.name}`", _default(parameter), getattr(parameter, "help", ""))
            )
        elif "--help" not in parameter.opts:
            flags = [*parameter.opts, *parameter.secondary_opts]
            rows.append(_row(", ".join(f"`{flag}`" for flag in flags), _default(parameter), parameter.help))
    return [f"### `{name}`", "", " ".join(help_text.split()), "", *(_table(rows) if rows else []), ""]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = parameter.default
    if isinstance(default, bool) or callable(default) or default in (None, "", [], ()):
        return ""
    return f"`{getattr(default, 'value', default)}`"


def _row(name: str, default: str, help_text: str | None) -> str:
    return f"| {name} | {default} | {' '.join((help_text or '').split()).replace('|', chr(92) + '|')} |"


def _table(rows: list[str]) -> list[str]:
    return ["| | default | |", "|---|---|---|", *rows]
