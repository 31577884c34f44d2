"""The codecs: characters to ids and back (text_codec.py), pen offsets to standardised floats and back.

NumPy only. Training, export and serving use the same classes, so a symbol or an offset means the same everywhere. All
codecs are values: frozen, compared by content, and written as JSON into checkpoints and bundles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.text_codec import REPLACEMENT, TextCodec, TextDecoder, Unknown, UnknownSymbolError, check_keys

__all__ = [
    "END",
    "NUM_SENTINELS",
    "REPLACEMENT",
    "START",
    "HandwritingCodec",
    "InkCodec",
    "TextCodec",
    "TextDecoder",
    "Unknown",
    "UnknownSymbolError",
    "codec_from_json",
]

START, END, NUM_SENTINELS = 1, 2, 3  # ids of a text that is written by hand; 0 is padding


@dataclass(frozen=True)
class InkCodec:
    """Pen offsets in raw units to standardised units and back; nothing is clipped.

    Args:
        mean: of dx and of dy, in raw units.
        std: of dx and of dy, in raw units, both greater than 0.

    Raises:
        ValueError: a figure is not finite, or a std is not greater than 0.
    """

    mean: tuple[float, float]
    std: tuple[float, float]

    def __post_init__(self) -> None:
        for name, pair in (("mean", self.mean), ("std", self.std)):
            if not all(_is_finite(value) for value in pair):
                raise ValueError(f"{name} must be two finite numbers, not {pair!r}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be greater than 0 on both axes, not {self.std!r}")

    @property
    def log_scale(self) -> float:
        """ln(std_x * std_y): nats per step in raw units are those in standardised units minus this."""
        return math.log(self.std[0]) + math.log(self.std[1])

    def encode(self, offsets: ArrayLike) -> NDArray[np.float32]:
        """Return raw offsets (n, 3) [dx, dy, pen_up] with dx and dy standardised, as float32 (n, 3)."""
        raw = _as_offsets(offsets)
        scaled = np.empty(raw.shape, np.float32)
        scaled[:, :2] = (raw[:, :2] - self.mean) / self.std
        scaled[:, 2] = raw[:, 2] != 0
        return scaled

    def decode(self, offsets: ArrayLike) -> NDArray[np.float32]:
        """Return standardised offsets (n, 3) with dx and dy in raw units, as float32 (n, 3)."""
        scaled = _as_offsets(offsets)
        raw = np.empty(scaled.shape, np.float32)
        raw[:, :2] = scaled[:, :2] * self.std + self.mean
        raw[:, 2] = scaled[:, 2] != 0
        return raw

    def to_json(self) -> dict[str, Any]:
        """Return the codec as JSON values; `from_json` gives it back."""
        return {"kind": "ink", "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Return the codec that `to_json` described.

        Raises:
            ValueError: with the reason, when the values describe none.
        """
        check_keys(values, "ink", {"mean", "std"})
        return cls(_pair("mean", values["mean"]), _pair("std", values["std"]))

    @classmethod
    def from_offsets(cls, offsets: ArrayLike | Sequence[NDArray[Any]]) -> Self:
        """Return the codec that gives these offsets mean 0 and std 1 on each axis.

        Args:
            offsets: (n, 3) raw offsets, or a list of such arrays that count as one. The caller leaves out the first
                point of each line, which has no predecessor and so no offset.

        Raises:
            ValueError: there are none, or dx or dy never varies.
        """
        pieces = [_as_offsets(piece) for piece in offsets] if isinstance(offsets, list) else [_as_offsets(offsets)]
        pairs = np.concatenate([piece[:, :2] for piece in pieces]) if pieces else np.empty((0, 2))
        if not len(pairs):
            raise ValueError("there are no offsets to measure")
        mean, std = pairs.mean(0), pairs.std(0)
        return cls((float(mean[0]), float(mean[1])), (float(std[0]), float(std[1])))


@dataclass(frozen=True)
class HandwritingCodec:
    """The codec of ink that writes a given text: a codec of offsets, a codec of characters, and the known writers.

    Ids of a text: 0 is padding, 1 and 2 are sentinels before and after the text, and characters follow in the order of
    `text`. A character without a symbol is written as U+FFFD, which stood in training for every character too rare to
    learn; `unsupported` returns such characters.

    Args:
        ink: standardises the offsets.
        text: its policy for unknown characters is "replace".
        writers: the data's own numbers of the writers whose vectors are 1, 2, ...; 0 is an unknown hand.

    Raises:
        ValueError: another policy, or a writer named twice.
    """

    ink: InkCodec
    text: TextCodec
    writers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.text.unknown != "replace":
            raise ValueError(f'text must have the policy "replace" for unknown characters, not {self.text.unknown!r}')
        if len(set(self.writers)) != len(self.writers):
            raise ValueError("each writer may appear once")

    @property
    def num_characters(self) -> int:
        """Number of ids of a text: padding, two sentinels, and the symbols."""
        return NUM_SENTINELS + self.text.size

    @property
    def num_hands(self) -> int:
        """Number of writer vectors, that of the unknown hand included."""
        return 1 + len(self.writers)

    @property
    def log_scale(self) -> float:
        """That of the offsets' codec."""
        return self.ink.log_scale

    def encode(self, offsets: ArrayLike) -> NDArray[np.float32]:
        """Standardise offsets as the offsets' codec does."""
        return self.ink.encode(offsets)

    def decode(self, offsets: ArrayLike) -> NDArray[np.float32]:
        """Return offsets in raw units as the offsets' codec does."""
        return self.ink.decode(offsets)

    def encode_text(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a line of text between its sentinels, int64 (n + 2,)."""
        return np.concatenate([[START], self.text.encode(text) + NUM_SENTINELS, [END]])

    def unsupported(self, text: str) -> list[str]:
        """Return the characters of a text that have no symbol of their own, each once, in order of appearance."""
        known = set(self.text.symbols) - {REPLACEMENT}
        return list(dict.fromkeys(character for character in text if character not in known))

    def hand(self, writer: int) -> int:
        """Return the number of a writer's vector; 0 for one that is not among them."""
        return self.writers.index(writer) + 1 if writer in self.writers else 0

    def to_json(self) -> dict[str, Any]:
        """Return the codec as JSON values; `from_json` gives it back."""
        return {
            "kind": "handwriting",
            "ink": self.ink.to_json(),
            "text": self.text.to_json(),
            "writers": list(self.writers),
        }

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Return the codec that `to_json` described.

        Raises:
            ValueError: with the reason, when the values describe none.
        """
        check_keys(values, "handwriting", {"ink", "text", "writers"})
        writers = values["writers"]
        if not isinstance(writers, list) or not all(type(writer) is int for writer in writers):
            raise ValueError("writers must be a list of whole numbers")
        return cls(InkCodec.from_json(values["ink"]), TextCodec.from_json(values["text"]), tuple(writers))


def codec_from_json(values: Any) -> TextCodec | InkCodec | HandwritingCodec:
    """Return the codec that a checkpoint or a bundle describes.

    Raises:
        ValueError: with the reason, when the values describe none.
    """
    kind = values.get("kind") if isinstance(values, dict) else None
    if kind == "text":
        return TextCodec.from_json(values)
    if kind == "ink":
        return InkCodec.from_json(values)
    if kind == "handwriting":
        return HandwritingCodec.from_json(values)
    raise ValueError(f'a codec is of kind "text", "ink" or "handwriting", not {kind!r}')


def _is_finite(value: object) -> bool:
    """Whether a value is a number and not NaN or infinite; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_offsets(offsets: ArrayLike) -> NDArray[np.float64]:
    """Offsets as float64 (n, 3), or ValueError."""
    array = np.asarray(offsets, np.float64)
    if array.ndim != 2 or array.shape[1] != 3:  # dx, dy, pen_up
        raise ValueError(f"offsets must have shape (n, 3), not {array.shape}")
    return array


def _pair(name: str, values: Any) -> tuple[float, float]:
    """Two numbers from JSON, or ValueError."""
    if not isinstance(values, list) or len(values) != 2 or not all(_is_finite(v) for v in values):
        raise ValueError(f"{name} must be a list of two finite numbers, not {values!r}")
    return float(values[0]), float(values[1])
