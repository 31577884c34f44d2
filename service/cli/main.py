"""copyist: every command is a client of the HTTP service, on another server (--url) or inside the command itself."""

import sys
from collections.abc import Sequence

import typer
from rich.console import Console

from service.cli.bench import bench
from service.cli.bundles import bundles
from service.cli.doctor import doctor
from service.cli.generate import generate
from service.cli.key import key
from service.cli.problems import INTERRUPTED, CommandError
from service.cli.score import score
from service.cli.segment import segment
from service.cli.serve import serve
from service.cli.terminal import messages
from service.cli.write import write

app = typer.Typer(
    help="Write text and handwriting with a Hierarchical Multiscale LSTM, and see where it places segment boundaries.",
    epilog="Exit codes: 0 success, 1 refused by the server, 2 wrong usage, 3 no server, 130 Ctrl-C.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (serve, generate, write, segment, score, bundles, bench, doctor, key):
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code.

    Args:
        arguments: without the program's name; those of the process if not given.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="copyist")
    except CommandError as error:
        _complain(messages(), str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _complain(console: Console, sentence: str) -> None:
    console.print("error: ", style="red", end="")
    console.print(sentence)
