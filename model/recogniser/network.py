"""A recogniser of pen strokes, which measures legibility; it is trained on real ink alone.

Two strided convolutions over the points (four points a frame, some five frames a character), LSTMs over the frames in
both directions and CTC (Graves 2006) over the characters. The LSTM is torch's own, so the recogniser shares no cell
with the network that it measures. What it reads in a line does not depend on the other lines of its batch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.checkpoints.checkpoint import BEST, CheckpointError, group, read_file, write_file
from model.codec import NUM_SENTINELS, HandwritingCodec
from model.data.batches import Caption
from model.data.ink import InkCorpus

FORMAT, KIND = "copyist-recogniser/1", "recogniser"
BLANK = 0
STRIDES = (2, 2)
POINTS_PER_FRAME = math.prod(STRIDES)
READ_BATCH = 64
Line = NDArray[np.float32]


@dataclass(frozen=True)
class RecogniserConfig:
    """Sizes and training of a recogniser.

    Attributes:
        channels: of the convolutions. hidden: of the LSTM, in each direction. layers: of the LSTM.
        dropout: between them, in training.
        batch: lines of an update. learning_rate: at the start; it falls to 0 as a cosine over the budget.
        seed: of weights, order and distortions.
    """

    channels: int = 96
    hidden: int = 160
    layers: int = 2
    dropout: float = 0.2
    batch: int = 32
    learning_rate: float = 2e-3
    seed: int = 1


class BothWays(nn.Module):
    """An LSTM from the beginning of each line and one from its end, side by side.

    These are two plain LSTMs, and each line is turned round by its own length. On a CPU the backward pass of PyTorch's
    bidirectional LSTM over packed lines takes several times as long.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.ahead = nn.LSTM(width, hidden)
        self.back = nn.LSTM(width, hidden)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Frames (T, B, width) of lines with these lengths (B,) -> (T, B, 2H); frames after the end do not count."""
        place = torch.arange(x.shape[0])[:, None]
        # The last frame of each line first, then what follows the line, as it is.
        turned = torch.where(place < lengths, lengths - 1 - place, place).to(x.device)[:, :, None]
        ahead, back = self.ahead(x)[0], self.back(x.gather(0, turned.expand_as(x)))[0]
        return torch.cat([ahead, back.gather(0, turned.expand_as(back))], 2)


class Recogniser(nn.Module):
    """From lines of ink to characters.

    Args:
        config: sizes.
        codec: of the ink it reads and the characters it knows.
    """

    def __init__(self, config: RecogniserConfig, codec: HandwritingCodec) -> None:
        super().__init__()
        self.config = config
        self.codec = codec
        self.fine = nn.Conv1d(3, config.channels, 5, stride=STRIDES[0], padding=2)
        self.coarse = nn.Conv1d(config.channels, 2 * config.channels, 5, stride=STRIDES[1], padding=2)
        widths = [2 * config.channels, *[2 * config.hidden] * (config.layers - 1)]
        self.layers = nn.ModuleList(BothWays(width, config.hidden) for width in widths)
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(2 * config.hidden, 1 + codec.text.size)

    def forward(self, points: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the characters.

        Args:
            points: standardised offsets (B, T, 3) float32, anything after a line's end.
            lengths: points of each line (B,) int64, on the CPU.

        Returns:
            (frames, B, 1 + V), the blank first, and the frames of each line (B,).
        """
        # Jumps between strokes are ten times as long as steps within them, so asinh takes the logarithm of long ones.
        x = torch.cat([torch.asinh(2 * points[..., :2]), points[..., 2:]], 2).transpose(1, 2)
        for convolution in (self.fine, self.coarse):
            x = x * (torch.arange(x.shape[2]) < lengths[:, None]).to(x.device, x.dtype)[:, None]
            x = torch.nn.functional.gelu(convolution(x))
            stride = convolution.stride[0]
            lengths = (lengths + stride - 1) // stride
        y = x.permute(2, 0, 1)
        for layer in self.layers:
            y = layer(self.drop(y), lengths)
        return torch.log_softmax(self.head(self.drop(y)), 2), lengths

    @torch.no_grad()
    def read(self, lines: Sequence[Line]) -> list[str]:
        """Read lines of standardised offsets, each (n, 3): the most probable label at each frame, merged."""
        was_training = self.training
        texts = [""] * len(lines)
        self.eval()
        order = sorted(range(len(lines)), key=lambda i: len(lines[i]))
        for begin in range(0, len(order), READ_BATCH):
            chosen = order[begin : begin + READ_BATCH]
            scores, frames = self(*pad_lines([lines[i] for i in chosen], self.head.weight.device))
            labels = scores.argmax(2).cpu().numpy()
            for row, i in enumerate(chosen):
                texts[i] = self._text(labels[: frames[row], row])
        self.train(was_training)
        return texts

    def _text(self, labels: NDArray[np.int64]) -> str:
        starts = np.flatnonzero(np.diff(labels, prepend=BLANK))
        return self.codec.text.decode([label - 1 for label in labels[starts] if label != BLANK])


def edit_distance(found: str, wanted: str) -> int:
    """Insertions, deletions and substitutions that turn one text into the other."""
    row = list(range(len(wanted) + 1))
    for i, character in enumerate(found, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(wanted, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (character != other))
    return row[-1]


def character_error_rate(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Edits needed over all texts, as a share of the characters wanted."""
    edits = sum(edit_distance(mine, theirs) for mine, theirs in zip(found, wanted, strict=True))
    return edits / max(sum(map(len, wanted)), 1)


def spoken(codec: HandwritingCodec, captions: Sequence[Caption]) -> list[str]:
    """The texts of captions, unknown characters as U+FFFD."""
    return [codec.text.decode(caption.text[1:-1] - NUM_SENTINELS) for caption in captions]


def measure(recogniser: Recogniser, corpus: InkCorpus, split: str, limit: int | None = None) -> dict[str, Any]:
    """Read a split and count the errors.

    Returns:
        cer (share of characters), lines, characters, exact_lines (share of lines read without an error), and the split.
    """
    lines, captions = getattr(corpus, split)[:limit], corpus.captions[split][:limit]
    found, wanted = recogniser.read(lines), spoken(recogniser.codec, captions)
    return {
        "split": split,
        "cer": character_error_rate(found, wanted),
        "lines": len(lines),
        "characters": sum(map(len, wanted)),
        "exact_lines": float(np.mean([mine == theirs for mine, theirs in zip(found, wanted, strict=True)])),
    }


def load_recogniser(path: Path) -> tuple[Recogniser, dict[str, Any]]:
    """Read a recogniser and its facts: a file, or a training folder (its best one).

    Raises:
        CheckpointError: the file is missing, damaged, or not one of ours.
    """
    path = path / BEST if path.is_dir() else path
    header, tensors = read_file(path, FORMAT, KIND)
    try:
        recogniser = Recogniser(RecogniserConfig(**header["config"]), HandwritingCodec.from_json(header["codec"]))
        recogniser.load_state_dict(group(tensors, "weights/"))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: a damaged recogniser ({error})") from error
    return recogniser.eval(), header["facts"]


def pad_lines(lines: Sequence[Line], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return lines (n, 3) as one tensor (B, T, 3) on a device, zeros after the end of each, and their lengths (B,)."""
    lengths = torch.tensor([len(line) for line in lines])
    points = torch.zeros(len(lines), int(lengths.max()), 3)
    for row, line in enumerate(lines):
        points[row, : len(line)] = torch.from_numpy(line)
    return points.to(device), lengths


def save_recogniser(
    path: Path, recogniser: Recogniser, facts: dict[str, Any], optimiser: torch.optim.Optimizer | None = None
) -> None:
    """Write a recogniser with its facts, and Adam's moments too where its optimiser is given, to train on from."""
    header = {
        "format": FORMAT,
        "config": asdict(recogniser.config),
        "codec": recogniser.codec.to_json(),
        "facts": facts,
    }
    tensors = {f"weights/{name}": tensor for name, tensor in recogniser.state_dict().items()}
    if optimiser is not None:
        tensors |= {f"adam/{key}/{name}": value for name, key, value in _moments(recogniser, optimiser)}
    write_file(path, header, tensors)


def _moments(recogniser: Recogniser, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, str, Tensor]]:
    for name, parameter in recogniser.named_parameters():
        for key, value in optimiser.state[parameter].items():
            yield name, key, value
