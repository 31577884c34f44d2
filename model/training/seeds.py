"""Several trainings in one process, an update of each in turn.

Where boundaries fall depends on the seed, so a single training proves little. A GPU that one network leaves half idle
can train several: each has its own CUDA stream, and nothing in an update waits for the device.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import BEST
from model.training.loop import Trainer
from model.training.process import CatchInterrupt, Interrupted, TrainingError, settle

SEEDS = "seeds.json"


def train_together(
    trainers: Sequence[Trainer],
    stop_after: int | None = None,
    lost: Callable[[Trainer, TrainingError], None] = lambda _, __: None,
) -> None:
    """Run all to their ends; each gives the same bits as it would by itself.

    Args:
        trainers: on one device, each with a folder of its own.
        stop_after: updates of each.
        lost: called with a training that cannot go on while others can.

    Raises:
        TrainingError: none can go on; this is the error of the last.
        Interrupted: Ctrl-C; the last checkpoints hold everything.
    """
    settle()
    streams = [_stream(trainer.workers.device) for trainer in trainers]
    going = list(zip(trainers, [trainer.updates(stop_after) for trainer in trainers], streams, strict=True))
    errors: list[TrainingError] = []
    with CatchInterrupt() as interrupt:
        while going:
            for turn in list(going):
                trainer, updates, stream = turn
                try:
                    with stream:
                        done = bool(next(updates, True))  # an update yields None
                except TrainingError as error:
                    if len(going) == 1 and len(errors) == len(trainers) - 1:
                        raise
                    errors.append(error)
                    done = True
                    lost(trainer, error)
                if done:
                    going.remove(turn)
            if interrupt.caught and going:
                for trainer, _, stream in going:
                    with stream:
                        trainer.save()
                at = ", ".join(str(trainer.budget.done) for trainer, _, _ in going)
                raise Interrupted(f"stopped at update {at}; go on with --resume")


def keep_best(folders: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Copy the network that is best on the validation split to `out`, and write the results of all beside it.

    Args:
        folders: of the trainings; those without an evaluation yet are left out.
        out: where best.safetensors and seeds.json go.

    Returns:
        seed, updates, valid (in its unit) and boundary rates of each, the best first.
    """
    kept = [(folder, checkpoints.load(folder / BEST)) for folder in folders if (folder / BEST).exists()]
    # Of text fewer bits are better, of ink more nats: both are a smaller negative log-likelihood.
    sign = {"text": 1, "ink": -1}
    kept.sort(key=lambda pair: sign[pair[1].model.kind] * float(pair[1].facts["valid"]["valid"]))
    if kept:
        shutil.copyfile(kept[0][0] / BEST, out / BEST)
    found = [
        {
            "seed": checkpoint.train.seed,
            "folder": folder.name,
            **{name: checkpoint.facts["valid"][name] for name in ("update", "valid", "unit", "z_rates")},
        }
        for folder, checkpoint in kept
    ]
    (out / SEEDS).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _stream(device: torch.device) -> AbstractContextManager[Any]:
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # what was made on it: weights, states
    return torch.cuda.stream(stream)
