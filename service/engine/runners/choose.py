"""Who steps a bundle's rows: our kernel where it was built and agrees with the bundle's graphs, else ONNX Runtime."""

import numpy as np
import structlog

from export.bundle.folder import Bundle
from service.engine.runners.base import Runner
from service.engine.runners.kernel import KernelRunner, has_kernel
from service.engine.runners.onnx import OnnxRunner

_log = structlog.get_logger(__name__)

STEPS, ROWS = 24, 4
# From one and the same state, two ways of adding up floats differ by less than this, unless an h lies so close to the
# middle between two bytes that they round it to different ones. That happens to one row's step in some hundreds.
CLOSE = 1e-3
MOSTLY = 0.9


def open_runner(bundle: Bundle, capacity: int, *, kernel: bool = True) -> Runner:
    """Return rows of a bundle, to be stepped by the kernel if it is wanted, is here and computes what the graphs do.

    Args:
        bundle: a checked bundle.
        capacity: number of rows.
        kernel: whether it is wanted.
    """
    if not kernel or not has_kernel(bundle):
        return OnnxRunner(bundle, capacity)
    share = agreement(bundle)
    if share < MOSTLY:
        _log.warning("the kernel is not used: it does not compute what the graph does", model=bundle.name, share=share)
        return OnnxRunner(bundle, capacity)
    return KernelRunner(bundle, capacity)


def agreement(bundle: Bundle) -> float:
    """Return the share of steps of which kernel and graph make the same from the same state: outputs and boundaries."""
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
