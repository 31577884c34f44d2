"""Sampling from the output inside the step graph: nodes that draw the next symbol, or the next offset of the pen.

Random numbers are inputs, so a draw is a pure function of its row, and its bits must not depend on the other rows of
the batch. Exponentials are therefore float32, by ONNX Runtime's own kernels, which work row by row or treat all
elements alike; running sums are float64 and go along the row in its order (CumSum, never a reduction). For a single row
a node costs more than its arithmetic, so there are few of them.
"""

from export.graphs.nodes import Graph, branch
from model.config import ModelConfig


def draw(graph: Graph, config: ModelConfig, place: str = "") -> str:
    """Add the nodes and return the name of what is drawn.

    Args:
        graph: to add to; the output stands in it as `logits` or `mixture`.
        config: of the network.
        place: (B, 1), the index of the character being written, if the network writes a text; it is appended to the
            offset.
    """
    return _symbol(graph, config.vocabulary) if config.kind == "text" else _offset(graph, config.mixtures, place)


def _symbol(graph: Graph, size: int) -> str:
    """Draw symbols (B,) int64 from `logits` (B, V); -1 for a row whose logits hold NaN or +inf.

    In this order: `logit_bias` (B, V) is added, where -inf bars a symbol; the sum is divided by `temperature` (B,), at
    least 1e-20; of the `top_k` (B,) likeliest symbols (0 means all) the smallest set is kept whose mass reaches the
    share `top_p` (B,); and the first symbol is taken at which the running sum of the kept weights exceeds the share
    `noise` (B,) of their total.

    The noise lies between 2^-52 and 1 - 2^-52. The exponential of -inf may come out as 1e-38 instead of 0, and that is
    too little to reach the lower bound; with the upper bound the mark always stays below the total.
    """
    scores = graph("Add", "draw.scores", "logits", "logit_bias")
    scaled = graph("Div", "draw.scaled", scores, graph.column("draw.temperature.column", "temperature"))
    weights = _narrowed(graph, graph("Softmax", "draw.weights", scaled, axis=1), size)
    first, total = _invert(graph, weights, "noise", size)
    return graph("Where", "draw.symbol", graph("IsNaN", "draw.broken", total), graph.integer(-1), first)


def _narrowed(outer: Graph, weights: str, size: int) -> str:
    """Apply top_k and top_p to weights (B, V), inside a branch: sorting is expensive, and few rows ask for it."""
    # Does any row ask for it?
    by_mass = outer("Less", "draw.narrow.mass", "top_p", outer.number(1))
    by_count = outer("Greater", "draw.narrow.count", "top_k", outer.integer(0))
    asked = outer("Or", "draw.narrow.asked", by_mass, by_count)
    anyone = asked
    if not outer.is_single:
        number = outer("Cast", "draw.narrow.number", asked, to=1)
        most = outer("ReduceMax", "draw.narrow.most", number, keepdims=0)
        anyone = outer("Greater", "draw.narrow.anyone", most, outer.number(0))

    # top_k: sort, and set all but the first k to 0.
    graph, idle = outer.inner(), outer.inner()
    ranked, order = graph.split("TopK", ["draw.ranked", "draw.order"], weights, graph.axis(size), axis=1)
    everyone = graph("Equal", "draw.top_k.all", "top_k", graph.integer(0))
    limit = graph("Where", "draw.top_k.limit", everyone, graph.integer(size), "top_k")
    ranks = graph.integers("draw.ranks", range(size))
    counted = graph("Less", "draw.counted", ranks, graph.column("draw.top_k.column", limit))
    left = graph("Where", "draw.left", counted, ranked, graph.number(0))
    # top_p: a set is complete once its mass reaches the share, so a symbol stays while those before it fall short of
    # it. The likeliest symbol always stays, and with top_p of 1 all do.
    mass = graph("CumSum", "draw.mass", graph("Cast", "draw.left.wide", left, to=11), graph.integer(1))
    before = graph("Sub", "draw.before", mass, graph("Cast", "draw.left.own", left, to=11))
    total = graph("Gather", "draw.mass.total", mass, graph.integer(size - 1), axis=1)
    wide = graph("Cast", "draw.top_p.wide", "top_p", to=11)
    share = graph("Mul", "draw.share", wide, total)
    short = graph("Less", "draw.short", before, graph.column("draw.share.column", share))
    whole = graph("GreaterOrEqual", "draw.top_p.all", "top_p", graph.number(1))
    stays = graph("Or", "draw.stays.mass", short, graph.column("draw.top_p.column", whole))
    stays = graph("Or", "draw.stays", stays, graph("Less", "draw.first", ranks, graph.integer(1)))
    kept = graph("Where", "draw.kept.ranked", stays, left, graph.number(0))
    # Back into the order of the symbols.
    placed = graph("ScatterElements", "draw.kept.placed", weights, order, kept, axis=1)
    # Rows that did not ask keep their weights bit for bit.
    chosen = graph("Where", "draw.kept", graph.column("draw.asked.column", asked), placed, weights)
    same = idle("Identity", "draw.kept.all", weights)
    return outer(
        "If",
        "draw.left.over",
        anyone,
        then_branch=branch(graph, "draw.narrow", {chosen: (size,)}),
        else_branch=branch(idle, "draw.wide", {same: (size,)}),
    )


def _invert(graph: Graph, weights: str, noise: str, size: int) -> tuple[str, str]:
    """Return where the running sum of a row's weights first exceeds the share `noise` of their total, and the total."""
    running = graph("CumSum", "draw.running", graph("Cast", "draw.weights.wide", weights, to=11), graph.integer(1))
    total = graph("Gather", "draw.total", running, graph.integer(size - 1), axis=1)
    mark = graph.column("draw.mark.column", graph("Mul", "draw.mark", noise, total))
    passed = graph("Cast", "draw.passed.number", graph("Greater", "draw.passed", running, mark), to=1)
    return graph("ArgMax", "draw.index", passed, axis=1, keepdims=0), total


def _offset(graph: Graph, count: int, place: str) -> str:
    """Draw offsets (B, 3) [dx, dy, pen_up] from `mixture` (B, 6M + 1); NaN for a row whose mixture is not finite.

    Where a text is written, the logit of the line being over follows the mixture, and that logit and the place follow
    the offset.

    A `bias` of b (B,) raises the weights to the power 1 + b and divides the scales by e^b (Graves 2013, Eqs. 61-62).
    `noise` (B, 4): uniform in [0, 1) for the component, two standard normal deviates, uniform for the pen.
    """
    parts, pen, *over = graph.split(
        "Split",
        ["draw.parts", "draw.pen", *(["draw.over"] if place else [])],
        "mixture",
        graph.axis(6 * count, 1, *([1] if place else [])),
        axis=1,
    )
    names = [f"draw.noise.{name}" for name in ("pick", "along", "across", "lift")]
    pick, along, across, lift = graph.split("Split", names, "noise", graph.axis(1, 1, 1, 1), axis=1)
    bias = graph.column("draw.bias.column", "bias")
    # Choose a component from its weights to the power 1 + b.
    grid = graph("Reshape", "draw.grid", parts, graph.axis(-1, 6, count))
    log_weight = graph("Gather", "draw.log_weight", grid, graph.integer(0), axis=1)
    sharp = graph("Mul", "draw.sharp", log_weight, graph("Add", "draw.power", bias, graph.number(1)))
    weights = graph("Softmax", "draw.weights", sharp, axis=1)
    first, _ = _invert(graph, weights, graph("Reshape", "draw.pick", pick, graph.axis(-1)), count)
    # Take the six parameters of the chosen component.
    index = graph("Reshape", "draw.index.deep", first, graph.axis(-1, 1, 1))
    shape = graph("Shape", "draw.rows", "bias")
    six = graph("Concat", "draw.six", shape, graph.axis(6, 1), axis=0)
    chosen = graph("GatherElements", "draw.chosen", grid, graph("Expand", "draw.index.six", index, six), axis=2)
    row = graph("Reshape", "draw.chosen.row", chosen, graph.axis(-1, 6))
    _, mean, log_scale, tie = graph.split(
        "Split", ["draw.chosen.weight", "draw.mean", "draw.log_scale", "draw.tie"], row, graph.axis(1, 2, 2, 1), axis=1
    )
    # dx = mean_x + scale_x * n1, dy = mean_y + scale_y * (rho * n1 + sqrt(1 - rho^2) * n2), scales divided by e^b.
    ahead = graph("Cast", "draw.along", along, to=1)
    aside = graph("Cast", "draw.across", across, to=1)
    rest = graph("Sub", "draw.untied.square", graph.number(1), graph("Mul", "draw.tie.square", tie, tie))
    turned = graph(
        "Add",
        "draw.turned",
        graph("Mul", "draw.tied", tie, ahead),
        graph("Mul", "draw.untied", graph("Sqrt", "draw.untied.root", rest), aside),
    )
    scale = graph("Exp", "draw.scale", graph("Sub", "draw.log_scale.biased", log_scale, bias))
    spread = graph("Mul", "draw.spread", scale, graph("Concat", "draw.deviates", ahead, turned, axis=1))
    moved = graph("Add", "draw.moved", mean, spread)
    # The pen is lifted with the probability that the mixture gives.
    chance = graph("Cast", "draw.pen.wide", graph("Sigmoid", "draw.pen.chance", pen), to=11)
    lifted = graph("Cast", "draw.pen.number", graph("Less", "draw.pen.up", lift, chance), to=1)
    offset = graph("Concat", "draw.offset.whole", moved, lifted, *over, *([place] if place else []), axis=1)
    # A mixture less itself is 0, or NaN where a value is not finite, and that spreads over the whole row.
    nothing = graph("Sub", "draw.nothing", "mixture", "mixture")
    return graph("Add", "draw.offset", offset, graph("ReduceSum", "draw.nothing.row", nothing, graph.axis(1)))
