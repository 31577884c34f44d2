"""Choose which hands of a network are offered by name: legible ones that differ, found by trying them all.

The vector of each writer of the training data is a hand, and each hand writes a few sentences. A recogniser says how
well they can be read. Size, slant and width are measured, so that all hands come out equally large and lines can be
broken before they are written. Among the most legible hands, those are chosen that differ most from each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.runtime import Lines, OnnxStep, TextEncoder
from model.codec import HandwritingCodec
from model.ink import SCATTER, SPREAD, is_line_over, max_points, next_place
from model.recogniser.network import Recogniser, character_error_rate

Array = NDArray[Any]

NAMES = (
    "alder", "aspen", "birch", "cedar", "elm", "fir", "hazel", "holly",
    "juniper", "larch", "linden", "maple", "oak", "pine", "rowan", "willow",
)  # fmt: skip
SENTENCES = ("the quick brown fox jumps over it", "and they would never have done so")
BIAS = 1.0
SEED = 7
ROWS = 48
CANDIDATES = 3  # the chosen hands come from this many times as many legible ones


@dataclass(frozen=True)
class Sample:
    """What one hand wrote.

    Attributes:
        writer: number of its vector.
        lines: raw offsets (n, 3) of each sentence.
        is_whole: whether it got to the end of every one of them.
        error: character error rate of the recogniser on them; 1 if there is no recogniser.
        scatter: deviation of y from the lines, in the data's units.
        advance: width of a character, in the data's units.
        slant: of its upright strokes: x to the right for one up.
    """

    writer: int
    lines: Sequence[Array]
    is_whole: bool
    error: float
    scatter: float
    advance: float
    slant: float


def choose(
    step: OnnxStep, encoder: TextEncoder, codec: HandwritingCodec, recogniser: Recogniser | None, count: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the hands to name, as the manifest has them, and figures about them.

    Args:
        step: of the exported network.
        encoder: of its texts.
        codec: of the network.
        recogniser: that reads the ink, or None.
        count: hands to choose.
    """
    samples = try_hands(
        step, encoder, codec, recogniser, range(1, codec.num_hands) if codec.num_hands > 1 else range(1)
    )
    ranked = sorted(samples, key=lambda each: (not each.is_whole, each.error, each.writer))
    chosen = _most_different(ranked[: CANDIDATES * count], min(count, len(ranked), len(NAMES)))
    unit = float(np.sqrt(codec.ink.std[0] * codec.ink.std[1]))
    figures: dict[str, Any] = {"hands_looked_at": len(samples), "hands_whole": sum(each.is_whole for each in samples)}
    if recogniser is not None:
        figures |= {
            "hands_cer": [round(each.error, 4) for each in chosen],
            "all_hands_cer": float(np.mean([each.error for each in samples])),
        }
    return [_described(each, name, unit) for each, name in zip(chosen, NAMES, strict=False)], figures


def try_hands(
    step: OnnxStep, encoder: TextEncoder, codec: HandwritingCodec, recogniser: Recogniser | None, writers: Sequence[int]
) -> list[Sample]:
    """Let hands write the sentences, ROWS lines at a time, and measure what they wrote."""
    jobs = [(writer, sentence) for writer in writers for sentence in SENTENCES]
    done: list[tuple[Array, bool]] = []
    for begin in range(0, len(jobs), ROWS):
        done += write_lines(step, encoder, codec, jobs[begin : begin + ROWS])
    samples = []
    for index, writer in enumerate(writers):
        part = done[index * len(SENTENCES) : (index + 1) * len(SENTENCES)]
        lines = [line for line, _ in part]
        error = 1.0
        if recogniser is not None:
            texts = [recogniser.codec.text.decode(recogniser.codec.text.encode(sentence)) for sentence in SENTENCES]
            error = character_error_rate(recogniser.read([recogniser.codec.encode(line) for line in lines]), texts)
        samples.append(_measured(writer, lines, all(whole for _, whole in part), error))
    return samples


def write_lines(
    step: OnnxStep, encoder: TextEncoder, codec: HandwritingCodec, jobs: Sequence[tuple[int, str]]
) -> list[tuple[Array, bool]]:
    """Write lines side by side and return the raw offsets (n, 3) of each, and whether it came to the end of its text.

    A line ends by the rule of model/ink.py, as it does in the service; one that does not end is cut at its limit.
    """
    ids = [codec.encode_text(text) for _, text in jobs]
    longest = max(map(len, ids))
    padded = np.array([np.pad(line, (0, longest - len(line))) for line in ids])
    lines = Lines.encode(encoder, padded, np.array([writer for writer, _ in jobs]))
    lengths = np.array([len(line) for line in ids])
    random = np.random.default_rng(SEED)
    state, x = step.zeros(len(jobs)), np.repeat(codec.encode(np.zeros((1, 3))), len(jobs), axis=0)
    place = np.ones(len(jobs), np.int64)
    limits = np.array([max_points(len(text)) for _, text in jobs])
    ends = np.zeros(len(jobs), np.int64)  # points of each line that is done, 0 for one that goes on
    is_whole = np.zeros(len(jobs), np.bool_)
    points = [x]
    for now in range(int(limits.max()) + 1):
        noise = np.column_stack(
            [random.random(len(jobs)), random.standard_normal((len(jobs), 2)), random.random(len(jobs))]
        )
        sampling_inputs = {**lines.inputs, "bias": np.full(len(jobs), BIAS, np.float32), "noise": noise}
        drawn, _, state = step.draw(x, state, sampling_inputs)
        place = next_place(place, drawn[:, 4])
        over = is_line_over(place, lengths, drawn[:, 3], x[:, 2]) & (now > 0)
        goes_on = ends == 0
        is_whole |= goes_on & over
        ends[goes_on & (over | (now >= limits))] = now + 1
        if (ends > 0).all():
            break
        x = drawn[:, :3]
        points.append(x)
    path = np.stack(points, axis=1)
    return [(codec.decode(row[:end]), bool(whole)) for row, end, whole in zip(path, ends, is_whole, strict=True)]


def _measured(writer: int, lines: Sequence[Array], is_whole: bool, error: float) -> Sample:
    """Return what one hand wrote, with the means of its measures over the lines."""
    scatters, widths, slants = [], [], []
    for line in lines:
        path = line[:, :2].cumsum(axis=0)
        x, y = (path - path.mean(axis=0)).T
        slope = float((x * y).sum() / max(float((x * x).sum()), 1e-9))
        scatters.append(float((y - slope * x).std()))
        widths.append(float(np.ptp(x)))
        inside = line[1:][line[:-1, 2] == 0]
        upright = inside[np.abs(inside[:, 1]) > np.abs(inside[:, 0])]
        slants.append(-float((upright[:, 0] * upright[:, 1]).sum() / max(float((upright[:, 1] ** 2).sum()), 1e-9)))
    characters = sum(map(len, SENTENCES))
    return Sample(
        writer, lines, is_whole, error, float(np.mean(scatters)), sum(widths) / characters, float(np.mean(slants))
    )


def _most_different(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return the first sample, and then always the one farthest from those taken, by slant, size and width."""
    features = np.array([[each.slant, np.log(each.scatter + 1), np.log(each.advance + 1)] for each in samples])
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    taken = [0]
    while len(taken) < count:
        far = np.linalg.norm(features[:, None] - features[taken], axis=2).min(axis=1)
        far[taken] = -1
        taken.append(int(far.argmax()))
    return [samples[index] for index in taken]


def _described(sample: Sample, name: str, unit: float) -> dict[str, Any]:
    """Return a hand as the manifest has it."""
    scale = float(np.clip(SCATTER * unit / max(sample.scatter, 1e-6), 0.2, 5.0))
    advance = float(np.clip(sample.advance * scale * SPREAD / unit, 0.4, 6.0))
    leaning = "leaning right" if sample.slant > 0.15 else "leaning left" if sample.slant < -0.15 else "upright"
    width = "narrow" if advance < 1.3 else "wide" if advance > 2.0 else "of ordinary width"
    return {
        "name": name,
        "writer": sample.writer,
        "description": f"{leaning}, {width}",
        "scale": round(scale, 4),
        "advance": round(advance, 4),
    }
