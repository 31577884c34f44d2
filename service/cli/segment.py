"""copyist segment: where a network places segment boundaries in a given text."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from service.cli.client import connect
from service.cli.options import Json, Model, Url, given, text_of
from service.cli.terminal import BANDS, LINE_BREAK, output, printable, write_bytes

PATH = "/v1/segment"
Node = Mapping[str, Any]


def segment(
    file: Annotated[str, typer.Argument(help="A text in UTF-8; - reads standard input.")],
    model: Model = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Show the segments that each layer finds in a text.

    On a terminal a band below the text marks each segment, layer 1 first. In a pipe each line is a segment of the
    highest layer, with the segments of the layers below in brackets.

    For example:

        echo "It was a dark and stormy night." | copyist segment -

        copyist segment my-letter.txt --json | jq .tree
    """
    text = text_of(file)
    with connect(url) as client:
        name = client.model("text", model)
        reply = client.post(PATH, given(model=name, text=text))
    screen = output()
    if json:
        write_bytes(reply.content + b"\n")
    elif screen.is_terminal:
        _show(text, reply.json()["tree"], screen)
    else:
        write_bytes("".join(f"{line}\n" for line in bracketed(text, reply.json()["tree"])).encode())


def bracketed(text: str, tree: Node) -> list[str]:
    """Return a line for each segment of the highest layer that ends any, those within it in brackets."""
    return [_in_brackets(text, node) for node in tree.get("segments") or [tree]]


def _in_brackets(text: str, node: Node) -> str:
    within = node.get("segments")
    inner = "".join(_in_brackets(text, each) for each in within) if within else text[node["start"] : node["end"]]
    return f"[{inner}]".replace("\n", LINE_BREAK)


def _show(text: str, tree: Node, screen: Console) -> None:
    """Print the text in rows as wide as the screen, each with a band below it for every layer."""
    bands = [band(text, _level(tree, layer)) for layer in range(1, tree["layer"])]
    shown = printable(text).replace("\n", LINE_BREAK)
    for start, end in rows_of(text, screen.width):
        screen.print(shown[start:end])
        for layer, signs in enumerate(bands, 1):
            screen.print(Text("".join(signs[start:end]), BANDS[layer].removeprefix("black on ")))


def _level(tree: Node, layer: int) -> list[Node]:
    """All segments of a layer, in their order."""
    if tree["layer"] == layer:
        return [tree]
    return [node for within in tree.get("segments") or () for node in _level(within, layer)]


def band(text: str, nodes: Sequence[Node]) -> list[str]:
    """What stands below each character: a band for each segment, open at its end where the text ends in it."""
    pieces = ["─" * cell_len(character) if character != "\n" else "─" for character in printable(text)]
    for node in nodes:
        first, last = node["start"], node["end"] - 1
        if last < first:
            continue  # it ends within a character of several bytes
        pieces[first] = ("└" + pieces[first][1:])[: len(pieces[first])]
        if node["complete"] and pieces[last]:
            pieces[last] = pieces[last][:-1] + "┘" if pieces[last] != "└" else "│"
    return pieces


def rows_of(text: str, width: int) -> Iterator[tuple[int, int]]:
    """Yield the rows of a text, from start to end: no wider than the screen, and ended by a line break."""
    edges, used = [0], 0
    for at, character in enumerate(printable(text)):
        cells = 1 if character == "\n" else cell_len(character)
        if used and (used + cells > width or text[at - 1] == "\n"):
            edges.append(at)
            used = 0
        used += cells
    yield from pairwise([*edges, len(text)])
