"""The arrays of one step, laid out as the exported graphs use them; NumPy on the outside, read from a trained network.

Both graphs, TorchScript and ONNX, are built from the same `StepWeights`, so that they differ in nothing but the machine
that runs them. What a layer sends to the output module (its share of the gates' logits and its projection, Eqs. 11-12)
changes only when the layer does; it is one product, and its result is carried as the state `e`.

In `int8` every matrix that multiplies an h is stored in 8 bits with a scale per column, and h, which never leaves
(-1, 1), is rounded to steps of 1/63 before the product. Both scales are fixed, so a row's result cannot depend on
other rows, and sums of integers are exact in any order. Why 1/63 and not 1/127: processors without VNNI instructions
add two products of a pair in 16 bits; with |h| <= 63 steps around a zero point of 64 these hold at most
2 * 127 * 127 = 32,258, so nothing saturates on any of them. The other matrices (embedding, head) stay floating point.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from export.bundle.folder import StateSpec, TensorSpec
from model.config import ModelConfig
from model.network.attention import NOTHING
from model.network.cell import NORM_EPSILON
from model.network.stack import Network

Array = NDArray[np.float32]
Precision = Literal["float32", "float16", "int8"]

__all__ = [
    "NORM_EPSILON",
    "ExportError",
    "LayerWeights",
    "Precision",
    "StepWeights",
    "draw_specs",
    "drawn_spec",
    "quantise",
    "round_hidden",
    "round_weights",
    "state_specs",
]

TEXT_SLOTS = 100  # characters of a line, sentinels included, that a graph has room for; the data's longest has 66
HIDDEN_STEPS = 63  # h is rounded to multiples of 1/63
HIDDEN_ZERO = 64  # and stored as an unsigned byte, 1 to 127
WEIGHT_STEPS = 127  # a column's largest weight is so many of its steps


class ExportError(Exception):
    """A network that cannot be exported as it is; one sentence with the reason and what to do."""


@dataclass(frozen=True)
class LayerWeights:
    """One layer.

    Attributes:
        own: (H + H_below, N), rows [own h | h below]; layer 1 has no rows for below. Columns [f|i|o|g|detector].
        above: (H_above, N), the top-down rows, or None where there are none.
        gain, bias: (N,); without LayerNorm the gain is None.
        out: (H, S + O), columns [share of the gates' logits | projection]; S is L, and one more where a text is read.
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
class WindowWeights:
    """What a network needs to write a given text (`model/network/attention.py`); nothing of it multiplies a rounded h.

    Attributes:
        embedding: (V, E) of the characters, zeros for what follows a text.
        neighbours: (3E, E).
        weight, bias: (H, 3K) and (3K,), from h of layer 1 to [weights | sharpness | stride].
        into: (E, N), from the vector read to s of layer 1.
        out: (E, S + O), from the vector read to the output module.
        hands: (W, E') of the writers.
    """

    embedding: Array
    neighbours: Array
    weight: Array
    bias: Array
    into: Array
    out: Array
    hands: Array

    @property
    def mixtures(self) -> int:
        """K."""
        return self.bias.size // 3


@dataclass(frozen=True)
class StepWeights:
    """A whole network.

    Attributes:
        config: the network's sizes and switches.
        embedding: (V, E) for text, (3, E) for ink; times `input` (E, N) it gives layer 1's share of the input.
        embedding_bias: (N,) for ink, already multiplied by `input`; None for text.
        layers: from layer 1 up.
        head, head_bias: (O, outputs) and (outputs,).
        precision: what the matrices hold, and how they are to be stored.
        window: over the text, where one is written.
    """

    config: ModelConfig
    embedding: Array
    input: Array
    embedding_bias: Array | None
    layers: tuple[LayerWeights, ...]
    head: Array
    head_bias: Array
    precision: Precision
    window: WindowWeights | None = None

    @classmethod
    def of(cls, network: Network, precision: Precision = "float32") -> "StepWeights":
        """Return the arrays of a network whose weights were already rounded by `round_weights`.

        Raises:
            ExportError: the network has a switch under which a COPY cannot be skipped, or is there to be measured only.
        """
        config = network.config
        if config.cell == "bn-lstm":
            raise ExportError(
                "a batch-normalised LSTM is there to be measured beside the others (python -m model evaluate), "
                "not to be served; export an HM-LSTM or an LSTM"
            )
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
            precision=precision,
            window=_window(network),
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
    hidden = {id(parameter) for parameter, _ in _read_by_hidden(rounded)} if precision == "int8" else set()
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if parameter.ndim == 2 and precision != "float32" and id(parameter) not in hidden:
                parameter.copy_(parameter.half().float())
            if not bool(torch.isfinite(parameter).all()):
                raise ExportError(f"{name} holds a value that is not finite in {precision}")
        if precision == "int8":
            for parameter, rows in _read_by_hidden(rounded):
                parameter[rows] = torch.from_numpy(dequantise(*quantise(_array(parameter[rows]))))
            for parameter, rows in _read_by_vector(rounded):
                parameter[rows] = parameter[rows].half().float()
    return rounded


def quantise(matrix: Array) -> tuple[NDArray[np.int8], Array]:
    """Return codes (K, N) int8 in -127..127 and a scale (N,) float32 per column, with matrix ~ codes * scale.

    A matrix that is already rounded comes out as it is: its largest weight is 127 steps of its column.
    """
    largest = np.abs(matrix).max(axis=0).astype(np.float64)
    scale = np.where(largest > 0, largest, 1.0) / WEIGHT_STEPS
    return np.rint(matrix / scale).astype(np.int8), scale.astype(np.float32)


def dequantise(codes: NDArray[np.int8], scale: Array) -> Array:
    """Return the matrix (K, N) that codes and scales stand for."""
    return (codes * scale.astype(np.float64)).astype(np.float32)


def hidden_step() -> np.float32:
    """Return the step to which h is rounded, as the files store it."""
    return np.float32(1 / HIDDEN_STEPS)


def product_scale(scale: Array) -> Array:
    """Return what turns a product of codes into numbers, (N,): a column's step times that of h."""
    return (scale.astype(np.float64) / HIDDEN_STEPS).astype(np.float32)


def round_hidden(h: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return hidden values as an int8 product reads them: multiples of 1/63, halves to the even one."""
    rounded: NDArray[np.float64] = np.rint(h * HIDDEN_STEPS) / HIDDEN_STEPS
    return rounded


def distance_to_tie(h: NDArray[np.float64]) -> float:
    """Return how far the nearest of some hidden values is from the middle between two steps, in h."""
    fraction = h * HIDDEN_STEPS - np.floor(h * HIDDEN_STEPS)
    return float(np.abs(fraction - 0.5).min()) / HIDDEN_STEPS


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
        specs += [_state(f"e{layer}", sent_width(config)) for layer in layers[1:]]
    if config.writes_text:
        specs += [_state("window_position", config.window_mixtures), _state("window_vector", config.character_width)]
    return tuple(specs)


def sent_width(config: ModelConfig) -> int:
    """Return S + O: what a source sends to the output module."""
    return len(config.output_sources) + config.output


def input_spec(config: ModelConfig) -> TensorSpec:
    """Return the step's input beside the state."""
    if config.kind == "text":
        return TensorSpec("token", "int64", ("batch",))
    return TensorSpec("offset", "float32", ("batch", 3))


def output_spec(config: ModelConfig) -> TensorSpec:
    """Return the step's output beside the state."""
    return TensorSpec("logits" if config.kind == "text" else "mixture", "float32", ("batch", config.num_outputs))


def draw_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return the inputs that say how to draw from the output; what they mean is told in `export/graphs/draw.py`."""
    if config.kind == "text":
        return (
            TensorSpec("temperature", "float32", ("batch",)),
            TensorSpec("top_p", "float32", ("batch",)),
            TensorSpec("top_k", "int64", ("batch",)),
            TensorSpec("logit_bias", "float32", ("batch", config.num_outputs)),
            TensorSpec("noise", "float64", ("batch",)),
        )
    sampling_inputs = TensorSpec("bias", "float32", ("batch",)), TensorSpec("noise", "float64", ("batch", 4))
    return (*sampling_inputs, *reading_specs(config)) if config.writes_text else sampling_inputs


def reading_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return what a line is written from: its hand's share of s of layer 1, and its text as the window reads it."""
    columns = 4 * config.hidden[0] + config.has_detector(0)
    text = TensorSpec("text", "float32", ("batch", TEXT_SLOTS, config.character_width))
    return TensorSpec("hand", "float32", ("batch", columns)), text


def drawn_spec(config: ModelConfig) -> TensorSpec:
    """Return what is drawn: in the form of the step's input.

    Where a text is written, two facts about the point just read come after it: the logit of the line being over, and
    the index of the character that it belongs to, by the window's largest share.
    """
    if config.writes_text:
        return TensorSpec("drawn", "float32", ("batch", 5))
    return replace(input_spec(config), name="drawn")


def _layer(network: Network, index: int) -> LayerWeights:
    """Cut one layer's weights into the parts that are multiplied on different rows."""
    layer = network.layer(index)
    weight = _array(layer.weight)
    size, above = layer.size, layer.above
    own = np.concatenate([weight[:size], weight[size + above :]]) if index else weight[:size]
    place = slice(sum(network.config.hidden[:index]), sum(network.config.hidden[: index + 1]))
    return LayerWeights(
        own=own,
        above=weight[size : size + above] if above else None,
        gain=None if layer.gain is None else _array(layer.gain),
        bias=_array(layer.bias),
        out=np.concatenate([_array(network.output.gate)[place], _array(network.output.project)[place]], axis=1),
    )


def _read_by_hidden(network: Network) -> Iterator[tuple[torch.nn.Parameter, NDArray[np.int64]]]:
    """Yield the parameters that multiply an h and the rows of them that become one matrix, as `_layer` cuts them."""
    first = 0
    for index, size in enumerate(network.config.hidden):
        layer = network.layer(index)
        rows = np.arange(len(layer.weight))
        is_above = (rows >= size) & (rows < size + layer.above)
        is_vector = (rows >= size + layer.above) & (index == 0)  # what was read of a text is no h
        yield layer.weight, rows[~is_above & ~is_vector]
        if layer.above:
            yield layer.weight, rows[is_above]
        place = np.arange(first, first + size)
        yield network.output.gate, place
        yield network.output.project, place
        first += size


def _read_by_vector(network: Network) -> Iterator[tuple[torch.nn.Parameter, NDArray[np.int64]]]:
    """Yield the parameters that multiply the vector read from a text, among others, and those rows of them."""
    width = network.config.character_width if network.config.writes_text else 0
    for parameter in (network.layer(0).weight, network.output.gate, network.output.project):
        yield parameter, np.arange(len(parameter) - width, len(parameter))


def _window(network: Network) -> WindowWeights | None:
    """The arrays of the window over a text, None where there is none."""
    attention, hands = network.attention, network.hands
    if attention is None or hands is None:
        return None
    first, width = network.layer(0), network.config.character_width
    embedding = _array(attention.embedding.weight)
    embedding[NOTHING] = 0
    return WindowWeights(
        embedding=embedding,
        neighbours=_array(attention.neighbours),
        weight=_array(attention.weight),
        bias=_array(attention.bias),
        into=_array(first.weight)[first.size + first.above :],
        out=np.concatenate([_array(network.output.gate)[-width:], _array(network.output.project)[-width:]], axis=1),
        hands=_array(hands.weight),
    )


def _array(tensor: Any) -> Array:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


def _state(name: str, width: int | None = None) -> StateSpec:
    return StateSpec(name, "float32", ("batch",) if width is None else ("batch", width), f"{name}_next")
