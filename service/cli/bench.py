"""copyist bench: how fast a server answers, as a client sees it."""

import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
import typer

from service.cli.client import Client, connect
from service.cli.options import Json, Model, Url
from service.cli.stream import PATH
from service.cli.terminal import output, write_bytes

PROMPT = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness"


@dataclass(frozen=True)
class Timing:
    """What was measured of one stream: seconds to the first character, and number of characters."""

    first_s: float
    characters: int


def bench(
    model: Model = None,
    requests: Annotated[int, typer.Option(min=1, max=1000, help="Number of requests sent one after the other.")] = 8,
    streams: Annotated[int, typer.Option(min=1, max=64, help="Number of streams at a time in a second round.")] = 4,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=2, help="Characters written by each.")] = 200,
    json: Json = False,
    url: Url = None,
) -> None:
    """Measure time to the first character and characters per second, for one stream at a time and for several.

    The figures include the client's own work. One request beforehand warms up and is not counted.
    """
    with connect(url) as client:
        name = client.model("text", model)
        body: dict[str, Any] = {"model": name, "prompt": PROMPT[:100], "max_tokens": max_tokens, "seed": 1}
        _follow(client, body)
        alone, alone_s = _round(client, body, requests, 1)
        together, together_s = _round(client, body, requests * streams, streams)
    report = {
        "server": client.place,
        "model": name,
        "prompt_characters": len(body["prompt"]),
        "max_tokens": max_tokens,
        "alone": _figures(alone, alone_s),
        "together": {"streams": streams, **_figures(together, together_s)},
    }
    if json:
        write_bytes(orjson.dumps(report) + b"\n")
        return
    screen = output()
    screen.print(f"{client.place}, {name}, {len(body['prompt'])} characters read, up to {max_tokens} written")
    for title, figures in (("alone", report["alone"]), (f"{streams} at a time", report["together"])):
        screen.print(_line(title, figures))


def _round(client: Client, body: Mapping[str, Any], count: int, streams: int) -> tuple[list[Timing], float]:
    """Run `count` requests, `streams` at a time; return the timing of each and the seconds of the whole round."""
    began = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        timings = list(pool.map(lambda at: _follow(client, {**body, "seed": at}), range(count)))
    return timings, time.perf_counter() - began


def _follow(client: Client, body: Mapping[str, Any]) -> Timing:
    """Read one stream to its end."""
    began = time.perf_counter()
    first_s, characters = None, 0
    for event in client.events(PATH, body):
        written = sum(len(choice["text"]) for choice in event["choices"])
        if written and first_s is None:
            first_s = time.perf_counter() - began
        characters += written
    return Timing(time.perf_counter() - began if first_s is None else first_s, characters)


def _figures(timings: list[Timing], wall_s: float) -> dict[str, float]:
    """Summarise a round: times to the first character, and all characters over the seconds of the round."""
    firsts = sorted(1000 * timing.first_s for timing in timings)
    return {
        "requests": len(timings),
        "characters": sum(timing.characters for timing in timings),
        "first_character_ms_median": round(statistics.median(firsts), 2),
        "first_character_ms_max": round(firsts[-1], 2),
        "characters_per_s": round(sum(timing.characters for timing in timings) / wall_s, 1),
    }


def _line(title: str, figures: Any) -> str:
    return (
        f"{title:<14} {figures['requests']:>5} requests   first character {figures['first_character_ms_median']} ms "
        f"(median), {figures['first_character_ms_max']} ms (slowest)   {figures['characters_per_s']:,} characters/s"
    )
