"""What the commands of `python -m model` share: messages on standard error, and the choice of a device."""

import torch
import typer
from rich.console import Console
from rich.markup import escape

from model.config import ConfigError

console = Console(stderr=True)


def fail(message: object) -> typer.Exit:
    """Print an error in one line, and return what to raise so that the command exits with 1."""
    # Messages hold paths and intervals: brackets are no markup, and a line break would tear a path.
    console.print(f"[red]error:[/red] {escape(str(message))}", highlight=False, soft_wrap=True)
    return typer.Exit(1)


def device_named(name: str) -> torch.device:
    """The device of a name; "auto" is the fastest there is.

    Raises:
        ConfigError: there is no such device here.
    """
    known = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if name == "auto":
        return torch.device(known[-1])
    if name.partition(":")[0] not in known:
        raise ConfigError(f"there is no device {name!r} here; choose auto or one of {', '.join(known)}")
    return torch.device(name)
