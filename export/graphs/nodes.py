"""Build an ONNX graph node by node: named nodes and constants, branches, loops, and the file around them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.bundle.folder import TensorSpec
from export.graphs.quantisation import HIDDEN_ZERO, Precision, hidden_step, product_scale, quantise

OPSET = 18
IR_VERSION = 8
TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


class Graph:
    """Collects nodes and constants; every call gives its result a name that says what it is.

    Args:
        prefix: set before every name, so that names are unique across branches.
        precision: how matrices are stored. float16 comes with a Cast, which ONNX Runtime folds away when it loads.
        rows: size of the batch axis: 1, or the name of the axis.
    """

    def __init__(self, prefix: str, precision: Precision, rows: int | str) -> None:
        self.prefix = prefix
        self.precision = precision
        self.rows = rows
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    @property
    def is_single(self) -> bool:
        """Whether it is for one row."""
        return self.rows == 1

    def inner(self) -> "Graph":
        """Return an empty graph for a branch within this one."""
        return Graph(self.prefix, self.precision, self.rows)

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Store an array under a name and return the name of the tensor."""
        full = f"{self.prefix}{name}"
        if self.precision != "float32" and values.dtype == np.float32 and values.ndim == 2:
            stored = f"{full}.half"
            self.constants[stored] = numpy_helper.from_array(values.astype(np.float16), stored)
            self.nodes.append(helper.make_node("Cast", [stored], [full], name=f"{full}.cast", to=TensorProto.FLOAT))
        else:
            self.constants[full] = numpy_helper.from_array(np.asarray(values, order="C"), full)
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

    def column(self, name: str, vector: str) -> str:
        """Return a vector (rows,) so that it multiplies rows of a matrix; one number does so as it is."""
        return vector if self.is_single else self("Reshape", name, vector, self.axis(-1, 1))

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

    def integer(self, value: int) -> str:
        """Store an int64 scalar, once per graph."""
        name = f"integer_{value}".replace("-", "minus")
        if f"{self.prefix}{name}" not in self.constants:
            self.constant(name, np.array(value, np.int64))
        return f"{self.prefix}{name}"

    def integers(self, name: str, values: Iterable[int]) -> str:
        """Store a row of int64 (1, n) under a name."""
        return self.constant(name, np.array([list(values)], np.int64))

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


def branch(graph: Graph, name: str, outputs: dict[str, tuple[int, ...]]) -> onnx.GraphProto:
    """Return one branch of an `If`: no inputs, float32 results by name with the shape of a row."""
    values = [
        helper.make_tensor_value_info(output, TensorProto.FLOAT, [graph.rows, *shape])
        for output, shape in outputs.items()
    ]
    return helper.make_graph(graph.nodes, name, [], values, list(graph.constants.values()))


def body(
    graph: Graph, name: str, carried: Mapping[str, tuple[str, int]], stacked: Mapping[str, int]
) -> onnx.GraphProto:
    """Return the body of a `Loop` of one row, which runs for as many turns as the `Loop` node says.

    Args:
        graph: with its nodes; the number of the turn, from 0, stands in it as `turn`.
        name: of the body.
        carried: float32 tensors by the name they have at the beginning of a turn: their name at its end, and their
            width, 0 for a number.
        stacked: float32 vectors of each turn and their widths; the loop stacks them over turns.
    """
    graph("Identity", "goes.on", "going")

    def described(found: str, width: int, *, rows: bool = True) -> onnx.ValueInfoProto:
        shape = [*([1] if rows else []), *([width] if width else [])]
        return helper.make_tensor_value_info(found, TensorProto.FLOAT, shape)

    going = [helper.make_tensor_value_info(each, TensorProto.BOOL, []) for each in ("going", "goes.on")]
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    given = [turn, going[0], *(described(start, width) for start, (_, width) in carried.items())]
    results = [
        going[1],
        *(described(end, width) for end, width in carried.values()),
        *(described(found, width, rows=False) for found, width in stacked.items()),
    ]
    return helper.make_graph(graph.nodes, name, given, results, list(graph.constants.values()))


def serialise(
    graph: Graph,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    others: Mapping[str, list[int | str]] | None = None,
) -> bytes:
    """Return the bytes of the ONNX file, checked by onnx.

    Args:
        graph: with all of its nodes and constants.
        inputs: of the file.
        outputs: of the file.
        others: further float32 inputs by name, with shapes that need not start with the batch.
    """

    def described(specs: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(
                spec.name, TYPES[spec.dtype], [graph.rows if size == "batch" else size for size in spec.shape]
            )
            for spec in specs
        ]

    free = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (others or {}).items()]
    proto = helper.make_graph(
        graph.nodes, "step", described(inputs) + free, described(outputs), list(graph.constants.values())
    )
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="copyist"
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _rename(node: onnx.NodeProto, old: str, new: str) -> None:
    """Rename a tensor wherever a node or its branches use it."""
    for names in (node.input, node.output):
        for index, name in enumerate(names):
            if name == old:
                names[index] = new
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                _rename(inner, old, new)
