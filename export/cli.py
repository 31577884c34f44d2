"""The command line of `python -m export`: build, verify, measure and restore bundles."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from export.build import TRACE_ROWS, TRACE_STEPS, Compiled, Facts, Writing, compile_network, sampled, ship
from export.bundle import folder as bundles
from export.bundle.folder import BundleError
from export.checks import traces
from export.checks.measure import measure as measure_step
from export.checks.traces import Trace
from export.checks.verify import verify as verify_bundle
from export.errors import ExportError, TraceError, VerifyError
from export.graphs.recogniser import build_recogniser
from export.hands import NAMES, choose
from export.restore import restore, restore_recogniser
from export.runtime import OnnxStep, TextEncoder, config_of
from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import Checkpoint, CheckpointError
from model.codec import HandwritingCodec, codec_from_json
from model.data.corpus import Codec, Corpus
from model.data.errors import DataError
from model.data.ink import InkCorpus
from model.recogniser.network import Recogniser, load_recogniser, save_recogniser

FREE = "any"  # the use of data that may be passed on

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(stderr=True)
COMMANDS = ("build", "verify", "measure", "restore")


class StoredAs(StrEnum):
    """How matrices are stored."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; without the name of one, the arguments are those of `build`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] not in (*COMMANDS, "--help"):
        given.insert(0, "build")
    app(args=given, prog_name="python -m export")


@app.command()
def build(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a training folder.")],
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder to write; an older bundle is replaced.")],
    name: Annotated[str | None, typer.Option(help="Public name; the folder's name if not given.")] = None,
    description: Annotated[str, typer.Option(help="One or two sentences for people.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="The corpus; the exported file is measured on its whole test split.")
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="JSON object with further figures, such as control_test_bpc.")
    ] = None,
    precision: Annotated[StoredAs, typer.Option(help="How matrices are stored.")] = StoredAs.float32,
    compare: Annotated[
        bool, typer.Option("--compare/--no-compare", help="Measure float32 too, to show what rounding costs.")
    ] = True,
    data_name: Annotated[str | None, typer.Option(help="Name of the data, instead of the checkpoint's.")] = None,
    data_licence: Annotated[str | None, typer.Option(help="Licence of the data.")] = None,
    use: Annotated[str | None, typer.Option(help="What the weights may be used for.")] = None,
    recogniser: Annotated[
        Path | None,
        typer.Option(help="For a network that writes texts: a recogniser (file, training folder or bundle) to ship."),
    ] = None,
    hands: Annotated[
        int, typer.Option(min=0, max=len(NAMES), help="For a network that writes texts: how many hands to name.")
    ] = 12,
) -> None:
    """Export a checkpoint: round its weights, write the graphs, measure and check them, then write the bundle."""
    try:
        loaded = checkpoints.load(checkpoint)
        codec = loaded.codec
        corpus = Corpus.load(loaded.model.kind, data, codec) if data else None
        compiled = compile_network(loaded.network(), precision.value)
        figures = _read_metrics(metrics) | _measured(loaded, compiled, corpus, compare=compare)
        writing, found = _writing(compiled, codec, recogniser, hands)
        figures |= found
        stated = {"name": data_name, "licence": data_licence, "use": use}
        facts = _facts(loaded, description, {key: value for key, value in stated.items() if value}, figures)
        console.print(f"checking parity on {TRACE_ROWS} rows of {TRACE_STEPS} steps", highlight=False)
        made = ship(
            compiled, codec, folder, name or folder.resolve().name, facts, _trace(compiled, codec, corpus), writing
        )
    except (BundleError, CheckpointError, DataError, ExportError, TraceError) as error:
        raise _fail(error) from error
    size = sum(len(content) for content in made.files.values())
    typer.echo(f"{folder}: {made.name}, {size / 1e6:.1f} MB, fingerprint {made.fingerprint}")
    for key, value in made.metrics.items():
        typer.echo(f"  {key}: {value}")


@app.command()
def verify(folder: Annotated[Path, typer.Argument(metavar="BUNDLE")]) -> None:
    """Check a bundle from scratch, without the checkpoint it came from."""
    try:
        found = verify_bundle(folder)
    except (BundleError, VerifyError) as error:
        raise _fail(error) from error
    for line in found:
        typer.echo(f"ok: {line}")


@app.command()
def measure(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: Annotated[Path, typer.Option(help="The corpus.")],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
) -> None:
    """Measure a bundle on a whole split, through ONNX Runtime, and print one JSON object."""
    if split not in ("train", "valid", "test"):
        raise _fail(f"there is no split {split!r}; choose train, valid or test")
    try:
        loaded = bundles.load(folder)
        config = config_of(loaded)
        corpus = Corpus.load(config.kind, data, codec_from_json(dict(loaded.codec)))
    except (BundleError, VerifyError, DataError) as error:
        raise _fail(error) from error
    encoder = None if loaded.reader is None else TextEncoder(loaded.reader)
    typer.echo(json.dumps(measure_step(OnnxStep.of(loaded), config, corpus, split, encoder), indent=2))


@app.command("restore")
def restore_command(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    checkpoint: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    recogniser: Annotated[bool, typer.Option("--recogniser", help="Its recogniser, not its network.")] = False,
) -> None:
    """Turn a bundle back into a checkpoint, to measure it, to sample from it, or to train on with `--from`."""
    if checkpoint.exists():
        raise _fail(f"{checkpoint} exists already; name a new file")
    try:
        loaded = bundles.load(folder)
        if recogniser:
            found = restore_recogniser(loaded)
            known = dict(loaded.writing["recogniser"]["facts"])
            data = {"name": known.pop("data", None), "protocol": known.pop("protocol", None)}
            save_recogniser(checkpoint, found, {"valid": known, "data": data, "bundle": loaded.fingerprint})
        else:
            checkpoints.save(checkpoint, restore(loaded))
    except (BundleError, ExportError, VerifyError, OSError) as error:
        raise _fail(error) from error
    typer.echo(f"{checkpoint}: the weights of {folder}")


def _writing(
    compiled: Compiled, codec: Codec, recogniser: Path | None, count: int
) -> tuple[Writing | None, dict[str, Any]]:
    """Return the named hands and the recogniser of a network that writes texts, with figures about them."""
    if compiled.text_encoder is None or not isinstance(codec, HandwritingCodec) or (recogniser is None and not count):
        return None, {}
    found, known = (None, {}) if recogniser is None else _recogniser(recogniser)
    console.print("trying every hand", highlight=False)
    chosen, figures = choose(compiled.step(), TextEncoder(compiled.text_encoder), codec, found, max(1, count))
    if found is None:
        return Writing(chosen), figures
    return Writing(chosen, build_recogniser(found), found.codec, known), figures


def _recogniser(path: Path) -> tuple[Recogniser, dict[str, Any]]:
    """Return a recogniser from its training or from a bundle, and how well it reads real ink."""
    if (path / bundles.MANIFEST_FILE).is_file():
        other = bundles.load(path)
        return restore_recogniser(other), dict(other.writing["recogniser"]["facts"])
    trained, facts = load_recogniser(path)
    known = {key: facts["valid"][key] for key in ("split", "cer", "lines", "exact_lines") if key in facts["valid"]}
    return trained, known | {"data": facts["data"].get("name"), "protocol": facts["data"].get("protocol")}


def _measured(loaded: Checkpoint, compiled: Compiled, corpus: Corpus | None, *, compare: bool) -> dict[str, Any]:
    """Return the figures of the exported file; `compare` adds those of the network in float32."""
    if corpus is None:
        return {}
    console.print("measuring on the whole test split", highlight=False)
    figures = _measure_compiled(compiled, corpus)
    if compare and compiled.precision != "float32":
        exact = _measure_compiled(compile_network(loaded.network(), "float32"), corpus)
        key = "test_bpc" if loaded.model.kind == "text" else "test_nats_per_line"
        figures |= {f"float32_{key}": exact[key]}
    return figures


def _measure_compiled(compiled: Compiled, corpus: Corpus) -> dict[str, Any]:
    encoder = None if compiled.text_encoder is None else TextEncoder(compiled.text_encoder)
    return measure_step(compiled.step(), compiled.network.config, corpus, encoder=encoder)


def _trace(compiled: Compiled, codec: Codec, corpus: Corpus | None) -> Trace:
    """Return a trace of real data if it may be passed on, else one that the network samples from itself.

    The trace becomes part of the bundle, and a bundle must not pass on data that is not free. A network that writes
    texts always samples: a real line is much shorter than a trace.
    """
    if corpus is None or corpus.facts.get("use") != FREE or compiled.text_encoder is not None:
        return sampled(compiled, codec, TRACE_ROWS, TRACE_STEPS)
    name = f"the test split of {corpus.facts.get('name')}"
    if isinstance(corpus.data, InkCorpus):
        return traces.ink_rows(corpus.data.test, TRACE_ROWS, TRACE_STEPS, name)
    return traces.text_rows(corpus.data.test, TRACE_ROWS, TRACE_STEPS, name)


def _facts(loaded: Checkpoint, description: str, stated: dict[str, str], figures: dict[str, Any]) -> Facts:
    """Return what the checkpoint says about itself; what is stated on the command line takes its place."""
    known = dict(loaded.facts.get("data", {}))
    known.pop("path", None)  # where the data was on somebody's disk is of no use to others
    data = {"name": "not known", "licence": "not known", "use": "not known"} | known | stated
    training = {key: value for key, value in loaded.facts.items() if key not in ("data", "resume")}
    training |= {"config": asdict(loaded.train), "detector_prior": loaded.model.detector_prior}
    licence = (
        f"The weights in this folder were trained on: {data['name']}.\n"
        f"Licence of the data: {data['licence']}.\n"
        f"The weights may be used for: {data['use']}.\n"
    )
    return Facts(description, data, training, figures, licence)


def _read_metrics(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} is not a readable JSON file: {error}") from error
    if not isinstance(values, dict):
        raise ExportError(f"{path} must hold one JSON object with figures")
    return values


def _fail(message: object) -> typer.Exit:
    console.print(f"[red]error:[/red] {message}", highlight=False, soft_wrap=True)
    return typer.Exit(1)
