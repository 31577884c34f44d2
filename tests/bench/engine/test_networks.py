"""Forced networks: a network of any width sets the boundaries that its inputs force."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from bench.engine import networks
from bench.engine.boundaries import arrange, record
from export.bundle import folder as bundles
from export.checks.engines import TorchStep
from export.runtime import OnnxStep

ROOT = Path(__file__).parents[3]
TEXT = ROOT / "tests" / "fixtures" / "text.txt"
KINDS: list[Literal["text", "ink"]] = ["text", "ink"]


def nested(steps: int, rows: int) -> np.ndarray:
    """Boundaries of two layers that nest, about as often on as off."""
    generator = np.random.default_rng(3)
    fired = generator.random((steps, rows, 2)) < 0.5
    fired[..., 1] &= fired[..., 0]
    return fired


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hidden", [4, 24])
def test_every_boundary_that_is_forced_is_set_and_no_other(kind: Literal["text", "ink"], hidden: int) -> None:
    """Whatever the width and the kind, at every step of every row."""
    fired = nested(60, 5)
    step = TorchStep(networks.forced_network(kind, hidden, [0.3, 0.1]))
    inputs = networks.symbols_for(fired) if kind == "text" else networks.offsets_for(fired)
    state = step.zeros(5)
    for now, x in enumerate(inputs):
        _, state = step.step(x, state)
        seen = np.stack([state["z1"], state["z2"]], axis=-1)
        np.testing.assert_array_equal(seen, fired[now], err_msg=f"step {now}")


def test_a_network_that_is_not_forced_sets_others() -> None:
    """The test above can fail: without the weight that carries the mark of layer 2, its boundaries differ."""
    fired = nested(60, 5)
    network = networks.forced_network("text", 24, [0.3, 0.1])
    with torch.no_grad():
        network.layer(1).weight[48, -1] = 0
    step = TorchStep(network)
    state, wrong = step.zeros(5), 0
    for now, x in enumerate(networks.symbols_for(fired)):
        _, state = step.step(x, state)
        wrong += int((state["z2"] != fired[now, :, 1]).sum())
    assert wrong > 20


@pytest.mark.parametrize("kind", KINDS)
def test_free_writing_has_boundaries_at_the_given_rates(kind: Literal["text", "ink"]) -> None:
    """A server of such a network, whose inputs are its own, then costs what the recording costs."""
    from export.checks.traces import draw_offsets, draw_symbols

    draw = draw_symbols if kind == "text" else draw_offsets
    step = TorchStep(networks.forced_network(kind, 12, [0.3, 0.1]))
    generator = np.random.default_rng(0)
    rows, steps = 64, 40
    state = step.zeros(rows)
    x = networks.symbols_for(nested(1, rows))[0] if kind == "text" else networks.offsets_for(nested(1, rows))[0]
    rates = np.zeros(2)
    for _ in range(steps):
        output, state = step.step(x, state)
        x = draw(output, generator)
        rates += [state["z1"].mean() / steps, state["z2"].mean() / steps]
    np.testing.assert_allclose(rates, [0.3, 0.1], atol=0.05)


@pytest.mark.parametrize("name", ["prose", "ink-free"])
def test_a_shipped_bundle_is_recorded_as_it_runs(name: str) -> None:
    """The boundaries are those the bundle sets, not those of its beginning, and as sparse as its manifest says."""
    bundle = bundles.load(ROOT / "service" / "bundles" / name)
    recorded = record(bundle, 8, 40, TEXT)
    assert recorded.fired.shape == (40, 8, len(bundle.hidden) - 1)
    assert recorded.inputs.shape[:2] == (40, 8)
    assert not (recorded.fired[..., 1] & ~recorded.fired[..., 0]).any()
    np.testing.assert_allclose(recorded.rates, bundle.metrics["z_rates"], atol=0.12)


def test_a_recording_is_laid_out_for_every_batch_size_without_mixing_rows() -> None:
    """A column of the layout is rows of the recording, one whole row after the other."""
    values = np.arange(6 * 8).reshape(6, 8)
    laid = arrange(values, 2, 48)
    assert laid.shape == (24, 2)
    np.testing.assert_array_equal(laid[:, 0], np.concatenate([values[:, row] for row in (0, 2, 4, 6)]))
    np.testing.assert_array_equal(laid[:, 1], np.concatenate([values[:, row] for row in (1, 3, 5, 7)]))
    assert arrange(values, 8, 16).shape == (2, 8)


def test_an_exported_network_is_forced_too(tmp_path: Path) -> None:
    """Boundaries are forced through rounding, export and ONNX Runtime."""
    fired = nested(40, 3)
    bundle = networks.export(networks.forced_network("text", 8, [0.3, 0.1]), tmp_path, "forced", [0.3, 0.1], "float16")
    step = OnnxStep.of(bundle)
    state = step.zeros(3)
    for now, x in enumerate(networks.inputs_for(bundle, fired)):
        _, state = step.step(x, state)
        np.testing.assert_array_equal(np.stack([state["z1"], state["z2"]], -1), fired[now])
