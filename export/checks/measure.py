"""Measure the very file that ships: a whole split through ONNX Runtime, with state carried and boundaries counted."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.checks.skipping import COPY, operations
from export.runtime import Lines, OnnxStep, TextEncoder
from model.config import ModelConfig
from model.data.corpus import Corpus, Window
from model.network.heads import Mixture, mixture_nll, text_nll
from model.training.evaluate import summarise
from model.training.metrics import cell_work_share

Array = NDArray[Any]

WINDOW = 100


def measure(
    step: OnnxStep, config: ModelConfig, corpus: Corpus, split: str = "test", encoder: TextEncoder | None = None
) -> dict[str, Any]:
    """Return a split's figures under the names of a bundle's `metrics`, prefixed by the split.

    Args:
        step: the graph.
        config: of the network in it.
        corpus: in the numbers of the bundle's own codec.
        split: "train", "valid" or "test".
        encoder: of the texts, if the network writes them.

    Returns:
        Text: `test_bpc` and `test_streams`, as `model/training/evaluate.py` defines them. Ink: `test_nats_per_line`,
        `test_nats_per_step` in standardised units (higher is better), `test_nats_per_step_raw_units`, `test_log_scale`
        (the difference between these two), `test_lines`; where a text is written, `test_missed_stops` and
        `test_early_stops`. All: `test_steps`, `data_version`, and for an HM-LSTM `z_rates` and `cell_work_share`.
    """
    counts = _Counts(np.zeros(config.num_layers), np.zeros(config.num_layers))
    nats = 0.0
    steps = starts = 0
    state: dict[str, Array] = {}
    # Window by window: rows that begin a new stream or line start from a state of zeros, others carry theirs on.
    for window in corpus.evaluation(split, WINDOW):
        if not state or len(state["h1"]) != len(window.fresh) or bool(window.fresh.all()):
            state = step.zeros(len(window.fresh))
        state = _keep_rows(state, ~window.fresh.numpy())
        outputs, state = _run(step, config, window, state, counts, encoder)
        nats += _nats(torch.from_numpy(outputs).double(), window, text=config.kind == "text")
        steps += int(window.weight.sum())
        starts += int(window.fresh.sum())
    found = {"steps": steps, "starts": starts, "nats": nats, "nats_per_step": nats / max(1, steps)}
    figures = summarise(corpus, split, found)
    if config.writes_text:
        figures |= {"missed_stops": counts.missed, "early_stops": counts.early}
    named = {f"{split}_{key}": value for key, value in figures.items()}
    if config.cell == "hmlstm":
        named["z_rates"] = (counts.fired[:-1] / max(1, steps)).tolist()
        active = (counts.active[1:] / max(1, steps)).tolist()
        named["cell_work_share"] = cell_work_share(config.hidden, named["z_rates"], active)
    return named | {"data_version": f"{corpus.facts.get('name')}, sha256 {corpus.facts.get('sha256')}"}


@dataclass
class _Counts:
    """Counts over all real steps.

    Attributes:
        fired: boundaries of each layer (L,).
        active: steps at which each layer was computed (L,).
        missed: ends of lines at which the network did not stop.
        early: points before the end at which it did.
    """

    fired: Array
    active: Array = field(repr=False)
    missed: int = 0
    early: int = 0


def _run(
    step: OnnxStep,
    config: ModelConfig,
    window: Window,
    state: dict[str, Array],
    counts: _Counts,
    encoder: TextEncoder | None,
) -> tuple[Array, dict[str, Array]]:
    """Step through a window; return outputs (T, B, outputs) and the state after it."""
    outputs = []
    lines = None if encoder is None else Lines.encode(encoder, window.text.numpy(), window.writer.numpy())
    for now, (x, weight) in enumerate(zip(window.inputs.numpy(), window.weight.numpy(), strict=True)):
        before = state
        output, state = step.step(x, before, lines)
        outputs.append(output)
        if lines is not None:
            over = output[:, -1] > 0
            counts.missed += int((~over & (window.last[now].numpy() > 0)).sum())
            counts.early += int((over & (weight > 0)).sum())
        if config.cell == "hmlstm":
            done = operations(before, state, config.num_layers)
            counts.active += ((done != COPY) * weight[:, None]).sum(0)
            for layer in range(config.num_layers - 1):
                counts.fired[layer] += float((state[f"z{layer + 1}"] * weight).sum())
    return np.stack(outputs), state


def _keep_rows(state: dict[str, Array], rows: NDArray[np.bool_]) -> dict[str, Array]:
    """Return the state with zeros in all other rows."""
    if rows.all():
        return state
    return {
        name: np.where(rows.reshape(-1, *[1] * (values.ndim - 1)), values, 0).astype(np.float32)
        for name, values in state.items()
    }


def _nats(outputs: torch.Tensor, window: Window, *, text: bool) -> float:
    """Return the sum of the negative log-likelihoods of a window's real targets."""
    if text:
        nats = text_nll(outputs, window.targets)
    else:
        count = (outputs.shape[-1] - 1) // 6  # the logit of the line being over may follow
        parts = outputs[..., : 6 * count].unflatten(-1, (6, count)).unbind(-2)
        nats = mixture_nll(Mixture._make([*parts, outputs[..., 6 * count]]), window.targets.double())
    return float(torch.where(window.weight > 0, nats, torch.zeros_like(nats)).sum())
