"""One step as a PyTorch module in which a layer that COPYs is not computed: (input, state) -> (output, state).

It computes Eqs. 2-12 of arXiv 1609.01704v7 on the rows that need them. The rows of layers 2, 3, ... that do not COPY
are gathered, computed side by side and scattered back; the others keep their bits. The top-down product runs on the
rows whose own boundary fired at the step before. Nothing is masked: what is not needed is not multiplied.

The module is scripted for people who embed a network (`torch.jit.load`), so annotations are what TorchScript can read.
`export/graphs/step.py` is the same step in ONNX operators, for the service.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from export.graphs.specs import state_specs
from export.graphs.torchscript_modules import GatedLayer, Product, Table, Window, to_tensor
from export.graphs.weights import StepWeights
from model.ink import CORRELATION_LIMIT, LOG_SCALE_CEILING, LOG_SCALE_FLOOR


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
        self.text = config.kind == "text"
        self.gated = config.cell == "hmlstm"
        self.num_layers = config.num_layers
        self.num_sources = len(config.output_sources)
        self.writes = config.writes_text
        self.mixtures = config.mixtures
        self.floor = LOG_SCALE_FLOOR
        self.ceiling = LOG_SCALE_CEILING
        self.limit = CORRELATION_LIMIT
        self.widths = {
            spec.name: (spec.shape[1] if len(spec.shape) == 2 and isinstance(spec.shape[1], int) else 0)
            for spec in state_specs(config)
        }
        half = weights.precision != "float32"
        self.embedding = Table(torch.from_numpy(weights.embedding), torch.from_numpy(weights.input), half)
        self.register_buffer("embedding_bias", to_tensor(weights.embedding_bias))
        self.layers = nn.ModuleList(GatedLayer(layer, weights.precision) for layer in weights.layers)
        self.head = Product(weights.head, "float16" if half else "float32")
        self.register_buffer("head_bias", torch.from_numpy(weights.head_bias))
        self.window = Window(weights.window, half)

    @torch.jit.export
    def read(self, ids: Tensor, writer: Tensor) -> dict[str, Tensor]:
        """Return `hand` and `text`, to be put into the state of rows that write a text.

        Args:
            ids: of the sentinels and characters of each line (B, U) int64, 0 after its end.
            writer: number of each hand (B,) int64, 0 for none in particular.
        """
        hand = torch.mm(self.window.hands[writer], self.embedding.right) + self.embedding_bias
        return {"hand": hand, "text": self.window.read(ids)}

    @torch.jit.export
    def zeros(self, batch: int) -> dict[str, Tensor]:
        """Return the state of some rows before the first step."""
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
            state: from `zeros` or from the step before, together with what `read` gave, which is handed on.
        """
        # The input's share of s of layer 1.
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
            if index == 0:  # layer 1 never COPYs
                h, c, z, e = layer(h, source, above, z, c)
            elif not self.gated:  # nor does the LSTM control
                h, c, z, e = layer(torch.cat([h, below], 1), torch.zeros_like(c[:1, :1]), above, z, c)
            else:  # gather the rows that do not COPY, compute them, scatter them back
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
            following["h" + number] = h
            following["c" + number] = c
            if layer.detects:
                following["z" + number] = z
            if self.gated and index > 0:
                following["e" + number] = e
            sent.append(e)
            below, z_below = h, z
        # The window over the text moves on by h of layer 1; what it reads goes to the output now and to layer 1 next.
        if self.writes:
            position, vector = self.window(following["h1"], state["window_position"], state["text"])
            following["window_position"] = position
            following["window_vector"] = vector
            following["hand"] = state["hand"]
            following["text"] = state["text"]
            sent.append(torch.mm(vector, self.window.out))
        return self.output(sent), following

    def output(self, sent: list[Tensor]) -> Tensor:
        """Combine what the layers send into h^e (Eqs. 11-12) and apply the head."""
        # A gate reads all layers, so its logit is the sum of their shares.
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
        """Turn raw outputs (B, 6M + 1) into mixture parameters in the layout of `heads.pack`.

        Whatever follows them, the logit of the line being over, stays as it is.
        """
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
