"""The engines that a parity check compares with the reference: PyTorch, TorchScript, and by `OnnxStep` ONNX Runtime.

All of them take and return the state as NumPy arrays under the names of the bundle (`h1` ... `e3`).
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

from export.graphs.specs import state_specs
from export.graphs.torchscript import load_script
from export.runtime import Lines
from model.network.stack import Condition, Network
from model.network.state import NetworkState

Array = NDArray[Any]
State = dict[str, Array]


class Engine(Protocol):
    """Anything that takes steps of a batch of rows."""

    def zeros(self, batch: int) -> State:
        """Return the state before the first step."""

    def step(self, x: Array, state: Mapping[str, Array], lines: Lines | None = None) -> tuple[Array, State]:
        """Return the output and the next state; lines are what the rows write, if they do."""


class TorchStep:
    """`Network.step` in PyTorch: it computes every layer, masks what COPYs, and carries no `e`."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def zeros(self, batch: int) -> State:
        """Return the state before the first step."""
        carried = {spec.name for spec in state_specs(self._network.config)}
        return {name: tensor.numpy() for name, tensor in self._network.zeros(batch).named() if name in carried}

    @torch.no_grad()
    def step(self, x: Array, state: Mapping[str, Array], lines: Lines | None = None) -> tuple[Array, State]:
        """Return the output and the next state."""
        tensors = {name: torch.tensor(values) for name, values in state.items() if name[0] in "hczw"}
        for number in range(1, self._network.config.num_layers + 1):  # the bundle leaves out a z that is always 0
            tensors.setdefault(f"z{number}", torch.zeros_like(tensors["h1"][:, 0]))
        conditioning = None
        if lines is not None:
            conditioning = self._network.conditioning(Condition(torch.tensor(lines.ids), torch.tensor(lines.writer)))
        output, following = self._network.step(
            torch.tensor(x), NetworkState.from_named(tensors), conditioning=conditioning
        )
        return output.numpy(), {name: tensor.numpy() for name, tensor in following.named() if name in state}


class ScriptStep:
    """The TorchScript file of a bundle."""

    def __init__(self, content: bytes) -> None:
        self._module = load_script(content)

    def zeros(self, batch: int) -> State:
        """Return the state before the first step."""
        return {name: tensor.numpy() for name, tensor in self._module.zeros(batch).items()}

    @torch.no_grad()
    def step(self, x: Array, state: Mapping[str, Array], lines: Lines | None = None) -> tuple[Array, State]:
        """Return the output and the next state."""
        tensors = {name: torch.tensor(values) for name, values in state.items()}
        if lines is not None:
            tensors |= self._module.read(torch.tensor(lines.ids), torch.tensor(lines.writer))
        output, following = self._module(torch.tensor(x), tensors)
        return output.numpy(), {name: tensor.numpy() for name, tensor in following.items() if name in state}
