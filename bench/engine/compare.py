"""Compare the engine with what one would otherwise run, on one core, from one stream to hundreds.

All candidates of a table take turns on one core and step through the same recorded inputs. Ours is what the service
runs, with its own work and with sampling, which rivals do not do. Beside it stands the bundle's graph in ONNX Runtime,
bound to its state as the rivals are, without sampling: comparing the graph with and without masks shows what skipping
saves. There are networks for text and ink, at full width with random weights and recorded boundaries, and the shipped
bundles.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.engine import networks, rivals
from bench.engine.boundaries import Bits, Boundaries, arrange, record
from bench.engine.floor import CoreSpeed, Work
from bench.engine.processes import engines
from bench.engine.replay import Array, Replay, Serving, steps_in, without_drawing
from bench.machine import cores
from bench.options import Options
from bench.rounds import Speeds, Turn, interleave
from export.bundle.folder import Bundle
from export.graphs.quantisation import Precision, round_weights
from export.graphs.step import build_step
from export.graphs.weights import StepWeights
from model.config import Kind, ModelConfig
from model.network.stack import Network
from service.engine.runners.choose import open_runner
from service.engine.runners.onnx import MAX_ROWS

OURS = "ours"
OURS_GRAPHS = "ours by graphs, not drawing"
OURS_FLOAT32 = "ours by graphs in fp32"
LSTM_FLOAT32 = ("LSTM operator fp32", "LSTM products fp32")
LSTM_INT8 = ("LSTM operator int8", "LSTM products int8")
MASKS = "masks instead of skipping"
PYTORCH = "PyTorch eager"
TORCHSCRIPT = "TorchScript"


@dataclass(frozen=True)
class Case:
    """A bundle and the inputs that it is stepped through.

    Attributes:
        bundle: that the engine runs.
        network: that the bundle was made from; None if it was loaded.
        fired: the recorded boundaries (T, R, L-1).
        inputs: that lead to them (T, R, ...).
    """

    bundle: Bundle
    network: Network | None
    fired: Bits
    inputs: Array

    @property
    def precision(self) -> Precision:
        """How the bundle's matrices are stored."""
        stored: Precision = self.bundle.model["precision"]
        return stored

    def weights(self, precision: Precision) -> StepWeights:
        """Return the network's weights in a precision."""
        assert self.network is not None, "a bundle that was loaded has graphs and no network"
        return StepWeights.of(round_weights(self.network, precision), precision)

    @property
    def config(self) -> ModelConfig:
        """Sizes and switches of the network."""
        facts = {name: value for name, value in self.bundle.model.items() if name not in ("parameters", "precision")}
        return ModelConfig.from_json(facts)


def shipped_case(bundle: Bundle, recorded: Boundaries) -> Case:
    """Return a shipped bundle with the inputs of its recording."""
    return Case(bundle, None, recorded.fired, recorded.inputs)


def wide_case(recorded: Boundaries, kind: Kind, hidden: int, precision: Precision, folder: Path) -> Case:
    """Return a bundle of another width and random weights whose inputs force the recorded boundaries."""
    network = networks.forced_network(kind, hidden, recorded.rates)
    bundle = networks.export(network, folder, f"{kind}-{hidden}", recorded.rates, precision)
    return Case(bundle, network, recorded.fired, networks.inputs_for(bundle, recorded.fired))


def check(case: Case) -> None:
    """Raise AssertionError unless a forced network sets exactly the boundaries that were recorded."""
    rows, steps = min(4, case.inputs.shape[1]), min(48, len(case.inputs))
    runner = open_runner(case.bundle, rows)
    places = np.arange(case.fired.shape[-1])
    for now in range(steps):
        runner.inputs[:] = case.inputs[now, :rows]
        runner.step(rows)
        after = runner.codes & (2 ** len(places) - 1)
        assert np.array_equal(after, (case.fired[now, :rows] << places).sum(-1)), f"other boundaries at step {now}"


def candidates(case: Case, batch: int, options: Options) -> dict[str, Turn]:
    """Return the candidates that take turns at a batch size, ours first."""
    inputs = arrange(case.inputs, batch, options.items)
    turns: dict[str, Turn] = {
        OURS: Serving(case.bundle, inputs),
        OURS_GRAPHS: Replay(stepping(case.bundle, batch), inputs, most_rows=MAX_ROWS),
    }
    others: dict[str, Any] = {name: Replay(graph, inputs) for name, graph in _lstms(case.config).items()}
    if case.network is not None:
        weights = case.weights(case.precision)
        if case.precision == "int8":
            turns[OURS_FLOAT32] = Replay(build_step(case.weights("float32")), inputs, most_rows=MAX_ROWS)
        others[MASKS] = Replay(rivals.dense_masks(weights), inputs, most_rows=MAX_ROWS)
        others[PYTORCH] = rivals.TorchEager(case.network, inputs)
    others[TORCHSCRIPT] = rivals.TorchScript(case.bundle.files["step.pt"], inputs)
    return turns | {name: _brief(rival, options.turn_s, len(inputs)) for name, rival in others.items()}


def compare(case: Case, batch: int, options: Options) -> Speeds:
    """Measure all candidates of a case at a batch size."""
    return interleave(candidates(case, batch, options), options.rounds)


def report(case: Case, batch: int, speeds: Speeds, core: CoreSpeed | None) -> dict[str, Any]:
    """Return the figures of one table under short names."""
    float32, int8 = speeds.fastest(*LSTM_FLOAT32), speeds.fastest(*LSTM_INT8)
    figures: dict[str, Any] = {
        "batch": batch,
        "per_s": {name: round(speeds.per_second(name)) for name in speeds.seconds},
        "vs_lstm_f32": round(speeds.ratio(OURS, float32), 2),
        "vs_lstm_int8": round(speeds.ratio(OURS, int8), 2),
    }
    if MASKS in speeds.seconds:
        figures["vs_masks"] = round(speeds.ratio(OURS_GRAPHS, MASKS), 2)
    if core is not None and case.network is not None:
        work = Work.of(case.weights(case.precision), case.fired)
        floor_us = work.floor_us(batch, core, 1 if case.precision == "int8" else 4)
        figures["floor_us"] = round(floor_us, 2)
        figures["share_of_floor"] = round(floor_us / speeds.per_item_us(OURS), 3)
    return figures


def two_engines(case: Case, batch: int, options: Options) -> dict[str, float] | None:
    """Return the speed of two engines on two cores beside that of one; None where there is only one core."""
    if len(cores()) < 2:
        return None
    inputs = arrange(case.inputs, batch, options.items)
    with engines(case.bundle.path, inputs, cores()[:2]) as pair:
        one, two, gain = pair.gain(options.rounds)
    return {"one_per_s": round(one), "two_per_s": round(two), "gain": round(gain, 2)}


def stepping(bundle: Bundle, batch: int) -> bytes:
    """Return the graph for this many rows, without sampling."""
    return without_drawing(bundle.single if batch == 1 else bundle.graph, bundle.output.name)


def recording(bundle: Bundle, options: Options, text: Path) -> Boundaries:
    """Record a bundle's boundaries at the size of a run."""
    return record(bundle, options.rows, options.steps, text)


@cache
def _lstms(config: ModelConfig) -> Mapping[str, bytes]:
    """Return dense LSTMs of the same width, by name."""
    graphs: dict[str, bytes] = {}
    for form, build in (("operator", rivals.lstm_operator), ("products", rivals.lstm_products)):
        graph = build(config.kind, config.hidden[0], config.num_layers, config.num_outputs)
        graphs |= {f"LSTM {form} fp32": graph, f"LSTM {form} int8": rivals.stock_int8(graph)}
    return graphs


def _brief(rival: Any, turn_s: float, most: int) -> Turn:
    """Return a turn of a rival that takes no more steps than fit into its time."""
    steps = steps_in(turn_s, rival, most)
    return lambda: int(rival(steps))
