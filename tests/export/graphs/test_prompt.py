"""Prefill leaves the bits that single steps leave, without computing what only an output needs."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.build import compile_network
from export.checks import traces
from export.checks.prefill import check_prefill
from export.checks.skipping import operations
from export.graphs.quantisation import Precision
from export.graphs.specs import input_spec, output_spec, state_specs
from export.runtime import OnnxPrompt, OnnxStep
from model.config import ModelConfig
from tests.export.helpers import CONFIGS, TEXT, network_of, random_inputs

STEPS = 40


def engines(config: ModelConfig, precision: Precision = "float32") -> tuple[OnnxStep, OnnxPrompt]:
    """The step for one row and the prefill graph of a random network."""
    compiled = compile_network(network_of(config), precision)
    states = state_specs(config)
    step = OnnxStep(compiled.single, input_spec(config), output_spec(config), states)
    return step, OnnxPrompt(compiled.prompt, states)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_leaves_what_steps_leave(name: str, precision: Precision) -> None:
    """Every kind of network in every precision: the same state and the same boundaries, bit for bit."""
    config = CONFIGS[name]
    prefill = check_prefill(*engines(config, precision), traces.Trace(random_inputs(config, STEPS, 3), "random"))
    assert (prefill.compared, prefill.steps, prefill.different) == (3, STEPS, 0)


@given(cuts=st.lists(st.integers(1, STEPS - 1), unique=True, max_size=6), seed=st.integers(0, 100))
def test_wherever_it_is_cut(cuts: list[int], seed: int) -> None:
    """Pieces of any length, one after the other, leave what the whole leaves."""
    step, prompt = ENGINES
    inputs = random_inputs(TEXT, STEPS, 1, seed)[:, 0]
    state, found = step.zeros(1), []
    for piece in np.split(inputs, sorted(cuts)):
        boundaries, state = prompt.prefill(piece, state)
        found.append(boundaries)
    boundaries, whole = prompt.prefill(inputs, step.zeros(1))
    assert np.array_equal(np.concatenate(found), boundaries)
    assert all(np.array_equal(state[name], values) for name, values in whole.items())


ENGINES = engines(TEXT)


def test_it_multiplies_what_is_needed(tmp_path: Path) -> None:
    """A layer that COPYs is not computed in the loop either; what layers send up is computed once, at the end."""
    compiled = compile_network(network_of(TEXT))
    step, _ = ENGINES
    inputs = random_inputs(TEXT, STEPS, 1)[:, 0]
    state, needed = step.zeros(1), Counter[str]()
    for x in inputs:
        before = state
        _, state = step.step(x[None], before)
        for layer, done in enumerate(operations(before, state, 3)[0], start=1):
            needed[f"layer{layer}.own"] += int(done != 0)
            needed[f"layer{layer}.above.product"] += int(done == 2)
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(compiled.prompt, options, providers=["CPUExecutionProvider"])
    given = {name: values for name, values in step.zeros(1).items() if name[0] != "e"}
    session.run(None, {"tokens": inputs, **given})
    events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    run = Counter(event["name"].removesuffix("_kernel_time") for event in events if event.get("cat") == "Node")
    assert {name: run[name] for name in needed if needed[name]} == {
        name: count for name, count in needed.items() if count
    }
    assert 0 < needed["layer2.own"] < STEPS
    assert run["layer1.e.rows"] == run["head.raw"] == 0
    assert run["layer2.e.rows"] == run["layer3.e.rows"] == 1
