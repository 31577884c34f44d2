"""The arrays of one step, laid out as the exported graphs use them; NumPy on the outside, read from a trained network.

Both graphs, TorchScript and ONNX, are built from the same `StepWeights`, so that they differ in nothing but the machine
that runs them. What a layer sends to the output module (its share of the gates' logits and its projection, Eqs. 11-12)
changes only when the layer does; it is one product, and its result is carried as the state `e`.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from export.bundle import StateSpec, TensorSpec
from model.cell import NORM_EPSILON
from model.config import ModelConfig
from model.network import Network

Array = NDArray[np.float32]
Precision = Literal["float32", "float16"]

__all__ = ["NORM_EPSILON", "ExportError", "LayerWeights", "Precision", "StepWeights", "round_weights", "state_specs"]


class ExportError(Exception):
    """A network that cannot be exported as it is; one sentence with the reason and what to do."""


@dataclass(frozen=True)
class LayerWeights:
    """One layer.

    Attributes:
        own: (H + H_below, N), rows [own h | h below]; layer 1 has no rows for below. Columns [f|i|o|g|detector].
        above: (H_above, N), the top-down rows, or None where there are none.
        gain, bias: (N,); without LayerNorm the gain is None.
        out: (H, L + O), columns [share of the gates' logits | projection].
    """

    own: Array
    above: Array | None
    gain: Array | None
    bias: Array
    out: Array

    @property
    def size(self) -> int:
        """H."""
        return len(self.out)

    @property
    def detects(self) -> bool:
        """Whether the last column is a boundary detector."""
        return self.bias.size == 4 * self.size + 1


@dataclass(frozen=True)
class StepWeights:
    """A whole network.

    Attributes:
        config: the network's sizes and switches.
        embedding: (V, E) for text, (3, E) for ink; times `input` (E, N) it gives layer 1's share of the input.
        embedding_bias: (N,) for ink, already multiplied by `input`; None for text.
        layers: from layer 1 up.
        head, head_bias: (O, outputs) and (outputs,).
        half: whether the matrices hold float16 values and are to be stored as such.
    """

    config: ModelConfig
    embedding: Array
    input: Array
    embedding_bias: Array | None
    layers: tuple[LayerWeights, ...]
    head: Array
    head_bias: Array
    half: bool

    @classmethod
    def of(cls, network: Network, precision: Precision = "float32") -> "StepWeights":
        """Return the arrays of a network whose weights were already rounded by `round_weights`.

        Raises:
            ExportError: the network has a switch under which a COPY cannot be skipped.
        """
        config = network.config
        check_skippable(config)
        text = config.kind == "text"
        first = _array(network.layer(0).input)
        embedding = _array(network.embedding.weight if text else network.embedding.weight.T)
        bias = None if text else (_array(network.embedding.bias).astype(np.float64) @ first).astype(np.float32)
        return cls(
            config=config,
            embedding=embedding,
            input=first,
            embedding_bias=bias,
            layers=tuple(_layer(network, index) for index in range(config.num_layers)),
            head=_array(network.output.weight),
            head_bias=_array(network.output.bias),
            half=precision == "float16",
        )


def check_skippable(config: ModelConfig) -> None:
    """Raise ExportError unless a COPY leaves everything a layer sends to the others as it was."""
    if config.cell == "lstm":
        return
    if config.copy_boundary != "nested":
        raise ExportError(
            f'copy_boundary is "{config.copy_boundary}", under which a layer that COPYs still reads its detector, '
            'so its products cannot be skipped; train with "nested" to export'
        )
    if config.detector != "step":
        raise ExportError(
            f'detector is "{config.detector}", but the exported step has neither random draws nor half-open '
            'boundaries; train with "step" to export'
        )


def round_weights(network: Network, precision: Precision) -> Network:
    """Return a copy of a network in float32 whose matrices can be stored in a precision without any further loss.

    Vectors (gains, biases) stay float32: they are few. What is compared and measured afterwards is the copy.

    Raises:
        ExportError: a weight is not finite, or too large for float16.
    """
    rounded = deepcopy(network).to(device="cpu", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if precision == "float16" and parameter.ndim == 2:
                parameter.copy_(parameter.half().float())
            if not bool(torch.isfinite(parameter).all()):
                raise ExportError(f"{name} holds a value that is not finite in {precision}")
    return rounded


def state_specs(config: ModelConfig) -> tuple[StateSpec, ...]:
    """Return the carried tensors in the order of the graph: h, c of every layer, z of all but the top, e from layer 2.

    The LSTM control computes every layer at every step and carries neither z nor e.
    """
    layers = range(1, config.num_layers + 1)
    widths = {f"h{layer}": config.hidden[layer - 1] for layer in layers}
    widths |= {f"c{layer}": config.hidden[layer - 1] for layer in layers}
    specs = [_state(name, width) for name, width in widths.items()]
    if config.cell == "hmlstm":
        specs += [_state(f"z{layer}") for layer in layers[:-1]]
        specs += [_state(f"e{layer}", config.num_layers + config.output) for layer in layers[1:]]
    return tuple(specs)


def input_spec(config: ModelConfig) -> TensorSpec:
    """Return the step's input beside the state."""
    if config.kind == "text":
        return TensorSpec("token", "int64", ("batch",))
    return TensorSpec("offset", "float32", ("batch", 3))


def output_spec(config: ModelConfig) -> TensorSpec:
    """Return the step's output beside the state."""
    return TensorSpec("logits" if config.kind == "text" else "mixture", "float32", ("batch", config.num_outputs))


def _layer(network: Network, index: int) -> LayerWeights:
    """Cut one layer's weights into the parts that are multiplied on different rows."""
    layer = network.layer(index)
    weight = _array(layer.weight)
    size, above = layer.size, layer.above
    own = np.concatenate([weight[:size], weight[size + above :]])
    place = slice(sum(network.config.hidden[:index]), sum(network.config.hidden[: index + 1]))
    return LayerWeights(
        own=own,
        above=weight[size : size + above] if above else None,
        gain=None if layer.gain is None else _array(layer.gain),
        bias=_array(layer.bias),
        out=np.concatenate([_array(network.output.gate)[place], _array(network.output.project)[place]], axis=1),
    )


def _array(tensor: Any) -> Array:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


def _state(name: str, width: int | None = None) -> StateSpec:
    return StateSpec(name, "float32", ("batch",) if width is None else ("batch", width), f"{name}_next")
