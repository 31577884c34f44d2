"""Networks for tests: small, every operation in use, and walked step by step with autograd as the judge."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import ModelConfig
from model.network.fast.window import WindowOptions
from model.network.heads import mixture_of, pack
from model.network.reference import COPY, FLUSH, UPDATE
from model.network.stack import Network, WindowResult
from model.network.state import NetworkState

SMALL = ModelConfig(vocabulary=11, embedding=4, hidden=(8, 6, 10), output=9, mixtures=3)
FLOAT64 = WindowOptions(torch.float64)


def config_for(kind: str = "text", **changes: Any) -> ModelConfig:
    """The small configuration for text or ink, with changes."""
    values = SMALL.to_json() | {"kind": kind, "vocabulary": 11 if kind == "text" else 0} | changes
    return ModelConfig.from_json(values)


def make_network(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float64) -> Network:
    """A network none of whose parameters has a special value, and whose detectors fire about every other time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(config).double()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if not name.endswith("weight"):
                    parameter.add_(0.2 * torch.randn_like(parameter))
            for index in range(config.num_layers):
                layer = network.layer(index)
                if layer.detects:
                    (layer.weight if layer.gain is None else layer.gain)[..., -1] *= 5 if layer.gain is None else 3
                    layer.bias[-1] *= 0.1
    return network.to(dtype)


def make_busy_network(
    config: ModelConfig, steps: int, batch: int, accept: Callable[[Network, Tensor], bool] = lambda *_: True
) -> tuple[Network, Tensor]:
    """A float64 network and inputs over which every operation of every layer occurs: the first seed that has them.

    Args:
        config: of the network.
        steps, batch: T and B of the inputs.
        accept: asked about network and inputs; a further condition.
    """
    for seed in range(200):
        network, x = make_network(config, seed), make_inputs(config, steps, batch, seed)
        with torch.no_grad():
            seen = walk(network, x, noise=make_noise(config, steps, batch)).operations()
        busy = all(set(np.unique(seen[..., n])) == possible_operations(config, n) for n in range(config.num_layers))
        if (busy or config.detector == "soft" or config.cell == "lstm") and accept(network, x):
            return network, x
    msg = f"no seed gives what is asked for with {config}"
    raise AssertionError(msg)


def possible_operations(config: ModelConfig, index: int) -> set[int]:
    """What a layer (counted from 0) can do: layer 1 never COPYs, the top one never FLUSHes."""
    return {UPDATE} | ({COPY} if index else set()) | ({FLUSH} if config.has_detector(index) else set())


def make_inputs(
    config: ModelConfig, steps: int, batch: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Symbols (T, B) or offsets (T, B, 3)."""
    generator = torch.Generator().manual_seed(seed)
    if config.kind == "text":
        return torch.randint(0, config.vocabulary, (steps, batch), generator=generator)
    x = torch.randn(steps, batch, 3, generator=generator, dtype=torch.float64)
    x[..., 2] = (x[..., 2] > 1).double()
    return x.to(dtype)


def make_noise(config: ModelConfig, steps: int, batch: int, dtype: torch.dtype = torch.float64) -> Tensor | None:
    """Uniform draws (T, B, L-1) for a sampled detector, else None."""
    if config.detector != "sample":
        return None
    generator = torch.Generator().manual_seed(5)
    return torch.rand(steps, batch, config.num_layers - 1, generator=generator, dtype=torch.float64).to(dtype)


def random_state(config: ModelConfig, batch: int, seed: int, dtype: torch.dtype = torch.float64) -> NetworkState:
    """A state from the middle of a sequence: any h, c, and z in {0, 1} but on top."""
    generator = torch.Generator().manual_seed(seed)
    state = NetworkState.zeros(config.hidden, batch, dtype, torch.device("cpu"))
    named = {}
    for name, tensor in state.named():
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.startswith("z"):
            top = not config.has_detector(int(name[1:]) - 1)
            values = torch.zeros_like(values) if top else (values > 0).double()
        named[name] = (torch.tanh(values) if name.startswith("h") else values).to(dtype)
    return NetworkState.from_named(named)


@dataclass(frozen=True)
class Walk:
    """What a network did over T steps.

    Attributes:
        outputs: (T, B, outputs), logits or packed mixtures.
        h, c: of each layer (T, B, H).
        z: (T, B, L), the top layer's zeros included.
        z_before: z one step earlier.
        state: after the last step.
    """

    outputs: Tensor
    h: list[Tensor]
    c: list[Tensor]
    z: Tensor
    z_before: Tensor
    state: NetworkState

    def operations(self, *, lstm: bool = False) -> NDArray[np.int64]:
        """COPY, UPDATE or FLUSH of each step, row and layer (T, B, L), by the table of Eqs. 2-3."""
        flush = self.z_before.detach().numpy() == 1
        below = self.z.detach().numpy()[..., :-1] == 1
        update = np.concatenate([np.ones_like(flush[..., :1]), below | lstm], 2)
        return np.where(flush, FLUSH, np.where(update, UPDATE, COPY))


def walk(
    network: Network,
    x: Tensor,
    state: NetworkState | None = None,
    slope: float | Tensor = 1.0,
    noise: Tensor | None = None,
) -> Walk:
    """Step through x (T, B[, 3]) with `Network.step`, history kept."""
    state = network.zeros(x.shape[1]) if state is None else state
    outputs, states = [], [state]
    for t in range(x.shape[0]):
        output, state = network.step(x[t], state, slope, None if noise is None else noise[t])
        outputs.append(output)
        states.append(state)
    layers = range(len(state.layers))
    z = torch.stack([torch.stack([layer.z for layer in s.layers], 1) for s in states])
    return Walk(
        torch.stack(outputs),
        [torch.stack([s.layers[n].h for s in states[1:]]) for n in layers],
        [torch.stack([s.layers[n].c for s in states[1:]]) for n in layers],
        z[1:],
        z[:-1],
        state,
    )


def outputs_of(network: Network, result: WindowResult) -> Tensor:
    """What `step` gives, from what a window gives."""
    return pack(mixture_of(result.raw)) if network.config.kind == "ink" else result.raw


def score(outputs: Tensor) -> Tensor:
    """A scalar that every output moves by an amount of its own."""
    generator = torch.Generator().manual_seed(9)
    return (outputs.double() * torch.randn(outputs.shape, generator=generator, dtype=torch.float64)).sum()


def gradients_of(network: Network, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of each parameter, zeros where there is none."""
    named = dict(network.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, found, strict=True))


def relative_error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest difference of any parameter's gradient, as a share of that gradient's largest entry."""
    worst = 0.0
    for name, gradient in wanted.items():
        difference = float((found[name].double() - gradient.double()).abs().max())
        scale = float(gradient.double().abs().max())
        worst = max(worst, difference / scale if scale else difference)
    return worst
