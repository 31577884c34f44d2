"""Arguments that several commands share, and how they read text."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.problems import UsageError

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Server to use (COPYIST_URL; its key: COPYIST_API_KEY). Without one, the service runs in the command.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Name of the bundle; else the first that fits.", show_default=False)
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same result.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the server's reply as it is, on one line.")]


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields that have a value; the others are left to the server's defaults."""
    return {name: value for name, value in fields.items() if value not in (None, [])}


def standard_input() -> str:
    """Return the text of standard input, without the line break that `echo` puts at its end.

    Raises:
        UsageError: it is not UTF-8.
    """
    return _decoded(sys.stdin.buffer.read(), "Standard input").removesuffix("\n")


def text_of(file: str) -> str:
    """Return the text of a file as it is, or of standard input for `-`.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    if file == "-":
        return standard_input()
    try:
        return _decoded(Path(file).read_bytes(), file)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from None


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 (byte {error.start}).") from None
