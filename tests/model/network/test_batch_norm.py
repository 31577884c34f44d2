"""The batch-normalised LSTM does what its equations say, and is trained and measured like the others."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.average import AverageError, average
from model.checkpoints.checkpoint import BEST, Checkpoint
from model.checkpoints.start import start_from
from model.codec import TextCodec
from model.data.corpus import Corpus, Window
from model.network.batch_norm import MOMENTUM, BatchNormLayer
from model.network.fast.window import WindowOptions
from model.network.stack import Masks, Network
from model.network.state import LayerState, NetworkState
from model.training.averaging import estimate_population
from model.training.evaluate import evaluate
from model.training.loop import build
from tests.model.corpora import small_preset, write
from tests.model.networks import (
    FLOAT64,
    config_for,
    gradients_of,
    make_inputs,
    make_network,
    random_state,
    relative_error,
    score,
    walk,
)
from tests.model.training.test_loop import make_trainer, read_log

CONFIG = config_for(cell="bn-lstm", layer_norm=False)
CHANGES: dict[str, Any] = {"cell": "bn-lstm", "layer_norm": False}
SLOPE = torch.tensor(1.0, dtype=torch.float64)
STEPS, ROWS = 7, 5


def network_of(seed: int = 1, *, training: bool = True) -> Network:
    """A float64 network whose population, too, is like no other."""
    network = make_network(CONFIG, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in network.named_buffers():
        drawn = torch.randn(buffer.shape, generator=generator, dtype=torch.float64)
        buffer.copy_(0.1 * drawn if name.endswith("mean") else torch.exp(0.3 * drawn))
    return network.train(training)


def layer_of(network: Network, index: int) -> BatchNormLayer:
    """A layer of such a network."""
    layer = network.layer(index)
    assert isinstance(layer, BatchNormLayer)
    return layer


def normalised(
    v: Tensor, gain: Tensor, bias: Tensor | float, population: tuple[Tensor, Tensor] | None, seen: list[Tensor]
) -> Tensor:
    """BN(v; gain, bias) of v (B, n), unit by unit; the batch's mean and variance go to `seen`."""
    columns = []
    for unit in range(v.shape[1]):
        column = v[:, unit]
        mean = column.sum() / len(column)
        variance = ((column - mean) ** 2).sum() / len(column)
        seen.append(torch.stack([mean, variance]).detach())
        if population is not None:
            mean, variance = population[0][unit], population[1][unit]
        columns.append((column - mean) / torch.sqrt(variance + 1e-5))
    return gain * torch.stack(columns, 1) + bias


def literal(
    network: Network, x: Tensor, state: NetworkState, masks: tuple[Tensor, ...] = ()
) -> tuple[Tensor, list[LayerState], list[Tensor]]:
    """The equations, step by step and unit by unit; logits, the last state, and each layer's statistics (T, 9H, 2)."""
    states, outputs = list(state.layers), []
    seen: list[list[Tensor]] = [[] for _ in states]
    for symbols in x:
        below = network.embedding.weight[symbols]
        for index in range(len(states)):
            layer, h, c = layer_of(network, index), states[index].h, states[index].c
            size, parts = layer.size, [4 * layer.size, 4 * layer.size, layer.size]
            weight = layer.weight * masks[index + 1] if masks else layer.weight
            from_below = layer.input if layer.input is not None else weight[size:]
            if masks and layer.input is not None:
                from_below = layer.input * masks[0]
            population = list(zip(layer.mean.split(parts), layer.variance.split(parts), strict=True))
            known = [None] * 3 if network.training else population
            now: list[Tensor] = []
            s = normalised(h @ weight[:size], layer.gain_h, 0.0, known[0], now)
            s = s + normalised(below @ from_below, layer.gain_x, 0.0, known[1], now) + layer.bias
            f, i, o, g = s.split(size, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            below = torch.sigmoid(o) * torch.tanh(normalised(c, layer.gain_c, layer.bias_c, known[2], now))
            states[index] = LayerState(below, c, states[index].z)
            seen[index].append(torch.stack(now))
        outputs.append(network.output(torch.cat([s.h for s in states], 1)))
    return torch.stack(outputs), states, [torch.stack(each) for each in seen]


def window(network: Network, x: Tensor, state: NetworkState, masks: Masks | None = None) -> tuple[Tensor, NetworkState]:
    """Logits and state after a window, plain, in float64."""
    result = network(x, state, FLOAT64, SLOPE, None, None, masks)
    assert result.z.shape == (*x.shape, 0)
    return result.raw, result.state


def assert_same_states(found: NetworkState, wanted: list[LayerState]) -> None:
    """h and c of every layer."""
    for one, other in zip(found.layers, wanted, strict=True):
        torch.testing.assert_close((one.h, one.c), (other.h.detach(), other.c.detach()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False], ids=["batch", "population"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_a_window_is_the_literal_loop(training: bool, masked: bool) -> None:
    """Logits, state and all gradients of a window from the middle of a sequence, by either kind of statistics."""
    network, x, state = network_of(training=training), make_inputs(CONFIG, STEPS, ROWS), random_state(CONFIG, ROWS, 3)
    weights: tuple[Tensor, ...] = ()
    if masked:
        first = layer_of(network, 0).input
        assert first is not None
        matrices = [first, *(layer_of(network, index).weight for index in range(CONFIG.num_layers))]
        weights = tuple((torch.rand_like(matrix) > 0.3).double() / 0.7 for matrix in matrices)
    wanted, states, _ = literal(network, x, state, weights)
    wanted_gradients = gradients_of(network, score(wanted))
    found, after = window(network, x, state, Masks(weights) if masked else None)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert not any(tensor.requires_grad for _, tensor in after.named())
    assert_same_states(after, states)
    assert relative_error(gradients_of(network, score(found)), wanted_gradients) < 1e-9
    assert all(gradient.abs().max() > 0 for gradient in wanted_gradients.values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiled kernels need g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the compiler's own
def test_fused_is_the_same() -> None:
    """Compiled once for all layers, each of which gets its arguments from elsewhere: what the plain kernels give."""
    config = config_for(**CHANGES, hidden=(8, 8, 8))
    network = make_network(config, dtype=torch.float32)
    x, state = make_inputs(config, STEPS, ROWS), random_state(config, ROWS, 3, torch.float32)
    found = []
    for compiled in (False, True):
        raw = network(x, state, WindowOptions(torch.float32, compiled), torch.tensor(1.0)).raw
        found.append((raw, gradients_of(network, score(raw))))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=1e-5)
    assert relative_error(found[1][1], found[0][1]) < 1e-4


def test_the_population_learns_from_each_window() -> None:
    """A share of the window's statistics, averaged over its steps, the variance as that of a sample."""
    network, x, state = network_of(), make_inputs(CONFIG, STEPS, ROWS), random_state(CONFIG, ROWS, 3)
    before = [(layer_of(network, n).mean.clone(), layer_of(network, n).variance.clone()) for n in range(3)]
    seen = literal(network, x, state)[2]
    window(network, x, state)
    for index, (mean, variance) in enumerate(before):
        layer, average = layer_of(network, index), seen[index].mean(0)
        wanted = (
            (1 - MOMENTUM) * mean + MOMENTUM * average[:, 0],
            (1 - MOMENTUM) * variance + MOMENTUM * average[:, 1] * ROWS / (ROWS - 1),
        )
        torch.testing.assert_close((layer.mean, layer.variance), wanted, rtol=0, atol=1e-12)


@torch.no_grad()
def test_population_statistics_converge() -> None:
    """After enough windows the population's statistics predict about what those of a large batch do."""
    network, rows = network_of(), 64
    state, apart = network.zeros(rows), []
    for seed in range(100):
        x = make_inputs(CONFIG, STEPS, rows, seed)
        if seed in (0, 99):
            known = window(network.eval(), x, state)[0]
        batch, after = window(network.train(), x, state)
        if seed in (0, 99):
            apart.append(float((batch - known).abs().mean() / batch.std()))
        state = after
    assert apart[0] > 0.15
    assert apart[1] < 0.05


@torch.no_grad()
def test_a_row_is_evaluated_alone() -> None:
    """In evaluation the other rows are nothing to a row and no statistics move; in training they are what it is."""
    network, x, state = network_of(), make_inputs(CONFIG, STEPS, ROWS), random_state(CONFIG, ROWS, 3)
    others = torch.cat([x[:, :1], make_inputs(CONFIG, STEPS, ROWS - 1, 8)], 1)
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    one, two = (window(network.eval(), each, state)[0][:, 0] for each in (x, others))
    alone = window(network, x[:, :1], state.select(torch.tensor([0])))[0][:, 0]
    assert torch.equal(one, two)
    torch.testing.assert_close(alone, one, rtol=0, atol=1e-12)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.named_buffers())
    one, two = (window(network.train(), each, state)[0][:, 0] for each in (x, others))
    assert (one - two).abs().max() > 1e-3


@torch.no_grad()
def test_step_equals_window() -> None:
    """Stepping, whatever the mode, is evaluating; a window cut in two is the whole one."""
    network, x, state = network_of(training=False), make_inputs(CONFIG, STEPS, ROWS), random_state(CONFIG, ROWS, 3)
    whole, after = window(network, x, state)
    first, between = window(network, x[:3], state)
    second, last = window(network, x[3:], between)
    stepped = walk(network.train(), x, state)
    for found, ends in ((torch.cat([first, second]), last), (stepped.outputs, stepped.state)):
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
        assert_same_states(ends, list(after.layers))


def test_a_batch_of_one_has_no_statistics() -> None:
    """Training on a single row is refused, evaluating one is not."""
    network, x = network_of(), make_inputs(CONFIG, STEPS, 1)
    with pytest.raises(ValueError, match=r"at least 2 rows at a time: raise train\.batch"):
        window(network, x, network.zeros(1))
    window(network.eval(), x, network.zeros(1))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A few thousand characters."""
    return Corpus.load("text", write("text", tmp_path_factory.mktemp("text")))


def test_it_learns(text: Corpus, tmp_path: Path) -> None:
    """Some dozen updates take a bit off what a fresh network needs, measured by the population's statistics."""
    preset = small_preset("text", CHANGES | {"hidden": (16, 16)}, learning_rate=0.03, batch=16, window=12)
    fresh = evaluate(build(preset, text)[0], text.evaluation("valid", 50), WindowOptions())
    trainer = make_trainer(preset, text, tmp_path, updates=60)
    for update in range(60):
        trainer.one_update(update / 60)
    trained = evaluate(trainer.network, text.evaluation("valid", 50), WindowOptions())
    assert trained["nats_per_step"] < fresh["nats_per_step"] - 0.69
    assert "z_rates" not in trained


@torch.no_grad()
def test_an_averaged_network_is_shown_windows() -> None:
    """Its population is that of all windows but the first, which only fills the state; nothing of before is left."""
    network = network_of()
    xs = [make_inputs(CONFIG, STEPS, ROWS, seed) for seed in range(3)]
    state, seen = network.zeros(ROWS), []
    for x in xs:
        _, states, now = literal(network, x, state)
        state = NetworkState(tuple(states))
        seen.append(now)
    padding, fresh = torch.ones(STEPS, ROWS), torch.zeros(ROWS, dtype=torch.bool)
    estimate_population(network, [Window(x, x, padding, fresh) for x in xs], FLOAT64)
    for index in range(CONFIG.num_layers):
        layer, average = layer_of(network, index), torch.cat([now[index] for now in seen[1:]]).mean(0)
        wanted = average[:, 0], average[:, 1] * ROWS / (ROWS - 1)
        torch.testing.assert_close((layer.mean, layer.variance), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", [0.9, 0.0])
def test_what_is_kept_knows_its_population(average: float, text: Corpus, tmp_path: Path) -> None:
    """The best checkpoint has the statistics of its weights, averaged or not, and measures what was logged."""
    trainer = make_trainer(small_preset("text", CHANGES, average=average), text, tmp_path, updates=8)
    trainer.run()
    kept = checkpoints.load(tmp_path / BEST).network()
    for (name, buffer), own in zip(trainer.averaged().named_buffers(), trainer.network.buffers(), strict=True):
        assert torch.equal(dict(kept.named_buffers())[name], buffer)
        assert torch.equal(own, buffer) == (not average)
        assert (buffer != 1).all()
    found = evaluate(kept, text.evaluation("valid", 8, None, 4), WindowOptions())
    assert found["nats_per_step"] / 0.6931471805599453 == pytest.approx(read_log(tmp_path)[-1]["valid"], rel=1e-5)


def test_a_start_brings_its_population() -> None:
    """Begun with the weights of another training, a network says what that one said."""
    trained, fresh = network_of(1, training=False), network_of(2, training=False)
    codec = TextCodec(tuple("abcdefghijk"), "error")
    start_from(fresh, codec, Checkpoint(CONFIG, small_preset("text").train, codec, {}, trained.state_dict()))
    x = make_inputs(CONFIG, STEPS, ROWS)
    assert torch.equal(window(fresh, x, fresh.zeros(ROWS))[0], window(trained, x, trained.zeros(ROWS))[0])


def test_what_it_has_no_part_in() -> None:
    """It is not averaged with others, and no reference claims to be it."""
    network = network_of()
    codec = TextCodec(tuple("abcdefghijk"), "error")
    kept = Checkpoint(CONFIG, small_preset("text").train, codec, {}, network.state_dict())
    with pytest.raises(AverageError, match="batch normalisation"):
        average([kept, kept])
    with pytest.raises(ValueError, match="no reference"):
        network.reference()


def test_parameters_start_as_the_paper_has_them() -> None:
    """Gains of 0.1, which let gradients through, and no shift; the forget gate open as in any layer."""
    layer = BatchNormLayer(CONFIG, 1)
    for gain in (layer.gain_h, layer.gain_x, layer.gain_c):
        assert (gain == torch.tensor(0.1)).all()
    assert (layer.bias_c == 0).all()
    assert (layer.bias[: layer.size] == 1).all()
