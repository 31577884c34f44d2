"""One executor of the engine without HTTP: streams that write freely, with sampling and bookkeeping."""

from pathlib import Path
from typing import Any

from service.engine.sequences.free_ink import InkParams
from service.engine.sequences.text import TextParams
from service.registry.registry import ModelRegistry
from service.registry.served import InkModel, TextModel

FOREVER = 10**9


class WritingExecutor:
    """Steps streams of one bundle together, as the engine's thread does.

    Args:
        bundles: folder of bundles.
        name: of the bundle.
        batch: B, the number of streams.
        steps: of one turn.
    """

    def __init__(self, bundles: Path, name: str, batch: int, steps: int) -> None:
        model = ModelRegistry.open(bundles, batch, "copybook").find(name)
        self._executor: Any = model.executor
        self._steps = steps
        for seed in range(batch):
            self._executor.scheduler.add(_sequence(model, seed))
        self._executor.admit(0.0)

    def __call__(self) -> int:
        """Take a turn and return the number of characters or points written."""
        for _ in range(self._steps):
            self._executor.step()
        for sequence in self._executor.scheduler.rows:
            sequence.take()
        return self._steps * len(self._executor.scheduler.rows)


def _sequence(model: Any, seed: int) -> Any:
    if isinstance(model, TextModel):
        return model.sequences([""], TextParams(seed, FOREVER), 1, boundaries=True, whole=False)[0]
    assert isinstance(model, InkModel)
    return model.sequence(InkParams(seed, FOREVER), whole=False)
