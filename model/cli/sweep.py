"""`python -m model sweep`: which learning rate is best for a network, at this width and length of training."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from model.checkpoints.checkpoint import CheckpointError
from model.cli.console import console, device_named, fail
from model.cli.options import overridden, preset_named, whether_compiled, whole_numbers
from model.config import ConfigError, Preset
from model.data.corpus import Corpus
from model.data.errors import DataError
from model.training.budget import Budget
from model.training.loop import Trainer
from model.training.process import Interrupted, TrainingError
from model.training.sweep import Point, around, run_sweep
from model.training.workers import Workers

INTERRUPTED = 130


def sweep(
    preset: Annotated[str, typer.Argument(help="A preset, as for train.")],
    data: Annotated[Path, typer.Option(help="Corpus, as for train.")],
    out: Annotated[Path, typer.Option(help="Folder for sweep.json, sweep.png and the trainings.")],
    updates: Annotated[int, typer.Option(min=1, help="Length of each training, in updates.")],
    rates: Annotated[
        str | None, typer.Option(help="Learning rates, like 3e-3,6e-3,12e-3; by default five around the preset's.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of each rate, like 1,2,3.")] = "1",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    protocol: Annotated[str, typer.Option(help="Ink: paper (random lines) or official (by writer).")] = "paper",
    compiled: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Fuse the pointwise kernels.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override, like train.batch=64.")] = None,
) -> None:
    """Train one network for each learning rate and seed; go on beyond an edge until the best rate lies between two."""
    try:
        chosen = overridden(preset_named(preset), settings or [])
        corpus = Corpus.load(chosen.model.kind, data, None, protocol, texts=chosen.model.writes_text)
        tried = around(chosen.train.learning_rate) if rates is None else _rates(rates)
        workers = Workers.join(device_named(device))
        one = partial(_train, corpus=corpus, updates=updates, workers=workers, compiled=whether_compiled(compiled))
        found = run_sweep(chosen, tried, whole_numbers(seeds, "--seeds"), out, one, _report)
    except Interrupted as stop:
        console.print(stop)
        raise typer.Exit(INTERRUPTED) from stop
    except (ConfigError, DataError, CheckpointError, TrainingError, ValueError, OSError) as error:
        raise fail(error) from error
    if found.best is None:
        raise fail(f"no learning rate went well; {out / 'sweep.json'} says why")
    from model.analysis.plots import plot_sweep  # matplotlib only where it is used

    plot_sweep(found, out / "sweep.png")
    beyond = " at an edge: try further rates" if found.edge else ""
    console.print(f"best learning rate {found.best:g}{beyond} ({found.mean(found.best):.4f} {found.unit})")


def _train(
    preset: Preset, folder: Path, *, corpus: Corpus, updates: int, workers: Workers, compiled: bool
) -> dict[str, Any]:
    """Train one network and return the last record of its log; a training that was interrupted is gone on with."""
    trainer = Trainer(preset, corpus, folder, Budget(updates=updates), workers, compiled=compiled)
    trainer.begin(resume=(folder / "last.safetensors").exists(), start=None)
    trainer.run()
    last = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    record: dict[str, Any] = json.loads(last)
    return record


def _report(point: Point) -> None:
    found = point.reason if point.valid is None else f"{point.valid:.4f} {point.unit}"
    console.print(f"learning rate {point.rate:g} seed {point.seed}: {found}", highlight=False, soft_wrap=True)


def _rates(text: str) -> list[float]:
    try:
        return [float(rate) for rate in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--rates {text!r}: expected numbers with commas between, like 3e-3,6e-3") from error
