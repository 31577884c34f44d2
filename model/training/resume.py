"""Everything that decides the next update of a training: how it is saved, and how a training goes on from it.

On the CPU a resumed training gives the same bits as one that was never stopped. What a last checkpoint holds is
therefore fixed: the weights, and as extra tensors

    state/...      the state carried into the next window, rows of all workers
    totals/...     sums since the last evaluation
    adam/...       Adam's moments
    average/...    averaged weights
    generator      of all random draws

and, as JSON under "resume" in its facts, the budget spent, the place in the data and the evaluations so far.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import Checkpoint, CheckpointError, group
from model.checkpoints.start import start_from
from model.config import TrainConfig
from model.data.batches import TextStreams
from model.data.corpus import Corpus
from model.network.fast.window import WindowOptions
from model.network.stack import Network
from model.network.state import NetworkState
from model.training.budget import Budget
from model.training.metrics import BoundaryHealth
from model.training.process import TrainingError
from model.training.update import Update
from model.training.workers import Workers

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
START_FACTS = ("bundle", "data", "minutes", "passes", "started_from", "steps", "updates", "widened")


class TrainingState:
    """One network in training, with all that its next update depends on.

    Args:
        corpus: with train and valid splits.
        budget: how long to train.
        workers: the processes that train together, and this one's device.
        network: trained in place, on that device.
        config: how it is trained; its precision is settled.
        chooses_precision: whether the precision was left to this machine, so that a resumed training may bring another.
        compiled: fuse the pointwise kernels.

    Attributes:
        update: the optimiser with its buffers.
        streams: the training windows.
        generator: of all random draws, on the device.
        health: boundaries that stay collapsed.
        best: lowest nats per step on the validation split so far.
        next_evaluation: number of the next evaluation; the last one is EVALUATIONS of loop.py.
        steps: trained so far, counted at each evaluation.
        started_from: facts of the checkpoint whose weights this training began with, or None.
    """

    def __init__(
        self,
        corpus: Corpus,
        budget: Budget,
        workers: Workers,
        network: Network,
        config: TrainConfig,
        *,
        chooses_precision: bool,
        compiled: bool,
    ) -> None:
        self.corpus = corpus
        self.budget = budget
        self.workers = workers
        self.network = network
        self.config = config
        self._chooses_precision = chooses_precision
        self._compiled = compiled
        self.update = self._make_update()
        self.streams = corpus.streams(config.batch, config.window, config.seed, config.stretch)
        self.generator = torch.Generator(device=workers.device).manual_seed(config.seed)
        self.health = BoundaryHealth(network.config.num_layers - 1)
        self.best = math.inf
        self.next_evaluation = 1
        self.steps = 0.0
        self.started_from: dict[str, Any] | None = None

    @property
    def rows(self) -> slice:
        """The streams that this worker trains on."""
        share = self.config.batch // self.workers.count
        return slice(self.workers.rank * share, (self.workers.rank + 1) * share)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of its making."""
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

    def start_from(self, start: Checkpoint) -> None:
        """Begin with the weights of another training, and behind what it read of the same text.

        Raises:
            StartError: the weights do not fit.
        """
        start_from(self.network, self.corpus.codec, start)
        with torch.no_grad():
            for average, parameter in zip(self.update.averages, self.update.parameters, strict=False):
                average.copy_(parameter)
        same = start.facts.get("data", {}).get("sha256") == self.corpus.facts.get("sha256")
        if same and isinstance(self.streams, TextStreams):
            self.streams.skip(start.facts.get("passes", 0.0))
        self.started_from = {name: start.facts[name] for name in START_FACTS if name in start.facts}

    def save(self, path: Path) -> None:
        """Write a checkpoint to go on from; every worker must call this."""
        extra = {f"state/{name}": self.workers.join_rows(tensor) for name, tensor in self.update.state.named()}
        if not self.workers.is_first:
            return
        extra |= {f"totals/{name}": tensor for name, tensor in self.update.totals.named().items()}
        extra["generator"] = self.generator.get_state()
        names = [name for name, _ in self.network.named_parameters()]
        for name, parameter in zip(names, self.update.parameters, strict=True):
            moments = self.update.optimiser.state.get(parameter, {})
            extra |= {f"adam/{key}/{name}": moments[key] for key in MOMENTS if moments}
        extra |= {f"average/{name}": average for name, average in zip(names, self.update.averages, strict=False)}
        resume = {
            "spent_s": self.budget.elapsed_s,
            "done": self.budget.done,
            "streams": self.streams.state_dict(),
            "best": self.best if math.isfinite(self.best) else None,
            "sick": self.health.sick,
            "next_evaluation": self.next_evaluation,
            "steps": self.steps,
        }
        facts = self.facts() | {"resume": resume}
        weights = self.network.state_dict()
        checkpoints.save(path, Checkpoint(self.network.config, self.config, self.corpus.codec, facts, weights, extra))

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint that `save` wrote.

        Raises:
            CheckpointError: there is none, or it is not one to go on from.
            TrainingError: it was made with another configuration or corpus.
        """
        last = checkpoints.load(path)
        self._check_same_training(path, last)
        self.network.load_state_dict(dict(last.weights))
        self._restore_update(last.extra)
        self.generator.set_state(last.extra["generator"])
        self.started_from = last.facts.get("started_from")
        resume = last.facts["resume"]
        self.budget.spent_s = resume["spent_s"]
        self.budget.done = resume["done"]
        self.streams.load_state_dict(resume["streams"])
        self.best = math.inf if resume["best"] is None else resume["best"]
        self.health.sick = resume["sick"]
        self.steps = resume["steps"]
        self.next_evaluation = resume["next_evaluation"]

    def _check_same_training(self, path: Path, last: Checkpoint) -> None:
        """Raise unless the checkpoint is one of this training; take over its precision where that was left open."""
        if "resume" not in last.facts:
            raise CheckpointError(f"{path}: a checkpoint to use, not one to go on training from")
        # The data first: another alphabet is another vocabulary too.
        if last.facts["data"].get("sha256") != self.corpus.facts.get("sha256"):
            raise TrainingError(f"{path} was trained on other data: resume with the same --data")
        chosen = last.train.precision
        if self._chooses_precision and chosen in ("float32", "bfloat16") and chosen != self.config.precision:
            self.config = replace(self.config, precision=chosen)
            self.update = self._make_update()
        if (last.model, last.train) != (self.network.config, self.config):
            raise TrainingError(f"{path} was made with another configuration: resume with the same preset")

    def _restore_update(self, extra: Mapping[str, Tensor]) -> None:
        """Adam's moments, averages, carried state and totals."""
        device = self.workers.device
        for name, parameter in self.network.named_parameters():
            if f"adam/step/{name}" in extra:
                moments = {key: extra[f"adam/{key}/{name}"].to(device) for key in MOMENTS}
                self.update.optimiser.state[parameter] = moments
        if self.update.averages:
            names = [name for name, _ in self.network.named_parameters()]
            self.update.averages = [extra[f"average/{name}"].to(device) for name in names]
        carried = group(extra, "state/")
        own = {name: rows[self.rows].to(device) for name, rows in carried.items()}
        self.update.state = NetworkState.from_named(own)
        if self.workers.is_first:  # the totals of all workers are summed when they are read
            self.update.totals.restore(group(extra, "totals/"))

    def _make_update(self) -> Update:
        options = WindowOptions(getattr(torch, self.config.precision), self._compiled)
        return Update(self.network, self.config, options, self.workers)
