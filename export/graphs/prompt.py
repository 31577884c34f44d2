"""A graph that reads a prompt of one row: many steps in one run, of which only the state and the boundaries stay.

The layers are those of the step graph for one row, so a prompt that is read in one go leaves the very bits that single
steps leave. What only an output needs is left out: the heads, the drawing, and what the layers send up to them. The
last of these, `e`, depends on h alone, so it is computed once, at the end.

Inside ONNX Runtime a step costs less than half of what it costs to ask for one.
"""

from export.bundle.folder import TensorSpec
from export.graphs import text_window as onnx_window
from export.graphs.layers import sent, stack
from export.graphs.nodes import Graph, body, serialise
from export.graphs.weights import StepWeights, input_spec, reading_specs, state_specs
from model.config import ModelConfig


def build(weights: StepWeights) -> bytes:
    """Return the ONNX file: from inputs (T, ...) and the state of one row to the state after them and `boundaries`.

    The state that goes in is without `e`, the one that comes out has it. `boundaries` (T, D) are z after each step, of
    the layers that have a detector; a network without any has no such output.
    """
    config = weights.config
    graph = Graph("", weights.precision, 1)
    carried = {spec.name: spec for spec in state_specs(config) if not spec.name.startswith("e")}
    turn = graph.inner()
    # The input of a turn stands in its body under the name that it has in a step.
    place = turn("Reshape", "place", "turn", turn.axis(1))
    turn("Gather", input_spec(config).name, inputs_spec(config).name, place, axis=0)
    done = stack(turn, weights, sends=False)
    if weights.window is not None:
        done["window_position"], done["window_vector"], _ = onnx_window.step(turn, weights.window, done["h1"])
    told = {}
    for spec in boundaries_spec(config):
        fired = [done[name] for name in carried if name.startswith("z")]
        told[turn("Concat", f"turn.{spec.name}", *fired, axis=0)] = len(fired)
    for name in carried:  # what a state is called in the loop has to differ from what it is called around it
        turn.rename(name, f"turn.{name}")
    count = graph("Shape", "steps", inputs_spec(config).name, start=0, end=1)
    widths = {name: sum(size for size in spec.shape if isinstance(size, int)) for name, spec in carried.items()}
    loop = body(turn, "turn.body", {f"turn.{name}": (done[name], width) for name, width in widths.items()}, told)
    results = [f"{name}_next" for name in carried] + [spec.name for spec in boundaries_spec(config)]
    graph.split("Loop", results, count, "", *carried, body=loop)
    for number, layer in enumerate(weights.layers, start=1):
        if number > 1 and config.cell == "hmlstm":
            graph.rename(sent(graph, layer, number, f"h{number}_next"), f"e{number}_next")
    return serialise(
        graph,
        [inputs_spec(config), *(reading_specs(config) if config.writes_text else ()), *carried.values()],
        [
            *(TensorSpec(state.next, state.dtype, state.shape) for state in state_specs(config)),
            *boundaries_spec(config),
        ],
    )


def inputs_spec(config: ModelConfig) -> TensorSpec:
    """Return what is read: inputs of steps, one after the other."""
    step = input_spec(config)
    return TensorSpec(f"{step.name}s", step.dtype, ("steps", *step.shape[1:]))


def boundaries_spec(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return what is told of the steps, if the network has boundaries."""
    count = sum(config.has_detector(layer) for layer in range(config.num_layers))
    return (TensorSpec("boundaries", "float32", ("steps", count)),) if count else ()
