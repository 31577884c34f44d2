"""How well a network predicts a split: bits per character, or nats per line, with its boundaries counted."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from model.codec import TextCodec
from model.data.corpus import Corpus, Window
from model.ink import LOG_SCALE_FLOOR
from model.network.fast.window import WindowOptions
from model.network.heads import mixture_nll, mixture_of, stop_nll, text_nll
from model.network.stack import Network
from model.network.state import NetworkState
from model.training.metrics import BoundaryCounts, bits_per_symbol, cell_work_share


def window_nll(network: Network, raw: Tensor, window: Window) -> Tensor:
    """Nats of each target (T, B), 0 for padding."""
    if network.config.kind == "text":
        nats = text_nll(raw, window.targets)
    else:
        nats = mixture_nll(mixture_of(raw), window.targets.to(raw.dtype))
    return torch.where(window.weight > 0, nats, torch.zeros_like(nats))


def stopping_nll(raw: Tensor, window: Window) -> Tensor:
    """Nats of whether the line is over at each point read (T, B), 0 for padding; of networks that write a text."""
    nats = stop_nll(raw, window.last)
    return torch.where(window.weight + window.last > 0, nats, torch.zeros_like(nats))


def stacked_z(state: NetworkState) -> Tensor:
    """z of all layers but the top one (B, L-1)."""
    return torch.cat([layer.z[:, None] for layer in state.layers], 1)[:, :-1]


@torch.no_grad()
def evaluate(network: Network, windows: Iterable[Window], options: WindowOptions, slope: float = 1.0) -> dict[str, Any]:
    """Measure a network on windows, in order and with carried state; this puts it into evaluation mode.

    Returns:
        steps, nats (sum), starts (how often a state began anew), and for an HM-LSTM z_rates, active_rates, live_rates
        and cell_work_share. For a network that writes a text also stop_nats (sum over all points), and missed_stops and
        early_stops: last points with a stop probability below 1/2, and points before them with one above.
    """
    network.eval()
    device = network.output.bias.device
    total, steps, starts = torch.zeros((), dtype=torch.float64, device=device), 0.0, 0
    detectors = network.config.num_layers - 1 if network.config.cell == "hmlstm" else 0
    counts = BoundaryCounts(detectors, device)
    stops = torch.zeros(3, dtype=torch.float64, device=device)
    state: NetworkState | None = None
    generator = torch.Generator(device=device).manual_seed(0)  # earlier draws must not change a figure
    for cpu_window in windows:
        window = cpu_window.to(device)
        batch = window.fresh.shape[0]
        if state is None or state.layers[0].z.shape[0] != batch:
            state = network.zeros(batch)
        state = state.keep(~window.fresh)
        before = stacked_z(state)
        noise = noise_for(network, window, generator)
        result = network(window.inputs, state, options, torch.tensor(slope, device=device), noise, window.condition)
        state = result.state
        total += window_nll(network, result.raw, window).double().sum()
        steps += float(window.weight.sum())
        starts += int(window.fresh.sum())
        if network.config.writes_text:
            stops += _count_stops(result.raw, window)
        if detectors:
            counts.add(result.z, result.logit, before, slope, window.weight)
    found: dict[str, Any] = {"steps": int(steps), "starts": starts, "nats": float(total)}
    found["nats_per_step"] = found["nats"] / max(steps, 1.0)
    if network.config.writes_text:
        found |= dict(zip(("stop_nats", "missed_stops", "early_stops"), stops.tolist(), strict=True))
    if detectors:
        found |= {
            "z_rates": counts.rates(),
            "active_rates": counts.active_rates(),
            "live_rates": counts.live_rates(),
            "cell_work_share": cell_work_share(network.config.hidden, counts.rates(), counts.active_rates()),
        }
    return found


def _count_stops(raw: Tensor, window: Window) -> Tensor:
    over, last = raw[..., -1] > 0, window.last > 0
    missed, early = (last & ~over).sum(), (over & (window.weight > 0)).sum()
    return torch.stack([stopping_nll(raw, window).double().sum(), missed.double(), early.double()])


def summarise(corpus: Corpus, split: str, found: dict[str, Any]) -> dict[str, Any]:
    """Convert the counts into the usual units, with the constants that they depend on.

    Text: bits per character, and how many streams it was read as, each from a blank state. Ink: log-likelihood in nats
    per line and per step in standardised units (higher is better), and the raw-unit value, which does not depend on the
    normalisation.
    """
    common = {key: value for key, value in found.items() if key not in ("nats", "nats_per_step", "starts")}
    if corpus.kind == "text":
        return {"bpc": bits_per_symbol(found["nats_per_step"]), "streams": found["starts"]} | common
    lines = len(getattr(corpus.data, split))
    codec = corpus.codec
    log_scale = math.nan if isinstance(codec, TextCodec) else codec.log_scale
    per_step = -found["nats_per_step"]
    return {
        "nats_per_line": -found["nats"] / lines,
        "nats_per_step": per_step,
        "nats_per_step_raw_units": per_step - log_scale,
        "lines": lines,
        "log_scale": log_scale,
    } | common


def protocol_of(corpus: Corpus) -> dict[str, Any]:
    """What a figure on ink depends on besides the network, to be printed beside it; empty for text.

    Two figures are comparable only where all of these agree: the lines, the constants that offsets were standardised
    with (a log-likelihood changes by their logarithm), what is scored, and how sharp a density may get.
    """
    if corpus.kind == "text":
        return {}
    facts = corpus.facts
    return {
        "protocol": facts["protocol"],
        "split_rule": facts["split"],
        "split_seed": facts["seed"],
        "split_sha256": facts["order_sha256"],
        "lines_read": facts["lines_read"],
        "lines_kept": facts["lines"],
        "min_points": facts["min_points"],
        "mean": facts["mean"],
        "std": facts["std"],
        "log_scale": facts["log_scale"],
        "scored": "every offset that has a predecessor, with its pen; nothing is clipped, smoothed or removed",
        "least_log_scale_of_a_component": LOG_SCALE_FLOOR,
    }


def noise_for(network: Network, window: Window, generator: torch.Generator | None = None) -> Tensor | None:
    """Uniform draws (T, B, L-1) where the detector is sampled, else None."""
    if network.config.detector != "sample":
        return None
    shape = (*window.weight.shape, network.config.num_layers - 1)
    return torch.rand(shape, generator=generator, dtype=network.output.bias.dtype, device=window.weight.device)
