"""The kernel computes what a bundle's graphs compute, with the same bits on every processor, or it is not used."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import pytest
import structlog
from onnx import numpy_helper

from export.build import Facts, build
from export.bundle import folder as bundles_of
from export.bundle.folder import Bundle
from export.graphs.quantisation import distance_to_tie
from model.codec import REPLACEMENT, HandwritingCodec, InkCodec, TextCodec
from service.engine.kernel.library import VARIANTS, best_variant, library
from service.engine.runners import choose as opening
from service.engine.runners.choose import agreement, open_runner
from service.engine.runners.kernel import KernelRunner, has_kernel
from service.engine.runners.onnx import OnnxRunner
from service.engine.runners.self_test import check_batch_invariance
from tests.service.graphs import constants
from tests.service.live_server import ROOT, Server
from tests.service.networks import network, written_network

pytestmark = pytest.mark.skipif(library() is None, reason="no kernel was built here: there was no C compiler")

SHIPPED = ROOT / "service" / "bundles"
ROWS, STEPS = 37, 20
CLOSE = 3e-5
STATE_WISHES = ("hand", "text")
TEXT = TextCodec((*"\n abcdefghijklmnopqrstuvwxyz.", REPLACEMENT), "replace")
LINES = HandwritingCodec(InkCodec((0.0, 0.0), (1.0, 1.0)), TextCodec((*" abc", REPLACEMENT), "replace"), (0, 1))
MADE = ["text", "text-without-norm", "text-fires-below", "one-layer", "ink", "written"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Networks of random weights and awkward sizes in bytes, exported and proved as any other."""
    folder = tmp_path_factory.mktemp("kernel")
    networks: dict[str, tuple[Any, Any]] = {
        "text": (TEXT, network(TEXT, (33, 24, 41))),
        "text-without-norm": (TEXT, network(TEXT, (16, 7), layer_norm=False)),
        "text-fires-below": (TEXT, network(TEXT, (12, 20, 9))),
        "one-layer": (TEXT, network(TEXT, (19,))),
        "ink": (LINES.ink, network(LINES.ink, (21, 13, 8))),
        "written": (LINES, written_network(LINES)),
    }
    below = networks["text-fires-below"][1]
    below.layer(0).gain.data[-1] *= -1
    found = {}
    for name, (codec, net) in networks.items():
        facts = Facts("A network of random weights.", {"name": "none", "licence": "CC0-1.0", "use": "any"})
        found[name] = build(net, codec, folder / name, name, facts, "int8", steps=96, rows=2)
    return found


@pytest.fixture(params=[*MADE, "prose", "ink-free", "ink"])
def bundle(request: pytest.FixtureRequest, made: dict[str, Bundle]) -> Bundle:
    """Those, and the bundles that ship."""
    return made[request.param] if request.param in made else bundles_of.load(SHIPPED / request.param)


def feed(bundle: Bundle, random: np.random.Generator, *all_rows: Any) -> None:
    """Give all of them the same random inputs, sampling inputs and noise."""
    some = all_rows[0]
    count = some.capacity
    if bundle.kind == "text":
        size = bundle.model["vocabulary"]
        x: Any = random.integers(0, size, count)
        sampling_inputs = {
            "temperature": random.choice([1e-20, 0.7, 1.0, 1.5], count),
            "top_p": random.choice([0.0, 0.5, 0.95, 1.0, 1.0], count),
            "top_k": random.choice([0, 0, 1, 3, size], count),
            "logit_bias": np.where(random.random((count, size)) < 0.1, -np.inf, random.normal(size=(count, size))),
            "noise": random.uniform(2.0**-52, 1 - 2.0**-52, count),
        }
    else:
        x = random.normal(size=(count, 3))
        uniform = random.random((count, 4))
        uniform[:, 1:3] = random.normal(size=(count, 2))
        sampling_inputs = {"bias": random.choice([0.0, 0.5, 2.0], count), "noise": uniform}
        sampling_inputs |= {
            name: random.normal(size=some.sampling_inputs[name].shape)
            for name in STATE_WISHES
            if name in some.sampling_inputs
        }
    for rows in all_rows:
        rows.inputs[:] = x
        for name, values in sampling_inputs.items():
            rows.sampling_inputs[name][:] = values


def test_it_computes_what_the_graph_does(bundle: Bundle) -> None:
    """From the same state: outputs, draws, boundaries and the state after it, to the roundings of floats.

    An exception are rows in which an h lies so close to the middle between two bytes that a rounding decides which.
    """
    random = np.random.default_rng(3)
    graphs, kernel = OnnxRunner(bundle, ROWS), KernelRunner(bundle, ROWS)
    undecided = 0
    for _ in range(STEPS):
        for row in range(ROWS):
            kernel.restore(row, graphs.save(row))
        feed(bundle, random, graphs, kernel)
        wanted, found = graphs.step(ROWS), kernel.step(ROWS)
        for row in range(ROWS):
            hidden = [values[row].astype(np.float64) for name, values in graphs._now.items() if name[0] == "h"]
            if min(map(distance_to_tie, hidden)) < 1e-6:
                undecided += 1
                continue
            np.testing.assert_allclose(found[row], wanted[row], rtol=CLOSE, atol=CLOSE)
            assert kernel.codes[row] == graphs.codes[row]
            np.testing.assert_allclose(kernel.drawn[row], graphs.drawn[row], rtol=1e-3, atol=1e-3)
            for name, values in graphs._now.items():
                np.testing.assert_allclose(kernel._now[name][row], values[row], rtol=CLOSE, atol=CLOSE, err_msg=name)
    assert undecided < 0.1 * STEPS * ROWS
    assert agreement(bundle) > 0.9


def runs(variant: str) -> bool:
    """Whether this processor runs a variant."""
    best = best_variant()
    return best is not None and VARIANTS.index(variant) <= VARIANTS.index(best)


@pytest.mark.parametrize("variant", VARIANTS[:-1])
def test_every_processor_has_the_same_bits(bundle: Bundle, variant: str) -> None:
    """What each instruction set makes of rows, and of a prompt, is what the best one here makes of them."""
    if not runs(variant):
        pytest.skip(f"this processor does not run {variant}")
    random = np.random.default_rng(4)
    best, other = KernelRunner(bundle, 9), KernelRunner(bundle, 9, variant)
    for _ in range(STEPS):
        feed(bundle, random, best, other)
        assert best.step(9).tobytes() == other.step(9).tobytes()
        assert best.drawn.tobytes() == other.drawn.tobytes()
        assert best.codes.tobytes() == other.codes.tobytes()
    prompt = [best.inputs[row].copy() for row in range(9)]
    assert best.prefill(2, prompt).tolist() == other.prefill(2, prompt).tolist()
    assert [best.save(row) for row in range(9)] == [other.save(row) for row in range(9)]


def test_the_kernel_is_batch_invariant_and_prefill_is_steps(bundle: Bundle) -> None:
    """The test at start-up passes, also with more rows than a block of the kernel."""
    assert check_batch_invariance(bundle, KernelRunner(bundle, 100)).sizes == [1, 2, 3, 7, 31, 64, 65]


def test_a_symbol_that_is_not_one_makes_no_numbers(made: dict[str, Bundle]) -> None:
    """An id outside of the vocabulary reads no memory that is not the network's, and its neighbours are as ever."""
    random = np.random.default_rng(5)
    rows, alone = KernelRunner(made["text"], 3), KernelRunner(made["text"], 3)
    feed(made["text"], random, rows, alone)
    rows.inputs[1] = TEXT.size + 5
    found, wanted = rows.step(3).copy(), alone.step(3)
    assert found[[0, 2]].tobytes() == wanted[[0, 2]].tobytes()


def test_others_are_left_to_the_graphs(bundles: Path, odd_bundles: Path, made: dict[str, Bundle]) -> None:
    """Floats, the LSTM control, and whoever does not want the kernel."""
    assert isinstance(open_runner(bundles_of.load(bundles / "small-text"), 2), OnnxRunner)
    assert isinstance(open_runner(bundles_of.load(odd_bundles / "control"), 2), OnnxRunner)
    assert isinstance(open_runner(made["text"], 2), KernelRunner)
    assert isinstance(open_runner(made["text"], 2, kernel=False), OnnxRunner)


def test_without_a_kernel_the_graphs_serve(made: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none was built, nothing else changes."""
    monkeypatch.setattr("service.engine.runners.kernel.library", lambda: None)
    assert not has_kernel(made["text"])
    assert isinstance(open_runner(made["text"], 2), OnnxRunner)


def test_a_kernel_that_disagrees_is_not_used(made: dict[str, Bundle]) -> None:
    """Should it compute anything but what the graph does, the graph serves, and the log says so."""
    whole = made["text"]
    model = onnx.ModelProto.FromString(whole.single)
    (gain,) = (one for one in constants(model.graph) if one.name == "layer1.gain")
    gain.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(gain) * np.float32(1.01), gain.name))
    changed = replace(whole, files=MappingProxyType({**whole.files, "single.onnx": model.SerializeToString()}))
    with structlog.testing.capture_logs() as lines:
        rows = opening.open_runner(changed, 2)
    assert isinstance(rows, OnnxRunner)
    assert any("the kernel is not used" in line["event"] for line in lines)


def test_the_log_says_who_steps(server: Server) -> None:
    """The small ink bundle is in bytes, the text bundle is not."""
    found = [line for line in server.log if line["event"] == "batch invariance checked"]
    assert {line["model"]: line["stepper"] for line in found} == {"small-ink": "kernel", "small-text": "graphs"}
