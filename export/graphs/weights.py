"""The arrays of one step, laid out as the exported graphs use them; NumPy arrays, read from a trained network.

Both graphs, TorchScript and ONNX, are built from the same `StepWeights`, so that they differ in nothing but the runtime
that executes them. What a layer sends to the output module (its share of the gates' logits and its projection, Eqs.
11-12) changes only when the layer does; it is one product, and its result is carried as the state `e`.
"""

from dataclasses import dataclass

import numpy as np

from export.errors import ExportError
from export.graphs.quantisation import Array, Precision, to_array
from model.config import ModelConfig
from model.network.attention import NOTHING
from model.network.stack import Network


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
    """The window over a text (`model/network/attention.py`). None of these matrices is rounded to 8 bits.

    Attributes:
        embedding: (V, E) of the characters; the row of what follows a text is zero.
        neighbours: (3E, E).
        weight, bias: (H, 3K) and (3K,), from h of layer 1 to [weights | sharpness | stride].
        into: (E, N), from the window's vector to s of layer 1.
        out: (E, S + O), from the window's vector to the output module.
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
        precision: to which the matrices are rounded, and in which they will be stored.
        window: the window over the text, where the network writes one.
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
            ExportError: the network has a switch under which a COPY cannot be skipped, or is a baseline that is only
                measured.
        """
        config = network.config
        if config.cell == "bn-lstm":
            raise ExportError(
                "a batch-normalised LSTM is a baseline to measure (python -m model evaluate) and cannot be exported; "
                "export an HM-LSTM or an LSTM"
            )
        check_skippable(config)
        text = config.kind == "text"
        first = to_array(network.layer(0).input)
        embedding = to_array(network.embedding.weight if text else network.embedding.weight.T)
        bias = None if text else (to_array(network.embedding.bias).astype(np.float64) @ first).astype(np.float32)
        return cls(
            config=config,
            embedding=embedding,
            input=first,
            embedding_bias=bias,
            layers=tuple(_layer(network, index) for index in range(config.num_layers)),
            head=to_array(network.output.weight),
            head_bias=to_array(network.output.bias),
            precision=precision,
            window=_window(network),
        )


def check_skippable(config: ModelConfig) -> None:
    """Raise ExportError unless a layer that COPYs sends the others what it sent before.

    Only then may its products be skipped.
    """
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


def _layer(network: Network, index: int) -> LayerWeights:
    """Cut one layer's weights into the parts that are multiplied on different rows of a batch.

    The trained matrix has the rows [own h | h above | h below]. Own and below are one product, on the rows of the batch
    that do not COPY; above is another one, on the rows that FLUSH.
    """
    layer = network.layer(index)
    weight = to_array(layer.weight)
    size = layer.size
    above = layer.above
    own = np.concatenate([weight[:size], weight[size + above :]]) if index else weight[:size]
    place = slice(sum(network.config.hidden[:index]), sum(network.config.hidden[: index + 1]))
    return LayerWeights(
        own=own,
        above=weight[size : size + above] if above else None,
        gain=None if layer.gain is None else to_array(layer.gain),
        bias=to_array(layer.bias),
        out=np.concatenate([to_array(network.output.gate)[place], to_array(network.output.project)[place]], axis=1),
    )


def _window(network: Network) -> WindowWeights | None:
    """Return the arrays of the window over a text, None where there is none."""
    attention = network.attention
    hands = network.hands
    if attention is None or hands is None:
        return None
    first = network.layer(0)
    width = network.config.character_width
    embedding = to_array(attention.embedding.weight)
    embedding[NOTHING] = 0
    return WindowWeights(
        embedding=embedding,
        neighbours=to_array(attention.neighbours),
        weight=to_array(attention.weight),
        bias=to_array(attention.bias),
        into=to_array(first.weight)[first.size + first.above :],
        out=np.concatenate([to_array(network.output.gate)[-width:], to_array(network.output.project)[-width:]], axis=1),
        hands=to_array(hands.weight),
    )
