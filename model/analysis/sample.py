"""Let a network write, step by step, on the training side: text with its boundaries, or pen offsets."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.checkpoints.checkpoint import Checkpoint
from model.codec import REPLACEMENT, HandwritingCodec, InkCodec, TextCodec
from model.ink import is_line_over, max_points, next_place
from model.network.stack import Condition

SLOTS_AFTER_TEXT = 12  # characters behind the end that the window can move on to before the pen is lifted


@torch.no_grad()
def sample_text(
    checkpoint: Checkpoint, prompt: str, length: int, temperature: float, seed: int
) -> tuple[str, NDArray[np.int64]]:
    """Continue a prompt.

    Args:
        checkpoint: of a text network.
        prompt: read first; empty starts after a line break (or the first symbol).
        length: symbols to write.
        temperature: divides the logits; 0 takes the most probable symbol.
        seed: of the draws.

    Returns:
        prompt and continuation, and z (n, L-1) of each of its symbols as they were read.
    """
    codec = checkpoint.codec
    if not isinstance(codec, TextCodec):
        msg = "this checkpoint writes ink, not text"
        raise TypeError(msg)
    network, generator = checkpoint.network(), torch.Generator().manual_seed(seed)
    ids = codec.encode(prompt or "\n").tolist()
    banned = codec.symbols.index(REPLACEMENT) if REPLACEMENT in codec.symbols else None
    state, z = network.zeros(1), []
    for position in range(len(ids) + length):
        logits, state = network.step(torch.tensor([ids[position]]), state, noise=network.step_noise(1, generator))
        z.append([int(layer.z) for layer in state.layers[:-1]])
        if position >= len(ids) - 1 and len(ids) < len(codec.encode(prompt or "\n")) + length:
            if banned is not None:
                logits[0, banned] = -torch.inf
            ids.append(int(_draw(logits[0], temperature, generator)))
    skip = 0 if prompt else 1
    return codec.decode(np.asarray(ids[skip:])), np.asarray(z, np.int64).reshape(len(z), -1)[skip:]


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax()
    return torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator)[0]


def mark_boundaries(text: str, z: NDArray[np.int64]) -> str:
    """The text with a dot after each z1 and a bar after each z2 (and higher), for a terminal."""
    marks = ("·", "|")
    out = []
    for character, row in zip(text, z, strict=False):
        level = int(row.sum()) if row.size else 0
        out.append(character + (marks[min(level, len(marks)) - 1] if level else ""))
    return "".join(out)


@torch.no_grad()
def sample_ink(checkpoint: Checkpoint, length: int, bias: float, seed: int) -> NDArray[np.float32]:
    """Write freely.

    Args:
        checkpoint: of an ink network.
        length: points.
        bias: sharpens the mixture (Graves 2013, Eqs. 61-62): 0 is as trained.
        seed: of the draws.

    Returns:
        raw offsets float32 (n, 3): dx, dy in the corpus' units and 1 where the pen is lifted after the point.
    """
    codec = checkpoint.codec
    if not isinstance(codec, InkCodec):
        msg = "this checkpoint writes text, not ink"
        raise TypeError(msg)
    network, generator = checkpoint.network(), torch.Generator().manual_seed(seed)
    state, point, points = network.zeros(1), torch.zeros(1, 3), []
    for _ in range(length):
        packed, state = network.step(point, state, noise=network.step_noise(1, generator))
        point = draw_point(packed, bias, generator)
        points.append(point[0])
    return codec.decode(torch.stack(points).numpy())


@dataclass(frozen=True)
class Handwriting:
    """A line of text written by a network.

    Attributes:
        offsets: raw, float32 (n, 3): dx, dy in the corpus' units, 1 where the pen is lifted after the point.
        shares: share of the window on each character at each point, float32 (n, U), sentinels included.
        z: boundaries at each point, int64 (n, L-1).
        is_complete: whether the line ended by itself, and not at the largest number of points.
    """

    offsets: NDArray[np.float32]
    shares: NDArray[np.float32]
    z: NDArray[np.int64]
    is_complete: bool


@torch.no_grad()
def sample_handwriting(
    checkpoint: Checkpoint, text: str, hand: int, bias: float, seed: int, count: int = 1
) -> list[Handwriting]:
    """Write a line of text, which ends by the rule of model/ink.py, as in the service.

    Args:
        checkpoint: of a network that writes texts.
        text: one line; a character the network does not know is written as its unknown one.
        hand: number of a writer's vector; 0 is the unknown hand.
        bias: sharpens the mixture (Graves 2013, Eqs. 61-62): 0 is as trained.
        seed: of the draws.
        count: how many to write side by side, each with draws of its own.

    Raises:
        ValueError: there is no such hand, or the text is blank.
    """
    codec = checkpoint.codec
    if not isinstance(codec, HandwritingCodec):
        msg = "this checkpoint writes no given text"
        raise TypeError(msg)
    if not 0 <= hand < codec.num_hands:
        raise ValueError(f"hand must be from 0 to {codec.num_hands - 1}, not {hand}")
    if not text.strip():
        raise ValueError("there is no text to write")
    network, generator = checkpoint.network(), torch.Generator().manual_seed(seed)
    ids = codec.encode_text(text)
    # Room after the text, so that the window can be seen to leave it.
    padded = torch.from_numpy(np.pad(ids, (0, SLOTS_AFTER_TEXT))).expand(count, -1)
    conditioning = network.conditioning(Condition(padded, torch.full((count,), hand)))
    state = network.zeros(count)
    point = torch.from_numpy(codec.ink.encode(np.zeros((count, 3))))
    points: list[Tensor] = []
    shares: list[Tensor] = []
    z: list[Tensor] = []
    place, num_ids = np.ones(count, np.int64), np.full(count, len(ids))
    lengths = np.zeros(count, np.int64)
    for step in range(max_points(len(text)) + 1):
        before = state
        packed, state = network.step(point, before, 1.0, network.step_noise(count, generator), conditioning)
        share = network.place(state, before, conditioning)
        place = next_place(place, 1 + share[:, 1:].argmax(1).numpy())
        if step:  # the point just read is one that was drawn; the first one is where the pen is set down
            shares.append(share[:, : len(ids)])
            z.append(torch.stack([layer.z for layer in state.layers[:-1]], 1))
            over = is_line_over(place, num_ids, packed[:, -1].numpy(), point[:, 2].numpy())
            lengths[(lengths == 0) & over] = step
        if (lengths > 0).all():
            break
        point = draw_point(packed[:, :-1], bias, generator)
        points.append(point)
    drawn, looked, fired = (torch.stack(parts, 1).numpy() for parts in (points[: len(z)], shares, z))
    written = []
    for row, length in enumerate(lengths.tolist()):
        part = slice(0, length or len(z))
        offsets = codec.ink.decode(drawn[row, part])
        written.append(Handwriting(offsets, looked[row, part], fired[row, part].astype(np.int64), length > 0))
    return written


def draw_point(packed: Tensor, bias: float, generator: torch.Generator) -> Tensor:
    """One offset (B, 3) from packed mixture parameters (B, 6M + 1)."""
    components = (packed.shape[1] - 1) // 6
    weight, mean_x, mean_y, scale_x, scale_y, correlation, pen = packed.split([components] * 6 + [1], 1)
    chosen = torch.multinomial(torch.softmax(weight * (1 + bias), 1), 1, generator=generator)
    mean_x, mean_y, scale_x, scale_y, correlation = (
        part.gather(1, chosen) for part in (mean_x, mean_y, scale_x, scale_y, correlation)
    )
    first, second = torch.randn(packed.shape[0], 2, generator=generator).split(1, 1)
    dx = mean_x + torch.exp(scale_x - bias) * first
    dy = mean_y + torch.exp(scale_y - bias) * (correlation * first + torch.sqrt(1 - correlation**2) * second)
    lifted = (torch.rand(pen.shape, generator=generator) < torch.sigmoid(pen)).to(dx.dtype)
    return torch.cat([dx, dy, lifted], 1)


def strokes_svg(offsets: NDArray[np.float32], margin: float = 40.0) -> str:
    """Raw offsets (n, 3) as an SVG with one path per stroke, in the corpus' units."""
    points = np.cumsum(offsets[:, :2], axis=0)
    low, high = points.min(0) - margin, points.max(0) + margin
    width, height = high - low
    ends = np.flatnonzero(offsets[:, 2] > 0) + 1
    paths = []
    for stroke in np.split(points, ends):
        if len(stroke):
            d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in stroke)
            paths.append(f'<path d="{d}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{low[0]:.1f} {low[1]:.1f} {width:.1f} {height:.1f}">'
        f'<g fill="none" stroke="#123" stroke-width="6" stroke-linecap="round" stroke-linejoin="round">'
        f"{''.join(paths)}</g></svg>"
    )
