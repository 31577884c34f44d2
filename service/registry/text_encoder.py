from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from service.engine.runners.onnx import open_session


class TextEncoder:
    """Turns the ids of a line and the number of a hand into what the step graph takes.

    Args:
        graph: bytes of the ONNX file.
    """

    def __init__(self, graph: bytes) -> None:
        self._session = open_session(graph)
        self._names = [output.name for output in self._session.get_outputs()]
        self.slots = int(self._session.get_inputs()[0].shape[1])

    def read(self, ids: NDArray[np.int64], writer: int) -> Mapping[str, NDArray[np.float32]]:
        """Return the sampling inputs of a row by name, without the axis of rows.

        Args:
            ids: of the sentinels and characters (n,), n at most `slots`.
            writer: number of the hand's vector.
        """
        padded = np.zeros((1, self.slots), np.int64)
        padded[0, : len(ids)] = ids
        found = self._session.run(self._names, {"ids": padded, "writer": np.array([writer])})
        return {name: values[0] for name, values in zip(self._names, found, strict=True)}
