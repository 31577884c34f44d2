"""The window's hand-written gradients, judged by autograd over the step-by-step cell and by finite differences."""

import ast
import copy
import inspect
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import model.network.cell
import model.network.fast.layer_run
import model.network.fast.product
import model.network.fast.window
from model.config import ModelConfig
from model.network.boundary import hard_sigmoid
from model.network.fast import backward, forward, kernels, step
from model.network.fast.kernels import Shape
from model.network.fast.step import Leaving, Variant
from model.network.fast.window import WindowOptions
from model.network.reference import COPY
from model.network.stack import Network, WindowResult
from model.network.state import NetworkState
from tests.model.networks import (
    FLOAT64,
    config_for,
    gradients_of,
    make_busy_network,
    make_inputs,
    make_network,
    make_noise,
    outputs_of,
    possible_operations,
    random_state,
    relative_error,
    score,
    walk,
)
from tests.strategies import model_configs, seeds

STEPS, ROWS = 20, 3
SLOPE = torch.tensor(0.7, dtype=torch.float64)
WIDTHS = {"one layer": (6,), "two": (5, 7), "three": (8, 6, 10), "four": (4, 6, 3, 5)}


def run(network: Network, x: Tensor, state: NetworkState | None = None, **options: Any) -> WindowResult:
    """A window in the network's dtype, or with other options."""
    dtype = network.output.bias.dtype
    state = network.zeros(x.shape[1]) if state is None else state
    noise = make_noise(network.config, x.shape[0], x.shape[1], dtype)
    result: WindowResult = network(x, state, WindowOptions(**({"operand": dtype} | options)), SLOPE.to(dtype), noise)
    return result


def compare(network: Network, x: Tensor, state: NetworkState | None = None, **options: Any) -> tuple[float, float]:
    """The largest error of outputs and state, and the largest relative error of a gradient, against autograd."""
    dtype = network.output.bias.dtype
    state = network.zeros(x.shape[1]) if state is None else state
    judge = walk(network, x, state, SLOPE.to(dtype), make_noise(network.config, x.shape[0], x.shape[1], dtype))
    result = run(network, x, state, **options)
    outputs = outputs_of(network, result)
    if network.config.cell == "hmlstm" and network.config.detector != "soft":
        assert torch.equal(result.z, judge.z[..., :-1]), "boundaries differ: choose a seed with none near its threshold"
    values = max(
        float((a.detach().double() - b.detach().double()).abs().max())
        for a, b in [
            (outputs, judge.outputs),
            *((mine, theirs) for (_, mine), (_, theirs) in zip(result.state.named(), judge.state.named(), strict=True)),
        ]
    )
    wanted = gradients_of(network, score(judge.outputs))
    return values, relative_error(gradients_of(network, score(outputs)), wanted)


def make(config: ModelConfig) -> tuple[Network, Tensor]:
    """A float64 network and inputs over which everything that can happen happens."""
    return make_busy_network(config, STEPS, ROWS)


def make_single(config: ModelConfig, steps: int = 10) -> tuple[Network, Tensor]:
    """The same in float32, over fewer steps."""
    network, x = make_busy_network(config, steps, ROWS)
    return network.float(), x if config.kind == "text" else x.float()


def tolerance(network: Network, x: Tensor) -> float:
    """How closely two correct float32 programs can be asked to agree on this network's gradients.

    1e-5, and ten times what moving every weight by one rounding of float32 changes the gradients by: LayerNorm and the
    recurrence of a random network can stretch roundings, in autograd as in anything else.
    """
    config, exact = network.config, copy.deepcopy(network).double()
    noise = make_noise(config, *x.shape[:2])
    x = x if config.kind == "text" else x.double()

    def judge(moved: Network) -> dict[str, Tensor]:
        return gradients_of(moved, score(walk(moved, x, slope=SLOPE, noise=noise).outputs))

    wanted, generator, changes = judge(exact), torch.Generator().manual_seed(4), []
    for _ in range(2):
        moved = copy.deepcopy(exact)
        with torch.no_grad():
            for parameter in moved.parameters():
                parameter.mul_(1 + 2**-24 * torch.randn(parameter.shape, generator=generator).double())
        changes.append(relative_error(judge(moved), wanted))
    assert max(changes) < 1e-5, "choose a seed whose gradients are not a matter of rounding"
    return 1e-5 + 10 * max(changes)


SWITCHES = list(product(("text", "ink"), (True, False), ("nested", "recompute"), ("step", "sample", "soft")))


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize(("kind", "layer_norm", "copy_boundary", "detector"), SWITCHES)
def test_gradients_equal_autograd(kind: str, layer_norm: bool, copy_boundary: str, detector: str, widths: str) -> None:
    """For every switch: in float64 values and all gradients are those of autograd to 1e-9."""
    config = config_for(
        kind, layer_norm=layer_norm, copy_boundary=copy_boundary, detector=detector, hidden=WIDTHS[widths]
    )
    network, x = make(config)
    values, gradients = compare(network, x)
    assert values < 1e-11
    assert gradients < 1e-9


@pytest.mark.parametrize(("kind", "layer_norm", "copy_boundary", "detector"), SWITCHES)
def test_float32_gradients_equal_autograd(kind: str, layer_norm: bool, copy_boundary: str, detector: str) -> None:
    """For every switch: in float32 values and all gradients are those of autograd to 1e-5, and what rounding adds."""
    config = config_for(
        kind, layer_norm=layer_norm, copy_boundary=copy_boundary, detector=detector, hidden=(24, 17, 32)
    )
    network, x = make_single(config)
    values, gradients = compare(network, x)
    assert values < 1e-5
    assert gradients < tolerance(network, x)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize(("kind", "layer_norm"), list(product(("text", "ink"), (True, False))))
def test_gradients_of_the_control_equal_autograd(kind: str, layer_norm: bool, widths: str) -> None:
    """The LSTM control goes through the same window: float64 to 1e-9, float32 to 1e-5."""
    config = config_for(kind, cell="lstm", layer_norm=layer_norm, hidden=WIDTHS[widths])
    assert compare(*make(config))[1] < 1e-9
    network, x = make_single(config)
    assert compare(network, x)[1] < tolerance(network, x)


@pytest.mark.parametrize("kind", ["text", "ink"])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_gradients_from_the_separator_prior(kind: str, layer_norm: bool) -> None:
    """A detector started on separators has autograd's gradients too, saturated as it may be."""
    config = config_for(kind, layer_norm=layer_norm, detector_prior="separator")
    network, x = make(config)
    network.set_separator_prior(np.arange(config.vocabulary) < 3)
    values, gradients = compare(network, x)
    assert values < 1e-11
    assert gradients < 1e-9


@settings(max_examples=40)
@given(model_configs(), seeds, st.integers(1, 7), st.integers(1, 4))
def test_gradients_equal_autograd_for_any_shape(config: ModelConfig, seed: int, steps: int, rows: int) -> None:
    """Any widths, depth, batch and length, from any state carried in: gradients to 1e-9 in float64."""
    network = make_network(config, seed)
    values, gradients = compare(
        network, make_inputs(config, steps, rows, seed), random_state(config, rows, seed), operand=torch.float64
    )
    assert values < 1e-11
    assert gradients < 1e-9


@pytest.mark.parametrize("copy_boundary", ["nested", "recompute"])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_soft_gradients_equal_finite_differences(layer_norm: bool, copy_boundary: str) -> None:
    """Invariant 10: torch.autograd.gradcheck of the soft variant, with respect to every parameter of every layer."""
    config = config_for(
        detector="soft",
        layer_norm=layer_norm,
        copy_boundary=copy_boundary,
        hidden=(2, 1, 2),
        embedding=1,
        output=2,
        vocabulary=3,
    )
    network, x = make_network(config, seed=2), make_inputs(config, 3, 2)
    names = [name for name, _ in network.named_parameters()]

    class Rerun(torch.autograd.Function):
        """A window may be differentiated once, and gradcheck asks more often: run it anew each time."""

        @staticmethod
        def forward(ctx: Any, *values: Tensor) -> Tensor:
            ctx.save_for_backward(*values)
            return evaluate([value.detach() for value in values])

        @staticmethod
        def backward(ctx: Any, d: Tensor) -> tuple[Tensor, ...]:
            values = [value.detach().requires_grad_() for value in ctx.saved_tensors]
            with torch.enable_grad():
                return torch.autograd.grad(evaluate(values), values, d)

    def evaluate(values: list[Tensor]) -> Tensor:
        state = random_state(config, 2, 1)
        named = dict(zip(names, values, strict=True))
        result = torch.func.functional_call(network, named, (x, state, FLOAT64, SLOPE))
        return outputs_of(network, result)

    inputs = [p.detach().clone().requires_grad_() for p in network.parameters()]
    assert torch.autograd.gradcheck(Rerun.apply, inputs, eps=1e-6, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("detector", ["step", "sample"])
@pytest.mark.parametrize("copy_boundary", ["nested", "recompute"])
def test_straight_through_is_the_soft_gradient_at_the_same_boundaries(
    detector: str, copy_boundary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 10: hold each z at its binary value plus the change of its probability; the slope of that is the STE.

    Such a network is smooth, has the same boundaries at the point where it is differentiated, and knows nothing of
    straight-through estimation: central differences of its output must be the window's gradient.
    """
    config = config_for(detector=detector, copy_boundary=copy_boundary)
    network, x = make_busy_network(config, 12, ROWS)
    noise = make_noise(config, 12, ROWS)
    gradients = gradients_of(network, score(run(network, x).raw))
    held: list[Tensor] = []
    replay: Iterator[Tensor] | None = None

    def shifted(logit: Tensor, slope: Tensor, _: str, draw: Tensor | None = None) -> Tensor:
        probability = hard_sigmoid(logit, slope)
        if replay is None:
            hard = (logit > 0) if draw is None else (draw < probability)
            held.append(hard.double() - probability)
            return hard.double()
        return probability + next(replay)

    monkeypatch.setattr(model.network.cell, "boundary", shifted)
    with torch.no_grad():
        walk(network, x, slope=SLOPE, noise=noise)
        generator = torch.Generator().manual_seed(3)
        for _ in range(10):
            direction = {n: torch.randn(p.shape, generator=generator).double() for n, p in network.named_parameters()}
            values = []
            for size in (1e-6, -2e-6):
                for name, parameter in network.named_parameters():
                    parameter.add_(size * direction[name])
                replay = iter(held)
                values.append(float(score(walk(network, x, slope=SLOPE, noise=noise).outputs)))
            for name, parameter in network.named_parameters():
                parameter.add_(1e-6 * direction[name])
            found = (values[0] - values[1]) / 2e-6
            wanted = sum(float((gradients[name] * direction[name]).sum()) for name in gradients)
            # Central differences with a step of 1e-6 in float64 are good for about eight digits of the sum's scale.
            assert found == pytest.approx(wanted, rel=1e-5, abs=1e-4)


class _DropOne(ast.NodeTransformer):
    """Replaces the n-th sum or difference by one of its sides, and names what it dropped."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.seen = 0
        self.dropped = ""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Add | ast.Sub):
            return node
        for kept, dropped in ((node.left, node.right), (node.right, node.left)):
            if self.seen == self.target:
                self.dropped = f"{ast.unparse(dropped)} of {ast.unparse(node)}"
                self.seen += 1
                return kept
            self.seen += 1
        return node


def mutants(part: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    """All versions of a kernel, found in its module, with one side of one sum or difference dropped."""
    name = part.__name__.rpartition(".")[2]
    source = inspect.getsource(part)
    target = 0
    while True:
        dropper = _DropOne(target)
        tree = ast.fix_missing_locations(dropper.visit(ast.parse(source)))
        if not dropper.dropped:
            return
        scope: dict[str, Any] = {"__name__": part.__name__}
        exec(compile(tree, "<mutant>", "exec"), scope)  # noqa: S102 (our own source, one term less)
        yield dropper.dropped, scope[name]
        target += 1


@pytest.mark.parametrize("part", [forward, backward], ids=["forward", "backward"])
def test_every_term_of_the_kernels_is_needed(part: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: with any one term dropped from a kernel, some network shows it.

    The terms are found in the kernel's own source, so that none can be forgotten here.
    """
    cases = [
        make(config_for(hidden=(4, 3, 5), output=4, **switches))
        for switches in (
            {},
            {"copy_boundary": "recompute", "layer_norm": False},
            {"detector": "soft"},
            {"cell": "lstm"},
        )
    ]
    states = [random_state(network.config, ROWS, 1) for network, _ in cases]
    survivors, count = [], 0
    for dropped, mutant in mutants(part):
        monkeypatch.setattr(kernels, part.__name__.rpartition(".")[2], mutant)
        count += 1
        if not any(_notices(network, x[:6], state) for (network, x), state in zip(cases, states, strict=True)):
            survivors.append(dropped)
    assert count > 20
    assert not survivors


@pytest.mark.parametrize("helper", [step.gating, step.fire, step.tanh], ids=lambda helper: str(helper.__name__))
def test_every_term_of_what_the_kernels_share_is_needed(
    helper: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of the functions that both kernels use; what is dropped is missing from both."""
    cases = [make(config_for(hidden=(4, 3, 5), output=4, **switches)) for switches in ({}, {"detector": "soft"})]
    states = [random_state(network.config, ROWS, 1) for network, _ in cases]
    source, target, survivors = inspect.getsource(helper), 0, []
    while True:
        dropper = _DropOne(target)
        tree = ast.fix_missing_locations(dropper.visit(ast.parse(source)))
        if not dropper.dropped:
            break
        scope = dict(vars(step))
        exec(compile(tree, "<mutant>", "exec"), scope)  # noqa: S102 (our own source, one term less)
        for module in (forward, backward):
            monkeypatch.setattr(module, helper.__name__, scope[helper.__name__])
        if not any(_notices(network, x[:6], state) for (network, x), state in zip(cases, states, strict=True)):
            survivors.append(dropper.dropped)
        target += 1
    assert target > 1
    assert not survivors


def _notices(network: Network, x: Tensor, state: NetworkState) -> bool:
    """Whether the comparison finds something wrong."""
    try:
        values, gradients = compare(network, x, state)
    except (AssertionError, RuntimeError, TypeError, AttributeError, IndexError):
        return True  # boundaries differ, or what is left does not fit together
    return not (values < 1e-11 and gradients < 1e-9)


@pytest.mark.parametrize("place", range(6))
def test_every_result_of_the_backward_kernel_is_used(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any one of the backward kernel's six results zeroed, the gradients are wrong."""

    def mutilated(variant: Variant, shape: Shape | None) -> tuple[Callable[..., Any], Callable[..., Any]]:
        there, back = kernels.kernels(variant, shape)

        def less(*arguments: Any) -> tuple[Any, ...]:
            results = list(back(*arguments))
            assert len(results) == len(Leaving._fields)
            results[place] = None if results[place] is None else torch.zeros_like(results[place])
            return tuple(results)

        return there, less

    network, x = make(config_for())
    assert compare(network, x)[1] < 1e-9
    monkeypatch.setattr(model.network.fast.layer_run, "kernels", mutilated)
    assert compare(network, x)[1] > 1e-3


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiled kernels need g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the compiler's own
def test_compiled_kernels_equal_autograd() -> None:
    """The fused kernels give autograd's gradients in float32 to 1e-5.

    Four layers of one width: the two in the middle are alike in everything but where their neighbours' rows lie.
    """
    network, x = make_single(config_for(hidden=(6, 6, 6, 6)))
    values, gradients = compare(network, x, compiled=True)
    assert values < 1e-5
    assert gradients < tolerance(network, x)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiled kernels need g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the compiler's own
def test_compiled_bfloat16_equals_plain_bfloat16() -> None:
    """As presets train: fused kernels with bf16 operands round where the plain ones do, so boundaries are the same."""
    network, x = make_single(config_for("ink"))
    plain, fused = run(network, x, operand=torch.bfloat16), run(network, x, operand=torch.bfloat16, compiled=True)
    assert torch.equal(fused.z, plain.z)
    # A fused sum over rows is taken in another order.
    torch.testing.assert_close(fused.raw, plain.raw, rtol=0, atol=1e-5)
    wanted = gradients_of(network, score(plain.raw))
    assert relative_error(gradients_of(network, score(fused.raw)), wanted) < 1e-4


@pytest.mark.parametrize("kind", ["text", "ink"])
@pytest.mark.parametrize("copy_boundary", ["nested", "recompute"])
def test_bfloat16_operands_stay_close(kind: str, copy_boundary: str) -> None:
    """With bf16 operands outputs and gradients are float32's within a few roundings of 8 bits.

    One rounding costs up to 2^-9; a dozen of them meet in a gate and the recurrence carries them on, so a few percent
    of the norm. That holds as long as no boundary flips: rows are compared until a logit comes near its threshold.
    """
    network, x = make_single(config_for(kind, copy_boundary=copy_boundary))
    exact, rounded = run(network, x), run(network, x, operand=torch.bfloat16)
    flipped = (exact.z != rounded.z) & (exact.logit.abs() > 0.1)
    assert not flipped[0].any()
    same = (exact.z == rounded.z).all(2).all(0)
    assert same.any(), "choose a seed with a row that keeps its boundaries"
    rows = same.nonzero()[:, 0]
    state = network.zeros(len(rows))
    exact, rounded = run(network, x[:, rows], state), run(network, x[:, rows], state, operand=torch.bfloat16)
    assert rounded.raw.dtype == torch.float32
    assert _distance(rounded.raw, exact.raw) < 0.05
    wanted = gradients_of(network, score(exact.raw))
    found = gradients_of(network, score(rounded.raw))
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    whole = [torch.cat([gradient.flatten() for gradient in part.values()]) for part in (found, wanted)]
    assert _distance(*whole) < 0.1


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().norm() / wanted.detach().norm().clamp_min(1e-12))


@pytest.mark.parametrize("copy_boundary", ["nested", "recompute"])
def test_bfloat16_copies_keep_their_bits(copy_boundary: str) -> None:
    """Invariant 1 with bf16 operands: a COPY keeps the bits of h and c; c and the logit are unrounded float32."""
    network, x = make_single(config_for(copy_boundary=copy_boundary), STEPS)
    config, state, copies, logits, cells = network.config, network.zeros(ROWS), 0, [], []
    with torch.no_grad():
        for t in range(STEPS):
            result = run(network, x[t : t + 1], state, operand=torch.bfloat16)
            for index in range(1, config.num_layers):
                before, after = state.layers[index], result.state.layers[index]
                rows = (result.z[0, :, index - 1] == 0) & (before.z == 0)
                assert torch.equal(after.h[rows], before.h[rows])
                assert torch.equal(after.c[rows], before.c[rows])
                copies += int(rows.sum())
            state = result.state
            logits.append(result.logit)
            cells.append(state.layers[0].c)
    assert copies > STEPS // 2
    for values in (torch.stack(logits), torch.stack(cells)):
        assert values.dtype == torch.float32
        assert (values != values.bfloat16().float()).float().mean() > 0.9


@settings(max_examples=25)
@given(model_configs(), seeds, st.lists(st.integers(1, 6), min_size=2, max_size=5), st.booleans())
def test_windows_with_carried_state_equal_one_pass(
    config: ModelConfig, seed: int, lengths: list[int], single_precision: bool
) -> None:
    """Invariant 7: a sequence cut anywhere, with h, c and z carried, gives what one pass gives, z to the bit.

    The embedding's and the head's products run over all steps of a window at once, and may sum differently at another
    size; nothing else differs.
    """
    dtype = torch.float32 if single_precision else torch.float64
    network = make_network(config, seed, dtype)
    x = make_inputs(config, sum(lengths), 2, seed, dtype)
    noise = make_noise(config, sum(lengths), 2, dtype)
    options, slope = WindowOptions(dtype), SLOPE.to(dtype)
    with torch.no_grad():
        whole = network(x, network.zeros(2), options, slope, noise)
        assume(config.detector != "step" or whole.logit.abs().min() > 1e-4 if whole.logit.numel() else True)
        state, raw, z, start = network.zeros(2), [], [], 0
        for length in lengths:
            part = slice(start, start + length)
            result = network(x[part], state, options, slope, None if noise is None else noise[part])
            state, start = result.state, start + length
            raw.append(result.raw)
            z.append(result.z)
    if config.detector != "soft":
        assert torch.equal(torch.cat(z), whole.z)
    pairs = [(mine, theirs) for (_, mine), (_, theirs) in zip(state.named(), whole.state.named(), strict=True)]
    for mine, theirs in [*pairs, (torch.cat(z), whole.z), (torch.cat(raw), whole.raw)]:
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3 if single_precision else 1e-10)


def test_forgetting_z_changes_the_first_step() -> None:
    """The comparison of windows can fail: h and c carried without z give other operations."""
    network, x = make(config_for())
    with torch.no_grad():
        state = run(network, x[:9]).state
        cut = NetworkState(tuple(type(s)(s.h, s.c, torch.zeros_like(s.z)) for s in state.layers))
        assert state.layers[0].z.any()
        assert not torch.equal(run(network, x[9:], cut).raw, run(network, x[9:], state).raw)


def test_no_gradient_flows_into_the_carried_state() -> None:
    """What a window hands on has no history, so the next window's backward ends at its own first step."""
    network, x = make(config_for())
    result = run(network, x)
    for _, tensor in result.state.named():
        assert not tensor.requires_grad
    assert not result.z.requires_grad
    assert not result.logit.requires_grad


@pytest.mark.parametrize("copy_boundary", ["nested", "recompute"])
def test_copies_are_not_multiplied_on_the_way_back(copy_boundary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backward, a layer multiplies the rows that do not COPY, and all of them where its detector reads COPYs too."""
    network, x = make(config_for("text", copy_boundary=copy_boundary))
    layers = range(network.config.num_layers)
    rows: dict[int, int] = dict.fromkeys(layers, 0)
    plain = model.network.fast.product.prepare
    # Backward, a layer's matrix comes transposed, its columns padded.
    turned = [(-(-layer.weight.shape[1] // 8) * 8, len(layer.weight)) for layer in map(network.layer, layers)]

    def counted(weight: Tensor, batch: int) -> model.network.fast.product.Product:
        product = plain(weight, batch)

        def count(operand: Tensor) -> Tensor:
            if tuple(weight.shape) in turned:
                rows[turned.index((weight.shape[0], weight.shape[1]))] += len(operand)
            return product(operand)

        return count

    monkeypatch.setattr(model.network.fast.layer_run, "prepare", counted)
    gradients_of(network, score(run(network, x).raw))
    done = walk(network, x, slope=SLOPE).operations() != COPY
    needed = {index: int(done[..., index].sum()) for index in layers}
    if copy_boundary == "recompute":
        needed[1] = STEPS * ROWS
    assert rows == needed
    assert needed[2] < STEPS * ROWS


def test_backward_twice_is_refused() -> None:
    """A window's activations are used up by its backward; a second one says so instead of giving nonsense."""
    network, x = make(config_for())
    loss = score(run(network, x).raw)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="gradients can be taken once"):
        loss.backward()


def test_sampling_without_noise_is_refused() -> None:
    """A window with a sampled detector and no draws is refused, as a step is, instead of turning soft."""
    network, x = make(config_for(detector="sample"))
    with pytest.raises(ValueError, match="noise goes with a sampled detector"):
        network(x, network.zeros(ROWS), FLOAT64, SLOPE)
    network, x = make(config_for())
    with pytest.raises(ValueError, match="only with one"):
        network(x, network.zeros(ROWS), FLOAT64, SLOPE, torch.zeros(STEPS, ROWS, 2))


def test_everything_happens_in_these_windows() -> None:
    """The traces whose gradients are compared contain every operation of every layer."""
    for kind, layer_norm, copy_boundary in product(("text", "ink"), (True, False), ("nested", "recompute")):
        config = config_for(kind, layer_norm=layer_norm, copy_boundary=copy_boundary)
        network, x = make(config)
        seen = walk(network, x, slope=SLOPE).operations()
        for index in range(config.num_layers):
            assert set(np.unique(seen[..., index])) == possible_operations(config, index)
        assert (seen == COPY).any()
