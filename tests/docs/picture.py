"""Draw the first picture of the README: `python -m tests.docs.picture` from the repository's root.

A line of handwriting and two lines of prose, written by the shipped bundles with a fixed seed and marked where the
network places a boundary.
"""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.service.live_server import ROOT, running

WRITTEN = "Copyist turns text into handwriting,"
PROMPT = "and goes on, "
STYLE, INK_SEED, PROSE_SEED = "larch", 3, 2
MAX_TOKENS = 120
LINE_CHARS, LINES = 72, 2
DARK, LAYER_1, LAYER_2 = "#1d2733", "#8fb8de", "#d1495b"
INK, PALE = "#16324f", "#8a8f98"


def handwriting(axes: Axes, drawn: dict[str, Any]) -> None:
    """Draw strokes, with a dot at each point that ends a segment of layer 2."""
    start = 0
    for number, lifts in enumerate(drawn["pen"]):
        if lifts or number == len(drawn["pen"]) - 1:
            piece = slice(start, number + 1)
            axes.plot(drawn["x"][piece], drawn["y"][piece], color=INK, linewidth=2.2, solid_capstyle="round")
            start = number + 1
    ends = [number for number, fires in enumerate(drawn["z"][1]) if fires]
    axes.scatter([drawn["x"][n] for n in ends], [drawn["y"][n] for n in ends], s=15, color=LAYER_2, zorder=3)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.axis("off")


def prose(axes: Axes, prompt: str, text: str, z: list[list[int]]) -> None:
    """Draw text in lines of equal characters, with a tick after each character that ends a segment."""
    shown = [(character, 0, 0) for character in prompt] + list(zip(text, z[0], z[1], strict=True))
    whole = prompt + text
    second_line = whole.rindex(" ", 0, LINE_CHARS) + 1
    for number, (character, first, second) in enumerate(shown):
        line, column = (0, number) if number < second_line else (1, number - second_line)
        colour = PALE if number < len(prompt) else DARK
        axes.text(column + 0.5, line, character, family="monospace", fontsize=11.5, ha="center", color=colour)
        if second:
            axes.plot([column + 0.5] * 2, [line + 0.42, line - 0.12], color=LAYER_2, linewidth=2.4)
        elif first:
            axes.plot([column + 0.5] * 2, [line + 0.42, line + 0.14], color=LAYER_1, linewidth=2.4)
    axes.set_xlim(-0.5, LINE_CHARS + 0.5)
    axes.set_ylim(LINES - 0.3, -0.9)
    axes.axis("off")


def main(file: Path) -> None:
    """Write the picture."""
    with running(ROOT / "service" / "bundles") as server:
        ink = server.post("/v1/handwriting", text=WRITTEN, model="ink", style=STYLE, seed=INK_SEED).json()
        asked = {"prompt": PROMPT, "max_tokens": MAX_TOKENS, "temperature": 0.5, "seed": PROSE_SEED, "boundaries": True}
        text = server.post("/v1/completions", model="prose", **asked).json()["choices"][0]
    figure = Figure(figsize=(9.0, 2.5), dpi=110, facecolor="white")
    handwriting(figure.add_axes((0.03, 0.38, 0.94, 0.6)), ink)
    prose(figure.add_axes((0.02, 0.02, 0.96, 0.32)), PROMPT, text["text"], text["z"])
    figure.savefig(file)


if __name__ == "__main__":
    main(ROOT / "docs" / "pictures" / "copyist.png")
