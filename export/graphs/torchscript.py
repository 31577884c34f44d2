"""One step as a PyTorch module in which a layer that COPYs is not computed: (input, state) -> (output, state).

Eqs. 2-12 of arXiv 1609.01704v7 on the rows that need them. The rows of layers 2, 3, ... that do not COPY are gathered,
computed side by side and scattered back; the others keep their bits. The top-down product runs on the rows whose own
boundary fired at the step before. Nothing is masked: what is not needed is not multiplied.

The module is scripted for people who embed a network (`torch.jit.load`), so annotations are what TorchScript can read.
`export/graphs/step.py` says the same in ONNX operators for the service.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from export.graphs.weights import (
    NORM_EPSILON,
    LayerWeights,
    Precision,
    StepWeights,
    WindowWeights,
    hidden_step,
    product_scale,
    quantise,
    state_specs,
)
from model.ink import CORRELATION_LIMIT, LOG_SCALE_CEILING, LOG_SCALE_FLOOR, STRIDE
from model.network.attention import NOTHING


class Table(nn.Module):
    """Layer 1's share of the input: the product of the embedding and layer 1's input weights, multiplied once.

    The file keeps the two factors, in float16 where that loses nothing.

    Attributes:
        value: (V, N) float32, or (3, N) for ink.
    """

    is_half: Final[bool]
    left: Tensor
    right: Tensor
    value: Tensor

    def __init__(self, left: Tensor, right: Tensor, half: bool) -> None:
        super().__init__()
        self.is_half = half
        self.register_buffer("left", left)
        self.register_buffer("right", right)
        self.register_buffer("value", left @ right)

    def forward(self) -> Tensor:
        """Return the table."""
        return self.value

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, Tensor, bool]:
        """What the file keeps."""
        if self.is_half:
            return self.left.half(), self.right.half(), self.training
        return self.left, self.right, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor, bool]) -> None:
        """Unpack what the file kept."""
        self.left, self.right = state[0].float(), state[1].float()
        self.value = torch.mm(self.left, self.right)
        self.training = state[2]


class Product(nn.Module):
    """Rows times a matrix. In int8 the rows, values of h, are rounded, and both sides are whole numbers in float32.

    Sums of up to 1,000 products of whole numbers up to 63 and 127 stay below 2^24, so float32 adds them without error,
    in any order, as an integer product would.

    Attributes:
        value: (rows, columns) float32; whole numbers in int8.
        scale: (columns,) that belongs to them in int8.
    """

    precision: Final[str]
    step: Final[float]
    value: Tensor
    scale: Tensor

    def __init__(self, matrix: object, precision: Precision) -> None:
        super().__init__()
        values = np.zeros((0, 0), np.float32) if matrix is None else np.asarray(matrix, np.float32)
        self.precision = precision
        self.step = float(hidden_step())
        scale = np.zeros(0, np.float32)
        if precision == "int8" and values.size:
            codes, columns = quantise(values)
            values, scale = codes.astype(np.float32), product_scale(columns)
        self.register_buffer("value", torch.from_numpy(values))
        self.register_buffer("scale", torch.from_numpy(scale))

    def forward(self, h: Tensor) -> Tensor:
        """Return the product (n, columns) of rows (n, K)."""
        if self.precision == "int8":
            return torch.mm(torch.round(h / self.step), self.value) * self.scale
        return torch.mm(h, self.value)

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, Tensor, bool]:
        """What the file keeps."""
        if self.precision == "int8":
            return self.value.to(torch.int8), self.scale, self.training
        return (self.value.half() if self.precision == "float16" else self.value), self.scale, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor, bool]) -> None:
        """Unpack what the file kept."""
        self.value, self.scale, self.training = state[0].float(), state[1], state[2]


class GatedLayer(nn.Module):
    """One layer on a set of rows, all of which are to be computed."""

    size: Final[int]
    detects: Final[bool]
    normed: Final[bool]
    epsilon: Final[float]
    gain: Tensor
    bias: Tensor

    def __init__(self, weights: LayerWeights, precision: Precision) -> None:
        super().__init__()
        self.size = weights.size
        self.detects = weights.detects
        self.normed = weights.gain is not None
        self.epsilon = NORM_EPSILON
        self.own = Product(weights.own, precision)
        self.above = Product(weights.above, precision)
        self.out = Product(weights.out, precision)
        self.register_buffer("gain", _tensor(weights.gain))
        self.register_buffer("bias", torch.from_numpy(weights.bias))

    def forward(
        self, own: Tensor, source: Tensor, h_above: Tensor, z_prev: Tensor, c_prev: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return h, c (n, H), z (n,) and e (n, L + O) of n rows.

        Args:
            own: (n, H + H_below), h of the step before beside z_below * h below.
            source: (n, N) the input's share in layer 1, (1,) zero elsewhere.
            h_above: (n, H_above), read only where z_prev is 1; anything on top.
            z_prev: (n,), own boundary at the step before; zeros on top.
            c_prev: (n, H).
        """
        s = self.own(own) + source
        if self.detects:
            flushed = torch.nonzero(z_prev).flatten()
            if flushed.numel() > 0:
                s = s.index_add(0, flushed, self.above(h_above.index_select(0, flushed)))
        gates, logit = self.normalise(s)
        f, i, o, g = gates.chunk(4, dim=1)
        kept = torch.sigmoid(f) * c_prev
        if self.detects:
            kept = kept * (1 - z_prev).unsqueeze(1)
        c = torch.sigmoid(i) * torch.tanh(g) + kept
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, c, (logit > 0).to(c.dtype), self.out(h)

    def normalise(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gates (n, 4H) and the detector's logit (n,), 0 where there is none."""
        width = 4 * self.size
        gates = s[:, :width]
        logit = s[:, -1] if self.detects else torch.zeros_like(s[:, 0])
        if not self.normed:
            return gates + self.bias[:width], logit + self.bias[-1] if self.detects else logit
        normal, mean, scale = torch.native_layer_norm(
            gates, [width], self.gain[:width], self.bias[:width], self.epsilon
        )
        if self.detects:
            logit = (logit - mean[:, 0]) * scale[:, 0] * self.gain[-1] + self.bias[-1]
        return normal, logit


class Window(nn.Module):
    """The window over a text that is written, as `model/network/attention.py` has it; empty where none is."""

    mixtures: Final[int]
    stride: Final[float]
    nothing: Final[int]
    is_half: Final[bool]
    embedding: Tensor
    neighbours: Tensor
    weight: Tensor
    bias: Tensor
    into: Tensor
    out: Tensor
    hands: Tensor

    def __init__(self, weights: WindowWeights | None, half: bool) -> None:
        super().__init__()
        self.mixtures = 0 if weights is None else weights.mixtures
        self.stride, self.nothing, self.is_half = STRIDE, NOTHING, half
        for name in ("embedding", "neighbours", "weight", "bias", "into", "out", "hands"):
            self.register_buffer(name, _tensor(None if weights is None else getattr(weights, name)))

    def forward(self, h: Tensor, position: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new position (B, K) and the vector read (B, E).

        Args:
            h: of layer 1 at this step. position: of the step before. text: as `read` gave it.
        """
        raw = torch.mm(h, self.weight) + self.bias
        sharpness = nn.functional.softplus(raw[:, self.mixtures : 2 * self.mixtures])
        moved = position + nn.functional.softplus(raw[:, 2 * self.mixtures :]) / self.stride
        edges = torch.arange(text.size(1), dtype=text.dtype, device=text.device) + 0.5
        beyond = torch.sigmoid(sharpness.unsqueeze(2) * (edges - moved.unsqueeze(2)))
        passed = torch.bmm(torch.softmax(raw[:, : self.mixtures], 1).unsqueeze(1), beyond)
        return moved, torch.bmm(passed, text).squeeze(1)

    @torch.jit.export
    def read(self, ids: Tensor) -> Tensor:
        """Return the characters' vectors, each less the next one (B, U, E), of ids (B, U) with 0 after the end."""
        there = (ids != self.nothing).unsqueeze(2).to(self.neighbours.dtype)
        own = self.embedding[ids]
        nobody = torch.zeros_like(own[:, :1])
        beside = torch.cat([torch.cat([nobody, own[:, :-1]], 1), own, torch.cat([own[:, 1:], nobody], 1)], 2)
        vectors = (own + torch.matmul(beside, self.neighbours)) * there
        return vectors - torch.cat([vectors[:, 1:], nobody], 1)

    @torch.jit.export
    def __getstate__(self) -> tuple[list[Tensor], bool]:
        """What the file keeps."""
        kept = [self.embedding, self.neighbours, self.weight, self.bias, self.into, self.out, self.hands]
        if self.is_half:
            kept = [values.half() if values.dim() == 2 else values for values in kept]
        return kept, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[list[Tensor], bool]) -> None:
        """Unpack what the file kept."""
        self.embedding, self.neighbours = state[0][0].float(), state[0][1].float()
        self.weight, self.bias = state[0][2].float(), state[0][3].float()
        self.into, self.out, self.hands = state[0][4].float(), state[0][5].float(), state[0][6].float()
        self.training = state[1]


class GatedStep(nn.Module):
    """The whole network, one step: state goes in and comes out by name (`h1` ... `e3`)."""

    text: Final[bool]
    gated: Final[bool]
    num_layers: Final[int]
    num_sources: Final[int]
    writes: Final[bool]
    mixtures: Final[int]
    floor: Final[float]
    ceiling: Final[float]
    limit: Final[float]
    embedding_bias: Tensor
    head_bias: Tensor

    def __init__(self, weights: StepWeights) -> None:
        super().__init__()
        config = weights.config
        self.text, self.gated = config.kind == "text", config.cell == "hmlstm"
        self.num_layers, self.mixtures = config.num_layers, config.mixtures
        self.num_sources, self.writes = len(config.output_sources), config.writes_text
        self.floor, self.ceiling, self.limit = LOG_SCALE_FLOOR, LOG_SCALE_CEILING, CORRELATION_LIMIT
        self.widths = {
            spec.name: (spec.shape[1] if len(spec.shape) == 2 and isinstance(spec.shape[1], int) else 0)
            for spec in state_specs(config)
        }
        half = weights.precision != "float32"
        self.embedding = Table(torch.from_numpy(weights.embedding), torch.from_numpy(weights.input), half)
        self.register_buffer("embedding_bias", _tensor(weights.embedding_bias))
        self.layers = nn.ModuleList(GatedLayer(layer, weights.precision) for layer in weights.layers)
        self.head = Product(weights.head, "float16" if half else "float32")
        self.register_buffer("head_bias", torch.from_numpy(weights.head_bias))
        self.window = Window(weights.window, half)

    @torch.jit.export
    def read(self, ids: Tensor, writer: Tensor) -> dict[str, Tensor]:
        """Return `hand` and `text`, to be put into the state of rows that are to write a text.

        Args:
            ids: of the sentinels and characters of each line (B, U) int64, 0 after its end.
            writer: number of each hand (B,) int64, 0 for nobody's.
        """
        hand = torch.mm(self.window.hands[writer], self.embedding.right) + self.embedding_bias
        return {"hand": hand, "text": self.window.read(ids)}

    @torch.jit.export
    def zeros(self, batch: int) -> dict[str, Tensor]:
        """Return the state before the first step for a number of rows."""
        like = self.head_bias
        return {
            name: torch.zeros([batch, width] if width > 0 else [batch], dtype=like.dtype, device=like.device)
            for name, width in self.widths.items()
        }

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits (B, V) or mixture parameters (B, 6M + 1), and the next state.

        Where a text is written, the logit of the line being over comes after the mixture.

        Args:
            x: symbols (B,) int64, or standardised offsets (B, 3) float32 [dx, dy, pen_up].
            state: as from `zeros` or from the step before; what `read` gave is in it too, and is handed on.
        """
        if self.text:
            source = self.embedding().index_select(0, x)
        elif self.writes:
            read = torch.mm(state["window_vector"], self.window.into)
            source = torch.mm(x, self.embedding()) + read + state["hand"]
        else:
            source = torch.mm(x, self.embedding()) + self.embedding_bias
        following: dict[str, Tensor] = {}
        sent: list[Tensor] = []
        below, z_below = state["h1"], state["h1"]
        for index, layer in enumerate(self.layers):
            number = str(index + 1)
            h, c = state["h" + number], state["c" + number]
            z = state["z" + number] if layer.detects else torch.zeros_like(h[:, 0])
            above = state["h" + str(index + 2)] if layer.detects else h
            if index == 0:
                h, c, z, e = layer(h, source, above, z, c)
            elif not self.gated:
                h, c, z, e = layer(torch.cat([h, below], 1), torch.zeros_like(c[:1, :1]), above, z, c)
            else:
                e = state["e" + number]
                rows = torch.nonzero(torch.maximum(z, z_below)).flatten()
                if rows.numel() > 0:
                    open_below = z_below.index_select(0, rows)
                    fresh = below.index_select(0, rows) * open_below.unsqueeze(1)
                    done = layer(
                        torch.cat([h.index_select(0, rows), fresh], 1),
                        torch.zeros_like(c[:1, :1]),
                        above.index_select(0, rows),
                        z.index_select(0, rows),
                        c.index_select(0, rows),
                    )
                    h, c = h.index_copy(0, rows, done[0]), c.index_copy(0, rows, done[1])
                    z, e = z.index_copy(0, rows, done[2] * open_below), e.index_copy(0, rows, done[3])
            following["h" + number], following["c" + number] = h, c
            if layer.detects:
                following["z" + number] = z
            if self.gated and index > 0:
                following["e" + number] = e
            sent.append(e)
            below, z_below = h, z
        if self.writes:
            position, vector = self.window(following["h1"], state["window_position"], state["text"])
            following["window_position"], following["window_vector"] = position, vector
            following["hand"], following["text"] = state["hand"], state["text"]
            sent.append(torch.mm(vector, self.window.out))
        return self.output(sent), following

    def output(self, sent: list[Tensor]) -> Tensor:
        """Combine what the layers send (Eqs. 11-12) and apply the head."""
        total = sent[0][:, : self.num_sources]
        for part in sent[1:]:
            total = total + part[:, : self.num_sources]
        gates = torch.sigmoid(total)
        summed = gates[:, 0:1] * sent[0][:, self.num_sources :]
        for index in range(1, self.num_sources):
            summed = summed + gates[:, index : index + 1] * sent[index][:, self.num_sources :]
        raw = self.head(torch.relu(summed)) + self.head_bias
        return raw if self.text else self.mixture(raw)

    def mixture(self, raw: Tensor) -> Tensor:
        """Bring raw outputs (B, 6M + 1) into the form of `heads.pack`; what comes after them stays as it is."""
        m = self.mixtures
        return torch.cat(
            [
                torch.log_softmax(raw[:, :m], 1),
                raw[:, m : 3 * m],
                raw[:, 3 * m : 5 * m].clamp(self.floor, self.ceiling),
                torch.tanh(raw[:, 5 * m : 6 * m]) * self.limit,
                raw[:, 6 * m :],
            ],
            1,
        )


def script(weights: StepWeights) -> bytes:
    """Return the step as a TorchScript file."""
    with _deprecation_is_known():
        scripted = torch.jit.script(GatedStep(weights).eval())
        buffer = io.BytesIO()
        torch.jit.save(scripted, buffer)
    return buffer.getvalue()


def load_script(content: bytes) -> torch.jit.ScriptModule:
    """Return the module of a TorchScript file."""
    with _deprecation_is_known():
        return torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-any-return]


@contextmanager
def _deprecation_is_known() -> Iterator[None]:
    """Silence PyTorch's advice to use torch.export instead of torch.jit, and nothing else.

    TorchScript is what C++ and mobile users of such a file load today, and its data-dependent rows need no tricks.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is", category=DeprecationWarning)
        yield


def _tensor(values: object) -> Tensor:
    """A tensor, empty for None: TorchScript wants every attribute to be one."""
    return torch.empty(0, 0) if values is None else torch.as_tensor(values)
