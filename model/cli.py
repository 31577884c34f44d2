"""The command line of `python -m model`; each command one deed."""

import json
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Self, get_type_hints

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from model import checkpoint as checkpoints
from model.average import AverageError
from model.average import average as average_of
from model.budget import Budget
from model.checkpoint import Checkpoint, CheckpointError
from model.codec import HandwritingCodec, InkCodec
from model.config import PRESETS, ConfigError, Preset
from model.corpus import Corpus
from model.data.errors import DataError
from model.data.ink import InkCorpus
from model.evaluate import evaluate as evaluate_network
from model.evaluate import protocol_of, summarise
from model.process import Interrupted
from model.recognise_cli import recogniser_app
from model.start import symbols_of
from model.train import Trainer, TrainingError
from model.window import WindowOptions
from model.workers import Workers

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(recogniser_app, name="recognise")
console = Console(stderr=True)
INTERRUPTED = 130


def _fail(message: object) -> typer.Exit:
    # Messages hold paths and intervals: brackets are no markup, and a line break would tear a path.
    console.print(f"[red]error:[/red] {escape(str(message))}", highlight=False, soft_wrap=True)
    return typer.Exit(1)


def _device(name: str) -> torch.device:
    known = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if name == "auto":
        return torch.device(known[-1])
    if name.partition(":")[0] not in known:
        raise ConfigError(f"there is no device {name!r} here; choose auto or one of {', '.join(known)}")
    return torch.device(name)


def _override(preset: Preset, settings: list[str]) -> Preset:
    """Apply `model.hidden=128,128` or `train.batch=64` to a preset."""
    parts: dict[str, Any] = {"model": preset.model, "train": preset.train}
    for setting in settings:
        key, _, text = setting.partition("=")
        part, _, name = key.partition(".")
        if part not in parts or name not in {f.name for f in fields(parts[part])} or not text:
            raise ConfigError(
                f"{setting!r}: expected model.FIELD=VALUE or train.FIELD=VALUE with a field of model/config.py"
            )
        parts[part] = replace(parts[part], **{name: _parse(text, get_type_hints(type(parts[part]))[name], setting)})
    return Preset(**parts)


def _parse(text: str, wanted: Any, setting: str) -> Any:
    parsers: dict[Any, Any] = {
        bool: lambda word: {"true": True, "false": False}[word.lower()],
        int: int,
        float: float,
        tuple[int, ...]: lambda words: tuple(int(word) for word in words.split(",")),
        tuple[float, float]: lambda words: tuple(float(word) for word in words.split(",")),
    }
    try:
        return parsers.get(wanted, str)(text)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{setting!r}: {text!r} is no value for this field") from error


@app.command()
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
) -> None:
    """Train a network on a corpus, for a time."""
    if preset not in PRESETS:
        raise _fail(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
    try:
        chosen = _override(PRESETS[preset], settings or [])
        begun = None if start is None else checkpoints.load(start)
        symbols = None if begun is None else symbols_of(begun)
        corpus = Corpus.load(chosen.model.kind, data, symbols, protocol, texts=chosen.model.writes_text)
        budget = Budget(minutes=60.0 if minutes is None and updates is None else minutes, updates=updates)
        fused = shutil.which("g++") is not None if compiled is None else compiled
        workers = Workers.join(_device(device))
        with _Progress(budget, shown=workers.is_first) as progress:
            trainer = Trainer(chosen, corpus, out, budget, workers, compiled=fused, report=progress.report)
            trainer.begin(resume=resume, start=begun)
            progress.follow(trainer)
            trainer.run(stop_after)
        workers.leave()
    except Interrupted as stop:
        console.print(stop)
        raise typer.Exit(INTERRUPTED) from stop
    except (ConfigError, DataError, CheckpointError, TrainingError, ValueError, OSError) as error:
        raise _fail(error) from error
    if not workers.is_first or not (out / "log.jsonl").exists():
        return
    from model.plots import plot_boundaries, plot_curves  # matplotlib only where it is used

    plot_curves(out / "log.jsonl", out / "curves.png")
    plot_boundaries(checkpoints.load(out), corpus, out / "boundaries.png")


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a training folder.")],
    data: Annotated[Path, typer.Option(help="The corpus it was trained on.")],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    window: Annotated[int, typer.Option(min=1, help="Steps computed at a time; the state is carried.")] = 100,
    protocol: Annotated[
        str | None, typer.Option(help="Ink: paper or official; else the one it was trained by.")
    ] = None,
) -> None:
    """Measure a checkpoint on a split, in float32, state carried; prints one JSON object with all its constants."""
    if split not in ("train", "valid", "test"):
        raise _fail(f"there is no split {split!r}; choose train, valid or test")
    try:
        loaded = checkpoints.load(checkpoint)
        corpus = Corpus.load(loaded.model.kind, data, loaded.codec, _protocol(loaded, protocol))
        network = loaded.network().to(_device(device))
        found = evaluate_network(network, corpus.evaluation(split, window), WindowOptions(torch.float32))
    except (ConfigError, DataError, CheckpointError, ValueError) as error:
        raise _fail(error) from error
    report = {"split": split, "data": corpus.facts.get("name"), "sha256": corpus.facts.get("sha256")}
    sys.stdout.write(json.dumps(report | summarise(corpus, split, found) | protocol_of(corpus), indent=2) + "\n")


def _protocol(loaded: Checkpoint, wanted: str | None) -> str:
    """The protocol a checkpoint was trained by: by another one, lines it has seen could be held against it."""
    used = str(loaded.facts["data"].get("protocol") or "paper")
    if wanted not in (None, used):
        raise ConfigError(
            f"this network was trained by the {used} split: lines that the {wanted} split tests on may be among those "
            f"it has seen. Train with --protocol {wanted} to measure by it"
        )
    return used


@app.command()
def average(
    trained: Annotated[list[Path], typer.Argument(help="Checkpoints of one network, trained on from each other.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
) -> None:
    """Average the weights of several checkpoints of one network; of a last.safetensors, its running averages."""
    try:
        checkpoints.save(out, average_of([checkpoints.load(path) for path in trained]))
    except (CheckpointError, AverageError, OSError) as error:
        raise _fail(error) from error


@app.command()
def split(
    data: Annotated[Path, typer.Option(help="Stroke .npz or InkML folder.")],
    out: Annotated[Path, typer.Option(help="Where to write the ids (.json).")],
    protocol: Annotated[str, typer.Option(help="paper (random lines) or official (by writer).")] = "paper",
) -> None:
    """Write down which lines of ink a protocol validates and tests on: ids, no data."""
    try:
        corpus = Corpus.load("ink", data, protocol=protocol)
    except (DataError, ValueError) as error:
        raise _fail(error) from error
    ids = corpus.data.ids if isinstance(corpus.data, InkCorpus) else {}
    held_out = {name: sorted(ids[name]) for name in ("valid", "test")}
    wanted = ("name", "sha256", "protocol", "seed", "min_points", "lines", "split", "order_sha256")
    facts = {key: corpus.facts[key] for key in wanted}
    out.write_text(json.dumps(facts | {"train": "all other kept lines"} | held_out, indent=1) + "\n", encoding="utf-8")


@app.command()
def sample(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a training folder.")],
    text: Annotated[str, typer.Option(help="Ink that writes a text: the line to write.")] = "",
    hand: Annotated[int, typer.Option(help="Ink that writes a text: whose hand; 0 is nobody's.")] = 0,
    length: Annotated[int, typer.Option(help="Characters or pen points.")] = 500,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    temperature: Annotated[float, typer.Option(help="Text: below 1 is tamer.")] = 0.8,
    bias: Annotated[float, typer.Option(help="Ink: larger is neater.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Same seed, same sample.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Ink: where to draw it (.svg).")] = None,
    picture: Annotated[Path | None, typer.Option(help="Where to draw the boundaries over it (.png).")] = None,
) -> None:
    """Let a checkpoint write: text with its boundaries, or strokes as SVG."""
    from model.plots import plot_handwriting, plot_trace
    from model.sample import mark_boundaries, sample_handwriting, sample_ink, sample_text, strokes_svg

    try:
        loaded = checkpoints.load(checkpoint)
    except CheckpointError as error:
        raise _fail(error) from error
    if loaded.model.kind == "text":
        text, z = sample_text(loaded, prompt, length, temperature, seed)
        sys.stdout.write(mark_boundaries(text, z) + "\n")
        if picture is not None:
            plot_trace(loaded, loaded.codec.encode(text), picture)
        return
    if isinstance(loaded.codec, HandwritingCodec):
        try:
            written = sample_handwriting(loaded, text, hand, bias, seed)[0]
        except ValueError as error:
            raise _fail(error) from error
        offsets = written.offsets
        if picture is not None:
            plot_handwriting(loaded.codec, text, written, picture)
    else:
        offsets = sample_ink(loaded, length, bias, seed)
        if picture is not None:
            plot_trace(loaded, loaded.codec.encode(offsets), picture)  # type: ignore[arg-type]
    svg = strokes_svg(offsets)
    if out is None:
        sys.stdout.write(svg + "\n")
    else:
        out.write_text(svg, encoding="utf-8")


@app.command()
def bench(
    hidden: Annotated[int | None, typer.Option(help="H of each of the three layers.")] = None,
    batch: Annotated[int, typer.Option(help="B.")] = 64,
    window: Annotated[int, typer.Option(help="T.")] = 100,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds; medians are reported.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Time one update (forward and backward) beside eager autograd and torch.nn.LSTM, interleaved in one run."""
    from model.bench import run_bench

    try:
        chosen = _device(device)
    except ConfigError as error:
        raise _fail(error) from error
    usual = [(256, 64)] if chosen.type == "cpu" else [(512, 64), (512, 128), (512, 256), (1024, 128), (1024, 256)]
    run_bench(usual if hidden is None else [(hidden, batch)], window, rounds, chosen)


@app.command()
def record(
    run: Annotated[Path, typer.Argument(help="A training folder.")],
    data: Annotated[Path, typer.Option(help="The corpus it was trained on.")],
    out: Annotated[Path, typer.Option(help="The record, docs/runs/NAME.json.")],
    command: Annotated[str, typer.Option(help="The command that trained it.")],
    note: Annotated[str, typer.Option(help="What a reader must know beyond the command.")] = "",
) -> None:
    """Measure a training's best checkpoint on the test split and write its run record."""
    from model.records import make_record, write_record

    try:
        loaded = checkpoints.load(run)
        corpus = Corpus.load(loaded.model.kind, data, loaded.codec, _protocol(loaded, None))
    except (DataError, CheckpointError, ValueError) as error:
        raise _fail(error) from error
    found = evaluate_network(loaded.network(), corpus.evaluation("test", 100), WindowOptions(torch.float32))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    write_record(out, make_record(out.stem, command, note, loaded, log, summarise(corpus, "test", found)))


@app.command()
def boundaries(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a training folder of an HM-LSTM.")],
    data: Annotated[Path, typer.Option(help="The corpus it was trained on.")],
    split: Annotated[str, typer.Option(help="valid or test.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Steps at most, from the beginning.")] = None,
    control: Annotated[Path | None, typer.Option(help="Text: an LSTM whose states are read linearly beside.")] = None,
    words: Annotated[
        Path | None, typer.Option(help="Ink: sentences whose strokes have words (ImadocSen-OnDB).")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="A run record to write the scores into.")] = None,
) -> None:
    """Score boundaries against the ends of words, sentences and strokes, beside chance; prints one JSON object."""
    from model.data.words import read_words
    from model.segments import find, score_words

    if split not in ("valid", "test"):
        raise _fail(f"there is no split {split!r}; choose valid or test")
    try:
        loaded = checkpoints.load(checkpoint)
        if loaded.model.cell != "hmlstm":
            raise _fail(f"{checkpoint} is an LSTM: it has no boundaries")
        rival = None if control is None else checkpoints.load(control)
        if rival is not None and rival.codec != loaded.codec:
            raise _fail(f"{control} was trained with another codec than {checkpoint}")
        corpus = Corpus.load(loaded.model.kind, data, loaded.codec)
        report = find(loaded.network(), corpus, split, limit, None if rival is None else rival.network())
        if words is not None:
            if not isinstance(loaded.codec, InkCodec):
                raise _fail(f"{words} is ink that the network of {checkpoint} does not read")
            report["words"] = score_words(loaded.network(), read_words(words, loaded.codec))
        if run is not None:
            from model.records import read_record, write_record

            write_record(run, read_record(run) | {"boundaries": report})
    except (ConfigError, DataError, CheckpointError, ValueError, OSError) as error:
        raise _fail(error) from error
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


@app.command()
def results(
    runs: Annotated[Path, typer.Option(help="Folder of run records.")] = Path("docs/runs"),
    out: Annotated[Path, typer.Option(help="The page.")] = Path("docs/results.md"),
) -> None:
    """Make the page of results from the run records."""
    from model.records import read_records, results_page

    try:
        out.write_text(results_page(read_records(runs)), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _fail(error) from error


@app.command()
def selfcheck(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    compiled: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Fuse the pointwise kernels.")] = None,
) -> None:
    """Compare a device with the CPU in float32: loss, gradients, a few whole updates; exit 1 where they differ."""
    from model.selfcheck import selfcheck as compare

    fused = shutil.which("g++") is not None if compiled is None else compiled
    try:
        chosen = _device(device)
    except ConfigError as error:
        raise _fail(error) from error
    if not compare(chosen, compiled=fused):
        raise typer.Exit(1)


class _Progress:
    """A progress bar on a terminal, a line for each evaluation elsewhere."""

    def __init__(self, budget: Budget, *, shown: bool) -> None:
        self._budget, self._shown = budget, shown
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

    def follow(self, trainer: Trainer) -> None:
        """Move the bar with every update."""
        one_update = trainer.one_update

        def followed(progress: float) -> None:
            one_update(progress)
            self._bar.update(self._task, completed=self._budget.progress)

        trainer.one_update = followed  # type: ignore[method-assign]

    def report(self, record: dict[str, Any]) -> None:
        """Say how it goes."""
        if not self._shown:
            return
        rates = " ".join(f"z{n}={rate:.3f}" for n, rate in enumerate(record["z_rates"], start=1))
        line = (
            f"{record['progress']:4.0%} update {record['update']} train {record['train']:.4f} "
            f"valid {record['valid']:.4f} {record['unit']} {rates} {record['steps_per_s']:.0f} steps/s, "
            f"{self._budget.remaining_s / 60:.0f} min left"
        )
        self._bar.update(self._task, description=f"valid {record['valid']:.4f} {rates}")
        console.print(line, highlight=False, soft_wrap=True)
