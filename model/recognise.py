"""A recogniser of pen strokes: the judge of legibility, trained on real ink alone.

Two strided convolutions over the points (four points a frame, some five frames a character), LSTMs over the frames in
both directions and CTC (Graves 2006) over the characters. It is torch's own LSTM: what judges the network shares no
cell with it. What is read from a line does not depend on the other lines of its batch.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.budget import Budget
from model.checkpoint import CheckpointError
from model.codec import NUM_SENTINELS, HandwritingCodec
from model.data.batches import Caption, shuffled
from model.data.ink import InkCorpus

FORMAT = "copyist-recogniser/1"
LAST, BEST = "last.safetensors", "best.safetensors"
BLANK = 0
STRIDES = (2, 2)
POINTS_PER_FRAME = math.prod(STRIDES)
EVALUATIONS = 20
VALIDATION_LINES = 400
WARM_UP = 200
CLIP = 5.0
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

    Two plain LSTMs and a turn of each line by its own length: on a CPU, PyTorch's bidirectional LSTM over packed lines
    takes several times as long to go back through.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.ahead, self.back = nn.LSTM(width, hidden), nn.LSTM(width, hidden)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Frames (T, B, width) of lines with these lengths (B,) -> (T, B, 2H); what follows one is not read."""
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
        self.config, self.codec = config, codec
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
        # Jumps between strokes are ten times as long as steps within them: the logarithm of the long ones.
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
        was_training, texts = self.training, [""] * len(lines)
        self.eval()
        order = sorted(range(len(lines)), key=lambda i: len(lines[i]))
        for begin in range(0, len(order), READ_BATCH):
            chosen = order[begin : begin + READ_BATCH]
            scores, frames = self(*_padded([lines[i] for i in chosen], self.head.weight.device))
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
    """Read a split and count.

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


def train_recogniser(
    corpus: InkCorpus,
    config: RecogniserConfig,
    out: Path,
    budget: Budget,
    device: torch.device,
    *,
    resume: bool,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Recogniser:
    """Train on the train split, keep the best by the valid split, and save now and then so that it can go on.

    Args:
        corpus: of ink with texts; writer-disjoint ("official") if its error is to mean anything for new writers.
        config: how.
        out: folder for the checkpoints and the log.
        budget: minutes or updates.
        device: where.
        resume: go on from the last checkpoint in `out`.
        report: called with every record of the log.

    Raises:
        CheckpointError: there is a training in `out` and `resume` is False, or none that fits and it is True.
    """
    codec = corpus.codec
    if not isinstance(codec, HandwritingCodec):
        raise TypeError(type(codec))
    torch.manual_seed(config.seed)
    recogniser = Recogniser(config, codec).to(device)
    optimiser = torch.optim.AdamW(recogniser.parameters(), lr=config.learning_rate, weight_decay=1e-2)
    best, next_evaluation, out = math.inf, 1, Path(out)
    if resume:
        best, next_evaluation = _restore(out / LAST, corpus, recogniser, optimiser, budget)
    elif (out / LAST).exists():
        raise CheckpointError(f"{out} holds a training already: give --resume, or another --out")
    while budget.progress < 1:
        _update(recogniser, optimiser, corpus, budget)
        budget.done += 1
        if budget.progress < next_evaluation / EVALUATIONS:
            continue
        next_evaluation = math.floor(budget.progress * EVALUATIONS) + 1
        found = measure(recogniser, corpus, "valid", VALIDATION_LINES)
        record = {"update": budget.done, "elapsed_s": round(budget.elapsed_s, 1), "progress": budget.progress} | found
        facts = {"data": corpus.facts, "valid": record, "best": min(best, found["cer"]), "next": next_evaluation}
        facts |= {"done": budget.done, "spent_s": budget.elapsed_s}
        if found["cer"] < best:
            best = found["cer"]
            save_recogniser(out / BEST, recogniser, facts)
        save_recogniser(out / LAST, recogniser, facts, optimiser)
        with (out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        report(record)
    return recogniser


def load_recogniser(path: Path) -> tuple[Recogniser, dict[str, Any]]:
    """Read a recogniser and its facts: a file, or a training folder (its best one).

    Raises:
        CheckpointError: the file is missing, damaged, or not one of ours.
    """
    path = path / BEST if path.is_dir() else path
    header, tensors = _read(path)
    try:
        recogniser = Recogniser(RecogniserConfig(**header["config"]), HandwritingCodec.from_json(header["codec"]))
        weights = {name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")}
        recogniser.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: a damaged recogniser ({error})") from error
    return recogniser.eval(), header["facts"]


def _update(recogniser: Recogniser, optimiser: torch.optim.Optimizer, corpus: InkCorpus, budget: Budget) -> None:
    config = recogniser.config
    warm = min(1.0, (budget.done + 1) / WARM_UP)
    for group in optimiser.param_groups:
        group["lr"] = config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * budget.progress))
    chosen = _batch_at(corpus, config, budget.done)
    random = np.random.Generator(np.random.PCG64([config.seed, budget.done]))
    lines = [_distorted(corpus.train[i], random) for i in chosen]
    targets = [torch.from_numpy(corpus.captions["train"][i].text[1:-1] - NUM_SENTINELS + 1) for i in chosen]
    torch.manual_seed(config.seed * 1_000_003 + budget.done)  # dropout, the same after a resumption
    recogniser.train()
    scores, frames = recogniser(*_padded(lines, recogniser.head.weight.device))
    lengths = torch.tensor([len(target) for target in targets])
    loss = nn.functional.ctc_loss(scores, torch.cat(targets).to(scores.device), frames, lengths, zero_infinity=True)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(recogniser.parameters(), CLIP)
    optimiser.step()


def _batch_at(corpus: InkCorpus, config: RecogniserConfig, number: int) -> list[int]:
    """Lines of an update: each pass in a new order, batches of lines of about the same length."""
    count = len(corpus.train)
    per_pass = max(count // config.batch, 1)
    turn, place = divmod(number, per_pass)
    order = shuffled(count, config.seed, turn)
    # Twenty batches at a time are sorted by length; which of them comes first is the order's own.
    block = 20 * config.batch
    begin = place * config.batch // block * block
    piece = sorted(order[begin : begin + block].tolist(), key=lambda i: len(corpus.train[i]))
    batches = [piece[i : i + config.batch] for i in range(0, len(piece), config.batch)]
    mixed = shuffled(len(batches), config.seed, turn, begin)
    return batches[mixed[place - begin // config.batch]]


def _distorted(line: Line, random: np.random.Generator) -> Line:
    """A line larger or smaller, leaning more or less, by an unsteadier hand."""
    points = line.copy()
    points[:, :2] *= np.exp(random.normal(0, 0.12, 2)).astype(np.float32)
    points[:, 0] += np.float32(random.normal(0, 0.15)) * points[:, 1]
    points[:, :2] += random.normal(0, 0.02, (len(line), 2)).astype(np.float32)
    return points


def _padded(lines: Sequence[Line], device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(line) for line in lines])
    points = torch.zeros(len(lines), int(lengths.max()), 3)
    for row, line in enumerate(lines):
        points[row, : len(line)] = torch.from_numpy(line)
    return points.to(device), lengths


def save_recogniser(
    path: Path, recogniser: Recogniser, facts: dict[str, Any], optimiser: torch.optim.Optimizer | None = None
) -> None:
    """Write a recogniser with what is known about it, and all of a training where its optimiser is given."""
    header = {
        "format": FORMAT,
        "config": asdict(recogniser.config),
        "codec": recogniser.codec.to_json(),
        "facts": facts,
    }
    tensors = {f"weights/{name}": tensor for name, tensor in recogniser.state_dict().items()}
    if optimiser is not None:
        tensors |= {f"adam/{key}/{name}": value for name, key, value in _moments(recogniser, optimiser)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(copies, str(partial), metadata={"copyist": json.dumps(header)})
    partial.replace(path)


def _moments(recogniser: Recogniser, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, str, Tensor]]:
    for name, parameter in recogniser.named_parameters():
        for key, value in optimiser.state[parameter].items():
            yield name, key, value


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such recogniser; expected a .safetensors file or a training folder")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("copyist", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a recogniser of the format {FORMAT}")
    return header, tensors


def _restore(
    path: Path, corpus: InkCorpus, recogniser: Recogniser, optimiser: torch.optim.Optimizer, budget: Budget
) -> tuple[float, int]:
    """Put weights, moments and budget back; give the best error so far and the next evaluation."""
    header, tensors = _read(path)
    facts = header["facts"]
    if facts["data"].get("order_sha256") != corpus.facts["order_sha256"]:
        raise CheckpointError(f"{path} was trained on other data or another split: resume with the same ones")
    if header["config"] != asdict(recogniser.config):
        raise CheckpointError(f"{path} was made with another configuration: resume with the same one")
    named = dict(recogniser.named_parameters())
    recogniser.load_state_dict({name: tensors[f"weights/{name}"] for name in recogniser.state_dict()})
    for label, value in tensors.items():
        kind, _, rest = label.partition("/")
        if kind == "adam":
            key, _, name = rest.partition("/")
            device = "cpu" if key == "step" else named[name].device
            optimiser.state[named[name]][key] = value.to(device)
    budget.done, budget.spent_s = facts["done"], facts["spent_s"]
    return facts["best"], facts["next"]
