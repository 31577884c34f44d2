"""The stack of layers and the gated output module (Eqs. 11-12): `step` for one time step, `forward` for a window.

Both compute the same. `step` is easy to read and is what is exported; `forward` is fast and is what trains.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.ink import STRIDE
from model.network.attention import Attention
from model.network.batch_norm import BatchNormLayer, run_batch_norm
from model.network.cell import Layer, cell_step
from model.network.fast.window import WindowOptions, run_window
from model.network.heads import mixture_of, pack
from model.network.reference import Reference
from model.network.state import LayerState, NetworkState

SEPARATOR_LOGIT, OTHER_LOGIT = 4.0, -2.0
NEEDS_TEXT = "this network writes a given text: it needs one at every step"


class Condition(NamedTuple):
    """What to write, and in which hand.

    Attributes:
        text: ids (B, U) int64 of sentinels and characters, 0 after the end.
        writer: (B,) int64, 0 for an unknown hand.
    """

    text: Tensor
    writer: Tensor


class TextConditioning(NamedTuple):
    """A condition in the form that steps take it in; made once for a text.

    Attributes:
        differences: of the character vectors (B, U, E).
        hand: the writer's vector (B, embedding), added to every embedded point.
    """

    differences: Tensor
    hand: Tensor


class Masks(NamedTuple):
    """Dropout factors for one window (training/dropout.py); empty or None where nothing is dropped.

    Attributes:
        weights: of layer 1's input matrix (E, N), then of each layer's matrix (K, N).
        sent: of the output module's inputs (B, sum of its sources).
        embedded: of the output embedding (B, O).
    """

    weights: tuple[Tensor, ...] = ()
    sent: Tensor | None = None
    embedded: Tensor | None = None

    def each(self) -> list[Tensor]:
        """The masks that are set."""
        return [mask for mask in (*self.weights, self.sent, self.embedded) if mask is not None]


@dataclass(frozen=True)
class WindowResult:
    """What `Network.forward` gives.

    Attributes:
        raw: the head's raw outputs (T, B, outputs), float32: logits, or what `heads.mixture_of` takes, and after it the
            logit of the line being over, where a text is written.
        state: the state after the window, without history.
        z: boundaries (T, B, L-1) of all layers with a detector, without gradient.
        logit: detector logits (T, B, L-1), without gradient.
    """

    raw: Tensor
    state: NetworkState
    z: Tensor
    logit: Tensor


class OutputModule(nn.Module):
    """Eqs. 11-12: one scalar gate per layer, h^e = ReLU(sum over layers of gate * h W), then the head.

    The vector read from a text is one more source, like a layer's h.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.sources = config.output_sources
        width = sum(self.sources)
        self.gate = nn.Parameter(torch.zeros(width, len(self.sources)))
        self.project = nn.Parameter(torch.empty(width, config.output))
        self.weight = nn.Parameter(torch.empty(config.output, config.num_outputs))
        self.bias = nn.Parameter(torch.zeros(config.num_outputs))
        for rows in self.project.data.split(list(self.sources)):
            nn.init.orthogonal_(rows)
        nn.init.normal_(self.weight, std=config.output**-0.5)

    def forward(self, h: Tensor, hidden: Tensor | None = None) -> Tensor:
        """All sources side by side (N, sum H) -> raw outputs (N, outputs) float32 (or float64).

        The output embedding's product runs in the dtype of h, the head's in that of the weights: means and scales of
        pen offsets need more digits than bfloat16 has. `hidden` (N, O) multiplies the output embedding.
        """
        gates = torch.sigmoid(h @ self.gate.to(h.dtype))
        scaled = torch.cat([gates[:, n : n + 1] * part for n, part in enumerate(h.split(list(self.sources), 1))], 1)
        embedded = torch.relu(scaled @ self.project.to(h.dtype)).to(self.weight.dtype)
        embedded = embedded if hidden is None else embedded * hidden
        return embedded @ self.weight + self.bias


class Network(nn.Module):
    """An HM-LSTM (or an LSTM to compare it with) with embedding, output module and head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding: nn.Embedding | nn.Linear = (
            nn.Embedding(config.vocabulary, config.embedding)
            if config.kind == "text"
            else nn.Linear(3, config.embedding)
        )
        if config.kind == "ink":
            nn.init.normal_(self.embedding.weight)
            nn.init.normal_(self._embedding_bias, std=0.5)
        layer_class = BatchNormLayer if config.cell == "bn-lstm" else Layer
        self.layers = nn.ModuleList(layer_class(config, index) for index in range(config.num_layers))
        self.output = OutputModule(config)
        self.attention = Attention(config) if config.writes_text else None
        self.hands = nn.Embedding(config.writers, config.embedding) if config.writes_text else None
        if self.hands is not None:
            nn.init.normal_(self.hands.weight, std=0.1)

    def zeros(self, batch: int) -> NetworkState:
        """The state before the first step, on the network's device and in its dtype."""
        weight, config = self.output.bias, self.config
        place = (config.window_mixtures, config.character_width) if config.writes_text else None
        return NetworkState.zeros(config.hidden, batch, weight.dtype, weight.device, place)

    def conditioning(self, condition: Condition) -> TextConditioning:
        """Encode a text and a hand once, before the steps that write them."""
        if self.attention is None or self.hands is None:
            msg = "this network writes freely: it reads no text"
            raise ValueError(msg)
        return TextConditioning(self.attention.encode(condition.text), self.hands(condition.writer))

    def place(self, state: NetworkState, before: NetworkState, conditioning: TextConditioning) -> Tensor:
        """Share of the window on each character at a step (B, U), from the states after and before the step."""
        if self.attention is None or before.attention is None:
            raise ValueError(NEEDS_TEXT)
        return self.attention.step(state.layers[0].h, before.attention.position, conditioning.differences)[1]

    def embed(self, x: Tensor, hand: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Layer 1's input share of s for symbols (...) int64 or offsets (..., B, 3) of a hand (B, E): (..., N).

        For text this is a row of a (V, N) table, made once per call: E and W never meet inside the time loop. A mask
        (E, N) multiplies the input matrix.
        """
        matrix: Tensor | None = self.layer(0).input
        if matrix is None:
            msg = "layer 1 has an input matrix"
            raise RuntimeError(msg)
        matrix = matrix if mask is None else matrix * mask
        if self.config.kind == "text":
            return nn.functional.embedding(x, self.embedding.weight @ matrix)
        embedded = nn.functional.linear(x, self.embedding.weight, self._embedding_bias)
        return (embedded if hand is None else embedded + hand) @ matrix

    @property
    def _embedding_bias(self) -> Tensor:
        bias = self.embedding.bias
        if not isinstance(bias, Tensor):
            msg = "only ink's embedding has a bias"
            raise TypeError(msg)
        return bias

    def layer(self, index: int) -> Layer:
        """Layer `index`, counted from 0."""
        layer = self.layers[index]
        if not isinstance(layer, Layer):
            raise TypeError(type(layer))
        return layer

    def step_noise(self, batch: int, generator: torch.Generator) -> Tensor | None:
        """Uniform draws (B, L-1) for one `step` where the detector is sampled, else None."""
        if self.config.detector != "sample":
            return None
        return torch.rand(batch, self.config.num_layers - 1, generator=generator, dtype=self.output.bias.dtype)

    def step(
        self,
        x: Tensor,
        state: NetworkState,
        slope: float | Tensor = 1.0,
        noise: Tensor | None = None,
        conditioning: TextConditioning | None = None,
    ) -> tuple[Tensor, NetworkState]:
        """One time step.

        Args:
            x: symbols (B,) int64, or standardised offsets (B, 3) float32 [dx, dy, pen_up].
            state: after the previous step, each tensor with B rows.
            slope: the paper's a.
            noise: uniform (B, L-1), for a sampled detector.
            conditioning: the text and the hand, as `conditioning` encoded them, where the network writes a text.

        Returns:
            logits (B, V) or packed mixture parameters (B, 6M+1), after them the logit of the line being over (B, 1)
            where a text is written; and the new state.
        """
        config, place = self.config, state.attention
        source: Tensor | None = self.embed(x, None if conditioning is None else conditioning.hand)
        if config.cell == "bn-lstm" and source is not None:
            layers = [self.layer(index) for index in range(config.num_layers)]
            h, after = run_batch_norm(layers, source[None], state, WindowOptions(source.dtype), training=False)
            return self.output(h[0]), after
        done: list[LayerState] = []
        z_below = torch.ones_like(state.layers[0].z)
        h_below = None if place is None else place.vector
        for index in range(config.num_layers):
            layer = self.layer(index)
            done.append(
                cell_step(
                    layer,
                    config,
                    source,
                    state.layers[index],
                    state.layers[index + 1].h if layer.above else None,
                    h_below,
                    z_below,
                    slope,
                    noise[:, index] if noise is not None and layer.detects else None,
                )
            )
            source, h_below = None, done[-1].h
            z_below = done[-1].z if config.cell == "hmlstm" else z_below
        sources = [layer.h for layer in done]
        if self.attention is not None:
            if conditioning is None or place is None:
                raise ValueError(NEEDS_TEXT)
            place, _ = self.attention.step(done[0].h, place.position, conditioning.differences)
            sources.append(place.vector)
        raw = self.output(torch.cat(sources, dim=1))
        after = NetworkState(tuple(done), place)
        if config.kind == "text":
            return raw, after
        packed = pack(mixture_of(raw))
        return (torch.cat([packed, raw[:, -1:]], 1) if config.writes_text else packed), after

    def forward(
        self,
        x: Tensor,
        state: NetworkState,
        options: WindowOptions,
        slope: Tensor,
        noise: Tensor | None = None,
        condition: Condition | None = None,
        masks: Masks | None = None,
    ) -> WindowResult:
        """A window of T steps, by the hand-written forward and backward of `model.network.fast.window`.

        A batch-normalised network, while in training mode, takes its statistics from the rows; `step` never does.

        Args:
            x: symbols (T, B) int64, or offsets (T, B, 3) float32.
            state: the state carried in.
            options: operand dtype and whether the pointwise kernels are compiled.
            slope: the paper's a, a 0-d tensor.
            noise: uniform (T, B, L-1), for a sampled detector.
            condition: what each row writes, where the network writes a text.
            masks: which parts of the network are dropped.
        """
        if self.config.writes_text and condition is None:
            raise ValueError(NEEDS_TEXT)
        masks = masks or Masks()
        layers, drawn = [self.layer(index) for index in range(self.config.num_layers)], masks.weights[1:]
        differences, hand = (None, None) if condition is None else self.conditioning(condition)
        source = self.embed(x, hand, masks.weights[0] if masks.weights else None)
        if self.config.cell == "bn-lstm":
            h, after = run_batch_norm(layers, source, state, options, drawn, training=self.training)
            final, z = after.detach(), source.new_zeros(*x.shape, 0)
            logit = z
        else:
            h, final, z, logit = run_window(
                self.config, layers, source, state, options, slope, noise, self.attention, differences, drawn
            )
        seen = h if masks.sent is None else h * masks.sent.to(h.dtype)
        hidden = None if masks.embedded is None else masks.embedded.repeat(len(h), 1)
        raw = self.output(seen.flatten(0, 1), hidden)
        return WindowResult(raw.unflatten(0, h.shape[:2]), final, z, logit)

    def detector_columns(self) -> list[Tensor]:
        """Views of all parameters that only feed a detector: the last column of each layer that has one."""
        detecting = [self.layer(index) for index in range(self.config.num_layers) if self.layer(index).detects]
        return [parameter[..., -1] for layer in detecting for parameter in layer.parameters()]

    @torch.no_grad()
    def set_separator_prior(self, separators: np.ndarray[Any, np.dtype[np.bool_]] | None = None) -> None:
        """Start layer 1's detector on separators: logit +4 after one, -2 after anything else.

        Text: `separators` (V,) says which symbols they are; the detector's column of the input matrix becomes
        pinv(E) @ target. Ink: the separator is the lifted pen. The detector's other weights are scaled by 0.1.
        """
        first = self.layer(0)
        if not first.detects or first.input is None:
            return
        dtype = first.input.dtype
        if self.config.kind == "text":
            if separators is None or len(separators) != self.config.vocabulary:
                msg = f"a separator prior needs {self.config.vocabulary} flags"
                raise ValueError(msg)
            target = torch.where(torch.as_tensor(separators), SEPARATOR_LOGIT, OTHER_LOGIT).to(torch.float64)
            table = self.embedding.weight.double().cpu()
            first.input[:, -1] = (torch.linalg.pinv(table) @ target).to(dtype)
        else:
            # Solve for the column that answers the pen and is blind to dx, dy and the embedding's bias.
            rows = torch.cat([self.embedding.weight.T, self._embedding_bias[None]]).double().cpu()
            wanted = torch.tensor([0, 0, SEPARATOR_LOGIT - OTHER_LOGIT, OTHER_LOGIT], dtype=torch.float64)
            first.input[:, -1] = (torch.linalg.pinv(rows) @ wanted).to(dtype)
        first.weight[:, -1] *= 0.1
        if first.gain is not None:
            first.gain[-1] = 1.0

    def reference(self) -> Reference:
        """The same network as a float64 NumPy reference.

        Raises:
            ValueError: the network is batch-normalised, for which there is no reference.
        """
        if self.config.cell == "bn-lstm":
            msg = "there is no reference of a batch-normalised network"
            raise ValueError(msg)

        def array(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
            return tensor.detach().cpu().double().numpy()

        layers = [{name: array(p) for name, p in layer.named_parameters()} for layer in self.layers]
        text = self.config.kind == "text"
        window = None
        if self.attention is not None and self.hands is not None:
            window = {name: array(p) for name, p in self.attention.named_parameters()}
            window["hands"] = array(self.hands.weight)
        return Reference(
            layers=layers,
            hidden=self.config.hidden,
            embedding=array(self.embedding.weight) if text else array(self.embedding.weight.T),
            embedding_bias=None if text else array(self._embedding_bias),
            gate=array(self.output.gate),
            project=array(self.output.project),
            head=array(self.output.weight),
            head_bias=array(self.output.bias),
            text=text,
            lstm=self.config.cell == "lstm",
            copy_boundary=self.config.copy_boundary,
            window=window,
            stride=STRIDE,
        )
