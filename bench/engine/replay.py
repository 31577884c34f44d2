"""Step through recorded inputs: an ONNX graph as fast as ONNX Runtime can, and a bundle as the service runs it."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bench.machine import open_session
from export.bundle.folder import Bundle
from service.engine.runners.choose import open_runner

Array = NDArray[Any]
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
# Neutral sampling inputs: these are 1, all others are 0.
NEUTRAL = ("temperature", "top_p")
FED = ("token", "offset")


class Replay:
    """Steps a graph whose state `x` comes out as `x_next` through recorded inputs.

    h and c are read and written in place. Every graph here allows that, because the node that writes them needs the
    results of all nodes that read them. Boundaries have two buffers that swap roles.

    Args:
        graph: the ONNX file.
        inputs: (S, B) int64 or (S, B, 3) float32.
        threads: of ONNX Runtime's own pool.
        most_rows: of one run; larger batches are stepped in several runs, so that their activations stay in a cache.

    Attributes:
        batch: B.
        outputs: of the last step beside the state, by name.
    """

    def __init__(self, graph: bytes, inputs: Array, threads: int = 1, most_rows: int | None = None) -> None:
        self._session = open_session(graph, threads)
        self._inputs = inputs
        self.batch: int = inputs.shape[1]
        given = {spec.name: spec for spec in self._session.get_inputs()}
        made = {spec.name: spec for spec in self._session.get_outputs()}
        states = [name for name in given if f"{name}_next" in made]
        (self._fed,) = (name for name in given if name in FED)
        self._read = np.zeros_like(inputs[0])
        self._sampling_inputs = {name: self._tensor(given[name]) for name in given if name not in (*states, self._fed)}
        for name, values in self._sampling_inputs.items():
            values[:] = name in NEUTRAL
        carried = {name: self._tensor(given[name]) for name in states}
        doubled = {name: self._tensor(given[name]) for name in states if name.startswith("z")}
        self._sides = [carried, carried | doubled]
        self._axis = {name: _axis_of(spec) for name, spec in (*given.items(), *made.items())}
        self.outputs = {name: self._tensor(spec) for name, spec in made.items() if not name.endswith("_next")}
        size = most_rows or self.batch
        parts = [slice(start, min(start + size, self.batch)) for start in range(0, self.batch, size)]
        self._bindings = [
            [self._bind(now, then, part) for part in parts] for now, then in (self._sides, self._sides[::-1])
        ]

    def __call__(self, steps: int | None = None) -> int:
        """Take this many steps, by default all that were recorded, and return the number of items."""
        chosen = self._inputs[:steps]
        for number, x in enumerate(chosen):
            self._read[:] = x
            for binding in self._bindings[number & 1]:
                self._session.run_with_iobinding(binding)
        return len(chosen) * self.batch

    def state(self, steps: int) -> dict[str, Array]:
        """Return the state after this many steps from the beginning, for tests."""
        for side in self._sides:
            for tensor in side.values():
                tensor[:] = 0
        self(steps)
        return {name: values.copy() for name, values in self._sides[steps & 1].items()}

    def _bind(self, now: dict[str, Array], then: dict[str, Array], rows: slice) -> Any:
        binding = self._session.io_binding()
        for name, array in {self._fed: self._read, **self._sampling_inputs, **now}.items():
            self._place(binding.bind_input, name, array, rows)
        for name, array in {**self.outputs, **{f"{name}_next": array for name, array in then.items()}}.items():
            self._place(binding.bind_output, name, array, rows)
        return binding

    def _place(self, bind: Callable[..., None], name: str, array: Array, rows: slice) -> None:
        """Bind some rows of an array to an input or output."""
        part = array[rows] if self._axis[name] == 0 else array[:, rows]
        assert part.flags.c_contiguous, f"rows of {name} do not lie together"
        bind(name, "cpu", 0, part.dtype.type, list(part.shape), part.ctypes.data)

    def _tensor(self, spec: Any) -> Array:
        axis = _axis_of(spec)
        shape = [self.batch if place == axis else size for place, size in enumerate(spec.shape)]
        return np.zeros(shape, _DTYPES[spec.type])


class Serving:
    """Steps a bundle through recorded inputs as the service opens and steps it, with sampling.

    Args:
        bundle: to step.
        inputs: (S, B) int64 or (S, B, 3) float32.
    """

    def __init__(self, bundle: Bundle, inputs: Array) -> None:
        self._inputs = inputs
        self._batch = inputs.shape[1]
        self._runner = open_runner(bundle, self._batch)

    def __call__(self, steps: int | None = None) -> int:
        """Take this many steps, by default all that were recorded, and return the number of items."""
        chosen = self._inputs[:steps]
        for x in chosen:
            self._runner.inputs[:] = x
            self._runner.step(self._batch)
        return int(len(chosen) * self._batch)


def without_drawing(graph: bytes, output: str) -> bytes:
    """Return a step graph that ends at its output, without the nodes that sample from it.

    Args:
        graph: the ONNX file.
        output: name of the output beside the state.
    """
    model = onnx.load_from_string(graph)
    body = model.graph
    kept = [one for one in body.output if one.name == output or one.name.endswith("_next")]
    needed = {one.name for one in kept}
    nodes = []
    for node in reversed(body.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(_read_by(node))
    given = [one for one in body.input if one.name in needed]
    constants = [one for one in body.initializer if one.name in needed]
    for field, values in ((body.node, nodes[::-1]), (body.input, given), (body.output, kept)):
        del field[:]
        field.extend(values)
    del body.initializer[:]
    body.initializer.extend(constants)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def steps_in(seconds: float, replay: Any, most: int) -> int:
    """Return how many steps of a rival take about this long; its cost must not depend on boundaries."""
    replay(2)
    began = time.thread_time()
    replay(2)
    took = (time.thread_time() - began) / 2
    return int(min(most, max(2, seconds / max(took, 1e-9))))


def _read_by(node: onnx.NodeProto) -> Iterable[str]:
    """Yield the names of the tensors that a node reads, those inside its branches included."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                yield from _read_by(inner)


def _axis_of(spec: Any) -> int:
    """Return which axis of a tensor counts rows: the one that has a name, else the first, which then has one row."""
    named = [place for place, size in enumerate(spec.shape) if not isinstance(size, int)]
    return named[0] if named else 0
