"""The training of a recogniser: CTC on distorted lines, evaluated now and then, and resumed exactly."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model.checkpoints.checkpoint import BEST, LAST, CheckpointError, read_file
from model.codec import NUM_SENTINELS, HandwritingCodec
from model.data.batches import shuffled
from model.data.ink import InkCorpus
from model.recogniser.network import (
    FORMAT,
    KIND,
    Line,
    Recogniser,
    RecogniserConfig,
    measure,
    pad_lines,
    save_recogniser,
)
from model.training.budget import Budget

EVALUATIONS = 20  # over a whole budget
VALIDATION_LINES = 400
WARM_UP = 200  # updates
CLIP = 5.0  # largest global gradient norm


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
    """Train on the train split, keep the best by the valid split, and save at each evaluation to resume from.

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
    best, next_evaluation = math.inf, 1
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


def _update(recogniser: Recogniser, optimiser: torch.optim.Optimizer, corpus: InkCorpus, budget: Budget) -> None:
    """Train on the next batch; update and seed decide all of its draws, so that a resumed training repeats them."""
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
    scores, frames = recogniser(*pad_lines(lines, recogniser.head.weight.device))
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
    # Lines are sorted by length within twenty batches, whose order is shuffled.
    block = 20 * config.batch
    begin = place * config.batch // block * block
    piece = sorted(order[begin : begin + block].tolist(), key=lambda i: len(corpus.train[i]))
    batches = [piece[i : i + config.batch] for i in range(0, len(piece), config.batch)]
    mixed = shuffled(len(batches), config.seed, turn, begin)
    return batches[mixed[place - begin // config.batch]]


def _distorted(line: Line, random: np.random.Generator) -> Line:
    """A line scaled, slanted and jittered at random."""
    points = line.copy()
    points[:, :2] *= np.exp(random.normal(0, 0.12, 2)).astype(np.float32)
    points[:, 0] += np.float32(random.normal(0, 0.15)) * points[:, 1]
    points[:, :2] += random.normal(0, 0.02, (len(line), 2)).astype(np.float32)
    return points


def _restore(
    path: Path, corpus: InkCorpus, recogniser: Recogniser, optimiser: torch.optim.Optimizer, budget: Budget
) -> tuple[float, int]:
    """Restore weights, moments and budget; return the best error so far and the number of the next evaluation."""
    header, tensors = read_file(path, FORMAT, KIND)
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
    budget.done = facts["done"]
    budget.spent_s = facts["spent_s"]
    return facts["best"], facts["next"]
