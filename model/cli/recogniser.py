"""The command line of `python -m model recognise`: train a recogniser, which measures legibility, and evaluate it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from model.checkpoints.checkpoint import CheckpointError
from model.cli.console import console, fail
from model.data.errors import DataError
from model.data.ink import InkCorpus, load_ink
from model.recogniser.network import RecogniserConfig, load_recogniser, measure
from model.recogniser.train import train_recogniser
from model.training.budget import Budget

recogniser_app = typer.Typer(no_args_is_help=True, help="A recogniser of strokes, which measures legibility.")


def _report(record: dict[str, Any]) -> None:
    console.print(
        f"{record['progress']:4.0%} update {record['update']} CER {record['cer']:.1%} on {record['lines']} lines",
        highlight=False,
    )


@recogniser_app.command()
def train(
    data: Annotated[Path, typer.Option(help="Stroke .npz with texts.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and log.")],
    minutes: Annotated[float | None, typer.Option(help="Time budget; drives the schedule.")] = None,
    updates: Annotated[int | None, typer.Option(help="Budget in updates, instead of minutes.")] = None,
    hidden: Annotated[int, typer.Option(min=1, help="Units of the LSTM in each direction.")] = 160,
    batch: Annotated[int, typer.Option(min=1, help="Lines of an update.")] = 32,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    protocol: Annotated[str, typer.Option(help="official (by writer) or paper (random lines).")] = "official",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
) -> None:
    """Train a recogniser on real ink."""
    try:
        corpus = _corpus(data, protocol)
        budget = Budget(minutes=60.0 if minutes is None and updates is None else minutes, updates=updates)
        config = RecogniserConfig(hidden=hidden, batch=batch)
        train_recogniser(corpus, config, out, budget, torch.device(device), resume=resume, report=_report)
    except (DataError, CheckpointError, ValueError, OSError) as error:
        raise fail(error) from error


@recogniser_app.command()
def evaluate(
    recogniser: Annotated[Path, typer.Argument(help="A recogniser or its training folder.")],
    data: Annotated[Path, typer.Option(help="The strokes it was trained on.")],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
) -> None:
    """Measure a recogniser's character error on a split; prints one JSON object."""
    if split not in ("train", "valid", "test"):
        raise fail(f"there is no split {split!r}; choose train, valid or test")
    try:
        loaded, facts = load_recogniser(recogniser)
        corpus = load_ink(data, loaded.codec, facts["data"]["protocol"], texts=True)
    except (DataError, CheckpointError, ValueError) as error:
        raise fail(error) from error
    common = {"data": corpus.facts["name"], "protocol": corpus.facts["protocol"]}
    sys.stdout.write(json.dumps(common | measure(loaded, corpus, split), indent=2) + "\n")


def _corpus(data: Path, protocol: str) -> InkCorpus:
    if protocol not in ("paper", "official"):
        raise DataError(f"protocol must be one of paper, official, not {protocol!r}")
    return load_ink(data, protocol="official" if protocol == "official" else "paper", texts=True)
