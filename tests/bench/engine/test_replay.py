"""Replay, bound in place and in parts, gives the bits of plain steps."""

from typing import Any, Literal

import numpy as np
import onnx
import pytest

from bench.engine import networks, rivals
from bench.engine.replay import Replay, without_drawing
from export.build import Compiled, compile_network

STEPS, ROWS, HIDDEN = 40, 6, 12


def recorded(kind: Literal["text", "ink"]) -> Any:
    """Inputs that force every operation."""
    generator = np.random.default_rng(5)
    fired = generator.random((STEPS, ROWS, 2)) < 0.5
    fired[..., 1] &= fired[..., 0]
    return networks.symbols_for(fired) if kind == "text" else networks.offsets_for(fired)


@pytest.fixture(scope="module", params=["text", "ink"])
def compiled(request: pytest.FixtureRequest) -> Compiled:
    """A small network of each kind in the precision that ships."""
    return compile_network(networks.forced_network(request.param, HIDDEN, [0.3, 0.1]), "int8")


def stepped(compiled: Compiled, inputs: Any) -> tuple[Any, dict[str, Any]]:
    """Output and state after all inputs, by the exporter's own runtime, which binds nothing."""
    step = compiled.step()
    state, output = step.zeros(ROWS), None
    for x in inputs:
        output, state = step.step(x, state)
    return output, state


@pytest.mark.parametrize("most_rows", [None, 4, 2])
@pytest.mark.parametrize("drawing", [True, False])
def test_it_is_bit_for_bit_what_the_exporter_runs(compiled: Compiled, most_rows: int | None, drawing: bool) -> None:
    """In place, in parts of any size, with and without drawing."""
    name = compiled.step().output.name
    inputs = recorded(compiled.network.config.kind)
    graph = compiled.graph if drawing else without_drawing(compiled.graph, name)
    replay = Replay(graph, inputs, most_rows=most_rows)
    mine = replay.state(STEPS)
    output, state = stepped(compiled, inputs)
    for tensor, values in state.items():
        np.testing.assert_array_equal(mine[tensor], values, err_msg=tensor)
    np.testing.assert_array_equal(replay.outputs[name], output)


def test_the_graph_for_one_row_is_replayed_alone(compiled: Compiled) -> None:
    """Its axes have no names; its bits are those of the row in a batch."""
    inputs = recorded(compiled.network.config.kind)
    name = compiled.step().output.name
    _, state = stepped(compiled, inputs)
    alone = Replay(without_drawing(compiled.single, name), inputs[:, 2:3]).state(STEPS)
    for tensor, values in alone.items():
        np.testing.assert_array_equal(values[0], state[tensor][2], err_msg=tensor)


def test_without_drawing_nothing_of_it_is_left(compiled: Compiled) -> None:
    """No noise goes in, nothing drawn comes out, and the graph has fewer nodes."""
    name = compiled.step().output.name
    whole, rest = (onnx.load_from_string(one) for one in (compiled.graph, without_drawing(compiled.graph, name)))
    assert {"noise", "drawn"} & {one.name for one in (*whole.graph.input, *whole.graph.output)} == {"noise", "drawn"}
    assert not {"noise", "drawn"} & {one.name for one in (*rest.graph.input, *rest.graph.output)}
    assert len(rest.graph.node) < len(whole.graph.node)


@pytest.mark.parametrize("build", [rivals.lstm_operator, rivals.lstm_products])
def test_a_rival_may_be_stepped_in_parts_too(build: Any) -> None:
    """Its state has its rows on another axis, and the parts see their own rows alone."""
    graph, inputs = build("text", HIDDEN, 3, 20), recorded("text") % 20
    whole, lone = Replay(graph, inputs).state(STEPS), Replay(graph, inputs[:, 4:5]).state(STEPS)
    for tensor, values in whole.items():
        rows = values[0] if values.ndim == 3 else values
        np.testing.assert_allclose(lone[tensor].reshape(-1), rows[4], atol=1e-6)
