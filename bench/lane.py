"""One lane of the engine without HTTP: streams that write for themselves, drawing and bookkeeping included."""

from pathlib import Path
from typing import Any

from service.engine.sequences.free_ink import InkParams
from service.engine.sequences.text import TextParams
from service.registry.registry import ModelRegistry
from service.registry.served import InkModel, TextModel

FOREVER = 10**9


class WritingLane:
    """Steps streams of one bundle together, as the engine's thread does.

    Args:
        bundles: a folder.
        name: of a bundle in it.
        batch: B, streams.
        steps: of a turn.
    """

    def __init__(self, bundles: Path, name: str, batch: int, steps: int) -> None:
        model = ModelRegistry.open(bundles, batch, "copybook").find(name)
        self._lane: Any = model.lane
        self._steps = steps
        for seed in range(batch):
            self._lane.scheduler.add(_sequence(model, seed))
        self._lane.admit(0.0)

    def __call__(self) -> int:
        """Take a turn and return how many characters or points were written."""
        for _ in range(self._steps):
            self._lane.step()
        for sequence in self._lane.scheduler.rows:
            sequence.take()
        return self._steps * len(self._lane.scheduler.rows)


def _sequence(model: Any, seed: int) -> Any:
    if isinstance(model, TextModel):
        return model.sequences([""], TextParams(seed, FOREVER), 1, boundaries=True, whole=False)[0]
    assert isinstance(model, InkModel)
    return model.sequence(InkParams(seed, FOREVER), whole=False)
