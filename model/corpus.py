"""One door for both kinds of corpus: what the trainer and the evaluator need to know about text and ink."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.codec import InkCodec, TextCodec
from model.config import Kind
from model.data.batches import InkStreams, TextStreams, evaluation_lines, evaluation_text
from model.data.ink import InkCorpus, load_ink
from model.data.text import TextCorpus, load_text

EVALUATION_STREAMS = 64


class Window(NamedTuple):
    """T steps of B streams as tensors.

    Attributes:
        inputs: (T, B) int64 or (T, B, 3) float32. targets: likewise. weight: (T, B), 0 for padding.
        fresh: (B,) bool, streams whose state starts anew at this window.
    """

    inputs: Tensor
    targets: Tensor
    weight: Tensor
    fresh: Tensor

    def to(self, device: torch.device) -> "Window":
        """The same window on a device."""
        return Window(*(part.to(device) for part in self))

    def rows(self, start: int, stop: int) -> "Window":
        """The streams [start, stop)."""
        part = slice(start, stop)
        return Window(self.inputs[:, part], self.targets[:, part], self.weight[:, part], self.fresh[part])


@dataclass(frozen=True)
class Corpus:
    """A corpus of either kind, with its codec."""

    kind: Kind
    data: TextCorpus | InkCorpus

    @classmethod
    def load(
        cls, kind: Kind, path: Path, codec: TextCodec | InkCodec | None = None, protocol: str = "paper"
    ) -> "Corpus":
        """Read a corpus; with a codec given (a trained network's), in that network's numbers."""
        if kind == "text":
            return cls(kind, load_text(path, codec if isinstance(codec, TextCodec) else None))
        ink = codec if isinstance(codec, InkCodec) else None
        return cls(kind, load_ink(path, ink, "official" if protocol == "official" else "paper"))

    @property
    def codec(self) -> TextCodec | InkCodec:
        """The codec that made the numbers."""
        return self.data.codec

    @property
    def facts(self) -> dict[str, Any]:
        """Name, checksum, splits, licence."""
        return self.data.facts

    @property
    def separators(self) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """Which symbols separate (V,), None for ink."""
        return self.codec.separators if isinstance(self.codec, TextCodec) else None

    def streams(self, batch: int, window: int, seed: int) -> "TextStreams | InkStreams":
        """The training split as endless windows."""
        if isinstance(self.data, TextCorpus):
            return TextStreams(self.data.train, batch, window)
        return InkStreams(self.data.train, batch, window, seed)

    def evaluation(
        self, split: str, window: int, limit: int | None = None, batch: int = EVALUATION_STREAMS
    ) -> Iterator[Window]:
        """A split from its beginning, every target once, cut into windows with carried state.

        Args:
            split: "train", "valid" or "test".
            window: T.
            limit: at most this many steps in all, taken from the beginning.
            batch: streams, or lines, side by side.
        """
        part = getattr(self.data, split)
        if isinstance(self.data, TextCorpus):
            ids = part if limit is None else part[: limit + 1]
            streams = min(batch, max(1, (len(ids) - 1) // 1000))
            yield from _cut(*evaluation_text(ids, streams), window)
            return
        lines = part if limit is None else part[: max(1, limit // max(1, int(np.mean([len(p) for p in part]))))]
        lines = lines[: max(len(lines) // batch, 1) * batch] if limit else lines
        for inputs, targets, weight in evaluation_lines(lines, batch):
            yield from _cut(inputs, targets, weight, window)


def _cut(inputs: Any, targets: Any, weight: Any, window: int) -> Iterator[Window]:
    for start in range(0, len(inputs), window):
        part = slice(start, start + window)
        fresh = torch.full((inputs.shape[1],), start == 0)
        yield Window(
            torch.from_numpy(inputs[part]), torch.from_numpy(targets[part]), torch.from_numpy(weight[part]), fresh
        )


def training_window(streams: "TextStreams | InkStreams") -> Window:
    """The next window of a training stream."""
    if isinstance(streams, TextStreams):
        inputs, targets = streams.next()
        return Window(
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            torch.ones(inputs.shape),
            torch.full((inputs.shape[1],), streams.wrapped),
        )
    ink = streams.next()
    return Window(*(torch.from_numpy(part) for part in ink))
