"""Check that a device computes what the CPU does: small networks, forward, gradients and a few updates.

The device is compared with the CPU in float32, whose window the tests compare with autograd and with the float64
reference. Everything that training uses is compared: fused kernels, bfloat16 operands, and on a GPU the whole update
captured in one graph.
"""

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.config import ModelConfig, TrainConfig
from model.data.corpus import Window
from model.network.fast.window import WindowOptions
from model.network.stack import Network
from model.training.evaluate import window_nll
from model.training.update import WARM_UPS, Update

STEPS, ROWS, UPDATES = 24, 16, WARM_UPS + 5
TEXT = ModelConfig(vocabulary=29, embedding=16, hidden=(64, 48, 56), output=40)
INK = ModelConfig(kind="ink", embedding=16, hidden=(64, 48, 56), output=40, mixtures=5)
WRITTEN = replace(INK, characters=30, writers=4, character_width=24, window_mixtures=6)
CHARACTERS = 12


@dataclass(frozen=True)
class Finding:
    """One comparison: what was compared, the relative difference, and the largest one that is allowed."""

    what: str
    difference: float
    allowed: float

    @property
    def is_good(self) -> bool:
        """Whether the difference is within what is allowed; NaN is not."""
        return self.difference <= self.allowed


def selfcheck(device: torch.device, *, compiled: bool) -> bool:
    """Print every comparison and whether all are good."""
    good = True
    for finding in _findings(device, compiled=compiled):
        good &= finding.is_good
        verdict = "ok" if finding.is_good else "FAILED"
        sys.stdout.write(f"{finding.what:64s} {finding.difference:9.2e} (at most {finding.allowed:.0e}) {verdict}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{device}: {'all good' if good else 'NOT the same as the CPU'}\n")
    return good


def _findings(device: torch.device, *, compiled: bool) -> Iterator[Finding]:
    for config in (TEXT, INK, WRITTEN, replace(TEXT, cell="lstm"), replace(TEXT, layer_norm=False)):
        kind = "ink of a text" if config.writes_text else config.kind
        name = f"{kind} {config.cell}{'' if config.layer_norm else ' without LayerNorm'}"
        torch.manual_seed(1)
        judge = Network(config)
        windows = [_window(config) for _ in range(UPDATES)]
        loss, gradients = _gradients(judge, windows[0], WindowOptions())
        for options, forward, backward in (
            (WindowOptions(torch.float32, compiled=False), 1e-5, 1e-4),
            (WindowOptions(torch.float32, compiled), 1e-5, 1e-4),
            # One part in 256 for each operand: the loss stays within a hundredth, single gradients wander more.
            (WindowOptions(torch.bfloat16, compiled), 1e-2, 3e-1),
        ):
            how = f"{str(options.operand).removeprefix('torch.')}, {'fused' if options.compiled else 'plain'}"
            other = copy.deepcopy(judge).to(device)
            other_loss, other_gradients = _gradients(other, windows[0].to(device), options)
            yield Finding(f"{name}: loss ({how})", _apart(other_loss, loss), forward)
            worst = max(_apart(other_gradients[key], value) for key, value in gradients.items())
            yield Finding(f"{name}: worst gradient ({how})", worst, backward)
        expected = _curve(judge, windows, WindowOptions())
        found = _curve(copy.deepcopy(judge).to(device), windows, WindowOptions(torch.float32, compiled))
        yield Finding(f"{name}: {UPDATES} updates, captured on a GPU (float32)", _apart(found, expected), 1e-3)


def _window(config: ModelConfig) -> Window:
    if config.kind == "text":
        symbols = torch.randint(config.vocabulary, (STEPS + 1, ROWS))
        inputs, targets = symbols[:-1], symbols[1:]
    else:
        points = torch.randn(STEPS + 1, ROWS, 3)
        points[:, :, 2] = (points[:, :, 2] > 1).float()
        inputs, targets = points[:-1], points[1:]
    free = Window(inputs, targets, torch.ones(STEPS, ROWS), torch.rand(ROWS) < 0.1)
    if not config.writes_text:
        return free
    text, writer = torch.randint(1, config.characters, (ROWS, CHARACTERS)), torch.randint(config.writers, (ROWS,))
    return free._replace(text=text, writer=writer, last=torch.zeros(STEPS, ROWS))


def _gradients(network: Network, window: Window, options: WindowOptions) -> tuple[Tensor, dict[str, Tensor]]:
    slope = torch.tensor(1.0, device=window.weight.device)
    result = network(window.inputs, network.zeros(ROWS), options, slope, None, window.condition)
    loss = window_nll(network, result.raw, window).mean()
    names = [name for name, _ in network.named_parameters()]
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return loss.detach(), dict(zip(names, gradients, strict=True))


def _curve(network: Network, windows: list[Window], options: WindowOptions) -> Tensor:
    """The loss of each of a few updates, float64 on the CPU."""
    network = copy.deepcopy(network)
    update = Update(network, TrainConfig(batch=ROWS, window=STEPS, learning_rate=1e-3, average=0.9), options)
    losses = []
    for window in windows:
        update.totals.clear()
        update(window.to(update.device), rate=1e-3, slope=1.0, decay=0.9)
        losses.append(float(update.totals.nats) / float(update.totals.steps))
    return torch.tensor(losses, dtype=torch.float64)


def _apart(value: Tensor, expected: Tensor) -> float:
    expected = expected.detach().double().cpu()
    return float((value.detach().double().cpu() - expected).norm() / expected.norm().clamp_min(1e-12))
