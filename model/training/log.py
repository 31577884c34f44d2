"""The log of a training: one JSON object per evaluation, a line each, in log.jsonl of the training's folder."""

import json
from pathlib import Path
from typing import Any

from model.training.metrics import bits_per_symbol
from model.training.resume import TrainingState

FILE = "log.jsonl"


class TrainingLog:
    """Makes and writes the records of one training.

    Args:
        out: the training's folder.
        elapsed_s: seconds of training so far; speed is measured from here on.
    """

    def __init__(self, out: Path, elapsed_s: float) -> None:
        self._out = out
        self._last_s = elapsed_s

    def restart_clock(self, elapsed_s: float) -> None:
        """Measure speed from here on: a resumed training has not computed while it was away."""
        self._last_s = elapsed_s

    def record(
        self, state: TrainingState, progress: float, found: dict[str, Any], nats: float, steps: float
    ) -> dict[str, Any]:
        """Return the record of an evaluation.

        Args:
            state: of the training.
            progress: share of the budget that is spent.
            found: as `evaluate` gave it for the validation split.
            nats, steps: of training since the last evaluation.
        """
        config, totals, elapsed = state.config, state.update.totals, state.budget.elapsed_s
        is_text = state.network.config.kind == "text"

        def in_units(nats_per_step: float) -> float:
            return bits_per_symbol(nats_per_step) if is_text else -nats_per_step

        record = {
            "update": state.budget.done,
            "elapsed_s": round(elapsed, 1),
            "progress": round(progress, 4),
            "passes": round(state.streams.passes, 3),
            "steps": int(state.steps),
            "learning_rate": config.learning_rate_at(state.budget.done, progress),
            "slope": config.slope_at(progress),
            "train": in_units(nats / max(steps, 1.0)),
            "valid": in_units(found["nats_per_step"]),
            "unit": "bits per character" if is_text else "nats per step",
            "gradient_norm": float(totals.norm),
            "z_rates": found.get("z_rates", []),
            "live_rates": found.get("live_rates", []),
            "active_rates": found.get("active_rates", []),
            "train_z_rates": totals.counts.rates(),
            "steps_per_s": round(steps / max(elapsed - self._last_s, 1e-9), 1),
        }
        self._last_s = elapsed
        return record

    def write(self, record: dict[str, Any]) -> None:
        """Append a record to the file."""
        self._out.mkdir(parents=True, exist_ok=True)
        with (self._out / FILE).open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
