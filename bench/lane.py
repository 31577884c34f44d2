"""One lane of the engine without HTTP: streams that write for themselves, drawing and bookkeeping included."""

from pathlib import Path
from typing import Any

from service.catalogue import Catalogue, InkModel, TextModel
from service.engine.sequence import InkParams, TextParams

FOREVER = 10**9
PER_TURN_S = 0.3


class WritingLane:
    """Steps streams of one bundle together, as the engine's thread does.

    Args:
        bundles: a folder.
        name: of a bundle in it.
        batch: B, streams.
        steps: of a turn.
    """

    def __init__(self, bundles: Path, name: str, batch: int, steps: int) -> None:
        model = Catalogue.open(bundles, batch).find(name)
        self._lane: Any = model.lane
        self._steps = steps
        for seed in range(batch):
            self._lane.scheduler.add(_sequence(model, seed))
        self._lane.admit(0.0)

    def __call__(self) -> int:
        """Take a turn and return how many characters or points were written."""
        count = 0
        for _ in range(self._steps):
            stepped = self._lane.step()
            count += len(stepped)
        for sequence in stepped:
            sequence.take()
        return count


def _sequence(model: Any, seed: int) -> Any:
    if isinstance(model, TextModel):
        return model.sequence("", TextParams(seed, FOREVER), boundaries=True, whole=False)
    assert isinstance(model, InkModel)
    return model.sequence(InkParams(seed, FOREVER), whole=False)
