"""The window over a text (model/network/attention.py) as ONNX nodes, and the graph that reads a text.

As everywhere in the step graphs a row's result has the same bits in any company. A softplus would be a Log, whose
kernel treats the last elements of a tensor differently; LogSoftmax goes row by row, and of a pair (0, x) it gives
-softplus(x). The pairs come out of the product as they are, because every second column of its matrix is zero.

A text is read once: `read.onnx` turns ids of characters and the number of a hand into what the step needs at every
point, so that neither the table of characters nor that of hands is looked at again.
"""

import numpy as np

from export.bundle.folder import TensorSpec
from export.graphs.nodes import Graph, serialise
from export.graphs.weights import TEXT_SLOTS, Array, StepWeights, WindowWeights, reading_specs
from model.ink import STRIDE
from model.network.attention import NOTHING


def source(graph: Graph, window: WindowWeights, table: str) -> str:
    """Add layer 1's share of the input: of the offset, of what was read of the text a step ago, and of the hand."""
    rows = graph("Concat", "input.rows", table, graph.constant("window.into.weight", window.into), axis=0)
    read = graph("Concat", "input.read", "offset", "window_vector", axis=1)
    return graph("Gemm", "input.source", read, rows, "hand")


def step(graph: Graph, window: WindowWeights, h: str) -> tuple[str, str, str]:
    """Add the nodes that move the window on by one point.

    Args:
        graph: to add to.
        window: its weights.
        h: of layer 1 at this step (B, H).

    Returns:
        the new position (B, K), the vector read (B, E), and the share of the mixture that has passed each slot's end
        (B, 1, slots), which `place` reads.
    """
    count = window.mixtures
    weight, bias = _pairs(window.weight, count), _pairs(window.bias[None], count)[0]
    raw = graph("Gemm", "window.raw", h, graph.constant("window.weight", weight), graph.constant("window.bias", bias))
    share, pairs = graph.split(
        "Split", ["window.share.logit", "window.pairs"], raw, graph.axis(count, 4 * count), axis=1
    )
    paired = graph("Reshape", "window.paired", pairs, graph.axis(-1, 2 * count, 2))
    logs = graph("LogSoftmax", "window.logs", paired, axis=2)
    below = graph("Gather", "window.below", logs, graph.integer(0), axis=2)  # -softplus of sharpness and stride
    dullness, back = graph.split("Split", ["window.dullness", "window.back"], below, graph.axis(count, count), axis=1)
    position = graph(
        "Sub", "window.position.new", "window_position", graph("Div", "window.stride", back, graph.number(STRIDE))
    )
    column = graph.axis(-1, count, 1)
    edges = graph.constant("window.edges", (np.arange(TEXT_SLOTS, dtype=np.float32) + 0.5).reshape(1, 1, -1))
    gap = graph("Sub", "window.gap", graph("Reshape", "window.position.column", position, column), edges)
    slope = graph("Mul", "window.slope", graph("Reshape", "window.dullness.column", dullness, column), gap)
    beyond = graph("Sigmoid", "window.beyond", slope)
    shares = graph("Softmax", "window.share", share, axis=1)
    weights = graph("Reshape", "window.share.row", shares, graph.axis(-1, 1, count))
    passed = graph("MatMul", "window.passed", weights, beyond)
    read = graph("MatMul", "window.read", passed, "text")
    vector = graph("Reshape", "window.vector.new", read, graph.axis(-1, window.embedding.shape[1]))
    return position, vector, passed


def place(graph: Graph, passed: str) -> str:
    """Return the index (B, 1) float32 of the character with the largest share, of `passed` as `step` gives it.

    The sentinel before the text is left out.

    A trained network sends the weight that it does not need to a bump far away: that lands on that sentinel, which
    gets all that the mixture leaves behind, and so it says nothing about where the pen is.
    """
    upto = graph("Slice", "window.upto", passed, graph.axis(1), graph.axis(TEXT_SLOTS), graph.axis(2))
    before = graph("Slice", "window.before", passed, graph.axis(0), graph.axis(TEXT_SLOTS - 1), graph.axis(2))
    largest = graph("ArgMax", "window.largest", graph("Sub", "window.shares", upto, before), axis=2, keepdims=0)
    return graph("Add", "window.place", graph("Cast", "window.largest.number", largest, to=1), graph.number(1))


def reader(weights: StepWeights) -> bytes:
    """Return the graph that reads a text: `ids` (B, TEXT_SLOTS) and `writer` (B,) int64 to `hand` and `text`."""
    window = weights.window
    assert window is not None, "only a network that writes a text reads one"
    assert weights.embedding_bias is not None, "pen offsets have a bias"
    width = window.embedding.shape[1]
    graph = Graph("", weights.precision, "batch")
    own = graph("Gather", "read.own", graph.constant("read.embedding", window.embedding), "ids")
    framed = graph("Pad", "read.framed", own, graph.axis(0, 1, 0, 0, 1, 0))
    before = graph("Slice", "read.before", framed, graph.axis(0), graph.axis(TEXT_SLOTS), graph.axis(1))
    after = graph("Slice", "read.after", framed, graph.axis(2), graph.axis(TEXT_SLOTS + 2), graph.axis(1))
    beside = graph("Concat", "read.beside", before, own, after, axis=2)
    product = graph("MatMul", "read.product", beside, graph.constant("read.neighbours", window.neighbours))
    there = graph("Greater", "read.there", "ids", graph.integer(NOTHING))
    mask = graph("Reshape", "read.mask", graph("Cast", "read.mask.row", there, to=1), graph.axis(-1, TEXT_SLOTS, 1))
    vectors = graph("Mul", "read.vectors", graph("Add", "read.summed", own, product), mask)
    padded = graph("Pad", "read.padded", vectors, graph.axis(0, 0, 0, 0, 1, 0))
    following = graph("Slice", "read.following", padded, graph.axis(1), graph.axis(TEXT_SLOTS + 1), graph.axis(1))
    text = graph("Sub", "read.differences", vectors, following)
    vector = graph("Gather", "read.writer", graph.constant("read.hands", window.hands), "writer")
    hand = graph(
        "Gemm",
        "read.hand",
        vector,
        graph.constant("read.input", weights.input),
        graph.constant("read.bias", weights.embedding_bias),
    )
    specs = reading_specs(weights.config)
    for found, spec in zip((hand, text), specs, strict=True):
        graph.rename(found, spec.name)
    assert width == specs[1].shape[2]
    return serialise(graph, reader_inputs(), specs)


def reader_inputs() -> tuple[TensorSpec, ...]:
    """Return what is read: ids of a line's sentinels and characters with 0 after them, and the number of a hand."""
    return TensorSpec("ids", "int64", ("batch", TEXT_SLOTS)), TensorSpec("writer", "int64", ("batch",))


def _pairs(columns: Array, count: int) -> Array:
    """Columns (n, 3K) with a column of zeros before each but the first K, (n, 5K)."""
    pairs = np.zeros((len(columns), 2 * count, 2), np.float32)
    pairs[:, :, 1] = columns[:, count:]
    return np.concatenate([columns[:, :count], pairs.reshape(len(columns), -1)], axis=1)
