"""copyist write: pen strokes into a file."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.client import Client, connect
from service.cli.options import Model, Seed, Url, given, standard_input
from service.cli.problems import UsageError
from service.cli.sheet import sheet
from service.cli.terminal import write_bytes

PATH = "/v1/handwriting"
STYLES = "/v1/handwriting/styles"
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
        typer.Argument(help="Text to write; - reads standard input; without one: free writing.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", dir_okay=False, help=f"File; its end says the format: {', '.join(FORMATS)}."),
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="Format, whatever the name of the file ends in.")
    ] = None,
    model: Model = None,
    style: Annotated[str | None, typer.Option(help="Name of a hand, or its number in the list of --styles.")] = None,
    styles: Annotated[
        bool, typer.Option("--styles", help="List the hands, or draw a sample of each into the file.")
    ] = False,
    bias: Annotated[float | None, typer.Option(help="0 writes as learned; a larger value writes neater.")] = None,
    max_points: Annotated[int | None, typer.Option(help="Free writing: number of points of the pen's path.")] = None,
    page: Annotated[str | None, typer.Option(help="a4, a5, letter, ..., or fit: as large as the ink.")] = None,
    line_width_mm: Annotated[float | None, typer.Option(help="Width of the lines.")] = None,
    x_height_mm: Annotated[float | None, typer.Option(help="Height of a lower-case x.")] = None,
    align: Annotated[str | None, typer.Option(help="left, center, right or justify.")] = None,
    color: Annotated[str | None, typer.Option(help="Colour of the ink, as #rrggbb.")] = None,
    seed: Seed = None,
    url: Url = None,
) -> None:
    """Write by hand, into a file or to standard output (as SVG by default).

    For example:

        copyist write -o scribble.svg --seed 1

        copyist write "Dear reader," --style 3 -o letter.svg

        copyist write "Dear reader," -o letter.gcode --url http://127.0.0.1:8000
    """
    chosen = format_ or _format_of(out)
    if out is None and chosen in BINARY and sys.stdout.isatty():
        raise UsageError(f"{chosen} is no text for a terminal; name a file with -o or pipe it on.")
    wanted = standard_input() if text == "-" else text
    body = given(
        text=wanted, model=model, bias=bias, max_points=max_points, seed=seed, format=chosen, page=page,
        line_width_mm=line_width_mm, x_height_mm=x_height_mm, align=align, color=color,
    )  # fmt: skip
    with connect(url) as client:
        if styles:
            _print_styles(client, out, chosen)
            return
        if style is not None:
            body["style"] = _style(client, style)
        content = client.post(PATH, body).content
    if out is None:
        write_bytes(content)
    else:
        _save(out, content)


def _print_styles(client: Client, out: Path | None, chosen: str) -> None:
    """List the hands, or draw a sheet of them into a file."""
    cards = client.get(STYLES)["data"]
    if out is None:
        write_bytes(_listed(cards).encode())
    elif chosen == "svg":
        _save(out, sheet(cards).encode())
    else:
        raise UsageError("A sheet of all hands is an SVG; name a file that ends in .svg.")


def _listed(cards: list[dict[str, Any]]) -> str:
    """A line for each hand: its number, name, model and description."""
    rows = [(str(number), card["id"], card["model"], card["description"]) for number, card in enumerate(cards, 1)]
    return "".join("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)


def _style(client: Client, given_style: str) -> str:
    """Return the name of a hand that was given by its name or by its number."""
    if not given_style.isdecimal():
        return given_style
    names = [card["id"] for card in client.get(STYLES)["data"]]
    if given_style not in names and not 1 <= int(given_style) <= len(names):
        raise UsageError(f"There is no hand number {given_style}; there are {len(names)}, and --styles lists them.")
    return given_style if given_style in names else str(names[int(given_style) - 1])


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
