"""copyist write: pen strokes into a file."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.client import connect
from service.cli.options import Model, Seed, Url, given, standard_input
from service.cli.problems import UsageError
from service.cli.terminal import write_bytes

PATH = "/v1/handwriting"
FORMATS = {
    ".svg": "svg",
    ".json": "strokes",
    ".png": "png",
    ".pdf": "pdf",
    ".inkml": "inkml",
    ".gcode": "gcode",
    ".nc": "gcode",
}
BINARY = ("png", "pdf")


def write(
    text: Annotated[
        str | None,
        typer.Argument(help="What to write; - reads standard input; none: free writing.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", dir_okay=False, help=f"File; its end says the format: {', '.join(FORMATS)}."),
    ] = None,
    format_: Annotated[str | None, typer.Option("--format", help="Format, whatever the file is called.")] = None,
    model: Model = None,
    style: Annotated[int | None, typer.Option(help="Whose hand.", show_default=False)] = None,
    bias: Annotated[float | None, typer.Option(help="0 writes as learned, more writes neater.")] = None,
    max_points: Annotated[int | None, typer.Option(help="Points of the pen's path at most.")] = None,
    seed: Seed = None,
    url: Url = None,
) -> None:
    """Write with a pen, into a file or to standard output (SVG where nothing says otherwise).

    For example:

        copyist write -o scribble.svg --seed 1

        copyist write "Dear reader," --style 3 -o letter.svg

        copyist write "Dear reader," -o letter.gcode --url http://127.0.0.1:8000
    """
    chosen = format_ or _format_of(out)
    if out is None and chosen in BINARY and sys.stdout.isatty():
        raise UsageError(f"{chosen} is no text for a terminal; name a file with -o or pipe it on.")
    wanted = standard_input() if text == "-" else text
    body = given(text=wanted, model=model, style=style, bias=bias, max_points=max_points, seed=seed, format=chosen)
    with connect(url) as client:
        content = client.post(PATH, body).content
    if out is None:
        write_bytes(content)
    else:
        _save(out, content)


def _format_of(out: Path | None) -> Any:
    if out is None:
        return "svg"
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"{out}: the end of the name says no format; use one of {', '.join(FORMATS)}, or --format.")
    return FORMATS[out.suffix.lower()]


def _save(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        UsageError: it cannot be written there.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
