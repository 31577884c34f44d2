"""Networks that obey: what the recorded boundaries of one network command, another of any width does."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from bench import networks
from bench.traces import arrange, record
from export.bundle import folder as bundles
from export.checks.engines import TorchStep
from export.runtime import OnnxStep

ROOT = Path(__file__).parents[2]
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
def test_every_boundary_that_is_commanded_is_set_and_no_other(kind: Literal["text", "ink"], hidden: int) -> None:
    """Whatever the width and the kind, at every step of every row."""
    fired = nested(60, 5)
    step = TorchStep(networks.obedient(kind, hidden, [0.3, 0.1]))
    inputs = networks.symbols(fired) if kind == "text" else networks.offsets(fired)
    state = step.zeros(5)
    for now, x in enumerate(inputs):
        _, state = step.step(x, state)
        seen = np.stack([state["z1"], state["z2"]], axis=-1)
        np.testing.assert_array_equal(seen, fired[now], err_msg=f"step {now}")


def test_a_network_that_is_not_told_to_obey_does_not() -> None:
    """The test above would see it: the unit that carries layer 2's command is what decides."""
    fired = nested(60, 5)
    network = networks.obedient("text", 24, [0.3, 0.1])
    with torch.no_grad():
        network.layer(1).weight[48, -1] = 0
    step = TorchStep(network)
    state, wrong = step.zeros(5), 0
    for now, x in enumerate(networks.symbols(fired)):
        _, state = step.step(x, state)
        wrong += int((state["z2"] != fired[now, :, 1]).sum())
    assert wrong > 20


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_writes_for_itself_commands_boundaries_at_the_given_rates(kind: Literal["text", "ink"]) -> None:
    """So that a server of such a network, which nobody can tell what to read, costs what the recording says."""
    from export.checks.traces import draw_offsets, draw_symbols

    draw = draw_symbols if kind == "text" else draw_offsets
    step = TorchStep(networks.obedient(kind, 12, [0.3, 0.1]))
    generator = np.random.default_rng(0)
    rows, steps = 64, 40
    state = step.zeros(rows)
    x = networks.symbols(nested(1, rows))[0] if kind == "text" else networks.offsets(nested(1, rows))[0]
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


def test_the_exported_bundle_of_an_obedient_network_obeys(tmp_path: Path) -> None:
    """The command survives rounding, export and ONNX Runtime."""
    fired = nested(40, 3)
    bundle = networks.export(networks.obedient("text", 8, [0.3, 0.1]), tmp_path, "obeys", [0.3, 0.1], "float16")
    step = OnnxStep.of(bundle)
    state = step.zeros(3)
    for now, x in enumerate(networks.commanded(bundle, fired)):
        _, state = step.step(x, state)
        np.testing.assert_array_equal(np.stack([state["z1"], state["z2"]], -1), fired[now])
