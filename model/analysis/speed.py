"""How fast one update is: ours beside eager autograd over the same network and beside torch.nn.LSTM.

Forward and backward of a whole window with embedding, output module and loss; interleaved rounds, medians of each, the
ratios taken within the run, round by round. On a CPU: one core, CPU time. On a GPU: each window captured in a CUDA
graph, as in training (eager autograd is launched kernel by kernel, as usual), wall time between synchronisations, and
beside it a lower bound from the measured matrix rate and memory bandwidth of the card.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.network.fast.product import fastest_operand, onednn_takes_bfloat16
from model.network.fast.window import WindowOptions
from model.network.heads import text_nll
from model.network.stack import Network

VOCABULARY = 98
TRAINED_RATES = (0.23, 0.05)  # of the boundaries of prose on its test text, docs/results.md
ROUNDS_OF_BISECTION = 12
OURS, EAGER = "ours, fused", "eager autograd (fp32)"
Pass = Callable[[Tensor, Tensor], None]


class _Eager:
    """The same network stepped with autograd, as one would write it first."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def __call__(self, x: Tensor, y: Tensor) -> None:
        state = self.network.zeros(x.shape[1])
        nats = []
        for symbols, targets in zip(x, y, strict=True):
            logits, state = self.network.step(symbols, state)
            nats.append(text_nll(logits, targets))
        torch.stack(nats).mean().backward()
        self.network.zero_grad(set_to_none=True)


class _Window:
    """A window of ours."""

    def __init__(self, network: Network, options: WindowOptions) -> None:
        self.network = network
        self.options = options
        self.slope = torch.ones((), device=network.output.bias.device)

    def __call__(self, x: Tensor, y: Tensor) -> None:
        result = self.network(x, self.network.zeros(x.shape[1]), self.options, self.slope)
        text_nll(result.raw, y).mean().backward()
        self.network.zero_grad(set_to_none=True)


class _TorchLSTM(nn.Module):
    """torch.nn.LSTM of the same widths (cuDNN on a GPU), linear head on the top layer, bf16 autocast on request."""

    def __init__(self, config: ModelConfig, *, bfloat16: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.embedding)
        self.lstm = nn.LSTM(config.embedding, config.hidden[0], config.num_layers)
        self.head = nn.Linear(config.hidden[0], config.vocabulary)
        self.in_bfloat16 = bfloat16

    def forward(self, x: Tensor, y: Tensor) -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            logits = self.head(self.lstm(self.embedding(x))[0])
        text_nll(logits.float(), y).mean().backward()
        self.zero_grad(set_to_none=True)


class _Captured:
    """A pass over fixed buffers, captured in one CUDA graph and replayed."""

    def __init__(self, inner: Pass, x: Tensor, y: Tensor) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                inner(x, y)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            inner(x, y)

    def __call__(self, _x: Tensor, _y: Tensor) -> None:
        self.graph.replay()


def run_bench(sizes: list[tuple[int, int]], window: int, rounds: int, device: torch.device) -> None:
    """Print a table for each (H, B), and as the last line one JSON object with medians and ratios."""
    if device.type == "cpu":
        torch.set_num_threads(1)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    report = {"device": _name(device), "torch": torch.__version__, "window": window, "rounds": rounds}
    # On a CPU an update costs less the rarer boundaries are, so a trained network is cheaper to train than a fresh one.
    boundaries = [None, TRAINED_RATES] if device.type == "cpu" else [None]
    measured = [
        _bench_size(hidden, batch, window, rounds, device, wanted) for hidden, batch in sizes for wanted in boundaries
    ]
    sys.stdout.write(json.dumps(report | {"sizes": measured}) + "\n")


def _bench_size(
    hidden: int, batch: int, window: int, rounds: int, device: torch.device, wanted: tuple[float, ...] | None
) -> dict[str, object]:
    torch.manual_seed(1)
    config = ModelConfig(vocabulary=VOCABULARY, hidden=(hidden,) * 3, output=hidden)
    x, y = (torch.randint(VOCABULARY, (window, batch), device=device) for _ in range(2))
    network = Network(config).to(device)
    operand = _operand(config, batch, device)
    if wanted:
        _fire_at(network, x, operand, wanted)
    rivals = _rivals(network, operand, x, y)
    for rival in rivals.values():
        rival(x, y)
    rates = _rates(network, x, operand)
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, rival in rivals.items():
            seconds[name].append(_time(rival, x, y, device))
    dtype, fired = str(operand).removeprefix("torch."), ", ".join(f"{rate:.0%}" for rate in rates)
    sys.stdout.write(
        f"3 layers of {hidden}, batch {batch}, window {window}, {_name(device)}, medians of {rounds}; ours multiplies "
        f"in {dtype}, its boundaries fire on {fired} of steps{', as a trained network has them' if wanted else ''}\n"
    )
    report: dict[str, object] = {"hidden": hidden, "batch": batch, "operand": dtype, "z_rates": rates}
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio = statistics.median(other / mine for other, mine in zip(times, seconds[OURS], strict=True))
        us, rate = median / window * 1e6, batch * window / median
        sys.stdout.write(f"{name:28s} {us:9.1f} us/step {rate:10.0f} characters/s {ratio:6.2f} x ours\n")
        report[name] = {"us_per_step": round(us, 1), "characters_per_s": round(rate), "x_ours": round(ratio, 3)}
    if device.type == "cuda":
        floor = _floor_us(hidden, batch, device)
        sys.stdout.write(f"{'floor':28s} {floor:9.1f} us/step\n")
        report["floor_us_per_step"] = round(floor, 1)
    sys.stdout.flush()
    return report


def _rivals(network: Network, operand: torch.dtype, x: Tensor, y: Tensor) -> dict[str, Pass]:
    config, device = network.config, x.device
    fused: Pass = _Window(network, WindowOptions(operand, compiled=True))
    eager: Pass = _Eager(network)
    lstm: Pass = _TorchLSTM(config, bfloat16=False).to(device)
    lstm_bf16: Pass = _TorchLSTM(config, bfloat16=True).to(device)
    if device.type == "cuda":
        return {
            OURS: _Captured(fused, x, y),
            EAGER: eager,
            "torch.nn.LSTM (bf16)": _Captured(lstm_bf16, x, y),
        }
    rivals: dict[str, Pass] = {
        OURS: fused,
        "ours, not compiled": _Window(network, WindowOptions(operand)),
        EAGER: eager,
        "torch.nn.LSTM (fp32)": lstm,
    }
    if onednn_takes_bfloat16():  # without, PyTorch's LSTM has no bfloat16 either
        rivals["torch.nn.LSTM (bf16)"] = lstm_bf16
    return rivals


def _operand(config: ModelConfig, batch: int, device: torch.device) -> torch.dtype:
    """The operand dtype that a training on this device would choose."""
    hidden = config.hidden[0]
    return fastest_operand(device, batch, 3 * hidden, 4 * hidden)


@torch.no_grad()
def _rates(network: Network, x: Tensor, operand: torch.dtype) -> list[float]:
    """How often boundaries fire: rows that COPY are not multiplied on the way back."""
    slope = torch.ones((), device=x.device)
    z = network(x, network.zeros(x.shape[1]), WindowOptions(operand), slope).z
    return [round(rate, 3) for rate in z.mean((0, 1)).tolist()]


@torch.no_grad()
def _fire_at(network: Network, x: Tensor, operand: torch.dtype, wanted: tuple[float, ...]) -> None:
    """Move the biases of the detectors, from layer 1 up, until boundaries fire at these rates."""
    for index, rate in enumerate(wanted):
        bias = network.layer(index).bias
        low, high = -10.0, 10.0
        for _ in range(ROUNDS_OF_BISECTION):
            bias[-1] = middle = (low + high) / 2
            low, high = (middle, high) if _rates(network, x, operand)[index] < rate else (low, middle)


def _time(rival: Pass, x: Tensor, y: Tensor, device: torch.device) -> float:
    if device.type == "cpu":
        begin = time.process_time()
        rival(x, y)
        return time.process_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    rival(x, y)
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def _floor_us(hidden: int, batch: int, device: torch.device) -> float:
    """Microseconds per step that the card cannot go below: the larger of its arithmetic and its traffic.

    Arithmetic: forward, backward and weight gradients of 7 H x 4H weights for each row, at the rate of a large bf16
    product. Traffic: the weights once forward and once backward per step, at the bandwidth of a large copy.
    """
    size = 8192
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    rate = 2 * size**3 / _median_s(lambda: torch.mm(left, right))
    source = torch.empty(2**30, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / _median_s(lambda: target.copy_(source))
    weights = 7 * hidden * 4 * hidden
    return max(3 * 2 * weights * batch / rate, 2 * 2 * weights / bandwidth) * 1e6


def _median_s(deed: Callable[[], object]) -> float:
    times = []
    for _ in range(8):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        deed()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[3:])


def _name(device: torch.device) -> str:
    return "one CPU core, CPU time" if device.type == "cpu" else torch.cuda.get_device_name(device)
