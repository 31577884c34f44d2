"""copyist score: how well a network foretells a text."""

import math
from typing import Annotated

import orjson
import typer

from service.cli.client import connect
from service.cli.options import Model, Url, text_of
from service.cli.problems import UsageError
from service.cli.stream import PATH
from service.cli.terminal import output, write_bytes


def score(
    file: Annotated[str, typer.Argument(help="A text in UTF-8; - reads standard input.")],
    model: Model = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    url: Url = None,
) -> None:
    """Measure a text in bits per character: how many a network needs for each, knowing those before it.

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
        body = {"model": name, "prompt": text, "echo": True, "max_tokens": 0, "logprobs": 0}
        nats = client.post(PATH, body).json()["choices"][0]["logprobs"]["token_logprobs"]
    bits = -sum(value for value in nats if value is not None) / math.log(2)
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
