"""One step as an ONNX graph for the service, written operator by operator (Eqs. 2-12 of arXiv 1609.01704v7).

The same arithmetic as `export/graph.py`. Per upper layer:

    rows = NonZero(Max(z_prev, z_below))            the rows that do not COPY
    s    = Gemm([h, z_below * h_below][rows])       own and bottom-up product, on those rows only
    s   += ScatterND(Gemm(h_above[z_prev]))         top-down product, on the rows that FLUSH only
    h    = ScatterND(h, rows, ...)                  likewise c, z and e; other rows keep their bits

all of it inside an `If`, so that a step on which every row COPYs costs one comparison. Written by hand rather than
traced: it builds in milliseconds instead of seconds, every tensor has a speaking name that a profiler shows, weights
sit inside the branch that uses them (where ONNX Runtime packs them), and only operators are used whose result for a row
does not depend on the other rows of the batch: no Log, no Softplus, no dynamic quantisation (docs/adr).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.bundle import TensorSpec
from export.weights import (
    HIDDEN_ZERO,
    NORM_EPSILON,
    LayerWeights,
    Precision,
    StepWeights,
    hidden_step,
    input_spec,
    output_spec,
    product_scale,
    quantise,
    state_specs,
)
from model.heads import CORRELATION_LIMIT, LOG_SCALE_CEILING, LOG_SCALE_FLOOR

OPSET = 18
IR_VERSION = 8


class Graph:
    """Collects nodes and constants; every call names its result after what it is.

    Args:
        prefix: set before every name, so that names are unique across branches.
        precision: how matrices are stored. float16 comes with a Cast, which ONNX Runtime folds away when it loads.
    """

    def __init__(self, prefix: str, precision: Precision) -> None:
        self.prefix = prefix
        self.precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Store an array under a name and return the name of the tensor."""
        full = f"{self.prefix}{name}"
        if self.precision != "float32" and values.dtype == np.float32 and values.ndim == 2:
            stored = f"{full}.half"
            self.constants[stored] = numpy_helper.from_array(values.astype(np.float16), stored)
            self.nodes.append(helper.make_node("Cast", [stored], [full], name=f"{full}.cast", to=TensorProto.FLOAT))
        else:
            self.constants[full] = numpy_helper.from_array(np.ascontiguousarray(values), full)
        return full

    def product(self, name: str, hidden: str, weight: str, matrix: NDArray[np.float32], add: str = "") -> str:
        """Multiply an h with a matrix that is stored under the name `weight`, and add a tensor if one is given.

        In int8 the integer product carries the plain name, so that a profile shows it under the same one as a Gemm.
        """
        if self.precision != "int8":
            return self("Gemm", name, hidden, self.constant(weight, matrix), *([add] if add else []))
        codes, scale = quantise(matrix)
        zero = self.constant(f"{name}.zero", np.array(HIDDEN_ZERO, np.uint8))
        step = self.constant(f"{name}.step", np.array(hidden_step()))
        rounded = self("QuantizeLinear", f"{name}.codes", hidden, step, zero)
        total = self("MatMulInteger", name, rounded, self.constant(weight, codes), zero)
        real = self("Cast", f"{name}.real", total, to=TensorProto.FLOAT)
        scaled = self("Mul", f"{name}.scaled", real, self.constant(f"{weight}.scale", product_scale(scale)))
        return self("Add", f"{name}.sum", scaled, add) if add else scaled

    def axis(self, *sizes: int) -> str:
        """Store a small list of integers (a shape or sizes), once per graph."""
        name = "_".join(["ints", *(str(size).replace("-", "minus") for size in sizes)])
        if f"{self.prefix}{name}" not in self.constants:
            self.constant(name, np.array(sizes, np.int64))
        return f"{self.prefix}{name}"

    def number(self, value: float) -> str:
        """Store a float32 scalar, once per graph."""
        name = f"number_{value:g}"
        if f"{self.prefix}{name}" not in self.constants:
            self.constant(name, np.array(value, np.float32))
        return f"{self.prefix}{name}"

    def __call__(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one result and return the result's name."""
        return self.split(op, [name], *inputs, **attributes)[0]

    def split(self, op: str, names: Sequence[str], *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with several results and return their names."""
        outputs = [f"{self.prefix}{name}" if name else "" for name in names]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs

    def rename(self, old: str, new: str) -> None:
        """Give a tensor the name under which it leaves the graph; saves a copy."""
        for node in self.nodes:
            _rename(node, old, new)


def build(weights: StepWeights) -> bytes:
    """Return the step as an ONNX file with everything inside."""
    config = weights.config
    graph = Graph("", weights.precision)
    following: dict[str, str] = {}
    sent: list[str] = []
    below, z_below = "", ""
    for number, layer in enumerate(weights.layers, start=1):
        if number == 1:
            done = _first_layer(graph, weights)
        elif config.cell == "lstm":
            done = _plain_layer(graph, number, layer, below)
        else:
            done = _gated_layer(graph, number, layer, below, z_below, config.num_layers + config.output)
        following |= {f"{key}{number}_next": name for key, name in done.items()}
        sent.append(done["e"])
        below, z_below = done["h"], done.get("z", "")
    output = _output(graph, weights, sent)
    graph.rename(output, output_spec(config).name)
    states = state_specs(config)
    for state in states:
        graph.rename(following[state.next], state.next)
    return _serialise(graph, [input_spec(config), *states], [output_spec(config), *(_following(s) for s in states)])


def _first_layer(graph: Graph, weights: StepWeights) -> dict[str, str]:
    """Layer 1: every row is computed, the top-down product on the rows whose boundary fired."""
    layer = weights.layers[0]
    embedding = graph.constant("embedding", weights.embedding)
    table = graph("MatMul", "input.table", embedding, graph.constant("input.weight", weights.input))
    if weights.embedding_bias is None:
        # A product of two constants: ONNX Runtime folds it into one table of V rows when it loads.
        source = graph("Gather", "input.source", table, "token")
    else:
        source = graph("Gemm", "input.source", "offset", table, graph.constant("input.bias", weights.embedding_bias))
    s = graph.product("layer1.own", "h1", "layer1.own.weight", layer.own, source)
    if layer.detects:
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
    """An upper layer: the rows that do not COPY, inside a branch that is taken only when there are any."""
    name = f"layer{number}"
    due = outer("Max", f"{name}.due", f"z{number}", z_below) if layer.detects else z_below
    graph = Graph("", outer.precision)
    found = graph("NonZero", f"{name}.found", due)
    rows = graph("Reshape", f"{name}.rows", found, graph.axis(-1))
    places = graph("Reshape", f"{name}.places", found, graph.axis(-1, 1))
    opened = graph("Gather", f"{name}.z_below", z_below, rows)
    fresh = graph("Gather", f"{name}.h_below", below, rows)
    if layer.detects:  # the top layer has no boundary of its own: its rows are those where the one below fired
        column = graph("Reshape", f"{name}.z_below.column", opened, graph.axis(-1, 1))
        fresh = graph("Mul", f"{name}.h_below.open", fresh, column)
    both = graph("Concat", f"{name}.both", graph("Gather", f"{name}.h", f"h{number}", rows), fresh, axis=1)
    s = graph.product(f"{name}.own", both, f"{name}.own.weight", layer.own)
    z_prev = ""
    if layer.detects:
        z_prev = graph("Gather", f"{name}.z", f"z{number}", rows)
        local = graph("NonZero", f"{name}.flushed.local", z_prev)
        s = _top_down(graph, layer, number, s, local, graph("NonZero", f"{name}.flushed", f"z{number}"))
    done = _cell(graph, layer, number, s, graph("Gather", f"{name}.c", f"c{number}", rows), z_prev, opened)
    kept = {key: f"{key}{number}" for key in done}
    widths = {"h": layer.size, "c": layer.size, "e": width, "z": 0}
    updated = {key: graph("ScatterND", f"{name}.{key}.new", kept[key], places, value) for key, value in done.items()}
    # The other branch hands the old tensors on.
    idle = Graph("", "float32")
    same = {key: idle("Identity", f"{name}.{key}.same", kept[key]) for key in done}
    anyone = outer("Greater", f"{name}.anyone", outer("ReduceMax", f"{name}.most", due, keepdims=0), outer.number(0))
    results = outer.split(
        "If",
        [f"{name}.{key}.next" for key in done],
        anyone,
        then_branch=_branch(graph, f"{name}.compute", {updated[key]: widths[key] for key in done}),
        else_branch=_branch(idle, f"{name}.copy", {same[key]: widths[key] for key in done}),
    )
    return dict(zip(done, results, strict=True))


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


def _cell(
    graph: Graph, layer: LayerWeights, number: int, s: str, c_prev: str, z_prev: str, opened: str = ""
) -> dict[str, str]:
    """Return h, c, e, and z where there is a detector, of rows that are all computed (Eqs. 2-9)."""
    name, size = f"layer{number}", layer.size
    gates, logit = _normalise(graph, layer, name, s)
    forget, put, out, new = graph.split(
        "Split", [f"{name}.{gate}" for gate in "fiog"], gates, graph.axis(size, size, size, size), axis=1
    )
    kept = graph("Mul", f"{name}.c.kept", graph("Sigmoid", f"{name}.f.gate", forget), c_prev)
    if z_prev:
        stays = graph("Sub", f"{name}.stays", graph.number(1), z_prev)
        column = graph("Reshape", f"{name}.stays.column", stays, graph.axis(-1, 1))
        kept = graph("Mul", f"{name}.c.unflushed", kept, column)
    written = graph(
        "Mul", f"{name}.c.written", graph("Sigmoid", f"{name}.i.gate", put), graph("Tanh", f"{name}.g.value", new)
    )
    c = graph("Add", f"{name}.c.rows", written, kept)
    h = graph("Mul", f"{name}.h.rows", graph("Sigmoid", f"{name}.o.gate", out), graph("Tanh", f"{name}.c.squashed", c))
    done = {"h": h, "c": c, "e": graph.product(f"{name}.e.rows", h, f"{name}.out.weight", layer.out)}
    if logit:
        fires = graph("Cast", f"{name}.fires", graph("Greater", f"{name}.over", logit, graph.number(0)), to=1)
        flat = graph("Reshape", f"{name}.z.rows", fires, graph.axis(-1))
        done["z"] = graph("Mul", f"{name}.z.nested", flat, opened) if opened else flat
    return done


def _normalise(graph: Graph, layer: LayerWeights, name: str, s: str) -> tuple[str, str]:
    """Return the gates (n, 4H) and the detector's logit (n, 1), "" where there is none."""
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
            scaled = graph("Mul", f"{name}.detector.scaled", centred, scale)
            gain = graph.constant(f"{name}.detector.gain", layer.gain[width:])
            logit = graph("Mul", f"{name}.detector.gained", scaled, gain)
    if logit:
        logit = graph("Add", f"{name}.logit", logit, graph.constant(f"{name}.detector.bias", layer.bias[width:]))
    return gates, logit


def _output(graph: Graph, weights: StepWeights, sent: list[str]) -> str:
    """Combine what the layers send (Eqs. 11-12) and apply the head."""
    config = weights.config
    count = config.num_layers
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
    embedded = graph("Relu", "output.embedded", _sum(graph, "output.sum", weighted))
    raw = graph(
        "Gemm",
        "head.raw",
        embedded,
        graph.constant("head.weight", weights.head),
        graph.constant("head.bias", weights.head_bias),
    )
    return raw if config.kind == "text" else _mixture(graph, raw, config.mixtures)


def _mixture(graph: Graph, raw: str, count: int) -> str:
    """Bring raw outputs (B, 6M + 1) into the form of `model.heads.pack`."""
    names = [f"mixture.{name}" for name in ("weight", "mean", "scale", "correlation", "pen_up")]
    sizes = graph.axis(count, 2 * count, 2 * count, count, 1)
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


def _branch(graph: Graph, name: str, outputs: dict[str, int]) -> onnx.GraphProto:
    """Return one branch of an `If`: no inputs, results by name with their widths (0 for a vector)."""
    values = [
        helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", width] if width else ["batch"])
        for output, width in outputs.items()
    ]
    return helper.make_graph(graph.nodes, name, [], values, list(graph.constants.values()))


def _following(state: TensorSpec) -> TensorSpec:
    return TensorSpec(f"{state.name}_next", state.dtype, state.shape)


def _serialise(graph: Graph, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bytes:
    types = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}

    def described(specs: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(spec.name, types[spec.dtype], list(spec.shape)) for spec in specs]

    proto = helper.make_graph(
        graph.nodes, "step", described(inputs), described(outputs), list(graph.constants.values())
    )
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="copyist"
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _rename(node: onnx.NodeProto, old: str, new: str) -> None:
    """Rename a tensor where a node or its branches use it."""
    for names in (node.input, node.output):
        for index, name in enumerate(names):
            if name == old:
                names[index] = new
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                _rename(inner, old, new)
