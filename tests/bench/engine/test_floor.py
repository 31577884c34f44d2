"""The floor counts exactly the products that a step of an HM-LSTM needs."""

import numpy as np
import pytest

from bench.engine import networks
from bench.engine.floor import CoreSpeed, Work
from export.build import compile_network
from export.checks.skipping import check_skipping
from export.checks.traces import Trace
from export.graphs.weights import StepWeights


def test_work_equals_what_the_gated_graph_multiplies() -> None:
    """Rows that ONNX Runtime's profile counts, times the size of each matrix, is the work; but for the first step."""
    generator = np.random.default_rng(1)
    fired = generator.random((65, 6, 2)) < 0.4
    fired[..., 1] &= fired[..., 0]
    fired[0] = False  # the graph begins with no boundary before its first step
    compiled = compile_network(networks.forced_network("text", 8, [0.3, 0.1]))
    weights = StepWeights.of(compiled.network)
    config = compiled.network.config
    counted = check_skipping(compiled.graph, config, Trace(networks.symbols_for(fired), "forced")).multiplied
    skipped = check_skipping(compiled.graph, config, Trace(networks.symbols_for(fired[:1]), "forced")).multiplied
    expected = float(weights.head.size)
    for number, layer in enumerate(weights.layers, start=1):
        for name, matrix in ((f"layer{number}.own", layer.own), (f"layer{number}.e.rows", layer.out)):
            expected += matrix.size * (counted[name] - skipped.get(name, 0)) / (64 * 6)
        if layer.above is not None:
            expected += layer.above.size * counted[f"layer{number}.above.product"] / (64 * 6)
    assert Work.of(weights, fired).macs == pytest.approx(expected)


def test_one_stream_waits_for_memory_and_many_for_arithmetic() -> None:
    """The floor is the larger of the two, per item."""
    work = Work(((1_000_000, 1.0),))
    core = CoreSpeed(float32_gmacs=100, int8_gmacs=400, bandwidth_gb=40)
    assert work.floor_us(1, core, 4) == pytest.approx(100)
    assert work.floor_us(64, core, 4) == pytest.approx(10)
    assert work.floor_us(1, core, 1) == pytest.approx(25)
    assert work.floor_us(64, core, 1) == pytest.approx(2.5)
