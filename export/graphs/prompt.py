"""The graph for prefill: it takes many steps of one row in one run and returns the state and the boundaries.

The layers are those of the step graph for one row, so prefill leaves the very bits that single steps leave. What only
an output needs is left out: the head, the draw, and what the layers send up to them. That last one, `e`, depends on h
alone, so it is computed once, at the end.

A step inside ONNX Runtime's loop costs less than half of what a separate run costs.
"""

from export.graphs import text_window
from export.graphs.layers import sent, stack
from export.graphs.nodes import Graph, body, serialise
from export.graphs.specs import boundaries_spec, conditioning_specs, input_spec, next_spec, prompt_spec, state_specs
from export.graphs.weights import StepWeights


def build_prompt(weights: StepWeights) -> bytes:
    """Return the ONNX file: from inputs (T, ...) and the state of one row to the state after them and `boundaries`.

    The state that goes in has no `e`, the one that comes out has. `boundaries` (T, D) are z after each step, of the D
    layers that have a detector; a network without any has no such output.
    """
    config = weights.config
    graph = Graph("", weights.precision, 1)
    carried = {spec.name: spec for spec in state_specs(config) if not spec.name.startswith("e")}
    # The body of the loop is one step. Its input stands in it under the name that it has in the step graph.
    turn = graph.inner()
    place = turn("Reshape", "place", "turn", turn.axis(1))
    turn("Gather", input_spec(config).name, prompt_spec(config).name, place, axis=0)
    done = stack(turn, weights, sends=False)
    if weights.window is not None:
        done["window_position"], done["window_vector"], _ = text_window.step(turn, weights.window, done["h1"])
    stacked = {}
    for spec in boundaries_spec(config):
        fired = [done[name] for name in carried if name.startswith("z")]
        stacked[turn("Concat", f"turn.{spec.name}", *fired, axis=0)] = len(fired)
    for name in carried:  # a state must not have the same name inside the loop and around it
        turn.rename(name, f"turn.{name}")
    # As many turns as there are inputs.
    count = graph("Shape", "steps", prompt_spec(config).name, start=0, end=1)
    widths = {name: sum(size for size in spec.shape if isinstance(size, int)) for name, spec in carried.items()}
    loop = body(turn, "turn.body", {f"turn.{name}": (done[name], width) for name, width in widths.items()}, stacked)
    results = [f"{name}_next" for name in carried] + [spec.name for spec in boundaries_spec(config)]
    graph.split("Loop", results, count, "", *carried, body=loop)
    # e of the upper layers, from h after the last step.
    for number, layer in enumerate(weights.layers, start=1):
        if number > 1 and config.cell == "hmlstm":
            graph.rename(sent(graph, layer, number, f"h{number}_next"), f"e{number}_next")
    return serialise(
        graph,
        [prompt_spec(config), *(conditioning_specs(config) if config.writes_text else ()), *carried.values()],
        [*map(next_spec, state_specs(config)), *boundaries_spec(config)],
    )
