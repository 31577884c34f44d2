"""The command `python -m model train`: one training, or one for each of several seeds."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import LAST, CheckpointError
from model.checkpoints.start import symbols_of
from model.cli.console import console, device_named, fail
from model.cli.options import overridden, preset_named, whether_compiled, whole_numbers
from model.config import PRESETS, ConfigError, Preset
from model.data.corpus import Corpus
from model.data.errors import DataError
from model.training.budget import Budget
from model.training.loop import Trainer
from model.training.process import Interrupted, TrainingError
from model.training.seeds import keep_best, train_together
from model.training.workers import Workers

INTERRUPTED = 130


def train(
    preset: Annotated[str, typer.Argument(help=f"One of: {', '.join(PRESETS)}.")],
    data: Annotated[
        Path, typer.Option(help="Corpus: a text file or folder, an .xz text, stroke .npz, or InkML folder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, log and pictures.")],
    minutes: Annotated[float | None, typer.Option(help="Time budget; drives the schedule.")] = None,
    updates: Annotated[int | None, typer.Option(help="Budget in updates, instead of minutes.")] = None,
    stop_after: Annotated[int | None, typer.Option(help="Stop after so many updates, as if interrupted.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    protocol: Annotated[str, typer.Option(help="Ink: paper (random lines) or official (by writer).")] = "paper",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    start: Annotated[
        Path | None, typer.Option("--from", help="Begin with the weights of this checkpoint instead of random ones.")
    ] = None,
    compiled: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Fuse the pointwise kernels.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override, like train.batch=64.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Train one network for each of these, like 1,2,3, in turns; the best is kept.")
    ] = None,
) -> None:
    """Train a network on a corpus, for a time; with --seeds several, each in a folder of its own."""
    try:
        chosen = overridden(preset_named(preset), settings or [])
        begun = None if start is None else checkpoints.load(start)
        symbols = None if begun is None else symbols_of(begun)
        corpus = Corpus.load(chosen.model.kind, data, symbols, protocol, texts=chosen.model.writes_text)
        fused = whether_compiled(compiled)
        workers = Workers.join(device_named(device))
        wanted = {out: chosen} if seeds is None else _seeded(chosen, seeds, out, workers)
        with _Progress(shown=workers.is_first) as progress:
            trainers: list[Trainer] = []
            for folder, each in wanted.items():
                budget = Budget(minutes=60.0 if minutes is None and updates is None else minutes, updates=updates)
                report = partial(progress.report, budget, "" if seeds is None else f"{folder.name}: ")
                # With several seeds the bar follows the first: all have the same budget.
                follow = {} if trainers else {"progressed": progress.move}
                trainer = Trainer(each, corpus, folder, budget, workers, compiled=fused, report=report, **follow)
                trainer.begin(resume=resume, start=begun)
                trainers.append(trainer)
            if seeds is None:
                trainers[0].run(stop_after)
            else:
                train_together(trainers, stop_after, progress.lose)
        workers.leave()
    except Interrupted as stop:
        console.print(stop)
        raise typer.Exit(INTERRUPTED) from stop
    except (ConfigError, DataError, CheckpointError, TrainingError, ValueError, OSError) as error:
        raise fail(error) from error
    if workers.is_first:
        for folder in wanted:
            _draw(folder, corpus)
        if seeds is not None:
            for found in keep_best(list(wanted), out):
                console.print(f"{found['folder']}: valid {found['valid']:.4f} {found['unit']}", highlight=False)


def _draw(folder: Path, corpus: Corpus) -> None:
    """The pictures of a training that has been evaluated at least once."""
    from model.analysis.plots import plot_boundaries, plot_curves  # matplotlib only where it is used

    if (folder / "log.jsonl").exists():
        plot_curves(folder / "log.jsonl", folder / "curves.png")
        plot_boundaries(checkpoints.load(folder), corpus, folder / "boundaries.png")


def _seeded(preset: Preset, seeds: str, out: Path, workers: Workers) -> dict[Path, Preset]:
    """The folder of each seed, and its preset."""
    if (out / LAST).exists():
        raise ConfigError(f"{out} holds a training of one seed, whose best network would be lost: take another --out")
    if workers.count > 1:
        raise ConfigError("--seeds trains in one process: several workers train one network together")
    numbers = whole_numbers(seeds, "--seeds")
    return {out / f"seed-{seed}": replace(preset, train=replace(preset.train, seed=seed)) for seed in numbers}


class _Progress:
    """A progress bar on a terminal, a line for each evaluation elsewhere."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=console,
            disable=not (console.is_terminal and shown),
        )

    def __enter__(self) -> Self:
        self._bar.start()
        self._task = self._bar.add_task("training", total=1.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def move(self, progress: float) -> None:
        """Move the bar to a share of the budget."""
        self._bar.update(self._task, completed=progress)

    def lose(self, trainer: Trainer, error: TrainingError) -> None:
        """Say that one of several cannot go on."""
        console.print(f"{trainer.out.name}: [red]lost:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)

    def report(self, budget: Budget, whose: str, record: dict[str, Any]) -> None:
        """Say how it goes."""
        if not self._shown:
            return
        rates = " ".join(f"z{n}={rate:.3f}" for n, rate in enumerate(record["z_rates"], start=1))
        line = (
            f"{whose}{record['progress']:4.0%} update {record['update']} train {record['train']:.4f} "
            f"valid {record['valid']:.4f} {record['unit']} {rates} {record['steps_per_s']:.0f} steps/s, "
            f"{budget.remaining_s / 60:.0f} min left"
        )
        self._bar.update(self._task, description=f"valid {record['valid']:.4f} {rates}")
        console.print(line, highlight=False, soft_wrap=True)
