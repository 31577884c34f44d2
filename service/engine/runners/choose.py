"""Chooses a bundle's runner: our kernel if it was built and agrees with the bundle's graphs, else ONNX Runtime."""

import numpy as np
import structlog

from export.bundle.folder import Bundle
from service.engine.runners.base import Runner
from service.engine.runners.kernel import KernelRunner, has_kernel
from service.engine.runners.onnx import OnnxRunner

_log = structlog.get_logger(__name__)

STEPS, ROWS = 24, 4
# From the same state, kernel and graph add floats in another order, and their outputs differ by less than CLOSE. An
# exception is an h so close to the middle between two bytes that they round it differently. That happens in one step of
# a row in several hundred, so not all steps have to agree.
CLOSE = 1e-3
MOSTLY = 0.9


def open_runner(bundle: Bundle, capacity: int, *, kernel: bool = True) -> Runner:
    """Return a runner of a bundle: the kernel if it is wanted, was built, and computes the same as the graphs.

    Args:
        bundle: a checked bundle.
        capacity: number of rows.
        kernel: whether the kernel may be used.
    """
    if not kernel or not has_kernel(bundle):
        return OnnxRunner(bundle, capacity)
    share = agreement(bundle)
    if share < MOSTLY:
        _log.warning("the kernel is not used: it does not compute what the graph does", model=bundle.name, share=share)
        return OnnxRunner(bundle, capacity)
    return KernelRunner(bundle, capacity)


def agreement(bundle: Bundle) -> float:
    """Return the share of steps, 0 to 1, at which kernel and graph give the same outputs and boundaries.

    Both step random inputs, each time from the state that the graph has reached.
    """
    random = np.random.default_rng(0)
    graphs, kernel = OnnxRunner(bundle, ROWS), KernelRunner(bundle, ROWS)
    for name in graphs.sampling_inputs.keys() - {"temperature", "top_p", "top_k", "logit_bias", "bias", "noise"}:
        kernel.sampling_inputs[name][:] = graphs.sampling_inputs[name][:] = random.normal(
            size=graphs.sampling_inputs[name].shape
        )
    same = []
    for _ in range(STEPS):
        for row in range(ROWS):
            kernel.restore(row, graphs.save(row))
        if bundle.kind == "text":
            graphs.inputs[:] = random.integers(0, bundle.model["vocabulary"], ROWS)
        else:
            graphs.inputs[:] = random.normal(size=(ROWS, 3))
        kernel.inputs[:] = graphs.inputs
        wanted, found = graphs.step(ROWS), kernel.step(ROWS)
        close = np.isclose(found, wanted, rtol=0, atol=CLOSE).all(axis=1)  # NaN is close to nothing
        same.append(close & (graphs.codes == kernel.codes))
    return float(np.mean(same))
