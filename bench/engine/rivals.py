"""What one would otherwise run: a dense LSTM in ONNX Runtime, and the same HM-LSTM with masks, or in PyTorch.

Every ONNX rival is built for speed, as somebody who prefers it would build it: one step per run, the state bound
instead of copied, and the recurrent and the input product in one where that is faster.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

from export.graphs.quantisation import HIDDEN_ZERO, Precision, hidden_step, product_scale, quantise
from export.graphs.torchscript import load_script
from export.graphs.weights import LayerWeights, StepWeights
from model.network.cell import NORM_EPSILON
from model.network.stack import Network
from model.network.state import NetworkState

Array = NDArray[Any]
OPSET, IR_VERSION = 18, 8
EMBEDDING = 128


class Nodes:
    """Collects a graph's nodes and weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, TensorProto] = {}

    def __call__(self, op: str, result: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one result and return the result's name."""
        self.nodes.append(helper.make_node(op, list(inputs), [result], **attributes))
        return result

    def several(self, op: str, results: list[str], *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with several results."""
        self.nodes.append(helper.make_node(op, list(inputs), results, **attributes))
        return results

    def weight(self, name: str, values: Array) -> str:
        """Store an array."""
        self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def product(self, result: str, hidden: str, weight: str, matrix: Array, precision: Precision) -> str:
        """Multiply an h by a matrix; in int8 with the bytes and scales that the bundle has."""
        if precision != "int8":
            return self("MatMul", result, hidden, self.weight(weight, matrix))
        codes, scale = quantise(matrix)
        zero = self.weight(f"{weight}.zero", np.array(HIDDEN_ZERO, np.uint8))
        step = self.weight(f"{weight}.step", np.array(hidden_step()))
        rounded = self("QuantizeLinear", f"{result}.codes", hidden, step, zero)
        total = self("MatMulInteger", f"{result}.total", rounded, self.weight(weight, codes), zero)
        real = self("Cast", f"{result}.real", total, to=TensorProto.FLOAT)
        return self("Mul", result, real, self.weight(f"{weight}.scale", product_scale(scale)))

    def model(self, given: Mapping[str, Any], made: Mapping[str, Any]) -> bytes:
        """Return the ONNX file; shapes by name, int64 for the one that is only ("batch",) and named token."""

        def described(specs: Mapping[str, Any]) -> list[onnx.ValueInfoProto]:
            kinds = {name: TensorProto.INT64 if name == "token" else TensorProto.FLOAT for name in specs}
            return [helper.make_tensor_value_info(name, kinds[name], shape) for name, shape in specs.items()]

        graph = helper.make_graph(self.nodes, "rival", described(given), described(made), list(self.weights.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())


def lstm_operator(kind: str, hidden: int, layers: int, outputs: int) -> bytes:
    """Return a step of a dense LSTM by ONNX's LSTM operator: embedding, layers, linear head."""
    nodes, generator = Nodes(), np.random.default_rng(0)
    x = nodes("Unsqueeze", "x", _embedded(nodes, kind, outputs, generator), nodes.weight("front", np.array([0])))
    given, made = _input_of(kind), {"logits": ["batch", outputs]}
    for layer in range(1, layers + 1):
        below = EMBEDDING if layer == 1 else hidden
        names = [
            nodes.weight(f"W{layer}", _uniform(generator, hidden, (1, 4 * hidden, below))),
            nodes.weight(f"R{layer}", _uniform(generator, hidden, (1, 4 * hidden, hidden))),
            nodes.weight(f"B{layer}", _uniform(generator, hidden, (1, 8 * hidden))),
        ]
        h, c = f"h{layer}", f"c{layer}"
        # The hidden state that comes out has the very shape that the next layer reads as a sequence of one step.
        results = ["", f"{h}_next", f"{c}_next"]
        x = nodes.several("LSTM", results, x, *names, "", h, c, hidden_size=hidden)[1]
        shape = [1, "batch", hidden]
        given |= {h: shape, c: shape}
        made |= {f"{h}_next": shape, f"{c}_next": shape}
    top = nodes("Reshape", "top", x, nodes.weight("flat", np.array([-1, hidden])))
    _head(nodes, top, hidden, outputs, generator)
    return nodes.model(given, made)


def lstm_products(kind: str, hidden: int, layers: int, outputs: int) -> bytes:
    """Return the same LSTM as plain matrix products: one per layer over input and state side by side."""
    nodes, generator = Nodes(), np.random.default_rng(0)
    x = _embedded(nodes, kind, outputs, generator)
    given, made = _input_of(kind), {"logits": ["batch", outputs]}
    for layer in range(1, layers + 1):
        below = EMBEDDING if layer == 1 else hidden
        h, c = f"h{layer}", f"c{layer}"
        both = nodes("Concat", f"both{layer}", x, h, axis=1)
        weight = nodes.weight(f"W{layer}", _uniform(generator, hidden, (below + hidden, 4 * hidden)))
        bias = nodes.weight(f"B{layer}", _uniform(generator, hidden, (4 * hidden,)))
        s = nodes("Add", f"s{layer}", nodes("MatMul", f"product{layer}", both, weight), bias)
        fresh, kept, out = _gates(nodes, str(layer), s, c)
        c_next = nodes("Add", f"{c}_next", kept, fresh)
        x = nodes("Mul", f"{h}_next", out, nodes("Tanh", f"squashed{layer}", c_next))
        given |= {h: ["batch", hidden], c: ["batch", hidden]}
        made |= {f"{h}_next": ["batch", hidden], f"{c}_next": ["batch", hidden]}
    _head(nodes, x, hidden, outputs, generator)
    return nodes.model(given, made)


def stock_int8(graph: bytes) -> bytes:
    """Return a graph as `quantize_dynamic` turns it into int8 with its defaults."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        quantize_dynamic(onnx.load_from_string(graph), target)
        return target.read_bytes()


def dense_masks(weights: StepWeights) -> bytes:
    """Return the same HM-LSTM without any skipping: every layer is computed, and a mask restores what COPYs.

    A layer is one product over all of its inputs side by side. In int8 a column then has one scale for all of its
    parts.
    """
    config, nodes = weights.config, Nodes()
    table = nodes("MatMul", "table", nodes.weight("embedding", weights.embedding), nodes.weight("input", weights.input))
    if weights.embedding_bias is None:
        source = nodes("Gather", "source", table, "token")
    else:
        source = nodes("Gemm", "source", "offset", table, nodes.weight("input.bias", weights.embedding_bias))
    given: dict[str, Any] = _input_of(config.kind)
    made: dict[str, Any] = {}
    sent = []
    below = z_below = ""
    for number, layer in enumerate(weights.layers, start=1):
        below, z_below, e = _masked_layer(nodes, number, layer, source, below, z_below, weights.precision)
        sent.append(e)
        shapes = {f"h{number}": ["batch", layer.size], f"c{number}": ["batch", layer.size]}
        shapes |= {f"z{number}": ["batch", 1]} if layer.detects else {}
        given |= shapes
        made |= {f"{name}_next": shape for name, shape in shapes.items()}
    made["logits"] = ["batch", config.num_outputs]
    _gated_output(nodes, weights, sent)
    return nodes.model(given, made)


class TorchEager:
    """`Network.step` in PyTorch: every layer is computed, with masks.

    Args:
        network: ours.
        inputs: (S, B) or (S, B, 3).
    """

    def __init__(self, network: Network, inputs: Array) -> None:
        self._network = network
        self._inputs = torch.from_numpy(inputs)
        self.state: NetworkState = network.zeros(inputs.shape[1])

    @torch.inference_mode()
    def __call__(self, steps: int | None = None) -> int:
        """Take this many steps and return the number of items."""
        chosen = self._inputs[:steps]
        for x in chosen:
            _, self.state = self._network.step(x, self.state)
        return chosen.shape[0] * chosen.shape[1]


class TorchScript:
    """The bundle's `step.pt`, which gathers the rows that do not COPY.

    Args:
        script: the file.
        inputs: (S, B) or (S, B, 3).
    """

    def __init__(self, script: bytes, inputs: Array) -> None:
        self._module = load_script(script)
        self._inputs = torch.from_numpy(inputs)
        self.state: Any = self._module.zeros(inputs.shape[1])

    @torch.inference_mode()
    def __call__(self, steps: int | None = None) -> int:
        """Take this many steps and return the number of items."""
        chosen = self._inputs[:steps]
        for x in chosen:
            _, self.state = self._module(x, self.state)
        return chosen.shape[0] * chosen.shape[1]


def _masked_layer(
    nodes: Nodes, number: int, layer: LayerWeights, source: str, below: str, z_below: str, precision: Precision
) -> tuple[str, str, str]:
    """Return h, z (n, 1) and what the layer sends to the output module (Eqs. 2-9 of arXiv 1609.01704v7)."""
    name, size = f"layer{number}", layer.size
    h, c, z = f"h{number}", f"c{number}", f"z{number}"
    # s = U h + z_below * W h_below + z * U_above h_above (Eqs. 5-7), as one product.
    parts, rows = [h], [layer.own[:size]]
    if below:
        parts.append(nodes("Mul", f"{name}.below", below, z_below))
        rows.append(layer.own[size:])
    if layer.above is not None:
        parts.append(nodes("Mul", f"{name}.above", f"h{number + 1}", z))
        rows.append(layer.above)
    both = nodes("Concat", f"{name}.both", *parts, axis=1) if len(parts) > 1 else h
    s = nodes.product(f"{name}.product", both, f"{name}.weight", np.concatenate(rows), precision)
    if not below:
        s = nodes("Add", f"{name}.sourced", s, source)
    # The new cell, in which FLUSH drops the old one (Eqs. 2-4).
    s, logit = _normalised(nodes, name, layer, s)
    fresh, kept, out = _gates(nodes, str(number), s, c)
    one = nodes.weight(f"{name}.one", np.array(1, np.float32))
    if layer.detects:
        kept = nodes("Mul", f"{name}.unflushed", kept, nodes("Sub", f"{name}.stays", one, z))
    last = not below
    new_c = nodes("Add", f"{c}_next" if last else f"{name}.c", fresh, kept)
    new_h = nodes("Mul", f"{h}_next" if last else f"{name}.h", out, nodes("Tanh", f"{name}.squashed", new_c))
    # Rows that COPY get their old values back.
    if below:
        due = nodes("Max", f"{name}.due", z, z_below) if layer.detects else z_below
        works = nodes("Greater", f"{name}.works", due, nodes.weight(f"{name}.zero", np.array(0, np.float32)))
        nodes("Where", f"{c}_next", works, new_c, c)
        new_h = nodes("Where", f"{h}_next", works, new_h, h)
    # The boundary (Eq. 9); it needs one of the layer below.
    new_z = ""
    if logit:
        fires = nodes("Greater", f"{name}.fires", logit, nodes.weight(f"{name}.threshold", np.array(0, np.float32)))
        raw = nodes("Cast", f"{name}.fired" if below else f"{z}_next", fires, to=TensorProto.FLOAT)
        new_z = nodes("Mul", f"{z}_next", raw, z_below) if below else raw
    return new_h, new_z, nodes.product(f"{name}.e", new_h, f"{name}.out", layer.out, precision)


def _normalised(nodes: Nodes, name: str, layer: LayerWeights, s: str) -> tuple[str, str]:
    """Return the gates (n, 4H) and the detector's logit (n, 1), "" where there is none."""
    width = 4 * layer.size
    assert layer.gain is not None, "networks are compared with LayerNorm"
    logit = ""
    if layer.detects:
        sizes = nodes.weight(f"{name}.sizes", np.array([width, 1]))
        s, logit = nodes.several("Split", [f"{name}.s", f"{name}.q"], s, sizes, axis=1)
    gain, bias = nodes.weight(f"{name}.gain", layer.gain[:width]), nodes.weight(f"{name}.bias", layer.bias[:width])
    results = [f"{name}.gates", f"{name}.mean", f"{name}.scale"]
    s, mean, scale = nodes.several("LayerNormalization", results, s, gain, bias, axis=-1, epsilon=NORM_EPSILON)
    if logit:
        centred = nodes("Sub", f"{name}.q.centred", logit, mean)
        scaled = nodes("Mul", f"{name}.q.scaled", centred, scale)
        gained = nodes("Mul", f"{name}.q.gained", scaled, nodes.weight(f"{name}.q.gain", layer.gain[width:]))
        logit = nodes("Add", f"{name}.q.logit", gained, nodes.weight(f"{name}.q.bias", layer.bias[width:]))
    return s, logit


def _gates(nodes: Nodes, name: str, s: str, c: str) -> tuple[str, str, str]:
    """Return i * g, f * c and o from pre-activations in the order f, i, o, g."""
    forget, put, out, new = nodes.several("Split", [f"gate{name}.{gate}" for gate in "fiog"], s, axis=1, num_outputs=4)
    fresh = nodes(
        "Mul",
        f"fresh{name}",
        nodes("Sigmoid", f"gate{name}.i.open", put),
        nodes("Tanh", f"gate{name}.g.value", new),
    )
    kept = nodes("Mul", f"kept{name}", nodes("Sigmoid", f"gate{name}.f.open", forget), c)
    return fresh, kept, nodes("Sigmoid", f"gate{name}.o.open", out)


def _gated_output(nodes: Nodes, weights: StepWeights, sent: list[str]) -> None:
    """Add the output module (Eqs. 11-12) and the head."""
    config = weights.config
    sizes = nodes.weight("output.sizes", np.array([config.num_layers, config.output]))
    shares, parts = [], []
    for number, e in enumerate(sent, start=1):
        share, part = nodes.several("Split", [f"share{number}", f"part{number}"], e, sizes, axis=1)
        shares.append(share)
        parts.append(part)
    opened = nodes("Sigmoid", "output.gates", nodes("Sum", "output.shares", *shares))
    names = [f"output.gate{number}" for number in range(1, len(sent) + 1)]
    gates = nodes.several("Split", names, opened, axis=1, num_outputs=len(sent))
    weighted = [nodes("Mul", f"{gate}.weighted", gate, part) for gate, part in zip(gates, parts, strict=True)]
    embedded = nodes("Relu", "output.embedded", nodes("Sum", "output.sum", *weighted))
    raw = nodes("MatMul", "head.raw", embedded, nodes.weight("head.weight", weights.head))
    nodes("Add", "logits", raw, nodes.weight("head.bias", weights.head_bias))


def _embedded(nodes: Nodes, kind: str, outputs: int, generator: np.random.Generator) -> str:
    """Add the embedding of a symbol, or the product that brings an offset to the same width."""
    if kind == "text":
        table = nodes.weight("embedding", generator.normal(size=(outputs, EMBEDDING)).astype(np.float32))
        return nodes("Gather", "embedded", table, "token")
    return nodes("MatMul", "embedded", "offset", nodes.weight("embedding", _uniform(generator, 3, (3, EMBEDDING))))


def _head(nodes: Nodes, top: str, hidden: int, outputs: int, generator: np.random.Generator) -> None:
    weight = nodes.weight("head.weight", _uniform(generator, hidden, (hidden, outputs)))
    raw = nodes("MatMul", "head.raw", top, weight)
    nodes("Add", "logits", raw, nodes.weight("head.bias", np.zeros(outputs, np.float32)))


def _input_of(kind: str) -> dict[str, Any]:
    return {"token": ["batch"]} if kind == "text" else {"offset": ["batch", 3]}


def _uniform(generator: np.random.Generator, fan_in: int, shape: tuple[int, ...]) -> Array:
    bound = fan_in**-0.5
    return generator.uniform(-bound, bound, shape).astype(np.float32)
