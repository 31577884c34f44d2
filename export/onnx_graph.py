"""The step as ONNX graphs for the service, written operator by operator (Eqs. 2-12 of arXiv 1609.01704v7).

The same arithmetic as `export/graph.py`, twice. For a batch, per upper layer:

    rows = NonZero(Max(z_prev, z_below))            the rows that do not COPY
    s    = Gemm([h, z_below * h_below][rows])       own and bottom-up product, on those rows only
    s   += ScatterND(Gemm(h_above[z_prev]))         top-down product, on the rows that FLUSH only
    h    = ScatterND(h, rows, ...)                  likewise c, z and e; other rows keep their bits

all of it inside an `If`, so that a step on which every row COPYs costs one comparison. For a single row, branches take
the place of gathering and scattering, and the operators in between are the same with the same operands, so that a row
has the same bits in either graph and may change from one to the other at any step.

What a layer sends up to the output is carried as `e` and computed only when the layer is. There is nothing to carry
for what it sends down: the layer below reads it at the step after its own boundary, which is the very step after this
layer was computed, so each such product is of use exactly once.

Written by hand rather than traced: it builds in milliseconds instead of seconds, every tensor has a speaking name that
a profiler shows, weights sit inside the branch that uses them (where ONNX Runtime packs them), and only operators are
used whose result for a row does not depend on the other rows of the batch: no Log, no Softplus, no dynamic quantisation
(docs/adr).
"""

import numpy as np

from export import onnx_window
from export.bundle import TensorSpec
from export.onnx_draw import draw
from export.onnx_nodes import Graph, branch, serialise
from export.weights import (
    NORM_EPSILON,
    LayerWeights,
    StepWeights,
    draw_specs,
    drawn_spec,
    input_spec,
    output_spec,
    sent_width,
    state_specs,
)
from model.config import ModelConfig
from model.heads import CORRELATION_LIMIT, LOG_SCALE_CEILING, LOG_SCALE_FLOOR


def build(weights: StepWeights, *, single: bool = False) -> bytes:
    """Return a step as an ONNX file with everything inside.

    Args:
        weights: of the network.
        single: for one row, with branches; else for any number of rows.
    """
    config = weights.config
    graph = Graph("", weights.precision, 1 if single else "batch")
    following: dict[str, str] = {}
    sent: list[str] = []
    below, z_below = "", ""
    for number, layer in enumerate(weights.layers, start=1):
        if number == 1:
            done = _first_layer(graph, weights)
        elif config.cell == "lstm":
            done = _plain_layer(graph, number, layer, below)
        else:
            done = _gated_layer(graph, number, layer, below, z_below, sent_width(config))
        following |= {f"{key}{number}_next": name for key, name in done.items()}
        sent.append(done["e"])
        below, z_below = done["h"], done.get("z", "")
    places: tuple[str, ...] = ()
    if weights.window is not None:
        # The window is layer 1's; its nodes come last, because nothing below the output waits for them.
        position, vector, character = onnx_window.step(graph, weights.window, following["h1_next"])
        following |= {"window_position_next": position, "window_vector_next": vector}
        sent.append(graph("MatMul", "window.e", vector, graph.constant("window.out.weight", weights.window.out)))
        places = (character,)
    output = _output(graph, weights, sent)
    graph.rename(output, output_spec(config).name)
    states = state_specs(config)
    for state in states:
        graph.rename(following[state.next], state.next)
    drawn = draw(graph, config, *places)
    graph.rename(drawn, drawn_spec(config).name)
    return serialise(
        graph,
        [input_spec(config), *draw_specs(config), *states],
        [drawn_spec(config), output_spec(config), *(_following(state) for state in states)],
    )


def _first_layer(graph: Graph, weights: StepWeights) -> dict[str, str]:
    """Layer 1: every row is computed, the top-down product on the rows whose boundary fired."""
    layer = weights.layers[0]
    embedding = graph.constant("embedding", weights.embedding)
    table = graph("MatMul", "input.table", embedding, graph.constant("input.weight", weights.input))
    if weights.window is not None:
        source = onnx_window.source(graph, weights.window, table)
    elif weights.embedding_bias is None:
        # A product of two constants: ONNX Runtime folds it into one table of V rows when it loads.
        source = graph("Gather", "input.source", table, "token")
    else:
        source = graph("Gemm", "input.source", "offset", table, graph.constant("input.bias", weights.embedding_bias))
    s = graph.product("layer1.own", "h1", "layer1.own.weight", layer.own, source)
    if layer.detects and graph.is_single:
        s = _top_down_of_one(graph, layer, 1, s)
    elif layer.detects:
        flushed = graph("NonZero", "layer1.flushed", "z1")
        s = _top_down(graph, layer, 1, s, flushed, flushed)
    return _cell(graph, layer, 1, s, "c1", "z1" if layer.detects else "")


def _plain_layer(graph: Graph, number: int, layer: LayerWeights, below: str) -> dict[str, str]:
    """An upper layer of the LSTM control: every row is computed."""
    both = graph("Concat", f"layer{number}.both", f"h{number}", below, axis=1)
    s = graph.product(f"layer{number}.own", both, f"layer{number}.own.weight", layer.own)
    return _cell(graph, layer, number, s, f"c{number}", "")


def _gated_layer(
    outer: Graph, number: int, layer: LayerWeights, below: str, z_below: str, width: int
) -> dict[str, str]:
    """An upper layer: what does not COPY, inside a branch that is taken only when there is anything."""
    name = f"layer{number}"
    due = outer("Max", f"{name}.due", f"z{number}", z_below) if layer.detects else z_below
    graph = outer.inner()
    compute = _compute_one if outer.is_single else _compute_rows
    updated = compute(graph, number, layer, below, z_below, due)
    # The other branch hands the old tensors on.
    idle = outer.inner()
    same = {key: idle("Identity", f"{name}.{key}.same", f"{key}{number}") for key in updated}
    shapes = {"h": (layer.size,), "c": (layer.size,), "e": (width,), "z": ()}
    most = due if outer.is_single else outer("ReduceMax", f"{name}.most", due, keepdims=0)
    results = outer.split(
        "If",
        [f"{name}.{key}.next" for key in updated],
        outer("Greater", f"{name}.anyone", most, outer.number(0)),
        then_branch=branch(graph, f"{name}.compute", {updated[key]: shapes[key] for key in updated}),
        else_branch=branch(idle, f"{name}.copy", {same[key]: shapes[key] for key in updated}),
    )
    return dict(zip(updated, results, strict=True))


def _compute_rows(graph: Graph, number: int, layer: LayerWeights, below: str, z_below: str, due: str) -> dict[str, str]:
    """Gather the rows of an upper layer that are due, compute them and scatter them back."""
    name = f"layer{number}"
    found = graph("NonZero", f"{name}.found", due)
    rows = graph("Reshape", f"{name}.rows", found, graph.axis(-1))
    places = graph("Reshape", f"{name}.places", found, graph.axis(-1, 1))
    opened = graph("Gather", f"{name}.z_below", z_below, rows)
    fresh = graph("Gather", f"{name}.h_below", below, rows)
    if layer.detects:  # the top layer has no boundary of its own: its rows are those where the one below fired
        fresh = graph("Mul", f"{name}.h_below.open", fresh, graph.column(f"{name}.z_below.column", opened))
    both = graph("Concat", f"{name}.both", graph("Gather", f"{name}.h", f"h{number}", rows), fresh, axis=1)
    s = graph.product(f"{name}.own", both, f"{name}.own.weight", layer.own)
    z_prev = ""
    if layer.detects:
        z_prev = graph("Gather", f"{name}.z", f"z{number}", rows)
        local = graph("NonZero", f"{name}.flushed.local", z_prev)
        s = _top_down(graph, layer, number, s, local, graph("NonZero", f"{name}.flushed", f"z{number}"))
    done = _cell(graph, layer, number, s, graph("Gather", f"{name}.c", f"c{number}", rows), z_prev, opened)
    return {
        key: graph("ScatterND", f"{name}.{key}.new", f"{key}{number}", places, value) for key, value in done.items()
    }


def _compute_one(graph: Graph, number: int, layer: LayerWeights, below: str, z_below: str, _: str) -> dict[str, str]:
    """Compute the only row of an upper layer."""
    name = f"layer{number}"
    fresh = graph("Mul", f"{name}.h_below.open", below, z_below) if layer.detects else below
    both = graph("Concat", f"{name}.both", f"h{number}", fresh, axis=1)
    s = graph.product(f"{name}.own", both, f"{name}.own.weight", layer.own)
    if layer.detects:
        s = _top_down_of_one(graph, layer, number, s)
    return _cell(graph, layer, number, s, f"c{number}", f"z{number}" if layer.detects else "", z_below)


def _top_down(graph: Graph, layer: LayerWeights, number: int, s: str, local: str, flushed: str) -> str:
    """Add the top-down product to the rows of s whose boundary fired at the step before.

    Args:
        local: (1, n) where those rows are in s. flushed: (1, n) where they are in the batch.
    """
    name = f"layer{number}.above"
    assert layer.above is not None
    rows = graph("Reshape", f"{name}.rows", flushed, graph.axis(-1))
    places = graph("Reshape", f"{name}.places", local, graph.axis(-1, 1))
    h_above = graph("Gather", f"{name}.h", f"h{number + 1}", rows)
    product = graph.product(f"{name}.product", h_above, f"{name}.weight", layer.above)
    return graph("ScatterND", f"{name}.sum", s, places, product, reduction="add")


def _top_down_of_one(outer: Graph, layer: LayerWeights, number: int, s: str) -> str:
    """Add the top-down product to the only row if its boundary fired at the step before."""
    name = f"layer{number}.above"
    assert layer.above is not None
    graph, idle = outer.inner(), outer.inner()
    product = graph.product(f"{name}.product", f"h{number + 1}", f"{name}.weight", layer.above)
    summed = graph("Add", f"{name}.added", s, product)
    same = idle("Identity", f"{name}.none", s)
    return outer(
        "If",
        f"{name}.sum",
        outer("Greater", f"{name}.flushed", f"z{number}", outer.number(0)),
        then_branch=branch(graph, f"{name}.flush", {summed: (layer.bias.size,)}),
        else_branch=branch(idle, f"{name}.keep", {same: (layer.bias.size,)}),
    )


def _cell(
    graph: Graph, layer: LayerWeights, number: int, s: str, c_prev: str, z_prev: str, opened: str = ""
) -> dict[str, str]:
    """Return h, c, e, and z where there is a detector, of rows that are all computed (Eqs. 2-9)."""
    name, size = f"layer{number}", layer.size
    gates, fires = _normalise(graph, layer, name, s)
    forget, put, out, new = graph.split(
        "Split", [f"{name}.{gate}" for gate in "fiog"], gates, graph.axis(size, size, size, size), axis=1
    )
    kept = graph("Mul", f"{name}.c.kept", graph("Sigmoid", f"{name}.f.gate", forget), c_prev)
    if z_prev:
        stays = graph("Sub", f"{name}.stays", graph.number(1), z_prev)
        kept = graph("Mul", f"{name}.c.unflushed", kept, graph.column(f"{name}.stays.column", stays))
    written = graph(
        "Mul", f"{name}.c.written", graph("Sigmoid", f"{name}.i.gate", put), graph("Tanh", f"{name}.g.value", new)
    )
    c = graph("Add", f"{name}.c.rows", written, kept)
    h = graph("Mul", f"{name}.h.rows", graph("Sigmoid", f"{name}.o.gate", out), graph("Tanh", f"{name}.c.squashed", c))
    done = {"h": h, "c": c, "e": graph.product(f"{name}.e.rows", h, f"{name}.out.weight", layer.out)}
    if fires:
        flat = graph("Reshape", f"{name}.z.rows", graph("Cast", f"{name}.fires", fires, to=1), graph.axis(-1))
        done["z"] = graph("Mul", f"{name}.z.nested", flat, opened) if opened else flat
    return done


def _normalise(graph: Graph, layer: LayerWeights, name: str, s: str) -> tuple[str, str]:
    """Return the gates (n, 4H), and where the detector fires (n, 1) bool, "" where there is none."""
    width = 4 * layer.size
    bias = graph.constant(f"{name}.bias", layer.bias[:width])
    logit = ""
    if layer.detects:
        s, logit = graph.split("Split", [f"{name}.s", f"{name}.s.detector"], s, graph.axis(width, 1), axis=1)
    if layer.gain is None:
        gates = graph("Add", f"{name}.gates", s, bias)
    else:
        gain = graph.constant(f"{name}.gain", layer.gain[:width])
        gates, mean, scale = graph.split(
            "LayerNormalization",
            [f"{name}.gates", f"{name}.mean", f"{name}.scale"],
            s,
            gain,
            bias,
            axis=-1,
            epsilon=NORM_EPSILON,
        )
        if logit:
            centred = graph("Sub", f"{name}.detector.centred", logit, mean)
            logit = graph("Mul", f"{name}.detector.scaled", centred, scale)
    return gates, _fires(graph, layer, name, logit) if logit else ""


def _fires(graph: Graph, layer: LayerWeights, name: str, logit: str) -> str:
    """Say where gain * logit + bias > 0, (n, 1) bool, by one comparison of the logit with -bias / gain."""
    bias = float(layer.bias[-1])
    gain = 1.0 if layer.gain is None else float(layer.gain[-1])
    threshold = -bias / gain if gain else -np.inf if bias > 0 else np.inf
    edge = graph.constant(f"{name}.detector.edge", np.array([threshold], np.float32))
    return graph("Less" if gain < 0 else "Greater", f"{name}.over", logit, edge)


def _output(graph: Graph, weights: StepWeights, sent: list[str]) -> str:
    """Combine what the layers send (Eqs. 11-12) and apply the head."""
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
    """Sum what the layers project, each times its gate (B, O)."""
    count = len(config.output_sources)
    shares, parts = [], []
    for number, e in enumerate(sent, start=1):
        share, part = graph.split(
            "Split", [f"output.share{number}", f"output.part{number}"], e, graph.axis(count, config.output), axis=1
        )
        shares.append(share)
        parts.append(part)
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
    """Bring raw outputs (B, 6M + 1) into the form of `model.heads.pack`; a stop's logit after them stays as it is."""
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


def _following(state: TensorSpec) -> TensorSpec:
    return TensorSpec(f"{state.name}_next", state.dtype, state.shape)
