"""Steps an ONNX graph through recorded inputs as fast as ONNX Runtime lets one: bound once, nothing allocated."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.machine import open_session

Array = NDArray[Any]
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class Replay:
    """A step graph whose state `x` comes out as `x_next`, fed with what was recorded.

    A graph that draws too (ours) is asked for plain draws: temperature and top_p of 1, everything else 0.

    Args:
        graph: the ONNX file.
        inputs: (S, B) int64 or (S, B, 3) float32.
        threads: of ONNX Runtime's own pool.
    """

    def __init__(self, graph: bytes, inputs: Array, threads: int = 1) -> None:
        self._session = open_session(graph, threads)
        self._inputs = inputs
        self.batch = inputs.shape[1]
        given = {spec.name: spec for spec in self._session.get_inputs()}
        made = {spec.name: spec for spec in self._session.get_outputs()}
        states = [name for name in given if f"{name}_next" in made]
        self._fed, *wishes = (name for name in given if name not in states)
        self._wishes = {name: self._zeros(given[name]) for name in wishes}
        for name in {"temperature", "top_p"} & self._wishes.keys():
            self._wishes[name][:] = 1
        self._read = np.zeros_like(inputs[0])
        self._sides = [{name: self._zeros(given[name]) for name in states} for _ in range(2)]
        self.outputs = {name: self._zeros(spec) for name, spec in made.items() if not name.endswith("_next")}
        self._bindings = [self._bind(now, then) for now, then in (self._sides, self._sides[::-1])]

    def __call__(self, steps: int | None = None) -> int:
        """Take so many steps, all that are recorded if not said, and return how many items that were."""
        chosen = self._inputs[:steps]
        for number, x in enumerate(chosen):
            self._read[:] = x
            self._session.run_with_iobinding(self._bindings[number & 1])
        return int(len(chosen) * self.batch)

    def state(self, steps: int) -> dict[str, Array]:
        """Return the state after so many steps from the beginning, for looking at."""
        for side in self._sides:
            for tensor in side.values():
                tensor[:] = 0
        self(steps)
        return self._sides[steps & 1]

    def _bind(self, now: dict[str, Array], then: dict[str, Array]) -> Any:
        binding = self._session.io_binding()
        for name, array in {self._fed: self._read, **self._wishes, **now}.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        results = {**self.outputs, **{f"{name}_next": array for name, array in then.items()}}
        for name, array in results.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        return binding

    def _zeros(self, spec: Any) -> Array:
        shape = [size if isinstance(size, int) else self.batch for size in spec.shape]
        return np.zeros(shape, _DTYPES[spec.type])


def steps_in(seconds: float, replay: Any, most: int) -> int:
    """Return how many steps of a rival, whose cost does not depend on boundaries, take about so long."""
    began = time.thread_time()
    replay(2)
    replay(2)
    took = (time.thread_time() - began) / 4
    return int(min(most, max(2, seconds / max(took, 1e-9))))
