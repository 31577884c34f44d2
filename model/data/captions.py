"""Captions of lines of ink (what they say and who wrote them): read from a stroke file, cleaned, and turned into ids.

Learning to write a text needs lines whose text is right. Training (never valid or test) leaves out lines without a
text, with a "#" (which stands for words crossed out), marked as badly captured, with a jump that no hand makes, or with
so many or so few points a character that text and ink cannot belong together. In a large set, lines with a scarce
character are repeated: digits are 0.3 % of all characters, and no letter is learned from twenty examples.
"""

import itertools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.codec import HandwritingCodec, InkCodec, TextCodec
from model.data.batches import Caption
from model.data.errors import DataError

Parts = dict[str, NDArray[np.intp]]

LARGE = 1000  # training lines; a smaller set keeps every character and repeats no line
MIN_COUNT = 20  # a rarer character is learned as "some unknown character"
SCARCE, REPEATS = 200, 4  # a line with a character that occurs less than 200 times is repeated 4 times
MAX_JUMP = 1500  # raw units; lines of IAM-OnDB are some 5,000 wide
PLAUSIBLE_POINTS_PER_CHARACTER = (8, 45)  # 99.5 % of IAM-OnDB are inside, 21 is usual


@dataclass(frozen=True)
class Transcripts:
    """Per line: its text, its writer (-1 where not known) and whether its data are known to be bad."""

    texts: list[str]
    writers: NDArray[np.int64]
    is_doubtful: NDArray[np.bool_]


def read_transcripts(path: Path, arrays: dict[str, NDArray[Any]], count: int) -> Transcripts | None:
    """Cut the texts of a stroke file into lines; None where it has none.

    Raises:
        DataError: texts or writers do not fit the lines.
    """
    if "text" not in arrays or "text_offsets" not in arrays:
        return None
    content, offsets = arrays["text"], arrays["text_offsets"]
    if content.dtype != np.uint8 or offsets.dtype.kind not in "iu":
        raise DataError(f"{path}: expected text as bytes and text_offsets as whole numbers")
    if len(offsets) != count + 1 or offsets[0] != 0 or offsets[-1] != len(content) or (np.diff(offsets) < 0).any():
        raise DataError(f"{path}: expected text_offsets from 0 to {len(content)} for {count} lines")
    joined = content.tobytes()
    try:
        texts = [_clean(joined[a:b].decode()) for a, b in itertools.pairwise(offsets.tolist())]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8 ({error})") from error
    writers = arrays.get("writer", np.full(count, -1))
    doubtful = arrays.get("low_likelihood", np.zeros(count))
    if len(writers) != count or len(doubtful) != count:
        raise DataError(f"{path}: expected one writer and one low_likelihood for each of {count} lines")
    return Transcripts(texts, writers.astype(np.int64), doubtful.astype(np.bool_))


def _clean(text: str) -> str:
    """The text as the hand wrote it: some transcriptions keep a tokeniser's spaces before punctuation."""
    return re.sub(r" +([.,;:?!])", r"\1", text).strip()


def caption_lines(
    path: Path,
    parts: Parts,
    lines: list[NDArray[np.float64]],
    transcripts: Transcripts,
    ink: InkCodec,
    codec: HandwritingCodec | None,
) -> tuple[Parts, HandwritingCodec, dict[str, list[Caption]], dict[str, Any]]:
    """Choose the lines with usable captions, and make the captions.

    Args:
        path: of the file, for messages.
        parts: lines of each split.
        lines: raw offsets of all lines.
        transcripts: texts and writers of all lines.
        ink: codec of the offsets.
        codec: a trained network's, or None to take characters and writers from train.

    Returns:
        the lines of each split, repeated where they have a scarce character; the codec; a caption for each line; and
        what was left out and repeated, as JSON values.
    """
    has_text = {name: part[[bool(transcripts.texts[i]) for i in part]] for name, part in parts.items()}
    chosen = has_text | {"train": has_text["train"][[_is_true(lines[i], transcripts, i) for i in has_text["train"]]]}
    for name, part in chosen.items():
        if not len(part):
            raise DataError(f"{path}: expected lines with a text in {name}, found none")
    texts = [transcripts.texts[i] for i in chosen["train"]]
    is_large = len(texts) >= LARGE
    if codec is None:
        writers = sorted({int(transcripts.writers[i]) for i in chosen["train"]} - {-1})
        characters = TextCodec.from_text(texts, MIN_COUNT if is_large else 1)
        codec = HandwritingCodec(ink, characters, tuple(writers))
    if is_large:
        chosen["train"] = np.repeat(chosen["train"], _repeats(texts, codec.text))
    captions = {
        name: [Caption(codec.encode_text(transcripts.texts[i]), codec.hand(int(transcripts.writers[i]))) for i in part]
        for name, part in chosen.items()
    }
    facts = {
        "left_out": {name: len(parts[name]) - len(set(chosen[name].tolist())) for name in parts},
        "repeats": len(chosen["train"]) - len(texts),
        "characters": len(codec.text.symbols),
        "writers": len(codec.writers),
    }
    return chosen, codec, captions, facts


def _is_true(line: NDArray[np.float64], transcripts: Transcripts, index: int) -> bool:
    """Whether ink and text of a line can be trusted to belong together."""
    text = transcripts.texts[index]
    low, high = PLAUSIBLE_POINTS_PER_CHARACTER
    return (
        "#" not in text
        and not transcripts.is_doubtful[index]
        and bool(np.abs(line[:, :2]).max() <= MAX_JUMP)
        and low <= len(line) / len(text) <= high
    )


def _repeats(texts: list[str], codec: TextCodec) -> NDArray[np.int64]:
    """How often each line comes: more than once where it has a character that is known but scarce."""
    counts = Counter("".join(texts))
    scarce = {character for character in codec.symbols if 0 < counts[character] < SCARCE}
    return np.array([REPEATS if scarce & set(text) else 1 for text in texts])
