"""The step as ONNX graphs for the service, written operator by operator (Eqs. 2-12 of arXiv 1609.01704v7).

There are two graphs, with the arithmetic of `export/graphs/torchscript.py`. The one for a batch does, per upper layer:

    rows = NonZero(Max(z_prev, z_below))            the rows that do not COPY
    s    = Gemm([h, z_below * h_below][rows])       own and bottom-up product, on those rows only
    s   += ScatterND(Gemm(h_above[z_prev]))         top-down product, on the rows that FLUSH only
    h    = ScatterND(h, rows, ...)                  likewise c, z and e; other rows keep their bits

All of it stands inside an `If`, so a step on which every row COPYs costs one comparison. The graph for a single row has
branches instead of gathering and scattering. The operators in between are the same with the same operands, so a row has
the same bits in either graph and may change from one to the other at any step.

What a layer sends up to the output is carried as `e` and computed only when the layer is. What it sends down need not
be carried: the layer below reads it only at the step after its own boundary, and at the step of that boundary this
layer was computed, so each such product is used exactly once.

The graphs are written by hand, not traced. They build in milliseconds instead of seconds, every tensor has a name that
a profiler shows, and weights sit inside the branch that uses them, where ONNX Runtime packs them. Only operators are
used whose result for a row does not depend on the other rows of the batch: no Log, no Softplus, no dynamic quantisation
(docs/adr).
"""

from export.graphs import text_window
from export.graphs.draw import draw
from export.graphs.layers import stack
from export.graphs.nodes import Graph, serialise
from export.graphs.specs import drawn_spec, input_spec, next_spec, output_spec, sampling_specs, state_specs
from export.graphs.weights import StepWeights
from model.config import ModelConfig
from model.ink import CORRELATION_LIMIT, LOG_SCALE_CEILING, LOG_SCALE_FLOOR


def build_step(weights: StepWeights, *, single: bool = False) -> bytes:
    """Return the ONNX file of a step, weights included.

    Args:
        weights: of the network.
        single: whether it is for one row, with branches, or for any number of rows.
    """
    config = weights.config
    graph = Graph("", weights.precision, 1 if single else "batch")
    # The layers (Eqs. 2-9), and what each of them sends to the output.
    done = stack(graph, weights)
    sent = [done[f"e{number}"] for number in range(1, config.num_layers + 1)]
    places: tuple[str, ...] = ()
    if weights.window is not None:
        # The window over the text reads h of layer 1; nothing below the output waits for it, so its nodes come last.
        done["window_position"], done["window_vector"], passed = text_window.step(graph, weights.window, done["h1"])
        window = graph.constant("window.out.weight", weights.window.out)
        sent.append(graph("MatMul", "window.e", done["window_vector"], window))
        places = (text_window.place(graph, passed),)
    # The output module and the head (Eqs. 11-12), and a draw from what they give.
    output = _output(graph, weights, sent)
    graph.rename(output, output_spec(config).name)
    states = state_specs(config)
    for state in states:
        graph.rename(done[state.name], state.next)
    drawn = draw(graph, config, *places)
    graph.rename(drawn, drawn_spec(config).name)
    return serialise(
        graph,
        [input_spec(config), *sampling_specs(config), *states],
        [drawn_spec(config), output_spec(config), *map(next_spec, states)],
    )


def _output(graph: Graph, weights: StepWeights, sent: list[str]) -> str:
    """Combine what the layers send into h^e = ReLU(sum of gate * projection) (Eq. 11), and apply the head."""
    config = weights.config
    embedded = graph("Relu", "output.embedded", _gated_sum(graph, config, sent))
    raw = graph(
        "Gemm",
        "head.raw",
        embedded,
        graph.constant("head.weight", weights.head),
        graph.constant("head.bias", weights.head_bias),
    )
    return raw if config.kind == "text" else _mixture(graph, raw, config.mixtures, stops=config.writes_text)


def _gated_sum(graph: Graph, config: ModelConfig, sent: list[str]) -> str:
    """Return the sum (B, O) of what the layers project, each times its gate (Eqs. 11-12)."""
    count = len(config.output_sources)
    # e of a layer holds its share of every gate's logit, then its projection.
    shares, parts = [], []
    for number, e in enumerate(sent, start=1):
        share, part = graph.split(
            "Split", [f"output.share{number}", f"output.part{number}"], e, graph.axis(count, config.output), axis=1
        )
        shares.append(share)
        parts.append(part)
    # A gate reads all layers at once, so its logit is the sum of their shares (Eq. 12).
    total = _sum(graph, "output.logits", shares)
    names = [f"output.gate{number}" for number in range(1, count + 1)]
    # ONNX Runtime has no Split into one part.
    opened = graph("Sigmoid", "output.gates", total)
    gates = graph.split("Split", names, opened, graph.axis(*[1] * count), axis=1) if count > 1 else [opened]
    weighted = [
        graph("Mul", f"output.weighted{number}", gate, part)
        for number, (gate, part) in enumerate(zip(gates, parts, strict=True), start=1)
    ]
    return _sum(graph, "output.sum", weighted)


def _mixture(graph: Graph, raw: str, count: int, *, stops: bool) -> str:
    """Turn raw outputs (B, 6M + 1) into mixture parameters (Graves 2013, Eqs. 18-22) in the layout of `heads.pack`.

    Where a line can end, the logit of that follows them and stays as it is.
    """
    names = [f"mixture.{name}" for name in ("weight", "mean", "scale", "correlation", "pen_up")]
    sizes = graph.axis(count, 2 * count, 2 * count, count, 1 + stops)
    weight, mean, scale, correlation, pen_up = graph.split("Split", names, raw, sizes, axis=1)
    return graph(
        "Concat",
        "mixture.packed",
        graph("LogSoftmax", "mixture.log_weight", weight, axis=1),
        mean,
        graph("Clip", "mixture.log_scale", scale, graph.number(LOG_SCALE_FLOOR), graph.number(LOG_SCALE_CEILING)),
        graph("Mul", "mixture.bounded", graph("Tanh", "mixture.tanh", correlation), graph.number(CORRELATION_LIMIT)),
        pen_up,
        axis=1,
    )


def _sum(graph: Graph, name: str, parts: list[str]) -> str:
    """Add tensors from left to right."""
    total = parts[0]
    for number, part in enumerate(parts[1:], start=2):
        total = graph("Add", f"{name}.to{number}", total, part)
    return total
