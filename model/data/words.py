"""Sentences whose strokes were assigned to words by hand: ground truth for words, made without a network or a rule.

The ink comes from other pens than the training ink, so it is brought to the density and size of that ink first.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.codec import InkCodec
from model.data.errors import DataError

HELD_OUT = 3  # the authors' own test sentences, by other writers than the rest
THINNING = 2  # 39 points a letter, against 22 in IAM-OnDB
RETURN = 0.5  # of the width written so far: a pen that moves back this far, and down, begins another line


class WordedLine(NamedTuple):
    """One text line of a sentence.

    Attributes:
        line: float32 (n, 3): standardised dx, dy and pen_up, as in `InkCorpus`.
        word_end: bool (n,), true on the last point of each word.
    """

    line: NDArray[np.float32]
    word_end: NDArray[np.bool_]


def read_words(path: Path, codec: InkCodec) -> list[WordedLine]:
    """Read the held-out sentences of an .npz with dx, dy, eos, offsets, word and split, cut into text lines.

    Args:
        path: in the form of ImadocSen-OnDB (word: the number of each point's word in its sentence).
        codec: of the training ink. Points are thinned to every second of a stroke, then scaled so that dy spreads as it
            does there.

    Raises:
        DataError: the file is missing, damaged or without words.
    """
    needed = ("dx", "dy", "eos", "offsets", "word", "split")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in needed}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: expected an .npz of strokes with {', '.join(needed)} ({error})") from error
    offsets = arrays["offsets"].astype(np.int64)
    sentences = []
    for number in np.flatnonzero(arrays["split"] == HELD_OUT):
        part = slice(offsets[number], offsets[number + 1])
        at = np.stack([arrays["dx"][part], arrays["dy"][part]], 1).astype(np.float64).cumsum(0)
        sentences += _lines(*_thin(at, arrays["eos"][part] > 0, arrays["word"][part]))
    if not sentences:
        raise DataError(f"{path}: expected sentences with split code {HELD_OUT}, found none")
    spread = float(np.std(np.concatenate([np.diff(at[:, 1]) for at, _, _ in sentences])))
    return [_standardise(*each, codec, codec.std[1] / spread) for each in sentences]


Written = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]  # places, lifts, word ends


def _thin(at: NDArray[np.float64], lifted: NDArray[np.bool_], word: NDArray[np.integer]) -> Written:
    ends = lifted | np.append(word[1:] != word[:-1], True)  # a word ends with its pen lifted, recorded so or not
    begins = np.append(0, np.flatnonzero(ends)[:-1] + 1)
    place_in_stroke = np.arange(len(at)) - np.repeat(begins, np.diff(np.append(begins, len(at))))
    kept = ends | (place_in_stroke % THINNING == 0)
    word_end = np.append(word[1:] != word[:-1], True)
    return at[kept], ends[kept], word_end[kept]


def _lines(at: NDArray[np.float64], lifted: NDArray[np.bool_], word_end: NDArray[np.bool_]) -> list[Written]:
    """Cut where a word has ended and the pen flies back over half of the line and down."""
    cuts, begin = [0], 0
    for end in np.flatnonzero(word_end)[:-1]:
        written, (across, down) = at[begin : end + 1], at[end + 1] - at[end]
        if down > 0 and -across > RETURN * np.ptp(written[:, 0]) and -across > np.ptp(written[:, 1]):
            begin = int(end) + 1
            cuts.append(begin)
    cuts.append(len(at))
    return [(at[a:b], lifted[a:b], word_end[a:b]) for a, b in itertools.pairwise(cuts) if b - a > 1]


def _standardise(
    at: NDArray[np.float64], lifted: NDArray[np.bool_], word_end: NDArray[np.bool_], codec: InkCodec, scale: float
) -> WordedLine:
    offsets = np.diff(at, axis=0, prepend=at[:1]) * scale
    return WordedLine(codec.encode(np.column_stack([offsets, lifted])), word_end)
