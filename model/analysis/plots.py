"""Pictures: the curves of a training, and boundaries over real text or real ink (the paper's Figures 3-5)."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray

from model.analysis.sample import Handwriting, sample_handwriting
from model.checkpoints.checkpoint import Checkpoint
from model.codec import HandwritingCodec, InkCodec, TextCodec
from model.data.corpus import Corpus
from model.training.sweep import Sweep

mpl.use("Agg")

COLOURS = ("#2a6f97", "#e07a1f", "#7b2d8b")
LINE, LINES = 90, 3  # the paper shows 270 characters in three rows
INK_POINTS = 700
SENTENCE = "The quick brown fox jumps over it."


def plot_curves(log: Path, out: Path) -> None:
    """Loss, boundary rates and live shares over the updates, from a training's log."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    updates = [record["update"] for record in records]
    figure, (loss, rates) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    loss.plot(updates, [record["train"] for record in records], color=COLOURS[0], lw=1, label="train")
    loss.plot(updates, [record["valid"] for record in records], color=COLOURS[1], lw=2, label="valid")
    loss.set(xlabel="updates", ylabel=records[-1]["unit"], title="prediction")
    loss.legend(frameon=False)
    for index in range(len(records[-1]["z_rates"])):
        rates.plot(
            updates,
            [r["z_rates"][index] for r in records],
            color=COLOURS[index % len(COLOURS)],
            lw=2,
            label=f"z{index + 1} rate",
        )
        rates.plot(
            updates,
            [r["live_rates"][index] for r in records],
            color=COLOURS[index % len(COLOURS)],
            lw=1,
            ls=":",
            label="live",
        )
    rates.set(xlabel="updates", ylim=(0, 1), title="boundaries")
    if records[-1]["z_rates"]:
        rates.legend(frameon=False)
    _save(figure, out)


def plot_sweep(sweep: Sweep, out: Path) -> None:
    """What each learning rate of a sweep came to: each seed a dot, the mean a line, the best a ring."""
    figure, axes = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    found = [(point.rate, point.valid) for point in sweep.points if point.valid is not None]
    axes.plot(*zip(*found, strict=True), ".", color=COLOURS[0], alpha=0.6)
    means = [(rate, mean) for rate in sweep.rates if (mean := sweep.mean(rate)) is not None]
    axes.plot(*zip(*means, strict=True), color=COLOURS[0], lw=1.5, label="mean over seeds")
    best = [(rate, mean) for rate, mean in means if rate == sweep.best]
    axes.plot(*zip(*best, strict=True), "o", ms=11, mfc="none", color=COLOURS[1], label=f"best: {sweep.best:g}")
    for point in sweep.points:
        if point.valid is None:
            axes.axvline(point.rate, color=COLOURS[2], lw=1, ls=":", label="could not go on")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sweep.rates, [f"{rate:g}" for rate in sweep.rates])
    axes.minorticks_off()
    axes.set(xlabel="learning rate", ylabel=f"validation, {sweep.unit}")
    handles, labels = axes.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    axes.legend(known.values(), known.keys(), frameon=False)
    _save(figure, out)


def plot_boundaries(checkpoint: Checkpoint, corpus: Corpus, out: Path) -> None:
    """Boundaries over the beginning of the validation split; of a network that writes texts, over a line of its own."""
    if isinstance(checkpoint.codec, TextCodec):
        plot_trace(checkpoint, np.asarray(corpus.data.valid[: LINE * LINES], dtype=np.int64), out)
    elif isinstance(checkpoint.codec, HandwritingCodec):
        plot_handwriting(checkpoint.codec, SENTENCE, sample_handwriting(checkpoint, SENTENCE, 0, 0.5, 1)[0], out)
    else:
        plot_trace(checkpoint, np.asarray(corpus.data.valid[0][:INK_POINTS], dtype=np.float32), out)


def plot_handwriting(codec: HandwritingCodec, text: str, written: Handwriting, out: Path) -> None:
    """A line written by a network, its strokes coloured by z1, over where its window lay in the text at each point."""
    figure, (ink, window) = plt.subplots(2, 1, figsize=(13, 7), layout="constrained", height_ratios=(1, 2))
    points = np.cumsum(written.offsets[:, :2], axis=0)
    stroke = np.concatenate([[0], np.cumsum(written.offsets[:-1, 2] > 0)])
    z = written.z[:, 0] if written.z.shape[1] else np.zeros(len(points), np.int64)
    _draw_strokes(ink, points, stroke, np.concatenate([[0], np.cumsum(z[:-1])]))
    ink.set_title(text if written.is_complete else f"{text} (cut at the limit of points)")
    shown = ["start", *text, "end"] if len(codec.encode_text(text)) == len(text) + 2 else []
    window.imshow(written.shares.T, aspect="auto", cmap="magma", interpolation="nearest", vmin=0, vmax=1)
    window.set_yticks(range(len(shown)), shown)
    window.set(xlabel="points", ylabel="share of each character")
    _save(figure, out)


def plot_trace(checkpoint: Checkpoint, inputs: NDArray[Any], out: Path) -> None:
    """Boundaries over symbols (n,), as bands with what the layers hold, or over standardised points (n, 3), as strokes.

    Over text this is Figure 4 of arXiv 1609.01704: z of each layer with a detector, the norm of every layer's h, and
    how often each layer was computed.
    """
    z, norms = trace(checkpoint, torch.from_numpy(inputs))
    if isinstance(checkpoint.codec, TextCodec):
        _plot_text(checkpoint.codec, inputs, z, norms, out)
    elif isinstance(checkpoint.codec, InkCodec):
        _plot_ink(checkpoint.codec, inputs, z, out)


@torch.no_grad()
def trace(checkpoint: Checkpoint, inputs: torch.Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Read symbols (n,) or points (n, 3) one by one; give z (n, L-1) and the norm of each layer's h (n, L)."""
    network, generator = checkpoint.network(), torch.Generator().manual_seed(0)
    state, z, norms = network.zeros(1), [], []
    for x in inputs:
        _, state = network.step(x[None], state, noise=network.step_noise(1, generator))
        z.append([int(layer.z) for layer in state.layers[:-1]])
        norms.append([float(layer.h.norm()) for layer in state.layers])
    return np.asarray(z, np.int64).reshape(len(z), -1), np.asarray(norms, np.float32)


def _plot_text(
    codec: TextCodec, ids: NDArray[np.int64], z: NDArray[np.int64], norms: NDArray[np.float32], out: Path
) -> None:
    detectors = z.shape[1]
    # From top to bottom z1, z2 ..., then the norms of h1, h2 ..., each in shares of its layer's largest.
    bands = np.concatenate([z, norms / norms.max(0, initial=1e-9)], 1)
    names = [f"z{level + 1}" for level in range(detectors)] + [f"|h{level + 1}|" for level in range(norms.shape[1])]
    height = len(names)
    figure, axes = plt.subplots(LINES, 1, figsize=(14, LINES * (0.7 + 0.2 * height)), layout="constrained")
    for row, axis in enumerate(np.atleast_1d(axes)):
        part = slice(row * LINE, (row + 1) * LINE)
        shown_bands = np.full((LINE, height), np.nan)
        shown_bands[: len(bands[part])] = bands[part]
        axis.imshow(shown_bands.T, cmap="gray", aspect="auto", vmin=0, vmax=1, extent=(-0.5, LINE - 0.5, 0, height))
        for place in range(len(ids[part])):
            text = codec.decode(ids[part][place : place + 1])
            shown = {"\n": "↵", " ": " "}.get(text, text)
            axis.text(place, height + 0.15, shown, ha="center", va="bottom", family="monospace", fontsize=9)
        axis.set_yticks([height - level - 0.5 for level in range(height)], names, fontsize=7)
        axis.set(xticks=[], xlim=(-0.5, LINE - 0.5), ylim=(0, height + 1))
        for spine in axis.spines.values():
            spine.set_visible(False)
    active = [len(ids), *(int(v) for v in _active(z))]
    figure.suptitle(f"boundaries (white) over {len(ids)} characters; updates of layers: {', '.join(map(str, active))}")
    _save(figure, out)


def _active(z: NDArray[np.int64]) -> NDArray[np.int64]:
    """Steps on which layers 2, 3, ... were computed: z below fired, or their own z fired before."""
    own = np.concatenate([z[:, 1:], np.zeros_like(z[:, :1])], 1) if z.shape[1] else z
    before = np.concatenate([np.zeros_like(own[:1]), own[:-1]])
    active: NDArray[np.int64] = np.maximum(z, before).sum(0)
    return active


def _plot_ink(codec: InkCodec, line: NDArray[np.float32], z: NDArray[np.int64], out: Path) -> None:
    points = np.cumsum(codec.decode(line)[:, :2], axis=0)
    stroke = np.concatenate([[0], np.cumsum(line[:-1, 2] > 0)])
    figure, axes = plt.subplots(1 + z.shape[1], 1, figsize=(12, 2.2 * (1 + z.shape[1])), layout="constrained")
    axes = np.atleast_1d(axes)
    _draw_strokes(axes[0], points, stroke, stroke)
    axes[0].set_title("strokes (pen lifted between colours)")
    for index in range(z.shape[1]):
        segment = np.concatenate([[0], np.cumsum(z[:-1, index])])
        _draw_strokes(axes[index + 1], points, stroke, segment)
        fired = z[:, index] > 0
        axes[index + 1].set_title(f"segments of z{index + 1} (fires on {fired.mean():.1%} of points)")
    _save(figure, out)


def _draw_strokes(axis: Axes, points: NDArray[Any], stroke: NDArray[Any], colour: NDArray[Any]) -> None:
    for number in np.unique(stroke):
        inside = stroke == number
        for part in np.unique(colour[inside]):
            chosen = np.flatnonzero(inside & (colour == part))
            # One point more, so that a change of colour leaves no gap in the stroke.
            if chosen[-1] + 1 < len(points) and stroke[chosen[-1] + 1] == number:
                chosen = np.append(chosen, chosen[-1] + 1)
            axis.plot(points[chosen, 0], points[chosen, 1], color=COLOURS[int(part) % len(COLOURS)], lw=1.6)
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.axis("off")


def _save(figure: Any, out: Path) -> None:
    figure.savefig(out, dpi=110)
    plt.close(figure)
