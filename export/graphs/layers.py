"""The layers of a step as ONNX nodes: the equations, and which part of them a COPY leaves out (see `step.py`).

Numbers of equations are those of arXiv 1609.01704v7. For layer l at step t, with z_prev = z_{t-1}^l (own boundary, a
step ago) and z_below = z_t^{l-1} (boundary of the layer below, now):

    s       = U h_{t-1}^l + z_prev * U_above h_{t-1}^{l+1} + z_below * W h_t^{l-1} + b             (Eqs. 4-7)
    f, i, o = sigm(s), g = tanh(s)                                                                 (Eq. 4)
    c       = COPY c_{t-1} | UPDATE f * c_{t-1} + i * g | FLUSH i * g                              (Eq. 2)
    h       = COPY h_{t-1} | else o * tanh(c)                                                      (Eq. 3)
    z       = 1 if the last row of s is above 0                                                    (Eqs. 8-9)
"""

import numpy as np

from export.graphs import text_window
from export.graphs.nodes import Graph, branch
from export.graphs.specs import sent_width
from export.graphs.weights import LayerWeights, StepWeights
from model.network.cell import NORM_EPSILON


def stack(graph: Graph, weights: StepWeights, *, sends: bool = True) -> dict[str, str]:
    """Add all layers and return the name of every new state tensor by its old name: h1, c1, z1, e1, h2 ...

    Args:
        graph: to add to; the input and the state stand in it under their own names.
        weights: of the network.
        sends: whether layers compute what they send to the output; without it there is no e.
    """
    config = weights.config
    width = sent_width(config) if sends else 0
    done: dict[str, str] = {}
    layer: dict[str, str] = {}
    for number, given in enumerate(weights.layers, start=1):
        if number == 1:
            layer = _first_layer(graph, weights, width)
        elif config.cell == "lstm":
            layer = _plain_layer(graph, number, given, layer["h"], width)
        else:
            layer = _gated_layer(graph, number, given, layer, width)
        done |= {f"{key}{number}": name for key, name in layer.items()}
    return done


def _first_layer(graph: Graph, weights: StepWeights, width: int) -> dict[str, str]:
    """Add layer 1: every row is computed (z_below is always 1), the top-down product only on the rows that FLUSH."""
    layer = weights.layers[0]
    # The input's share of s: the product of embedding and input weights, looked up by symbol or applied to an offset.
    embedding = graph.constant("embedding", weights.embedding)
    table = graph("MatMul", "input.table", embedding, graph.constant("input.weight", weights.input))
    if weights.window is not None:
        source = text_window.source(graph, weights.window, table)
    elif weights.embedding_bias is None:
        # A product of two constants: ONNX Runtime folds it into one table of V rows when it loads.
        source = graph("Gather", "input.source", table, "token")
    else:
        source = graph("Gemm", "input.source", "offset", table, graph.constant("input.bias", weights.embedding_bias))
    # The recurrent term, then the top-down term.
    s = graph.product("layer1.own", "h1", "layer1.own.weight", layer.own, source)
    if layer.detects and graph.is_single:
        s = _top_down_of_one(graph, layer, 1, s)
    elif layer.detects:
        flushed = graph("NonZero", "layer1.flushed", "z1")
        s = _top_down(graph, layer, 1, s, flushed, flushed)
    return _cell(graph, layer, 1, s, "c1", width, "z1" if layer.detects else "")


def _plain_layer(graph: Graph, number: int, layer: LayerWeights, below: str, width: int) -> dict[str, str]:
    """Add an upper layer of the LSTM control: every row is computed."""
    both = graph("Concat", f"layer{number}.both", f"h{number}", below, axis=1)
    s = graph.product(f"layer{number}.own", both, f"layer{number}.own.weight", layer.own)
    return _cell(graph, layer, number, s, f"c{number}", width)


def _gated_layer(outer: Graph, number: int, layer: LayerWeights, lower: dict[str, str], width: int) -> dict[str, str]:
    """Add an upper layer of the HM-LSTM, whose rows are computed only where they do not COPY.

    The computation stands inside an `If` that is taken only when there is such a row.
    """
    name = f"layer{number}"
    below = lower["h"]
    z_below = lower["z"]
    # A row COPYs where neither its own segment ended a step ago nor the one below ends now.
    due = outer("Max", f"{name}.due", f"z{number}", z_below) if layer.detects else z_below
    graph = outer.inner()
    if outer.is_single:
        updated = _compute_one(graph, number, layer, below, z_below, width)
    else:
        updated = _compute_rows(graph, number, layer, below, z_below, width, due)
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


def _compute_rows(
    graph: Graph, number: int, layer: LayerWeights, below: str, z_below: str, width: int, due: str
) -> dict[str, str]:
    """Gather the rows of an upper layer that do not COPY, compute them and scatter them back."""
    name = f"layer{number}"
    # Gather h of the layer itself and z_below * h of the layer below, side by side.
    found = graph("NonZero", f"{name}.found", due)
    rows = graph("Reshape", f"{name}.rows", found, graph.axis(-1))
    places = graph("Reshape", f"{name}.places", found, graph.axis(-1, 1))
    opened = graph("Gather", f"{name}.z_below", z_below, rows)
    fresh = graph("Gather", f"{name}.h_below", below, rows)
    if layer.detects:  # the top layer has no boundary of its own: its rows are those where the one below fired
        fresh = graph("Mul", f"{name}.h_below.open", fresh, graph.column(f"{name}.z_below.column", opened))
    both = graph("Concat", f"{name}.both", graph("Gather", f"{name}.h", f"h{number}", rows), fresh, axis=1)
    # The recurrent and the bottom-up term are one product; the top-down term is added on the rows that FLUSH.
    s = graph.product(f"{name}.own", both, f"{name}.own.weight", layer.own)
    z_prev = ""
    if layer.detects:
        z_prev = graph("Gather", f"{name}.z", f"z{number}", rows)
        local = graph("NonZero", f"{name}.flushed.local", z_prev)
        s = _top_down(graph, layer, number, s, local, graph("NonZero", f"{name}.flushed", f"z{number}"))
    done = _cell(graph, layer, number, s, graph("Gather", f"{name}.c", f"c{number}", rows), width, z_prev, opened)
    # Rows that COPY are not written to, so they keep their bits.
    return {
        key: graph("ScatterND", f"{name}.{key}.new", f"{key}{number}", places, value) for key, value in done.items()
    }


def _compute_one(
    graph: Graph, number: int, layer: LayerWeights, below: str, z_below: str, width: int
) -> dict[str, str]:
    """Compute the only row of an upper layer, with the operators of `_compute_rows` less the gathering."""
    name = f"layer{number}"
    fresh = graph("Mul", f"{name}.h_below.open", below, z_below) if layer.detects else below
    both = graph("Concat", f"{name}.both", f"h{number}", fresh, axis=1)
    s = graph.product(f"{name}.own", both, f"{name}.own.weight", layer.own)
    if layer.detects:
        s = _top_down_of_one(graph, layer, number, s)
    return _cell(graph, layer, number, s, f"c{number}", width, f"z{number}" if layer.detects else "", z_below)


def _top_down(graph: Graph, layer: LayerWeights, number: int, s: str, local: str, flushed: str) -> str:
    """Add the top-down term z_prev * U_above h_above to the rows of s that FLUSH (Eq. 6).

    Args:
        local: (1, n), where the rows that FLUSH stand in s.
        flushed: (1, n), where they stand in the batch.
    """
    name = f"layer{number}.above"
    assert layer.above is not None
    rows = graph("Reshape", f"{name}.rows", flushed, graph.axis(-1))
    places = graph("Reshape", f"{name}.places", local, graph.axis(-1, 1))
    h_above = graph("Gather", f"{name}.h", f"h{number + 1}", rows)
    product = graph.product(f"{name}.product", h_above, f"{name}.weight", layer.above)
    return graph("ScatterND", f"{name}.sum", s, places, product, reduction="add")


def _top_down_of_one(outer: Graph, layer: LayerWeights, number: int, s: str) -> str:
    """Add the top-down term to the only row if it FLUSHes (Eq. 6)."""
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
    graph: Graph, layer: LayerWeights, number: int, s: str, c_prev: str, width: int, z_prev: str = "", opened: str = ""
) -> dict[str, str]:
    """Return h and c of n computed rows, e unless its width is 0, and z where there is a detector (Eqs. 2-9).

    Args:
        graph: to add to.
        layer: its weights.
        number: of the layer, from 1.
        s: (n, 4H [+ 1]), the sum of the terms without the bias.
        c_prev: (n, H) of the step before.
        width: of e.
        z_prev: (n,), the layer's own boundary a step ago; "" where it has none.
        opened: (n,), z_below; "" where it is always 1.
    """
    name = f"layer{number}"
    size = layer.size
    gates, fires = _normalise(graph, layer, name, s)
    forget, put, out, new = graph.split(
        "Split", [f"{name}.{gate}" for gate in "fiog"], gates, graph.axis(size, size, size, size), axis=1
    )
    # c = i * g + (1 - z_prev) * f * c_prev: UPDATE keeps a share of the old cell, FLUSH drops it (Eq. 2).
    kept = graph("Mul", f"{name}.c.kept", graph("Sigmoid", f"{name}.f.gate", forget), c_prev)
    if z_prev:
        stays = graph("Sub", f"{name}.stays", graph.number(1), z_prev)
        kept = graph("Mul", f"{name}.c.unflushed", kept, graph.column(f"{name}.stays.column", stays))
    written = graph(
        "Mul", f"{name}.c.written", graph("Sigmoid", f"{name}.i.gate", put), graph("Tanh", f"{name}.g.value", new)
    )
    c = graph("Add", f"{name}.c.rows", written, kept)
    # h = o * tanh(c) (Eq. 3); what it sends to the output follows from it.
    h = graph("Mul", f"{name}.h.rows", graph("Sigmoid", f"{name}.o.gate", out), graph("Tanh", f"{name}.c.squashed", c))
    done = {"h": h, "c": c}
    if width:
        done["e"] = sent(graph, layer, number, h)
    # A boundary needs one of the layer below at the same step: boundaries nest.
    if fires:
        flat = graph("Reshape", f"{name}.z.rows", graph("Cast", f"{name}.fires", fires, to=1), graph.axis(-1))
        done["z"] = graph("Mul", f"{name}.z.nested", flat, opened) if opened else flat
    return done


def sent(graph: Graph, layer: LayerWeights, number: int, h: str) -> str:
    """Return e (n, S + O), what a layer sends to the output module, from its h (n, H)."""
    return graph.product(f"layer{number}.e.rows", h, f"layer{number}.out.weight", layer.out)


def _normalise(graph: Graph, layer: LayerWeights, name: str, s: str) -> tuple[str, str]:
    """Return the gates' pre-activations (n, 4H), and where the detector fires (n, 1) bool, "" where there is none.

    LayerNorm's mean and deviation are taken over the 4H gates; the detector's column is scaled by the same two numbers.
    """
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
    """Return where gain * logit + bias > 0, (n, 1) bool (Eq. 9), by comparing the logit with -bias / gain."""
    bias = float(layer.bias[-1])
    gain = 1.0 if layer.gain is None else float(layer.gain[-1])
    threshold = -bias / gain if gain else -np.inf if bias > 0 else np.inf
    edge = graph.constant(f"{name}.detector.edge", np.array([threshold], np.float32))
    return graph("Less" if gain < 0 else "Greater", f"{name}.over", logit, edge)
