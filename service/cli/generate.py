"""copyist generate: continue a text."""

import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from service.cli.client import Client, connect
from service.cli.options import Json, Model, Seed, Url, given, standard_input
from service.cli.stream import PATH, pieces
from service.cli.terminal import legend, messages, output, painted, printable, write_bytes


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue; - or none reads standard input.", show_default=False)
    ] = None,
    model: Model = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Most characters to write.")] = 200,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0 always takes the likeliest.")] = 0.7,
    top_p: Annotated[float | None, typer.Option(help="Draw from the smallest set with this probability.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from this number of likeliest characters.")] = None,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends it; up to four.")] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt first.")] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Continue a text, character by character as they are written.

    On a terminal, colours show where the layers end their segments. In a pipe the output is the text alone.

    For example:

        copyist generate "It was a dark " --max-tokens 200 --seed 1

        echo "Once" | copyist generate --url http://127.0.0.1:8000

        copyist generate "The " --json | jq .usage.layer_updates
    """
    stdin_is_asked = prompt == "-" or (prompt is None and not sys.stdin.isatty())
    text = standard_input() if stdin_is_asked else prompt or ""
    parameters = given(
        prompt=text, max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, stop=stop
    )
    screen = output()
    with connect(url) as client:
        body = {"model": client.model("text", model), **parameters}
        if json:
            write_bytes(client.post(PATH, {**body, "boundaries": True}).content + b"\n")
        elif screen.is_terminal:
            _show(client, body, screen, text if echo else "")
        else:
            if echo:
                write_bytes(text.encode())
            for choice, _ in pieces(client, body):
                write_bytes(choice["text"].encode())


def _show(client: Client, body: dict[str, Any], screen: Console, echoed: str) -> None:
    """Print the stream in colours; then say on standard error which model and seed it was."""
    screen.print(printable(echoed), style="dim", end="")
    num_detectors, num_written, seed = 0, 0, None
    for choice, event in pieces(client, {**body, "boundaries": True}):
        num_detectors, num_written = len(choice["z"]), num_written + len(choice["text"])
        screen.print(painted(choice["text"], choice["z"]), end="")
        seed = event.get("seed", seed)
    screen.print()
    notes = messages()
    notes.print(f"{num_written} characters by {body['model']}, seed {seed}; ", style="dim", end="")
    notes.print(legend(num_detectors))
