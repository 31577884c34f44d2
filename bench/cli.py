"""The command line of `python -m bench`. Each command prints tables and, as its last line, one JSON object."""

import json
import logging
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import structlog
import torch
import typer

from bench import cores as cores_bench
from bench.engine.compare import (
    OURS,
    Case,
    check,
    compare,
    recording,
    report,
    shipped_case,
    two_engines,
    wide_case,
)
from bench.engine.executor import WritingExecutor
from bench.engine.floor import CoreSpeed
from bench.http import cost, throughput
from bench.machine import cores, describe, pinned
from bench.options import CORES, FULL, QUICK, Options
from bench.rounds import Speeds, interleave
from bench.writing import quality
from export.bundle import folder as bundles
from export.bundle.folder import Bundle
from export.graphs.quantisation import Precision
from model.config import Kind

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "service" / "bundles"
HELD_OUT = ROOT / "tests" / "fixtures" / "text.txt"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Quick = Annotated[
    bool, typer.Option("--quick", help="Tiny sizes, to see that everything runs; the figures mean nothing.")
]
Shipped = Annotated[Path, typer.Option("--bundles", help="Folder of the shipped bundles.")]
TextName = Annotated[str, typer.Option("--text", help="Text bundle whose boundaries are replayed.")]
InkName = Annotated[str, typer.Option("--ink", help="Ink bundle whose boundaries are replayed.")]


def main() -> None:
    """Run a command; without the name of one, run `engine`."""
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser warns about a preprocessing that few people do
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    given = sys.argv[1:]
    if not given or (given[0].startswith("--") and given[0] != "--help"):
        given.insert(0, "engine")
    app(args=given, prog_name="python -m bench")


@app.command()
def engine(
    quick: Quick = False,
    shipped: Shipped = SHIPPED,
    text: TextName = "prose",
    ink: InkName = "ink-free",
    precision: Annotated[Precision | None, typer.Option(help="Instead of the one the shipped bundles have.")] = None,
    held_out: Annotated[Path, typer.Option(help="A text that no bundle was trained on.")] = HELD_OUT,
) -> None:
    """Measure the engine beside its rivals, and the whole service."""
    options = QUICK if quick else FULL
    results: dict[str, Any] = {"machine": describe(), "quick": quick}
    _say(f"{results['machine']}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with pinned(cores()[0]):
            wide = _steps(results, shipped, (text, ink), precision, held_out, folder, options)
        _pair(results, wide, options)
        _whole(results, shipped, text, folder, options)
    _finish(results)


@app.command("http")
def http_command(quick: Quick = False, shipped: Shipped = SHIPPED, text: TextName = "prose") -> None:
    """Measure what HTTP costs per streamed character, and the first character after a prompt."""
    results = cost.measure(shipped, text, QUICK if quick else FULL)
    for name, value in results.items():
        _say(f"{name:40s} {value}")
    _finish({"machine": describe(), "quick": quick, **results})


@app.command("cores")
def cores_command(
    quick: Quick = False, shipped: Shipped = SHIPPED, text: TextName = "prose", ink: InkName = "ink-free"
) -> None:
    """Measure how best to use several cores: threads, processes, or ONNX Runtime's pool; for steps and over HTTP."""
    options = QUICK if quick else CORES
    results: dict[str, Any] = {"machine": describe(), "quick": quick}
    with tempfile.TemporaryDirectory() as name:
        for bundle in (bundles.load(shipped / text), bundles.load(shipped / ink)):
            recorded = recording(bundle, options, HELD_OUT)
            kind, hidden = _kind(bundle), options.hidden if bundle.kind == "text" else options.ink_hidden
            case = wide_case(recorded, kind, hidden, bundle.model["precision"], Path(name))
            for batch in options.batches:
                found = cores_bench.steps(case, batch, options)
                results[f"{kind}_steps_{batch}"] = found
                _rates(f"{case.bundle.name}, {batch} streams, steps", found)
            results[f"{kind}_http"] = cores_bench.served(throughput.Model(Path(name), case.bundle.name, kind), options)
            for streams, found in results[f"{kind}_http"].items():
                _rates(f"{case.bundle.name}, {streams} streams, over HTTP", found)
    _finish(results)


@app.command("writing")
def writing_command(
    data: Annotated[Path, typer.Option(help="Strokes with texts; some of them must be new to the bundle.")],
    quick: Quick = False,
    shipped: Shipped = SHIPPED,
    ink: Annotated[str, typer.Option("--ink", help="Bundle that writes texts.")] = "ink",
    lines: Annotated[int, typer.Option(min=1, help="Held-out lines to write.")] = 120,
) -> None:
    """Measure handwriting of given texts: legibility, endings of lines, latency and speed."""
    results = quality.measure(shipped, bundles.load(shipped / ink), data, lines, QUICK if quick else FULL)
    for name, value in results.items():
        _say(f"{name:40s} {value}")
    _finish({"machine": describe(), "quick": quick, "bundle": ink, **results})


def _rates(title: str, found: Mapping[str, float]) -> None:
    _say(f"\n{title}, wall time")
    for name, rate in found.items():
        _say(f"{name:44s} {rate:10.0f} /s")


def _kind(bundle: Bundle) -> Kind:
    return "text" if bundle.kind == "text" else "ink"


def _steps(
    results: dict[str, Any],
    shipped: Path,
    names: tuple[str, str],
    precision: Precision | None,
    held_out: Path,
    folder: Path,
    options: Options,
) -> Case:
    """Measure single steps of text and ink, at full width and as shipped, and return the wide text case."""
    cases = {}
    for name in names:
        bundle = bundles.load(shipped / name)
        recorded = recording(bundle, options, held_out)
        rates = [round(rate, 3) for rate in recorded.rates]
        _say(f"\nboundaries of {recorded.source}: rates {rates}")
        results[f"{bundle.kind}_rates"] = rates
        hidden = options.hidden if bundle.kind == "text" else options.ink_hidden
        wide = wide_case(recorded, _kind(bundle), hidden, precision or bundle.model["precision"], folder)
        check(wide)
        cases[bundle.kind] = wide
        own = shipped_case(bundle, recorded)
        if bundle.kind == "text":
            _text_tables(results, wide, own, options)
        else:
            _ink_tables(results, wide, own, folder, shipped, options)
    return cases["text"]


def _pair(results: dict[str, Any], wide: Case, options: Options) -> None:
    """Measure two engines on two cores."""
    batch = options.batches[-2]
    pair = two_engines(wide, batch, options)
    results["two_engines"] = pair["gain"] if pair else None
    _say(f"\ntwo engines on two cores, {batch} streams each: {pair or 'there is only one core'}")


def _text_tables(results: dict[str, Any], wide: Case, own: Case, options: Options) -> None:
    size = sum(layer.own.size for layer in wide.weights("float32").layers)
    speed = CoreSpeed.measure(size if wide.precision == "int8" else 4 * size)
    results["floor"] = {name: round(value, 1) for name, value in vars(speed).items()}
    _say(f"one core at best: {results['floor']}")
    for label, case in (("wide", wide), ("shipped", own)):
        results[label] = []
        for batch in options.batches:
            speeds = compare(case, batch, options)
            figures = report(case, batch, speeds, speed)
            _table(f"{case.bundle.name}, {batch} streams, characters", speeds, figures)
            results[label].append(figures)
            if label == "wide":
                results[f"b{batch}_vs_lstm_f32"] = figures["vs_lstm_f32"]
                results[f"b{batch}_vs_lstm_int8"] = figures["vs_lstm_int8"]
    middle = options.batches[-2]
    results[f"skip_vs_dense_b{middle}"] = next(one["vs_masks"] for one in results["wide"] if one["batch"] == middle)


def _ink_tables(results: dict[str, Any], wide: Case, own: Case, folder: Path, shipped: Path, options: Options) -> None:
    for label, case in (("wide", wide), ("shipped", own)):
        speeds = compare(case, 1, options)
        figures = report(case, 1, speeds, None)
        _table(f"{case.bundle.name}, 1 stream, points", speeds, figures)
        results[f"ink_{label}"] = figures
    turns = {
        name: WritingExecutor(where, name, 1, options.items // 8)
        for where, name in ((folder, wide.bundle.name), (shipped, own.bundle.name))
    }
    speeds = interleave(turns, options.rounds)
    _say("\nfree writing, sampling included")
    for name in turns:
        _say(f"{name:36s} {speeds.per_item_us(name):9.1f} us/point {speeds.per_second(name):10.0f} points/s")
    results["ink_points_per_s"] = round(speeds.per_second(wide.bundle.name))
    results["ink_shipped_points_per_s"] = round(speeds.per_second(own.bundle.name))


def _whole(results: dict[str, Any], shipped: Path, text: str, folder: Path, options: Options) -> None:
    """Measure the service over HTTP, at full width and as shipped."""
    middle = options.batches[-2]
    for label, model in (
        ("wide", throughput.Model(folder, f"text-{options.hidden}", "text")),
        ("shipped", throughput.Model(shipped, text, "text")),
    ):
        raw = next(one["per_s"] for one in results[label] if one["batch"] == middle)
        figures = throughput.measure(model, options)
        _say(f"\n{model.name} over HTTP, two cores")
        for name, found in figures.items():
            _say(f"{name:12s} {found}")
        results[f"e2e_{label}"] = figures
        share = round(figures[str(middle)]["items_per_s"] / raw[OURS], 3)
        _say(f"share at {middle} streams of the raw engine {share}")
        if label == "wide":
            results[f"e2e_share_{middle}"] = share
            results["first_char_idle_p99_ms"] = figures["idle"]["first_p99"]
            results[f"first_char_{middle}_p99_ms"] = figures[f"{middle}_probed"]["first_p99"]
            results["memory"] = figures["memory"]
    results["int8_cost_bpc"] = _cost_bpc(bundles.load(shipped / text))


def _cost_bpc(bundle: Bundle) -> float | None:
    """Return what the shipped precision costs in bpc over the whole test split, as the exporter measured it."""
    metrics = bundle.metrics
    if "float32_test_bpc" not in metrics:
        return None
    return round(float(metrics["test_bpc"] - metrics["float32_test_bpc"]), 6)


def _table(title: str, speeds: Speeds, figures: Mapping[str, Any]) -> None:
    _say(f"\n{title}; medians of rounds, CPU time of one core")
    for name in speeds.seconds:
        ratio = speeds.ratio(OURS, name)
        us, per_s = speeds.per_item_us(name), speeds.per_second(name)
        _say(f"{name:36s} {us:9.2f} us {per_s:10.0f} /s   ours is {ratio:6.2f} times as fast")
    if "floor_us" in figures:
        reached = f"which ours reaches to {figures['share_of_floor']:.0%}"
        _say(f"{'floor of this machine':36s} {figures['floor_us']:9.2f} us   {reached}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _finish(results: Mapping[str, Any]) -> None:
    _say("")
    _say(json.dumps(results, allow_nan=False))
