"""The two pointwise kernels of a window, plain or compiled: what a layer does after its matrix product, and back.

Each is a pure sequence of elementwise operations and row sums, written once in plain torch (forward.py, backward.py)
and, on request, compiled into one fused kernel. The products themselves stay with `torch.mm` (layer_run.py). A kernel
takes the fields of its groups one after the other, because that is what can be compiled and called quickly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from model.network.fast.backward import backward
from model.network.fast.forward import forward
from model.network.fast.fuse import fused
from model.network.fast.step import Arriving, Destinations, Inputs, Parameters, Saved, Variant

Kernel = Callable[..., Any]

NUM_INPUTS, NUM_PARAMETERS, NUM_DESTINATIONS = len(Inputs._fields), len(Parameters._fields), len(Destinations._fields)
NUM_ARRIVING, NUM_VALUES = len(Arriving._fields), len(Saved._fields)


def make_forward(variant: Variant) -> Kernel:
    """The forward kernel of a variant: (*Inputs, *Parameters, *Destinations, slope) -> Outputs."""
    first = NUM_INPUTS
    second = first + NUM_PARAMETERS
    third = second + NUM_DESTINATIONS

    def kernel(*arguments: Any) -> Any:
        inputs = Inputs(*arguments[:first])
        parameters = Parameters(*arguments[first:second])
        return forward(variant, inputs, parameters, arguments[third], Destinations(*arguments[second:third]))

    return kernel


def make_backward(variant: Variant) -> Kernel:
    """The backward kernel of a variant: (*Arriving, *Saved, gain, slope, d_s_out) -> Leaving."""
    first = NUM_ARRIVING
    second = first + NUM_VALUES

    def kernel(*arguments: Any) -> Any:
        return backward(variant, Arriving(*arguments[:first]), Saved(*arguments[first:second]), *arguments[second:])

    return kernel


@dataclass(frozen=True)
class Shape:
    """What else a compiled kernel is made for: rows, place in the stack, dtypes, device, width of the text vector.

    With the variant it fixes shape, dtype and layout of every argument, so compiled kernels need no guards. The whole
    stack counts: kernels write into the operands of their neighbours, whose rows are as long as *their* sources.
    """

    batch: int
    hidden: tuple[int, ...]
    layer: int
    operand: torch.dtype
    wide: torch.dtype
    device: torch.device
    text_width: int


@cache
def kernels(variant: Variant, shape: Shape | None) -> tuple[Kernel, Kernel]:
    """Saved and backward kernel of a variant: plain, or for a shape compiled into fused ones."""
    plain_forward, plain_backward = make_forward(variant), make_backward(variant)
    if shape is None:
        return plain_forward, plain_backward
    return fused(plain_forward, shape.device), fused(plain_backward, shape.device)
