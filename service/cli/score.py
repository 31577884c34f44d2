"""copyist score: how well a network predicts a text."""

import math
from collections.abc import Iterator
from typing import Annotated

import orjson
import typer

from service.cli.client import Client, connect
from service.cli.options import Model, Url, given, text_of
from service.cli.problems import UsageError
from service.cli.stream import PATH
from service.cli.terminal import output, write_bytes

PIECE_CHARS = 4096


def score(
    file: Annotated[str, typer.Argument(help="A text in UTF-8; - reads standard input.")],
    model: Model = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    url: Url = None,
) -> None:
    """Measure how well a network predicts a text, in bits per character.

    The first character has none before it and is not counted.

    For example:

        copyist score my-letter.txt

        echo "It was a dark and stormy night." | copyist score - --json
    """
    text = text_of(file)
    if len(text) < 2:
        raise UsageError("There is nothing to measure in fewer than two characters.")
    with connect(url) as client:
        name = client.model("text", model)
        bits = -math.fsum(_nats(client, name, text)) / math.log(2)
    report = {"model": name, "characters": len(text) - 1, "bits": bits, "bits_per_character": bits / (len(text) - 1)}
    screen = output()
    if json:
        write_bytes(orjson.dumps(report) + b"\n")
    elif screen.is_terminal:
        screen.print(
            f"{report['bits_per_character']:.4f} bits per character, over {report['characters']:,} of them by {name}"
        )
    else:
        write_bytes(f"{report['bits_per_character']:.6f}\n".encode())


def _nats(client: Client, model: str, text: str) -> Iterator[float]:
    """Yield the natural logarithm of the probability of each symbol but the first.

    A text of any length is read once, in pieces: each starts from the state in which the one before it ended.
    """
    state = None
    for start in range(0, len(text), PIECE_CHARS):
        body = given(
            model=model, prompt=text[start : start + PIECE_CHARS], state=state, echo=True, max_tokens=0, logprobs=0,
            return_state=start + PIECE_CHARS < len(text) or None,
        )  # fmt: skip
        choice = client.post(PATH, body).json()["choices"][0]
        yield from (value for value in choice["logprobs"]["token_logprobs"] if value is not None)
        state = choice.get("state")
