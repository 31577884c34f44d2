"""The recogniser of strokes (model/recogniser) as an ONNX graph for one line, so that the service can rank ink.

A line comes alone and whole, so nothing needs to be masked. Matrices are stored in float16 and read through a Cast that
ONNX Runtime folds away when it loads.
"""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from export.bundle.folder import TensorSpec
from export.graphs.nodes import Graph, serialise
from model.recogniser.network import Recogniser

Array = NDArray[np.float32]
GATES = (0, 3, 1, 2)  # PyTorch has i, f, g, o; ONNX i, o, f, c


def build_recogniser(recogniser: Recogniser) -> bytes:
    """Return an ONNX file that turns `points` (1, T, 3) float32, standardised, into `scores` (frames, 1 + V).

    Scores are logarithms of probabilities; label 0 is the blank of CTC.
    """
    graph = Graph("", "float16", "batch")
    # Compress long jumps of the pen: asinh(2 * [dx, dy]) beside the pen itself.
    shift, pen = graph.split("Split", ["read.shift", "read.pen"], "points", graph.axis(2, 1), axis=2)
    bent = graph("Asinh", "read.bent", graph("Mul", "read.doubled", shift, graph.number(2)))
    x = graph("Transpose", "read.columns", graph("Concat", "read.points", bent, pen, axis=2), perm=[0, 2, 1])
    # Two convolutions of stride 2 make a frame of four points.
    for name, convolution in (("fine", recogniser.fine), ("coarse", recogniser.coarse)):
        x = _gelu(graph, name, _convolved(graph, name, convolution, x))
    x = graph("Transpose", "read.frames", x, perm=[2, 0, 1])
    # Bidirectional LSTM layers over the frames, then a linear head and a log-softmax over the labels.
    for number, layer in enumerate(recogniser.layers, start=1):
        x = _lstm(graph, f"lstm{number}", layer, recogniser.config.hidden, x)
    flat = graph("Reshape", "head.flat", x, graph.axis(-1, 2 * recogniser.config.hidden))
    weight = graph.constant("head.weight", _array(recogniser.head.weight).T)
    raw = graph("Gemm", "head.raw", flat, weight, graph.constant("head.bias", _array(recogniser.head.bias)))
    graph.rename(graph("LogSoftmax", "head.scores", raw, axis=1), "scores")
    labels = len(recogniser.head.bias)
    given, found = TensorSpec("points", "float32", ("batch", 3)), TensorSpec("scores", "float32", ("batch", labels))
    return serialise(graph, [], [found], {given.name: [1, "points", 3]})


def _convolved(graph: Graph, name: str, convolution: nn.Conv1d, x: str) -> str:
    """Add a convolution of stride 2 over the points."""
    weight = _stored(graph, f"{name}.weight", _array(convolution.weight))
    bias = graph.constant(f"{name}.bias", _array(convolution.bias))
    return graph("Conv", f"{name}.sum", x, weight, bias, kernel_shape=[5], strides=[2], pads=[2, 2])


def _gelu(graph: Graph, name: str, x: str) -> str:
    """Add GELU: x times the share of a normal distribution below x."""
    root = graph.constant(f"{name}.root", np.array(2**-0.5, np.float32))
    bell = graph("Erf", f"{name}.bell", graph("Mul", f"{name}.scaled", x, root))
    share = graph("Add", f"{name}.share", bell, graph.number(1))
    return graph("Mul", f"{name}.half", graph("Mul", f"{name}.gelu", x, share), graph.number(0.5))


def _lstm(graph: Graph, name: str, layer: nn.Module, hidden: int, x: str) -> str:
    """Add one layer in both directions: (frames, 1, width) -> (frames, 1, 2H)."""
    arrays = {
        kind: np.stack([_gates(_array(getattr(side, f"{kind}_l0"))) for side in (layer.ahead, layer.back)])
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    bias = graph.constant(f"{name}.bias", np.concatenate([arrays["bias_ih"], arrays["bias_hh"]], axis=1)[None])
    flat_bias = graph("Reshape", f"{name}.bias.flat", bias, graph.axis(2, -1))
    y = graph(
        "LSTM",
        f"{name}.sides",
        x,
        _stored(graph, f"{name}.input", arrays["weight_ih"]),
        _stored(graph, f"{name}.own", arrays["weight_hh"]),
        flat_bias,
        hidden_size=hidden,
        direction="bidirectional",
    )
    turned = graph("Transpose", f"{name}.turned", y, perm=[0, 2, 1, 3])
    return graph("Reshape", f"{name}.both", turned, graph.axis(-1, 1, 2 * hidden))


def _gates(values: Array) -> Array:
    """Return the rows (4H, ...) of the gates in ONNX' order."""
    parts = np.split(values, 4)
    return np.concatenate([parts[gate] for gate in GATES])


def _stored(graph: Graph, name: str, values: Array) -> str:
    """Store an array of three axes as a matrix, in float16, and give it its shape back."""
    matrix = graph.constant(name, values.reshape(len(values) * values.shape[1], -1))
    return graph("Reshape", f"{name}.shaped", matrix, graph.axis(*values.shape))


def _array(tensor: object) -> Array:
    assert isinstance(tensor, nn.Parameter), "every weight is there"
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())
