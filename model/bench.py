"""How fast one update is: ours beside eager autograd over the same network and beside torch.nn.LSTM.

Interleaved rounds on one core, forward and backward of a whole window with embedding, output module and loss, medians
of each; the ratios are taken within the run, round by round.
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
from model.heads import text_nll
from model.network import Network
from model.window import WindowOptions

VOCABULARY = 98


class _Eager:
    """The same network stepped with autograd: what one writes first."""

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
    """Ours."""

    def __init__(self, network: Network, options: WindowOptions) -> None:
        self.network, self.options = network, options

    def __call__(self, x: Tensor, y: Tensor) -> None:
        result = self.network(x, self.network.zeros(x.shape[1]), self.options, torch.tensor(1.0))
        text_nll(result.raw, y).mean().backward()
        self.network.zero_grad(set_to_none=True)


class _TorchLSTM(nn.Module):
    """torch.nn.LSTM of the same widths, linear head on the top layer, bf16 autocast on request."""

    def __init__(self, config: ModelConfig, *, bfloat16: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.embedding)
        self.lstm = nn.LSTM(config.embedding, config.hidden[0], config.num_layers)
        self.head = nn.Linear(config.hidden[0], config.vocabulary)
        self.in_bfloat16 = bfloat16

    def forward(self, x: Tensor, y: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.in_bfloat16):
            logits = self.head(self.lstm(self.embedding(x))[0])
        text_nll(logits.float(), y).mean().backward()
        self.zero_grad(set_to_none=True)


def run_bench(hidden: int, batch: int, window: int, rounds: int) -> None:
    """Print a table, and as the last line one JSON object with medians (characters per second) and ratios."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.manual_seed(1)
    config = ModelConfig(vocabulary=VOCABULARY, hidden=(hidden,) * 3, output=hidden)
    network = Network(config)
    rivals: dict[str, Callable[[Tensor, Tensor], None]] = {
        "ours (bf16, fused)": _Window(network, WindowOptions(torch.bfloat16, compiled=True)),
        "ours (bf16, not compiled)": _Window(network, WindowOptions(torch.bfloat16)),
        "eager autograd (fp32)": _Eager(network),
        "torch.nn.LSTM (fp32)": _TorchLSTM(config, bfloat16=False),
        "torch.nn.LSTM (bf16)": _TorchLSTM(config, bfloat16=True),
    }
    x, y = (torch.randint(VOCABULARY, (window, batch)) for _ in range(2))
    for rival in rivals.values():
        for _ in range(2):
            rival(x, y)
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, rival in rivals.items():
            begin = time.process_time()
            rival(x, y)
            seconds[name].append(time.process_time() - begin)
    ours = seconds["ours (bf16, fused)"]
    report: dict[str, object] = {"hidden": hidden, "batch": batch, "window": window, "rounds": rounds}
    sys.stdout.write(f"3 layers of {hidden}, batch {batch}, window {window}, one core, CPU time, medians of {rounds}\n")
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio = statistics.median(other / mine for other, mine in zip(times, ours, strict=True))
        rate = batch * window / median
        sys.stdout.write(
            f"{name:28s} {median / window * 1e6:9.0f} us/step {rate:9.0f} characters/s {ratio:6.2f} x ours\n"
        )
        report[name] = {"characters_per_s": round(rate), "time_relative_to_ours": round(ratio, 3)}
    sys.stdout.write(json.dumps(report) + "\n")
