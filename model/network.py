"""The stack of layers and the gated output module (Eqs. 11-12): `step` for one time step, `forward` for a window.

Both compute the same; `step` is the readable one and the one exported, `forward` the fast one that trains.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.cell import Layer, cell_step
from model.config import ModelConfig
from model.heads import mixture_of, pack
from model.reference import Reference
from model.state import LayerState, NetworkState
from model.window import WindowOptions, run_window

SEPARATOR_LOGIT, OTHER_LOGIT = 4.0, -2.0


@dataclass(frozen=True)
class WindowResult:
    """What `Network.forward` gives.

    Attributes:
        raw: the head's raw outputs (T, B, outputs), float32: logits, or what `heads.mixture_of` takes.
        state: the state after the window, without history.
        z: boundaries (T, B, L-1) of all layers with a detector, without gradient.
        logit: detector logits (T, B, L-1), without gradient.
    """

    raw: Tensor
    state: NetworkState
    z: Tensor
    logit: Tensor


class OutputModule(nn.Module):
    """Eqs. 11-12: one scalar gate per layer, h^e = ReLU(sum over layers of gate * h W), then the head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = sum(config.hidden)
        self.hidden = config.hidden
        self.gate = nn.Parameter(torch.zeros(width, config.num_layers))
        self.project = nn.Parameter(torch.empty(width, config.output))
        self.weight = nn.Parameter(torch.empty(config.output, config.num_outputs))
        self.bias = nn.Parameter(torch.zeros(config.num_outputs))
        for rows in self.project.data.split(list(self.hidden)):
            nn.init.orthogonal_(rows)
        nn.init.normal_(self.weight, std=config.output**-0.5)

    def forward(self, h: Tensor) -> Tensor:
        """All layers' h side by side (N, sum H) -> raw outputs (N, outputs) float32 (or float64).

        The output embedding's product runs in the dtype of h, the head's in that of the weights: means and scales of
        pen offsets need more digits than bfloat16 has.
        """
        gates = torch.sigmoid(h @ self.gate.to(h.dtype))
        scaled = torch.cat([gates[:, n : n + 1] * part for n, part in enumerate(h.split(list(self.hidden), 1))], 1)
        embedded = torch.relu(scaled @ self.project.to(h.dtype)).to(self.weight.dtype)
        return embedded @ self.weight + self.bias


class Network(nn.Module):
    """An HM-LSTM (or its LSTM control) with embedding, output module and head."""

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
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_layers))
        self.output = OutputModule(config)

    def zeros(self, batch: int) -> NetworkState:
        """The state before the first step, on the network's device and in its dtype."""
        weight = self.output.bias
        return NetworkState.zeros(self.config.hidden, batch, weight.dtype, weight.device)

    def embed(self, x: Tensor) -> Tensor:
        """Layer 1's input share of s for symbols (...) int64 or offsets (..., 3): (..., N).

        For text this is a row of a (V, N) table, made once per call: E and W never meet inside the time loop.
        """
        first = self.layer(0)
        if first.input is None:
            msg = "layer 1 has an input matrix"
            raise RuntimeError(msg)
        if self.config.kind == "text":
            return nn.functional.embedding(x, self.embedding.weight @ first.input)
        return nn.functional.linear(x, self.embedding.weight, self._embedding_bias) @ first.input

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
        self, x: Tensor, state: NetworkState, slope: float | Tensor = 1.0, noise: Tensor | None = None
    ) -> tuple[Tensor, NetworkState]:
        """One time step.

        Args:
            x: symbols (B,) int64, or standardised offsets (B, 3) float32 [dx, dy, pen_up].
            state: after the previous step, each tensor with B rows.
            slope: the paper's a.
            noise: uniform (B, L-1), for a sampled detector.

        Returns:
            logits (B, V) or packed mixture parameters (B, 6M+1), and the new state.
        """
        config = self.config
        source: Tensor | None = self.embed(x)
        done: list[LayerState] = []
        z_below, h_below = torch.ones_like(state.layers[0].z), None
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
        raw = self.output(torch.cat([layer.h for layer in done], dim=1))
        return (pack(mixture_of(raw)) if config.kind == "ink" else raw), NetworkState(tuple(done))

    def forward(
        self, x: Tensor, state: NetworkState, options: WindowOptions, slope: Tensor, noise: Tensor | None = None
    ) -> WindowResult:
        """A window of T steps, by the hand-written forward and backward of `model.window`.

        Args:
            x: symbols (T, B) int64, or offsets (T, B, 3) float32.
            state: the state carried in.
            options: operand dtype and whether the pointwise kernels are compiled.
            slope: the paper's a, a 0-d tensor.
            noise: uniform (T, B, L-1), for a sampled detector.
        """
        layers = [self.layer(index) for index in range(self.config.num_layers)]
        h, final, z, logit = run_window(self.config, layers, self.embed(x), state, options, slope, noise)
        raw = self.output(h.flatten(0, 1))
        return WindowResult(raw.unflatten(0, h.shape[:2]), final, z, logit)

    def detector_columns(self) -> list[Tensor]:
        """Views of all parameters that only feed a detector: the last column of each layer that has one."""
        detecting = [self.layer(index) for index in range(self.config.num_layers) if self.layer(index).detects]
        return [parameter[..., -1] for layer in detecting for parameter in layer.parameters()]

    @torch.no_grad()
    def set_separator_prior(self, separators: np.ndarray[Any, np.dtype[np.bool_]] | None = None) -> None:
        """Start layer 1's detector on separators: logit +4 after one, -2 after anything else.

        Text: `separators` (V,) says which symbols they are; the detector's column of the input matrix becomes
        pinv(E) @ target. Ink: the separator is the lifted pen. The detector listens less to the other sources (x 0.1).
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
        """The same network as a float64 NumPy reference."""

        def array(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
            return tensor.detach().cpu().double().numpy()

        layers = [{name: array(p) for name, p in layer.named_parameters()} for layer in self.layers]
        text = self.config.kind == "text"
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
        )
