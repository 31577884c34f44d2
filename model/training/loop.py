"""The loop: read a window, update, and now and then evaluate, log and save.

A budget of minutes (or updates) drives the learning rate and the slope, so a run ends when it was told to, with its
schedule done. Everything that decides the next update is in the checkpoint: on the CPU a resumed run gives the same
bits.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import BEST, LAST, Checkpoint, CheckpointError
from model.checkpoints.start import start_from
from model.codec import HandwritingCodec
from model.config import ModelConfig, Precision, Preset, TrainConfig
from model.data.batches import TextStreams
from model.data.corpus import Corpus, Window, training_window
from model.network.fast.product import fastest_operand
from model.network.fast.window import WindowOptions
from model.network.stack import Network
from model.network.state import NetworkState
from model.training.budget import Budget
from model.training.dropout import draw_masks
from model.training.evaluate import evaluate
from model.training.metrics import bits_per_symbol
from model.training.population import estimate_population
from model.training.process import CatchInterrupt, Interrupted, settle
from model.training.update import Update
from model.training.workers import Workers

EVALUATIONS = 40  # over a whole budget
VALIDATION_STEPS = 100_000
POPULATION_WINDOWS = 11  # from the beginning of the training streams, for the statistics of an averaged network
HEALTHY = (0.005, 0.95)
PATIENCE = 8  # evaluations in a row with a sick boundary


class TrainingError(Exception):
    """Training cannot go on; the message says what happened and what to change."""


def build(preset: Preset, corpus: Corpus) -> tuple[Network, TrainConfig]:
    """A fresh, seeded network for a corpus: its symbols and writers, the detector primed where the preset says so."""
    model: ModelConfig = preset.model
    if model.kind == "text":
        model = replace(model, vocabulary=corpus.codec.size)  # type: ignore[union-attr]
    if isinstance(corpus.codec, HandwritingCodec):
        model = replace(model, characters=corpus.codec.num_characters, writers=corpus.codec.num_hands)
    torch.manual_seed(preset.train.seed)
    network = Network(model)
    if model.detector_prior == "separator":
        network.set_separator_prior(corpus.separators)
    return network, preset.train


class Trainer:
    """One network in training.

    Args:
        preset: model and training configuration; a text model's vocabulary is taken from the corpus.
        corpus: with train and valid splits.
        out: folder for checkpoints and the log.
        budget: how long.
        workers: the processes that train together, and this one's device.
        compiled: fuse the pointwise kernels.
        report: called with every record of the log.
    """

    def __init__(
        self,
        preset: Preset,
        corpus: Corpus,
        out: Path,
        budget: Budget,
        workers: Workers,
        *,
        compiled: bool,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        self.corpus, self.out, self.budget, self.workers, self.report = corpus, out, budget, workers, report
        self.network, self.config = build(preset, corpus)
        self.model = self.network.config
        self.chooses_precision = self.config.precision == "auto"
        if self.chooses_precision:
            self._choose_precision()
        if self.config.batch % workers.count:
            raise TrainingError(f"train.batch={self.config.batch} does not divide among {workers.count} workers")
        if self.config.precision == "float64":
            self.network.double()
        self.network.to(workers.device)
        self.compiled = compiled
        self.update = self._make_update()
        self.streams = corpus.streams(self.config.batch, self.config.window, self.config.seed, self.config.stretch)
        self.generator = torch.Generator(device=workers.device).manual_seed(self.config.seed)
        self.best = math.inf
        self.sick = [0] * (self.model.num_layers - 1)
        self.next_evaluation = 1
        self.steps = 0.0
        self.started_from: dict[str, Any] | None = None
        self._last_report_s = budget.elapsed_s

    def _make_update(self) -> Update:
        options = WindowOptions(getattr(torch, self.config.precision), self.compiled)
        return Update(self.network, self.config, options, self.workers)

    def _choose_precision(self) -> None:
        """Take what the first worker's device multiplies fastest, for the widest of the layers."""
        widest = max((self.network.layer(index).weight for index in range(self.model.num_layers)), key=torch.numel)
        rows = max(self.config.batch // self.workers.count, 1)
        is_single = fastest_operand(self.workers.device, rows, *widest.shape) == torch.float32
        chosen: Precision = "float32" if self.workers.agree(is_single) else "bfloat16"
        self.config = replace(self.config, precision=chosen)

    def run(self, stop_after: int | None = None) -> None:
        """Train to the end of the budget, or for `stop_after` updates.

        Raises:
            TrainingError: a loss that is not finite, or a boundary that stays collapsed.
            Interrupted: Ctrl-C; the last checkpoint holds everything.
        """
        settle()
        with CatchInterrupt() as interrupt:
            for _ in self.updates(stop_after):
                if self.workers.agree(interrupt.caught):
                    self.save()
                    raise Interrupted(f"stopped at update {self.budget.done}; go on with --resume")

    def updates(self, stop_after: int | None = None) -> Iterator[None]:
        """Train as `run` does, an update at a time: after each, others may have their turn."""
        evaluated, begun = -1, self.budget.done
        while (progress := self.workers.agree(self.budget.progress)) < 1 and self.budget.done - begun != stop_after:
            self.one_update(progress)
            progress = self.workers.agree(self.budget.progress)
            if progress >= self.next_evaluation / EVALUATIONS:
                self.evaluate(progress)
                evaluated = self.budget.done
            yield
        if stop_after is None and evaluated != self.budget.done:
            self.evaluate(1.0)
        self.save()

    def one_update(self, progress: float) -> None:
        """Train on the next window."""
        window = self._with_restarts(training_window(self.streams))
        share = self.config.batch // self.workers.count
        own = slice(self.workers.rank * share, (self.workers.rank + 1) * share)
        window = window.rows(own.start, own.stop).to(self.workers.device)
        # Early averages would remember the initial weights: the horizon grows with the run.
        decay = min(self.config.average, (1 + self.budget.done) / (10 + self.budget.done))
        rate, slope = self.config.learning_rate_at(self.budget.done, progress), self.config.slope_at(progress)
        noise = self._noise(own)
        self.update(window, rate, slope, decay, noise, draw_masks(self.network, self.config, own, self.generator))
        self.budget.done += 1
        if self.workers.device.type == "cpu":
            self._check_finite()

    def evaluate(self, progress: float) -> None:
        """Measure the validation split, log, save, and stop where a boundary has collapsed."""
        self._check_finite()
        self.next_evaluation = math.floor(progress * EVALUATIONS) + 1
        record: dict[str, Any] = {}
        nats, steps = self.update.totals.joined(self.workers)
        self.steps += steps
        if self.workers.is_first:
            network = self.averaged()
            # Always the same part of the split, so that the best is the best of equals; `evaluate` measures all of it.
            windows = self.corpus.evaluation("valid", self.config.window, VALIDATION_STEPS, self.config.batch)
            found = evaluate(network, windows, self.update.options, self.config.slope_at(progress))
            self._check_finite(found["nats_per_step"])
            record = self._record(progress, found, nats, steps)
            self._log(record)
            if found["nats_per_step"] < self.best:
                self.best = found["nats_per_step"]
                facts = self.facts() | {"valid": record}
                kept = Checkpoint(self.model, self.config, self.corpus.codec, facts, network.state_dict())
                checkpoints.save(self.out / BEST, kept)
        self.update.totals.clear()
        self.save()
        self.report(record)
        self._check_health(record.get("z_rates", []))

    def averaged(self) -> Network:
        """The network that is evaluated and kept: with averaged weights where they are kept."""
        if not self.update.averages:
            return self.network
        network = Network(self.model).to(self.workers.device, self.network.output.bias.dtype)
        with torch.no_grad():
            for parameter, average in zip(network.parameters(), self.update.averages, strict=True):
                parameter.copy_(average)
        if self.model.cell == "bn-lstm":
            streams = self.corpus.streams(self.config.batch // self.workers.count, self.config.window, self.config.seed)
            windows = (training_window(streams).to(self.workers.device) for _ in range(POPULATION_WINDOWS))
            estimate_population(network, windows, self.update.options)
        return network

    def facts(self) -> dict[str, Any]:
        """What the checkpoint says of its making."""
        device = self.workers.device
        begun = {} if self.started_from is None else {"started_from": self.started_from}
        return begun | {
            "data": self.corpus.facts,
            "updates": self.budget.done,
            "steps": int(self.steps),
            "passes": self.streams.passes,
            "minutes": self.budget.elapsed_s / 60,
            "budget": {"minutes": self.budget.minutes, "updates": self.budget.updates},
            "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
            "workers": self.workers.count,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "compiled": self.update.options.compiled,
        }

    def save(self) -> None:
        """Write the last checkpoint: everything that decides the next update."""
        extra = {f"state/{name}": self.workers.join_rows(tensor) for name, tensor in self.update.state.named()}
        if not self.workers.is_first:
            return
        names = [name for name, _ in self.network.named_parameters()]
        extra |= {f"totals/{name}": tensor for name, tensor in self.update.totals.named().items()}
        extra["generator"] = self.generator.get_state()
        for name, parameter in zip(names, self.update.parameters, strict=True):
            moments = self.update.optimiser.state.get(parameter, {})
            extra |= {f"adam/{key}/{name}": moments[key] for key in ("step", "exp_avg", "exp_avg_sq") if moments}
        extra |= {f"average/{name}": average for name, average in zip(names, self.update.averages, strict=False)}
        resume = {
            "spent_s": self.budget.elapsed_s,
            "done": self.budget.done,
            "streams": self.streams.state_dict(),
            "best": self.best if math.isfinite(self.best) else None,
            "sick": self.sick,
            "next_evaluation": self.next_evaluation,
            "steps": self.steps,
        }
        facts = self.facts() | {"resume": resume}
        kept = Checkpoint(self.model, self.config, self.corpus.codec, facts, self.network.state_dict(), extra)
        checkpoints.save(self.out / LAST, kept)

    def begin(self, *, resume: bool, start: Checkpoint | None = None) -> None:
        """Start in an empty folder, afresh or with given weights, or go on from the last checkpoint in it.

        Raises:
            TrainingError: the folder holds a training and `resume` is False.
            StartError: the given weights do not fit.
        """
        if resume:
            self.resume()
        elif (self.out / LAST).exists():
            raise TrainingError(f"{self.out} holds a training already: give --resume, or another --out")
        elif start is not None:
            self._start_from(start)
        self.out.mkdir(parents=True, exist_ok=True)

    def _start_from(self, start: Checkpoint) -> None:
        start_from(self.network, self.corpus.codec, start)
        with torch.no_grad():
            for average, parameter in zip(self.update.averages, self.update.parameters, strict=False):
                average.copy_(parameter)
        same = start.facts.get("data", {}).get("sha256") == self.corpus.facts.get("sha256")
        if same and isinstance(self.streams, TextStreams):
            self.streams.skip(start.facts.get("passes", 0.0))
        known = ("bundle", "data", "minutes", "passes", "started_from", "steps", "updates", "widened")
        self.started_from = {name: start.facts[name] for name in known if name in start.facts}

    def resume(self) -> None:
        """Go on from the last checkpoint in the output folder.

        Raises:
            CheckpointError: there is none. TrainingError: it was made with another configuration or corpus.
        """
        last = checkpoints.load(self.out / LAST)
        if "resume" not in last.facts:
            raise CheckpointError(f"{self.out / LAST}: a checkpoint to use, not one to go on training from")
        # The data first: another alphabet is another vocabulary too.
        if last.facts["data"].get("sha256") != self.corpus.facts.get("sha256"):
            raise TrainingError(f"{self.out / LAST} was trained on other data: resume with the same --data")
        chosen = last.train.precision in ("float32", "bfloat16") and last.train.precision != self.config.precision
        if self.chooses_precision and chosen:
            self.config = replace(self.config, precision=last.train.precision)
            self.update = self._make_update()
        if (last.model, last.train) != (self.model, self.config):
            raise TrainingError(f"{self.out / LAST} was made with another configuration: resume with the same preset")
        device = self.workers.device
        self.network.load_state_dict(dict(last.weights))
        for name, parameter in self.network.named_parameters():
            if f"adam/step/{name}" in last.extra:
                self.update.optimiser.state[parameter] = {
                    key: last.extra[f"adam/{key}/{name}"].to(device) for key in ("step", "exp_avg", "exp_avg_sq")
                }
        if self.update.averages:
            names = [name for name, _ in self.network.named_parameters()]
            self.update.averages = [last.extra[f"average/{name}"].to(device) for name in names]
        self.update.state = self._own_rows(last.extra)
        if self.workers.is_first:  # the totals of a group are summed when they are read
            self.update.totals.restore({key.removeprefix("totals/"): value for key, value in last.extra.items()})
        self.generator.set_state(last.extra["generator"])
        self.started_from = last.facts.get("started_from")
        resume = last.facts["resume"]
        self.budget.spent_s, self.budget.done = resume["spent_s"], resume["done"]
        self.streams.load_state_dict(resume["streams"])
        self.best = math.inf if resume["best"] is None else resume["best"]
        self.sick, self.steps, self.next_evaluation = resume["sick"], resume["steps"], resume["next_evaluation"]
        self._last_report_s = self.budget.elapsed_s

    def _own_rows(self, extra: Any) -> NetworkState:
        share = self.config.batch // self.workers.count
        rows = slice(self.workers.rank * share, (self.workers.rank + 1) * share)
        named = {key.removeprefix("state/"): value for key, value in extra.items() if key.startswith("state/")}
        return NetworkState.from_named({name: value[rows].to(self.workers.device) for name, value in named.items()})

    def _with_restarts(self, window: Window) -> Window:
        if self.model.kind == "ink":  # every line begins anew as it is
            return window
        draws = torch.rand(self.config.batch, generator=self.generator, device=self.workers.device)
        return window._replace(fresh=window.fresh | (draws < self.config.restarts).to(window.fresh.device))

    def _noise(self, rows: slice) -> Tensor | None:
        if self.model.detector != "sample":
            return None
        # All workers draw for all streams and take their own share, so that their number changes nothing.
        shape = (self.config.window, self.config.batch, self.model.num_layers - 1)
        noise = torch.rand(shape, generator=self.generator, device=self.workers.device)
        return noise[:, rows]

    def _record(self, progress: float, found: dict[str, Any], nats: float, steps: float) -> dict[str, Any]:
        totals, elapsed = self.update.totals, self.budget.elapsed_s
        record = {
            "update": self.budget.done,
            "elapsed_s": round(elapsed, 1),
            "progress": round(progress, 4),
            "passes": round(self.streams.passes, 3),
            "steps": int(self.steps),
            "learning_rate": self.config.learning_rate_at(self.budget.done, progress),
            "slope": self.config.slope_at(progress),
            "train": self._in_units(nats / max(steps, 1.0)),
            "valid": self._in_units(found["nats_per_step"]),
            "unit": "bits per character" if self.model.kind == "text" else "nats per step",
            "gradient_norm": float(totals.norm),
            "z_rates": found.get("z_rates", []),
            "live_rates": found.get("live_rates", []),
            "active_rates": found.get("active_rates", []),
            "train_z_rates": totals.counts.rates(),
            "steps_per_s": round(steps / max(elapsed - self._last_report_s, 1e-9), 1),
        }
        self._last_report_s = elapsed
        return record

    def _log(self, record: dict[str, Any]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")

    def _check_finite(self, measured: float = 0.0) -> None:
        if not math.isfinite(float(self.update.totals.nats) + float(self.update.totals.norm) + measured):
            raise TrainingError(
                f"the loss or its gradient is not finite at update {self.budget.done}: lower train.learning_rate "
                f"(now {self.config.learning_rate:g}) or train.clip (now {self.config.clip:g}), or train in "
                f"train.precision=float32; {LAST} holds the last good weights"
            )

    def _check_health(self, rates: list[float]) -> None:
        for index, rate in enumerate(rates):
            self.sick[index] = 0 if HEALTHY[0] <= rate <= HEALTHY[1] else self.sick[index] + 1
            if self.sick[index] >= PATIENCE:
                raise TrainingError(
                    f"boundary z{index + 1} has collapsed: it fired on {rate:.1%} of steps at {PATIENCE} evaluations "
                    f"in a row (healthy: {HEALTHY[0]:.1%} to {HEALTHY[1]:.0%}). Try another train.seed, "
                    "model.detector_prior=separator, a smaller train.final_slope, or model.layer_norm=true"
                )

    def _in_units(self, nats_per_step: float) -> float:
        return bits_per_symbol(nats_per_step) if self.model.kind == "text" else -nats_per_step
