"""The command line of `python -m model`: one function for each command."""

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.average import AverageError
from model.checkpoints.average import average as average_of
from model.checkpoints.checkpoint import Checkpoint, CheckpointError
from model.checkpoints.widen import WidenError
from model.checkpoints.widen import widen as widened
from model.cli.console import device_named, fail
from model.cli.recogniser import recogniser_app
from model.cli.sweep import sweep
from model.cli.train import train
from model.codec import HandwritingCodec, InkCodec
from model.config import ConfigError
from model.data.corpus import Corpus
from model.data.errors import DataError
from model.data.ink import InkCorpus
from model.network.fast.window import WindowOptions
from model.training.evaluate import evaluate as evaluate_network
from model.training.evaluate import protocol_of, summarise

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(recogniser_app, name="recognise")
app.command()(train)
app.command()(sweep)


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
        raise fail(f"there is no split {split!r}; choose train, valid or test")
    try:
        loaded = checkpoints.load(checkpoint)
        corpus = Corpus.load(loaded.model.kind, data, loaded.codec, _protocol(loaded, protocol))
        network = loaded.network().to(device_named(device))
        found = evaluate_network(network, corpus.evaluation(split, window), WindowOptions(torch.float32))
    except (ConfigError, DataError, CheckpointError, ValueError) as error:
        raise fail(error) from error
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
        raise fail(error) from error


@app.command()
def widen(
    trained: Annotated[Path, typer.Argument(help="A checkpoint or a training folder.")],
    layer: Annotated[int, typer.Option(help="Counted from 1: which layer gets twice as many units.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    seed: Annotated[int, typer.Option(help="Of how each weight is divided between two units.")] = 1,
) -> None:
    """Give one layer twice as many units without changing what the network computes, to train on from it (--from)."""
    try:
        checkpoints.save(out, widened(checkpoints.load(trained), layer, seed))
    except (CheckpointError, WidenError, OSError) as error:
        raise fail(error) from error


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
        raise fail(error) from error
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
    from model.analysis.plots import plot_handwriting, plot_trace
    from model.analysis.sample import mark_boundaries, sample_handwriting, sample_ink, sample_text, strokes_svg

    try:
        loaded = checkpoints.load(checkpoint)
    except CheckpointError as error:
        raise fail(error) from error
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
            raise fail(error) from error
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
    from model.analysis.speed import run_bench

    try:
        chosen = device_named(device)
    except ConfigError as error:
        raise fail(error) from error
    usual = [(256, 64)] if chosen.type == "cpu" else [(512, 64), (512, 128), (512, 256), (1024, 128), (1024, 256)]
    run_bench(usual if hidden is None else [(hidden, batch)], window, rounds, chosen)


@app.command()
def record(
    run: Annotated[Path, typer.Argument(help="A training folder.")],
    data: Annotated[Path, typer.Option(help="The corpus it was trained on.")],
    out: Annotated[Path, typer.Option(help="The record, docs/runs/CORPUS/NAME.json.")],
    command: Annotated[str, typer.Option(help="The command that trained it.")],
    note: Annotated[str, typer.Option(help="What a reader must know beyond the command.")] = "",
) -> None:
    """Measure a training's best checkpoint on the test split and write its run record."""
    from model.analysis.records import make_record, write_record

    try:
        loaded = checkpoints.load(run)
        corpus = Corpus.load(loaded.model.kind, data, loaded.codec, _protocol(loaded, None))
    except (DataError, CheckpointError, ValueError) as error:
        raise fail(error) from error
    found = evaluate_network(loaded.network(), corpus.evaluation("test", 100), WindowOptions(torch.float32))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    write_record(out, make_record(out.stem, command, note, loaded, log, summarise(corpus, "test", found)))


@app.command()
def boundaries(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a training folder of an HM-LSTM.")],
    data: Annotated[Path, typer.Option(help="The corpus it was trained on.")],
    split: Annotated[str, typer.Option(help="valid or test.")] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Steps of the split at most; words and letters are read whole.")
    ] = None,
    control: Annotated[Path | None, typer.Option(help="Text: an LSTM whose states are read linearly beside.")] = None,
    words: Annotated[
        Path | None, typer.Option(help="Ink: sentences whose strokes have words (ImadocSen-OnDB).")
    ] = None,
    letters: Annotated[
        Path | None, typer.Option(help="Ink: a recogniser that finds the letters of lines whose text is known.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="A run record to write the scores into.")] = None,
) -> None:
    """Score boundaries against the ends of words, letters and strokes, beside chance; prints one JSON object."""
    from model.analysis.boundaries import find, score_letters, score_words
    from model.data.words import read_words
    from model.recogniser.network import load_recogniser

    if split not in ("valid", "test"):
        raise fail(f"there is no split {split!r}; choose valid or test")
    try:
        loaded = checkpoints.load(checkpoint)
        if loaded.model.cell != "hmlstm":
            raise fail(f"{checkpoint} is an LSTM: it has no boundaries")
        control_checkpoint = None if control is None else checkpoints.load(control)
        if control_checkpoint is not None and control_checkpoint.codec != loaded.codec:
            raise fail(f"{control} was trained with another codec than {checkpoint}")
        protocol = _protocol(loaded, None)
        corpus = Corpus.load(loaded.model.kind, data, loaded.codec, protocol)
        control_network = None if control_checkpoint is None else control_checkpoint.network()
        report = find(loaded.network(), corpus, split, limit, control_network)
        if words is not None:
            if not isinstance(loaded.codec, InkCodec):
                raise fail(f"{words} is ink that the network of {checkpoint} does not read")
            report["words"] = score_words(loaded.network(), read_words(words, loaded.codec))
        if letters is not None:
            captioned = Corpus.load(loaded.model.kind, data, loaded.codec, protocol, texts=True).data
            if not isinstance(captioned, InkCorpus):
                raise fail(f"{letters} reads ink, and {checkpoint} writes text")
            report["letters"] = score_letters(loaded.network(), captioned, split, load_recogniser(letters)[0])
        if run is not None:
            from model.analysis.records import read_record, write_record

            write_record(run, read_record(run) | {"boundaries": report})
    except (ConfigError, DataError, CheckpointError, ValueError, OSError) as error:
        raise fail(error) from error
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


@app.command()
def results(
    runs: Annotated[Path, typer.Option(help="Folder of run records.")] = Path("docs/runs"),
    out: Annotated[Path, typer.Option(help="The page of results.")] = Path("docs/results.md"),
    boundaries_out: Annotated[Path, typer.Option("--boundaries", help="The page of boundary scores.")] = Path(
        "docs/boundaries.md"
    ),
) -> None:
    """Generate the pages of results and of boundary scores from the run records."""
    from model.analysis.records import read_records
    from model.analysis.results_page import boundaries_page, results_page

    try:
        records = read_records(runs)
        out.write_text(results_page(records), encoding="utf-8")
        boundaries_out.write_text(boundaries_page(records), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise fail(error) from error


@app.command()
def selfcheck(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    compiled: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Fuse the pointwise kernels.")] = None,
) -> None:
    """Compare a device with the CPU in float32: loss, gradients, a few whole updates; exit 1 where they differ."""
    from model.analysis.selfcheck import selfcheck as compare

    fused = shutil.which("g++") is not None if compiled is None else compiled
    try:
        chosen = device_named(device)
    except ConfigError as error:
        raise fail(error) from error
    if not compare(chosen, compiled=fused):
        raise typer.Exit(1)
