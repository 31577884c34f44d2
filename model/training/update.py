"""One training update on fixed buffers: forward, backward, clip, Adam, averages, boundary rates.

Nothing in it waits for the device and nothing depends on values in Python. On a GPU the whole update is therefore
captured in one CUDA graph and replayed: a window of 100 steps is some thousand small kernels, and launching them one by
one would take longer than running them. Learning rate and slope are tensors; totals stay on the device until they are
read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import TrainConfig
from model.data.corpus import Window
from model.network.fast.window import WindowOptions
from model.network.stack import Masks, Network
from model.network.state import NetworkState
from model.training.evaluate import stacked_z, stopping_nll, window_nll
from model.training.metrics import BoundaryCounts
from model.training.workers import Workers

BAND_STEP = 0.01  # of a detector's logit, per update, at the most
WARM_UPS = 3  # updates before the capture, in which memory is allocated and kernels are compiled


@dataclass
class Totals:
    """Sums since they were cleared, on the device.

    Attributes:
        nats, steps: of real targets. norm: of the last update's gradient, before clipping.
        counts: boundaries.
    """

    nats: Tensor
    steps: Tensor
    norm: Tensor
    counts: BoundaryCounts

    def joined(self, workers: Workers) -> tuple[float, float]:
        """(nats, steps) of all workers together; every worker must call this."""
        nats, steps = workers.sum(torch.stack([self.nats, self.steps]))
        return float(nats), float(steps)

    def named(self) -> dict[str, Tensor]:
        """Everything that is summed, by name."""
        return {"nats": self.nats, "steps": self.steps, "norm": self.norm} | self.counts.named()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the sums to those that `named` gave."""
        for name, tensor in self.named().items():
            if name in tensors:
                tensor.copy_(tensors[name])

    def clear(self) -> None:
        """Set all sums to zero."""
        self.nats.zero_()
        self.steps.zero_()
        self.counts.clear()


class Update:
    """The update of one network, with its optimiser, carried state, averages and totals.

    Args:
        network: trained in place.
        config: batch, optimiser, clipping, averaging and the band of boundary rates.
        options: dtype and compilation of the window.
        workers: whose gradients are summed; this process alone by default.
    """

    def __init__(
        self, network: Network, config: TrainConfig, options: WindowOptions, workers: Workers | None = None
    ) -> None:
        self.network = network
        self.config = config
        self.options = options
        self.workers = workers or Workers()
        self.device = network.output.bias.device
        on_gpu = self.device.type == "cuda"
        self.parameters = list(network.parameters())
        self.rate = torch.tensor(0.0, device=self.device)
        self.slope = torch.tensor(1.0, device=self.device)
        self.decay = torch.tensor(0.0, device=self.device)
        self.optimiser = torch.optim.Adam(
            self.parameters, lr=self.rate if on_gpu else config.learning_rate, fused=True, capturable=on_gpu
        )
        self.averages = [parameter.detach().clone() for parameter in self.parameters] if config.average else []
        batch = config.batch // self.workers.count
        self.state = network.zeros(batch)
        zero = torch.zeros((), dtype=torch.float64, device=self.device)
        detectors = network.config.num_layers - 1 if network.config.cell == "hmlstm" else 0
        self.totals = Totals(zero.clone(), zero.clone(), zero.clone(), BoundaryCounts(detectors, self.device))
        self.done = 0
        self._window: Window | None = None
        self._noise: Tensor | None = None
        self._masks: Masks | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(
        self,
        window: Window,
        rate: float,
        slope: float,
        decay: float,
        noise: Tensor | None = None,
        masks: Masks | None = None,
    ) -> None:
        """Train on one window.

        Args:
            window: (T, B) of this worker's streams, on any device.
            rate: learning rate. slope: the paper's a. decay: of the averages.
            noise: uniform (T, B, L-1), for a sampled detector.
            masks: which parts of the network are dropped.
        """
        self.rate.fill_(rate)
        self.slope.fill_(slope)
        self.decay.fill_(decay)
        if self.device.type != "cuda":
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            self._run(window, noise, masks)
        else:
            self._run_captured(window, noise, masks)
        self.done += 1

    def _run_captured(self, window: Window, noise: Tensor | None, masks: Masks | None) -> None:
        if self._window is None:
            self._window = Window(*(part.to(self.device) for part in window))
            self._noise = None if noise is None else noise.clone()
            self._masks = masks
        for buffer, part in zip(self._window, window, strict=True):
            buffer.copy_(part, non_blocking=True)
        if noise is not None and self._noise is not None:
            self._noise.copy_(noise)
        if masks is not None and self._masks is not None:
            for mask, drawn in zip(self._masks.each(), masks.each(), strict=True):
                mask.copy_(drawn)
        if self._graph is not None:
            self._graph.replay()
        elif self.done < WARM_UPS:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._run(self._window, self._noise, self._masks)
            torch.cuda.current_stream().wait_stream(side)
        else:
            self.optimiser.zero_grad(set_to_none=True)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._run(self._window, self._noise, self._masks)
            self._graph.replay()

    def _run(self, window: Window, noise: Tensor | None, masks: Masks | None) -> None:
        self.network.train()
        state = self.state.keep(~window.fresh)
        result = self.network(window.inputs, state, self.options, self.slope, noise, window.condition, masks)
        nats = window_nll(self.network, result.raw, window).sum()
        real = window.weight.sum()
        # Whether the line is over is learned beside the ink, and reported apart from it.
        learned = nats + stopping_nll(result.raw, window).sum() if self.network.config.writes_text else nats
        loss = learned / self.workers.sum(real.clone()).clamp_min(1)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.sum_all([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self._step()
        self._hold_rates(result.z, window.weight)
        self._average()
        self._count(nats, real, norm)
        if result.z.shape[2]:
            self.totals.counts.add(result.z, result.logit, stacked_z(state), self.slope, window.weight)
        self._carry(result.state)

    @torch.no_grad()
    def _step(self) -> None:
        """One step of Adam; the detectors' columns go only `detector_rate` of the way."""
        columns = self.network.detector_columns()
        before = [column.clone() for column in columns]
        self.optimiser.step()
        for column, old in zip(columns, before, strict=True):
            column.copy_(torch.lerp(old, column, self.config.detector_rate))

    @torch.no_grad()
    def _hold_rates(self, z: Tensor, weight: Tensor) -> None:
        """Move the bias of a detector that fires too rarely or too often, because a boundary that is off never learns.

        A detector's logits share a common part that drifts while the layer below learns, and at first this part decides
        the rate. At a rate of 0 the layer above gets no input and z has no effect (docs/adr/0006).
        """
        low, high = self.config.rate_band
        fired = self.workers.sum(torch.cat([weight.sum()[None], (z * weight[:, :, None]).sum((0, 1))]))
        for index in range(z.shape[2]):
            share = fired[index + 1] / fired[index].clamp_min(1)
            push = ((low - share) / max(low, 1e-6)).clamp(0, 1) - ((share - high) / max(1 - high, 1e-6)).clamp(0, 1)
            self.network.layer(index).bias[-1] += BAND_STEP * push

    @torch.no_grad()
    def _average(self) -> None:
        if self.averages:
            share = 1 - self.decay
            for average, parameter in zip(self.averages, self.parameters, strict=True):
                average.lerp_(parameter, share)

    @torch.no_grad()
    def _count(self, nats: Tensor, real: Tensor, norm: Tensor) -> None:
        self.totals.nats += nats
        self.totals.steps += real
        self.totals.norm.copy_(norm)

    @torch.no_grad()
    def _carry(self, state: NetworkState) -> None:
        for (_, kept), (_, new) in zip(self.state.named(), state.named(), strict=True):
            kept.copy_(new)
