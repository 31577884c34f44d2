"""The loop: carry state, detach, clip, anneal the slope, evaluate, save.

A budget of minutes (or updates) drives the learning rate and the slope, so a run ends when it was told to, with its
schedule done. Everything that decides the next update is in the checkpoint: on the CPU a resumed run gives the same
bits.
"""

import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor

from model import checkpoint as checkpoints
from model.budget import Budget
from model.checkpoint import BEST, LAST, Checkpoint
from model.config import Preset
from model.corpus import Corpus, training_window
from model.evaluate import evaluate, noise_for, summarise, to_device, window_nll
from model.metrics import BoundaryCounts, bits_per_symbol
from model.network import Network
from model.state import NetworkState
from model.window import WindowOptions

EVALUATIONS = 40  # over a whole budget
VALIDATION_STEPS = 100_000
HEALTHY = (0.005, 0.95)
BAND_STEP = 0.01  # of a detector's logit, per update, at the most
PATIENCE = 8  # evaluations in a row with a sick boundary


class TrainingError(Exception):
    """Training cannot go on; the message says what happened and what to change."""


class Interrupted(Exception):  # noqa: N818 (not an error: everything is saved)
    """Stopped by Ctrl-C, after saving."""


class Trainer:
    """One network in training.

    Args:
        preset: model and training configuration; a text model's vocabulary is taken from the corpus.
        corpus: with train and valid splits.
        out: folder for checkpoints and the log.
        budget: how long.
        device: where.
        compiled: fuse the pointwise kernels.
        report: called with every record of the log.
    """

    def __init__(
        self,
        preset: Preset,
        corpus: Corpus,
        out: Path,
        budget: Budget,
        device: torch.device,
        *,
        compiled: bool,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        model = preset.model
        if model.kind == "text":
            model = replace(model, vocabulary=corpus.codec.size)  # type: ignore[union-attr]
        self.model, self.config = model, preset.train
        self.corpus, self.out, self.budget, self.device, self.report = corpus, out, budget, device, report
        torch.manual_seed(self.config.seed)
        self.network = Network(model)
        if model.detector_prior == "separator":
            self.network.set_separator_prior(corpus.separators)
        self.network.to(device)
        self.options = WindowOptions(getattr(torch, self.config.precision), compiled)
        self.parameters = list(self.network.parameters())
        self.optimiser = torch.optim.Adam(self.parameters, lr=self.config.learning_rate, fused=True)
        self.averages = [parameter.detach().clone() for parameter in self.parameters] if self.config.average else []
        self.streams = corpus.streams(self.config.batch, self.config.window, self.config.seed)
        self.generator = torch.Generator(device=device).manual_seed(self.config.seed)
        self.state = self.network.zeros(self.config.batch)
        self.best = math.inf
        self.sick = [0] * (model.num_layers - 1)
        self.next_evaluation = 1
        self.steps = 0.0
        self._since: dict[str, Any] = {}
        self._clear()

    def run(self, stop_after: int | None = None) -> dict[str, Any]:
        """Train to the end of the budget (or `stop_after` updates in this call) and give the last evaluation.

        Raises:
            TrainingError: a loss that is not finite, or a boundary that stays collapsed.
            Interrupted: Ctrl-C; the last checkpoint holds everything.
        """
        record: dict[str, Any] = {}
        with _CatchInterrupt() as interrupt:
            done = 0
            while self.budget.progress < 1 and done != stop_after:
                self.update()
                done += 1
                if self.budget.progress >= self.next_evaluation / EVALUATIONS:
                    record = self.evaluate()
                if interrupt.caught:
                    self.save()
                    raise Interrupted(f"stopped at update {self.budget.done}; go on with --resume")
            if not record:
                record = self.evaluate()
            self.save()
        return record

    def update(self) -> None:
        """One window: forward, backward, clip, Adam, average."""
        progress = self.budget.progress
        slope = torch.tensor(self.config.slope_at(progress), device=self.device)
        window = to_device(training_window(self.streams), self.device)
        state = self.state.keep(~window.fresh)
        noise = noise_for(self.network, window, self.generator)
        result = self.network(window.inputs, state, self.options, slope, noise)
        real = window.weight.sum().clamp_min(1)
        nats = window_nll(self.network, result.raw, window).sum()
        loss = nats / real
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        if not math.isfinite(float(loss.detach()) + float(norm)):
            raise TrainingError(
                f"the loss or its gradient is not finite at update {self.budget.done}: lower train.learning_rate "
                f"(now {self.config.learning_rate:g}) or train.clip (now {self.config.clip:g}), or train in "
                f"train.precision=float32; {LAST} holds the last good weights"
            )
        rate = self.config.learning_rate_at(self.budget.done, progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self._step()
        self._hold_rates(result.z, window.weight)
        self.budget.done += 1
        self._average()
        if self.model.cell == "hmlstm":
            before = torch.stack([layer.z for layer in state.layers[:-1]], 1)
            self._since["counts"].add(result.z, result.logit, before, float(slope), window.weight)
        self.state = result.state
        self._since["nats"] += float(nats.detach())
        self._since["steps"] += float(real)
        self._since["norm"] = float(norm)
        self.steps += float(real)

    def evaluate(self) -> dict[str, Any]:
        """Measure the validation split, log, save, and stop where a boundary has collapsed."""
        progress = self.budget.progress
        self.next_evaluation = math.floor(progress * EVALUATIONS) + 1
        slope = self.config.slope_at(progress)
        network = self.averaged()
        limit = VALIDATION_STEPS if progress < 1 else None
        windows = self.corpus.evaluation("valid", self.config.window, limit, self.config.batch)
        found = evaluate(network, windows, self.options, slope)
        counts: BoundaryCounts = self._since["counts"]
        record = {
            "update": self.budget.done,
            "elapsed_s": round(self.budget.elapsed_s, 1),
            "progress": round(progress, 4),
            "passes": round(self.streams.passes, 3),
            "steps": int(self.steps),
            "learning_rate": self.config.learning_rate_at(self.budget.done, progress),
            "slope": slope,
            "train": self._in_units(self._since["nats"] / max(self._since["steps"], 1)),
            "valid": self._in_units(found["nats_per_step"]),
            "unit": "bits per character" if self.model.kind == "text" else "nats per step",
            "gradient_norm": self._since["norm"],
            "z_rates": found.get("z_rates", []),
            "live_rates": found.get("live_rates", []),
            "active_rates": found.get("active_rates", []),
            "train_z_rates": counts.rates(),
            "steps_per_s": round(self._since["steps"] / max(self.budget.elapsed_s - self._since["at"], 1e-9), 1),
        }
        self._clear()
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        if found["nats_per_step"] < self.best:
            self.best = found["nats_per_step"]
            whole = limit is None
            facts = self.facts() | {"valid": summarise(self.corpus, "valid", found) if whole else record}
            checkpoints.save(
                self.out / BEST,
                Checkpoint(self.model, self.config, self.corpus.codec, facts, network.state_dict()),
            )
        self.save()
        self.report(record)
        self._check_health(record["z_rates"])
        return record

    def averaged(self) -> Network:
        """The network that is evaluated and kept: with averaged weights where they are kept."""
        if not self.averages:
            return self.network
        network = Network(self.model).to(self.device)
        with torch.no_grad():
            for parameter, average in zip(network.parameters(), self.averages, strict=True):
                parameter.copy_(average)
        return network

    def facts(self) -> dict[str, Any]:
        """What the checkpoint says of its making."""
        return {
            "data": self.corpus.facts,
            "updates": self.budget.done,
            "steps": int(self.steps),
            "passes": self.streams.passes,
            "minutes": self.budget.elapsed_s / 60,
            "budget": {"minutes": self.budget.minutes, "updates": self.budget.updates},
            "device": self.device.type if self.device.type == "cpu" else torch.cuda.get_device_name(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "compiled": self.options.compiled,
        }

    def save(self) -> None:
        """Write the last checkpoint: everything that decides the next update."""
        names = [name for name, _ in self.network.named_parameters()]
        extra: dict[str, Tensor] = {f"state/{name}": tensor for name, tensor in self.state.named()}
        extra["generator"] = self.generator.get_state()
        for name, parameter in zip(names, self.parameters, strict=True):
            moments = self.optimiser.state.get(parameter, {})
            extra |= {f"adam/{key}/{name}": moments[key] for key in ("step", "exp_avg", "exp_avg_sq") if moments}
        extra |= {f"average/{name}": average for name, average in zip(names, self.averages, strict=False)}
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
        checkpoints.save(
            self.out / LAST,
            Checkpoint(self.model, self.config, self.corpus.codec, facts, self.network.state_dict(), extra),
        )

    def begin(self, *, resume: bool) -> None:
        """Start afresh in an empty folder, or go on from the last checkpoint in it.

        Raises:
            TrainingError: the folder holds a training and `resume` is False.
        """
        if resume:
            self.resume()
        elif (self.out / LAST).exists():
            raise TrainingError(f"{self.out} holds a training already: give --resume, or another --out")

    def resume(self) -> None:
        """Go on from the last checkpoint in the output folder.

        Raises:
            CheckpointError: there is none. TrainingError: it was made with another configuration or corpus.
        """
        last = checkpoints.load(self.out / LAST)
        if (last.model, last.train) != (self.model, self.config):
            raise TrainingError(f"{self.out / LAST} was made with another configuration: resume with the same preset")
        if last.facts["data"].get("sha256") != self.corpus.facts.get("sha256"):
            raise TrainingError(f"{self.out / LAST} was trained on other data: resume with the same --data")
        self.network.load_state_dict(dict(last.weights))
        for name, parameter in self.network.named_parameters():
            if f"adam/step/{name}" in last.extra:
                self.optimiser.state[parameter] = {
                    key: last.extra[f"adam/{key}/{name}"].to(torch.device("cpu") if key == "step" else self.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        if self.averages:
            self.averages = [
                last.extra[f"average/{name}"].to(self.device) for name, _ in self.network.named_parameters()
            ]
        named = {key.removeprefix("state/"): value for key, value in last.extra.items() if key.startswith("state/")}
        self.state = NetworkState.from_named({name: tensor.to(self.device) for name, tensor in named.items()})
        self.generator.set_state(last.extra["generator"])
        resume = last.facts["resume"]
        self.budget.spent_s, self.budget.done = resume["spent_s"], resume["done"]
        self.streams.load_state_dict(resume["streams"])
        self.best = math.inf if resume["best"] is None else resume["best"]
        self.sick, self.steps, self.next_evaluation = resume["sick"], resume["steps"], resume["next_evaluation"]
        self._clear()

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
        """Move the bias of a detector that fires too rarely or too often, for a boundary that is off never learns.

        A detector's logits share a common part that wanders while the layer below learns; it decides the rate at first,
        and a rate of 0 leaves the layer above without any input and z without any use.
        """
        low, high = self.config.rate_band
        below = weight
        for index in range(z.shape[2]):
            fired = z[:, :, index] * weight
            share = fired.sum() / below.sum().clamp_min(1)
            push = ((low - share) / max(low, 1e-6)).clamp(0, 1) - ((share - high) / max(1 - high, 1e-6)).clamp(0, 1)
            self.network.layer(index).bias[-1] += BAND_STEP * push
            below = fired

    def _average(self) -> None:
        if self.averages:
            # Early averages would remember the initial weights: the horizon grows with the run.
            decay = min(self.config.average, (1 + self.budget.done) / (10 + self.budget.done))
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)

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

    def _clear(self) -> None:
        self._since = {"nats": 0.0, "steps": 0.0, "norm": 0.0, "counts": BoundaryCounts(), "at": self.budget.elapsed_s}


class _CatchInterrupt:
    """Turns the first Ctrl-C into a flag, so that the update in hand is finished; a second one kills."""

    def __init__(self) -> None:
        self.caught = False

    def __enter__(self) -> Self:
        try:
            self._before: Any = signal.signal(signal.SIGINT, self._catch)
        except ValueError:  # not in the main thread: whoever called us owns the signals
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _catch(self, _number: int, _frame: FrameType | None) -> None:
        self.caught = True
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
