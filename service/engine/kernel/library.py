"""Loads the compiled kernel, which is built on installation if there is a C compiler.

Copyist also works without it, more slowly, on ONNX Runtime.
"""

import ctypes
from functools import cache
from importlib.util import find_spec

VARIANTS = ("plain", "avx2", "vnni")  # in the order in which kernel.c numbers them


@cache
def library() -> ctypes.CDLL | None:
    """Return the kernel, or None if it was not built or cannot be loaded."""
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
    """Return the fastest variant of the kernel that this processor can run, or None if there is no kernel."""
    found = library()
    return None if found is None else VARIANTS[found.copyist_variant()]
