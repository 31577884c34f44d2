"""The runner of our own C kernel, which computes the step of a network with 8-bit weights (`service/engine/kernel`)."""

import ctypes
from collections.abc import Sequence as Seq
from ctypes import POINTER, c_float, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle.folder import Bundle
from service.engine.kernel.library import VARIANTS, best_variant, library
from service.engine.kernel.network import KernelNetwork, can_run
from service.engine.runners.base import Runner


class _Rows(ctypes.Structure):
    """`Rows` of kernel.h: the addresses of a runner's arrays."""

    _fields_ = (
        ("h", c_void_p),
        ("c", c_void_p),
        ("z", c_void_p),
        ("e", c_void_p),
        ("position", c_void_p),
        ("vector", c_void_p),
        ("token", c_void_p),
        ("offset", c_void_p),
        ("output", c_void_p),
        ("drawn", c_void_p),
        ("code", c_void_p),
        ("temperature", c_void_p),
        ("top_p", c_void_p),
        ("logit_bias", c_void_p),
        ("bias", c_void_p),
        ("top_k", c_void_p),
        ("noise", c_void_p),
        ("hand", c_void_p),
        ("text", c_void_p),
    )


class KernelRunner(Runner):
    """A runner whose rows the kernel steps; attributes as for `Runner`.

    Args:
        bundle: a bundle for which `has_kernel` is true.
        capacity: number of rows.
        variant: variant of the kernel; the fastest one for this processor if None.

    Raises:
        RuntimeError: the kernel was not built here.
    """

    stepper = "kernel"

    def __init__(self, bundle: Bundle, capacity: int, variant: str | None = None) -> None:
        super().__init__(bundle, capacity)
        found, best = library(), best_variant()
        if found is None or best is None:
            raise RuntimeError("there is no kernel here")
        self._variant = VARIANTS.index(variant or best)
        self._library = found
        self._network = KernelNetwork(bundle)
        # Tensors of the state that each layer has: arrays of addresses, null where a layer has no such tensor.
        layers = range(1, len(bundle.hidden) + 1)
        by_layer = {
            kind: (POINTER(c_float) * len(layers))(*(self._pointer(f"{kind}{layer}") for layer in layers))
            for kind in "hcze"
        }
        # All fields of `_Rows` by name; missing ones stay null.
        addresses = {kind: ctypes.addressof(pointers) for kind, pointers in by_layer.items()}
        arrays = {
            "position": self._now.get("window_position"),
            "vector": self._now.get("window_vector"),
            bundle.input.name: self.inputs,
            "output": self._outputs,
            "drawn": self.drawn,
            "code": self.codes,
            **self.sampling_inputs,
        }
        addresses |= {name: array.ctypes.data for name, array in arrays.items() if array is not None}
        self._rows = _Rows(**addresses)
        self._kept = by_layer, arrays  # the C code holds only addresses, so the arrays have to live as long as this
        self._addresses = self._network.address, ctypes.addressof(self._rows)

    def step(self, count: int) -> NDArray[np.float32]:
        """Run one step of rows 0 .. count-1.

        Returns:
            Outputs (count, V or 6M+1) float32, valid until the next step.
        """
        if not self._library.copyist_step(*self._addresses, 0, count, self._variant):
            raise MemoryError
        outputs: NDArray[np.float32] = self._outputs[:count]
        return outputs

    def prefill(self, row: int, inputs: Seq[Any]) -> NDArray[np.uint8]:
        """Run a row through inputs whose outputs are not needed; return the trace bytes of these steps, (T,) uint8."""
        given = np.ascontiguousarray(inputs, self.inputs.dtype)
        codes = np.zeros(len(given), np.uint8)
        where = given.ctypes.data, len(given), codes.ctypes.data
        if not self._library.copyist_read(*self._addresses, row, *where, self._variant):
            raise MemoryError
        return codes

    def _pointer(self, name: str) -> Any:
        """Return the address of a tensor of the state, null if there is none of this name."""
        array = self._now.get(name)
        return POINTER(c_float)() if array is None else array.ctypes.data_as(POINTER(c_float))


def has_kernel(bundle: Bundle) -> bool:
    """Return whether the kernel was built here and can run this bundle's network."""
    return library() is not None and can_run(bundle)
