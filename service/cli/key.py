"""copyist key: an API key for a client of the service."""

from typing import Annotated

import typer

from service.access.keys import make
from service.cli.problems import UsageError
from service.cli.terminal import write_bytes


def key(
    name: Annotated[str, typer.Argument(help="Whose it is: 1 to 64 letters, digits, dots, dashes and underscores.")],
) -> None:
    """Make an API key: print it, once, and below it the entry that COPYIST_API_KEYS takes."""
    try:
        made, entry = make(name)
    except ValueError as error:
        raise UsageError(f"NAME: {error}") from error
    write_bytes(f"{made}\n{entry}\n".encode())
