"""A bundle is tried before it is served, and one whose rows see each other is refused."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.bundle import folder as bundles_of
from export.bundle.folder import Bundle
from service.engine.runners.onnx import OnnxRunner
from service.engine.runners.self_test import BatchVarianceError, check_batch_invariance
from service.registry.loading import LoadingError
from service.registry.registry import ModelRegistry
from tests.service.graphs import constants
from tests.service.live_server import Server


@pytest.mark.parametrize("name", ["small-text", "small-ink"])
def test_a_sound_bundle_passes_and_leaves_fresh_rows(bundles: Path, name: str) -> None:
    """Batches of many sizes are compared, and the first sequence finds the rows cleared."""
    bundle = bundles_of.load(bundles / name)
    runner = OnnxRunner(bundle, 256)
    report = check_batch_invariance(bundle, runner)
    assert report.sizes == [1, 2, 3, 7, 31, 64, 65]
    assert report.row_steps == 12 * (4 + 2 + 3 + 7 + 31 + 64)
    fresh = OnnxRunner(bundle, 1)
    assert {runner.save(row) for row in range(65)} == {fresh.save(0)}
    for key, values in fresh.sampling_inputs.items():
        assert all(np.array_equal(runner.sampling_inputs[key][row], values[0]) for row in range(65))


def test_a_runner_of_one_row_has_nothing_to_compare_but_itself(bundles: Path) -> None:
    """The smallest service still starts."""
    bundle = bundles_of.load(bundles / "small-text")
    assert check_batch_invariance(bundle, OnnxRunner(bundle, 1)).sizes == [1]


def altered(bundle: Bundle, file: str, change: Any) -> Bundle:
    """The same bundle with head.bias changed in one of its graphs."""
    model = onnx.ModelProto.FromString(bundle.files[file])
    (bias,) = (one for one in model.graph.initializer if one.name == "head.bias")
    bias.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(bias)).astype(np.float32), bias.name))
    files = {**bundle.files, file: model.SerializeToString()}
    return replace(bundle, files=MappingProxyType(files))


def test_a_millionth_counts(bundles: Path) -> None:
    """If the graph for one row gives other bits than that for many, were it in the last places, nothing is served."""
    bundle = altered(bundles_of.load(bundles / "small-text"), "single.onnx", lambda bias: bias + 1e-6)
    with pytest.raises(BatchVarianceError, match="step 0 of a row has other bits in a batch of 1 than in one of 9"):
        check_batch_invariance(bundle, OnnxRunner(bundle, 9))


def test_prefill_has_to_leave_what_steps_leave(bundles: Path) -> None:
    """The graph that reads many inputs is tried too."""
    bundle = bundles_of.load(bundles / "small-text")
    model = onnx.ModelProto.FromString(bundle.prompt)
    (gain,) = (one for one in constants(model.graph) if one.name == "layer1.gain")
    gain.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(gain) * np.float32(1 + 1e-6), gain.name))
    changed = replace(bundle, files=MappingProxyType({**bundle.files, "prompt.onnx": model.SerializeToString()}))
    with pytest.raises(BatchVarianceError, match="prefilled inputs leave other bits"):
        check_batch_invariance(changed, OnnxRunner(changed, 9))


def test_an_output_that_is_not_finite_is_refused(bundles: Path) -> None:
    """A network of NaN is found before anybody waits for it."""
    bundle = altered(bundles_of.load(bundles / "small-ink"), "step.onnx", lambda bias: bias * np.nan)
    with pytest.raises(BatchVarianceError, match="not finite"):
        check_batch_invariance(bundle, OnnxRunner(bundle, 9))


def test_the_service_does_not_start_on_it(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear sentence with the bundle's place in it."""
    load = bundles_of.load
    monkeypatch.setattr(bundles_of, "load", lambda path: altered(load(path), "single.onnx", lambda bias: bias + 1))
    with pytest.raises(
        LoadingError,
        match=r"cannot be served: .*small-.*: step 0 of a row has other bits in a batch of 1 ",
    ):
        ModelRegistry.open(bundles, 4, "copybook")


def test_the_log_says_what_was_found(server: Server) -> None:
    """Sizes, row-steps and the processor's class, once for each bundle."""
    found = [line for line in server.log if line["event"] == "batch invariance checked"]
    assert {line["model"] for line in found} == {"small-text", "small-ink"}
    assert all(line["batch_sizes"][0] == 1 and line["row_steps"] > 0 and line["machine"] for line in found)
