"""Finds the compiled kernel, which computes a step of a network with 8-bit weights.

It is built when Copyist is installed, if there is a C compiler. Without it ONNX Runtime runs the graphs.
"""

import ctypes
from functools import cache
from importlib.util import find_spec

VARIANTS = ("plain", "avx2", "vnni")  # by the instructions they need, as kernel.c numbers them


@cache
def library() -> ctypes.CDLL | None:
    """Return the kernel, or None where it was not built or cannot be loaded."""
    spec = find_spec("service.engine.kernel._kernel")
    if spec is None or spec.origin is None:
        return None
    try:
        found = ctypes.CDLL(spec.origin)
        pointer, number, small = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
        found.copyist_variant.restype = small
        found.copyist_step.argtypes = [pointer, pointer, number, number, small]
        found.copyist_step.restype = small
        found.copyist_read.argtypes = [pointer, pointer, number, pointer, number, pointer, small]
        found.copyist_read.restype = small
    except (OSError, AttributeError):
        return None
    return found


def best_variant() -> str | None:
    """Return the name of the fastest variant that this processor can run, or None where there is no kernel."""
    found = library()
    return None if found is None else VARIANTS[found.copyist_variant()]
