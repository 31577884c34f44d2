"""The loop: train on a window, and now and then evaluate, log and save.

A budget of minutes (or updates) drives the learning rate and the slope, so a training ends on time and with its
schedule done. Everything that decides the next update is saved (resume.py): on the CPU a resumed training with a budget
of updates gives the same bits.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import BEST, LAST, Checkpoint
from model.codec import HandwritingCodec
from model.config import ModelConfig, Precision, Preset, TrainConfig
from model.data.corpus import Corpus, Window, training_window
from model.network.fast.product import fastest_operand
from model.network.stack import Network
from model.training.averaging import POPULATION_WINDOWS, averaged_network, decay_at
from model.training.budget import Budget
from model.training.dropout import draw_masks
from model.training.evaluate import evaluate
from model.training.log import TrainingLog
from model.training.process import CatchInterrupt, Interrupted, TrainingError, settle
from model.training.resume import TrainingState
from model.training.workers import Workers

EVALUATIONS = 40  # over a whole budget
VALIDATION_STEPS = 100_000


def build(preset: Preset, corpus: Corpus) -> tuple[Network, TrainConfig]:
    """A fresh, seeded network for the symbols and writers of a corpus, with the detector prior of the preset."""
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


def choose_precision(network: Network, config: TrainConfig, workers: Workers) -> Precision:
    """The precision in which the first worker's device multiplies fastest, measured on the widest layer."""
    widest = max((network.layer(index).weight for index in range(network.config.num_layers)), key=torch.numel)
    rows = max(config.batch // workers.count, 1)
    is_single = fastest_operand(workers.device, rows, *widest.shape) == torch.float32
    return "float32" if workers.agree(is_single) else "bfloat16"


class Trainer:
    """Trains one network.

    Args:
        preset: model and training configuration; a text model's vocabulary is taken from the corpus.
        corpus: with train and valid splits.
        out: folder for checkpoints and the log.
        budget: how long.
        workers: the processes that train together, and this one's device.
        compiled: fuse the pointwise kernels.
        report: called with every record of the log.
        progressed: called after every update with the share of the budget that is spent.

    Raises:
        TrainingError: the batch does not divide among the workers.
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
        progressed: Callable[[float], None] = lambda _: None,
    ) -> None:
        network, config = build(preset, corpus)
        is_auto = config.precision == "auto"
        if is_auto:
            config = replace(config, precision=choose_precision(network, config, workers))
        if config.batch % workers.count:
            raise TrainingError(f"train.batch={config.batch} does not divide among {workers.count} workers")
        if config.precision == "float64":
            network.double()
        network.to(workers.device)
        self.corpus = corpus
        self.out = out
        self.budget = budget
        self.workers = workers
        self.network = network
        self.report = report
        self.progressed = progressed
        self.state = TrainingState(
            corpus, budget, workers, network, config, chooses_precision=is_auto, compiled=compiled
        )
        self.log = TrainingLog(out, budget.elapsed_s)

    def begin(self, *, resume: bool, start: Checkpoint | None = None) -> None:
        """Start in an empty folder, afresh or with given weights, or go on from the last checkpoint in it.

        Raises:
            TrainingError: the folder holds a training and `resume` is False, or a training that is not this one.
            CheckpointError: there is nothing to resume.
            StartError: the given weights do not fit.
        """
        if resume:
            self.state.resume(self.out / LAST)
            self.log.restart_clock(self.budget.elapsed_s)
        elif (self.out / LAST).exists():
            raise TrainingError(f"{self.out} holds a training already: give --resume, or another --out")
        elif start is not None:
            self.state.start_from(start)
        self.out.mkdir(parents=True, exist_ok=True)

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
        """Train as `run` does, and yield after every update, so that several trainings can take turns."""
        evaluated, begun = -1, self.budget.done
        while (progress := self.workers.agree(self.budget.progress)) < 1 and self.budget.done - begun != stop_after:
            self.one_update(progress)
            progress = self.workers.agree(self.budget.progress)
            if progress >= self.state.next_evaluation / EVALUATIONS:
                self.evaluate(progress)
                evaluated = self.budget.done
            yield
        if stop_after is None and evaluated != self.budget.done:
            self.evaluate(1.0)
        self.save()

    def one_update(self, progress: float) -> None:
        """Train on the next window."""
        state, config, rows = self.state, self.state.config, self.state.rows
        # Restarts, noise and masks are drawn from one generator: another order would give another training.
        window = self._with_restarts(training_window(state.streams))
        noise = self._noise(rows)
        masks = draw_masks(self.network, config, rows, state.generator)
        window = window.rows(rows.start, rows.stop).to(self.workers.device)
        rate, slope = config.learning_rate_at(self.budget.done, progress), config.slope_at(progress)
        state.update(window, rate, slope, decay_at(config, self.budget.done), noise, masks)
        self.budget.done += 1
        if self.workers.device.type == "cpu":
            self._check_finite()
        self.progressed(self.budget.progress)

    def evaluate(self, progress: float) -> None:
        """Measure the validation split, log, save, and stop where a boundary has collapsed."""
        self._check_finite()
        state, config = self.state, self.state.config
        state.next_evaluation = math.floor(progress * EVALUATIONS) + 1
        nats, steps = state.update.totals.joined(self.workers)
        state.steps += steps
        record: dict[str, Any] = {}
        if self.workers.is_first:
            network = self.averaged()
            # Always the same part of the split, so that evaluations are comparable; `evaluate` measures all of it.
            windows = self.corpus.evaluation("valid", config.window, VALIDATION_STEPS, config.batch)
            found = evaluate(network, windows, state.update.options, config.slope_at(progress))
            self._check_finite(found["nats_per_step"])
            record = self.log.record(state, progress, found, nats, steps)
            self.log.write(record)
            self._keep_if_best(network, found["nats_per_step"], record)
        state.update.totals.clear()
        self.save()
        self.report(record)
        state.health.check(record.get("z_rates", []))

    def save(self) -> None:
        """Write the last checkpoint: everything that decides the next update."""
        self.state.save(self.out / LAST)

    def averaged(self) -> Network:
        """The network that is evaluated and kept: with averaged weights where they are kept."""
        return averaged_network(
            self.network, self.state.update.averages, self._population_windows(), self.state.update.options
        )

    def _keep_if_best(self, network: Network, nats_per_step: float, record: dict[str, Any]) -> None:
        """Write the best checkpoint where this network is better than all before it."""
        state = self.state
        if nats_per_step < state.best:
            state.best = nats_per_step
            facts = state.facts() | {"valid": record}
            kept = Checkpoint(network.config, state.config, self.corpus.codec, facts, network.state_dict())
            checkpoints.save(self.out / BEST, kept)

    def _population_windows(self) -> Iterator[Window]:
        """The first windows of this worker's share of the streams, for batch normalisation."""
        config = self.state.config
        streams = self.corpus.streams(config.batch // self.workers.count, config.window, config.seed)
        for _ in range(POPULATION_WINDOWS):
            yield training_window(streams).to(self.workers.device)

    def _with_restarts(self, window: Window) -> Window:
        """The window with a few more streams that start afresh."""
        if self.network.config.kind == "ink":  # each line starts from a blank state already
            return window
        config = self.state.config
        draws = torch.rand(config.batch, generator=self.state.generator, device=self.workers.device)
        return window._replace(fresh=window.fresh | (draws < config.restarts).to(window.fresh.device))

    def _noise(self, rows: slice) -> Tensor | None:
        """Uniform draws (T, B, L-1) for a sampled detector, else None."""
        if self.network.config.detector != "sample":
            return None
        # All workers draw for all streams and take their own share, so that their number changes nothing.
        shape = (self.state.config.window, self.state.config.batch, self.network.config.num_layers - 1)
        noise = torch.rand(shape, generator=self.state.generator, device=self.workers.device)
        return noise[:, rows]

    def _check_finite(self, measured: float = 0.0) -> None:
        """Raise TrainingError where the loss, its gradient or the figure measured is not finite."""
        totals, config = self.state.update.totals, self.state.config
        if not math.isfinite(float(totals.nats) + float(totals.norm) + measured):
            raise TrainingError(
                f"the loss or its gradient is not finite at update {self.budget.done}: lower train.learning_rate "
                f"(now {config.learning_rate:g}) or train.clip (now {config.clip:g}), or train in "
                f"train.precision=float32; {LAST}, where there is one, holds the last good weights"
            )
