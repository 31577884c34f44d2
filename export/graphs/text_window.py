"""The window over a text (model/network/attention.py) as ONNX nodes, and the graph that encodes a text.

The window has K logistic bumps with shares a_k, sharpness b_k and positions m_k. With raw = h W + b of layer 1's h:

    a    = softmax(raw[:K]),   b = softplus(raw[K:2K]),   m += softplus(raw[2K:]) / STRIDE
    F(e) = sum_k a_k sigmoid(b_k (e - m_k))                          the share of the mixture before an edge e
    w    = sum_u F(u + 1/2) (c_u - c_{u+1})                          the vector read, of the characters' vectors c

As everywhere in these graphs, the result of a row must not depend on the other rows of its batch. A softplus would need
a Log, whose kernel treats the last elements of a tensor differently. LogSoftmax works row by row, and of a pair (0, x)
it gives -softplus(x) in its first place. Those pairs come out of the product ready-made, because every second column of
its matrix is zero.

A text is encoded once, before the first step: `read.onnx` turns ids of characters and the number of a hand into the
differences c_u - c_{u+1} and the hand's share of s of layer 1, so no step looks at a table of characters or of hands.
"""

import numpy as np

from export.graphs.nodes import Graph, serialise
from export.graphs.quantisation import Array
from export.graphs.specs import TEXT_SLOTS, conditioning_specs, line_specs
from export.graphs.weights import StepWeights, WindowWeights
from model.ink import STRIDE
from model.network.attention import NOTHING


def source(graph: Graph, window: WindowWeights, table: str) -> str:
    """Add the input's share of s of layer 1: of the offset, of the vector read a step ago, and of the hand."""
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
        the new position m (B, K), the vector read w (B, E), and F at the right edge of each character (B, 1, slots),
        which `place` takes.
    """
    count = window.mixtures
    # raw, with a column of zeros before every column that goes through a softplus.
    weight, bias = _pairs(window.weight, count), _pairs(window.bias[None], count)[0]
    raw = graph("Gemm", "window.raw", h, graph.constant("window.weight", weight), graph.constant("window.bias", bias))
    share, pairs = graph.split(
        "Split", ["window.share.logit", "window.pairs"], raw, graph.axis(count, 4 * count), axis=1
    )
    # -softplus of sharpness and stride, as LogSoftmax of (0, x).
    paired = graph("Reshape", "window.paired", pairs, graph.axis(-1, 2 * count, 2))
    logs = graph("LogSoftmax", "window.logs", paired, axis=2)
    below = graph("Gather", "window.below", logs, graph.integer(0), axis=2)
    # m_k + softplus(stride) / STRIDE; what came out is negative, so it is subtracted.
    dullness, back = graph.split("Split", ["window.dullness", "window.back"], below, graph.axis(count, count), axis=1)
    position = graph(
        "Sub", "window.position.new", "window_position", graph("Div", "window.stride", back, graph.number(STRIDE))
    )
    # sigmoid(b_k (e - m_k)) at every edge: both factors have their signs turned, which the product undoes.
    column = graph.axis(-1, count, 1)
    edges = graph.constant("window.edges", (np.arange(TEXT_SLOTS, dtype=np.float32) + 0.5).reshape(1, 1, -1))
    gap = graph("Sub", "window.gap", graph("Reshape", "window.position.column", position, column), edges)
    slope = graph("Mul", "window.slope", graph("Reshape", "window.dullness.column", dullness, column), gap)
    beyond = graph("Sigmoid", "window.beyond", slope)
    # F at every edge, and the vector read.
    shares = graph("Softmax", "window.share", share, axis=1)
    weights = graph("Reshape", "window.share.row", shares, graph.axis(-1, 1, count))
    passed = graph("MatMul", "window.passed", weights, beyond)
    read = graph("MatMul", "window.read", passed, "text")
    vector = graph("Reshape", "window.vector.new", read, graph.axis(-1, window.embedding.shape[1]))
    return position, vector, passed


def place(graph: Graph, passed: str) -> str:
    """Return the index (B, 1) float32 of the character with the largest share F(u + 1/2) - F(u - 1/2).

    The sentinel before the text is left out: it gets everything that the mixture has left behind. A trained network
    parks the weight that it does not need there, so its share says nothing about where the pen is.

    Args:
        graph: to add to.
        passed: F at the right edges (B, 1, slots), as `step` gives it.
    """
    upto = graph("Slice", "window.upto", passed, graph.axis(1), graph.axis(TEXT_SLOTS), graph.axis(2))
    before = graph("Slice", "window.before", passed, graph.axis(0), graph.axis(TEXT_SLOTS - 1), graph.axis(2))
    largest = graph("ArgMax", "window.largest", graph("Sub", "window.shares", upto, before), axis=2, keepdims=0)
    return graph("Add", "window.place", graph("Cast", "window.largest.number", largest, to=1), graph.number(1))


def build_text_encoder(weights: StepWeights) -> bytes:
    """Return the ONNX file that turns `ids` (B, TEXT_SLOTS) and `writer` (B,) int64 into `hand` and `text`."""
    window = weights.window
    assert window is not None, "only a network that writes texts encodes them"
    assert weights.embedding_bias is not None, "pen offsets have a bias"
    width = window.embedding.shape[1]
    graph = Graph("", weights.precision, "batch")
    # c_u: the character's own vector, plus what it takes from its neighbours and itself; zero after the end.
    own = graph("Gather", "read.own", graph.constant("read.embedding", window.embedding), "ids")
    framed = graph("Pad", "read.framed", own, graph.axis(0, 1, 0, 0, 1, 0))
    before = graph("Slice", "read.before", framed, graph.axis(0), graph.axis(TEXT_SLOTS), graph.axis(1))
    after = graph("Slice", "read.after", framed, graph.axis(2), graph.axis(TEXT_SLOTS + 2), graph.axis(1))
    beside = graph("Concat", "read.beside", before, own, after, axis=2)
    product = graph("MatMul", "read.product", beside, graph.constant("read.neighbours", window.neighbours))
    there = graph("Greater", "read.there", "ids", graph.integer(NOTHING))
    mask = graph("Reshape", "read.mask", graph("Cast", "read.mask.row", there, to=1), graph.axis(-1, TEXT_SLOTS, 1))
    vectors = graph("Mul", "read.vectors", graph("Add", "read.summed", own, product), mask)
    # c_u - c_{u+1}, and c_u where nothing follows.
    padded = graph("Pad", "read.padded", vectors, graph.axis(0, 0, 0, 0, 1, 0))
    following = graph("Slice", "read.following", padded, graph.axis(1), graph.axis(TEXT_SLOTS + 1), graph.axis(1))
    text = graph("Sub", "read.differences", vectors, following)
    # The hand's vector goes through the input weights of layer 1, whose bias it includes.
    vector = graph("Gather", "read.writer", graph.constant("read.hands", window.hands), "writer")
    hand = graph(
        "Gemm",
        "read.hand",
        vector,
        graph.constant("read.input", weights.input),
        graph.constant("read.bias", weights.embedding_bias),
    )
    specs = conditioning_specs(weights.config)
    for found, spec in zip((hand, text), specs, strict=True):
        graph.rename(found, spec.name)
    assert width == specs[1].shape[2]
    return serialise(graph, line_specs(), specs)


def _pairs(columns: Array, count: int) -> Array:
    """Return columns (n, 3K) with a column of zeros before each but the first K, (n, 5K)."""
    pairs = np.zeros((len(columns), 2 * count, 2), np.float32)
    pairs[:, :, 1] = columns[:, count:]
    return np.concatenate([columns[:, :count], pairs.reshape(len(columns), -1)], axis=1)
