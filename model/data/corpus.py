"""A corpus of text or of ink, as training and evaluation use it: windows of tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import torch
from torch import Tensor

from model.codec import HandwritingCodec, InkCodec, TextCodec
from model.config import Kind
from model.data.batches import Caption, InkStreams, Stretch, TextStreams, evaluation_lines, evaluation_text
from model.data.errors import DataError
from model.data.ink import InkCorpus, Protocol, load_ink
from model.data.text import TextCorpus, load_text
from model.network.stack import Condition

EVALUATION_STREAMS = 64
LONG, FEW = 50_000, 8  # symbols after which a stream's blank start hardly counts; streams of a shorter text
Codec = TextCodec | InkCodec | HandwritingCodec


class Window(NamedTuple):
    """T steps of B streams as tensors.

    Attributes:
        inputs: (T, B) int64 or (T, B, 3) float32. targets: likewise. weight: (T, B), 0 for padding.
        fresh: (B,) bool, streams whose state starts anew at this window.
        text, writer, last: what the lines say (B, U), whose hands they are (B,), and where the input is a line's last
            point (T, B), as in `model.data.batches.InkWindow`; empty where no text is written.
    """

    inputs: Tensor
    targets: Tensor
    weight: Tensor
    fresh: Tensor
    text: Tensor = torch.zeros(0, 0, dtype=torch.int64)
    writer: Tensor = torch.zeros(0, dtype=torch.int64)
    last: Tensor = torch.zeros(0, 0)

    @property
    def condition(self) -> Condition | None:
        """What each row writes, None where they write freely."""
        return Condition(self.text, self.writer) if self.text.shape[1] else None

    def to(self, device: torch.device) -> "Window":
        """The same window on a device."""
        return Window(*(part.to(device) for part in self))

    def rows(self, start: int, stop: int) -> "Window":
        """The streams [start, stop)."""
        part = slice(start, stop)
        steps = (self.inputs[:, part], self.targets[:, part], self.weight[:, part])
        return Window(*steps, self.fresh[part], self.text[part], self.writer[part], self.last[:, part])


@dataclass(frozen=True)
class Corpus:
    """A corpus of either kind, with its codec."""

    kind: Kind
    data: TextCorpus | InkCorpus

    @classmethod
    def load(
        cls, kind: Kind, path: Path, codec: Codec | None = None, protocol: str = "paper", *, texts: bool = False
    ) -> "Corpus":
        """Read a corpus, with the codec of a trained network if one is given.

        Args:
            kind: text or ink.
            path: of the corpus.
            codec: of a trained network, or None to make one.
            protocol: of ink: "paper" or "official".
            texts: of ink: read the captions too, as a codec of handwriting always does.
        """
        if kind == "text":
            return cls(kind, load_text(path, codec if isinstance(codec, TextCodec) else None))
        ink = None if isinstance(codec, TextCodec) else codec
        if protocol not in get_args(Protocol):
            raise DataError(f"protocol must be one of {', '.join(get_args(Protocol))}, not {protocol!r}")
        split = cast(Protocol, protocol)
        return cls(kind, load_ink(path, ink, split, texts=texts or isinstance(codec, HandwritingCodec)))

    @property
    def codec(self) -> Codec:
        """The codec that made the numbers."""
        return self.data.codec

    @property
    def facts(self) -> dict[str, Any]:
        """Name, checksum, splits, licence."""
        return self.data.facts

    @property
    def separators(self) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """Which symbols are separators (V,), None for ink."""
        return self.codec.separators if isinstance(self.codec, TextCodec) else None

    def streams(self, batch: int, window: int, seed: int, stretch: float = 0.0) -> "TextStreams | InkStreams":
        """The training split as endless windows; lines of ink are stretched with this spread."""
        if isinstance(self.data, TextCorpus):
            return TextStreams(self.data.train, batch, window)
        x, y = self.data.codec.encode(np.zeros((1, 3)))[0, :2].tolist()
        stretched = Stretch(stretch, (x, y)) if stretch else None
        return InkStreams(self.data.train, batch, window, seed, self.data.captions.get("train"), stretched)

    def evaluation(
        self, split: str, window: int, limit: int | None = None, batch: int | None = None
    ) -> Iterator[Window]:
        """A split from its beginning, every target once, cut into windows with carried state.

        Args:
            split: "train", "valid" or "test".
            window: T.
            limit: at most this many steps in all, taken from the beginning.
            batch: streams, or lines, side by side at most. None: 64 lines; for a text so few streams that the figure is
                nearly that of one, since every stream begins with a blank state.
        """
        part = getattr(self.data, split)
        if isinstance(self.data, TextCorpus):
            ids = part if limit is None else part[: limit + 1]
            most = batch or min(EVALUATION_STREAMS, max(FEW, len(ids) // LONG))
            streams = min(most, max(1, (len(ids) - 1) // 1000))
            inputs, targets, weight = evaluation_text(ids, streams)
            fresh = np.ones(streams, np.bool_)
            yield from _cut(Window(*(torch.from_numpy(part) for part in (inputs, targets, weight, fresh))), window)
            return
        batch = batch or EVALUATION_STREAMS
        lines = part if limit is None else part[: max(1, limit // max(1, int(np.mean([len(p) for p in part]))))]
        lines = lines[: max(len(lines) // batch, 1) * batch] if limit else lines
        captions = self.data.captions.get(split)
        for whole in evaluation_lines(lines, batch, None if captions is None else captions[: len(lines)]):
            yield from _cut(Window(*(torch.from_numpy(part) for part in whole)), window)


def line_windows(
    lines: list[np.ndarray[Any, np.dtype[np.float32]]], window: int, captions: list[Caption] | None = None
) -> Iterator[Window]:
    """Lines of ink (n, 3), shortest first, every one whole and once, cut into windows with carried state.

    With captions they are for a network that writes texts; without, a line's last point is not read.
    """
    for whole in evaluation_lines(lines, EVALUATION_STREAMS, captions):
        yield from _cut(Window(*(torch.from_numpy(part) for part in whole)), window)


def _cut(whole: Window, steps: int) -> Iterator[Window]:
    for start in range(0, len(whole.weight), steps):
        part = slice(start, start + steps)
        yield whole._replace(
            inputs=whole.inputs[part],
            targets=whole.targets[part],
            weight=whole.weight[part],
            last=whole.last[part],
            fresh=whole.fresh & (start == 0),
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
