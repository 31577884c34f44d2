"""How weights are rounded for storage, and how int8 products round h.

`float16` stores matrices in half precision. In `int8` every matrix that multiplies an h is stored in 8 bits with one
scale per column, and h, which always lies in (-1, 1), is rounded to steps of 1/63 before the product. Both scales are
fixed, so the result of a row cannot depend on other rows, and sums of integers are exact in any order.

Why 1/63 and not 1/127: processors without VNNI instructions add two products of a pair in 16 bits. With |h| <= 63 steps
around a zero point of 64 such a sum is at most 2 * 127 * 127 = 32,258, so it never saturates. The other matrices
(embedding, head) stay floating point.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from export.errors import ExportError
from model.network.stack import Network

Array = NDArray[np.float32]
Precision = Literal["float32", "float16", "int8"]

HIDDEN_STEPS = 63  # h is rounded to multiples of 1/63
HIDDEN_ZERO = 64  # and stored as an unsigned byte, 1 to 127
WEIGHT_STEPS = 127  # the largest weight of a column is this many of its steps


def round_weights(network: Network, precision: Precision) -> Network:
    """Return a copy of a network in float32 whose matrices can be stored in a precision without any further loss.

    Vectors (gains, biases) stay float32: they are few. What is compared and measured afterwards is the copy.

    Raises:
        ExportError: a weight is not finite, or too large for float16.
    """
    rounded = deepcopy(network).to(device="cpu", dtype=torch.float32).eval()
    by_hidden = {id(parameter) for parameter, _ in _matrices_of_hidden(rounded)} if precision == "int8" else set()
    with torch.no_grad():
        # Matrices in floating point: all of them in float16, those that do not multiply an h in int8.
        for name, parameter in rounded.named_parameters():
            if parameter.ndim == 2 and precision != "float32" and id(parameter) not in by_hidden:
                parameter.copy_(parameter.half().float())
            if not bool(torch.isfinite(parameter).all()):
                raise ExportError(f"{name} holds a value that is not finite in {precision}")
        if precision == "int8":
            for parameter, rows in _matrices_of_hidden(rounded):
                parameter[rows] = torch.from_numpy(dequantise(*quantise(to_array(parameter[rows]))))
            # Rows of the same parameters that multiply the window's vector instead of an h are floating point too.
            for parameter, rows in _matrices_of_window(rounded):
                parameter[rows] = parameter[rows].half().float()
    return rounded


def quantise(matrix: Array) -> tuple[NDArray[np.int8], Array]:
    """Return codes (K, N) int8 in -127..127 and a scale (N,) float32 per column, with matrix ~ codes * scale.

    A matrix that is already rounded does not change: its largest weight is 127 steps of its column.
    """
    largest = np.abs(matrix).max(axis=0).astype(np.float64)
    scale = np.where(largest > 0, largest, 1.0) / WEIGHT_STEPS
    return np.rint(matrix / scale).astype(np.int8), scale.astype(np.float32)


def dequantise(codes: NDArray[np.int8], scale: Array) -> Array:
    """Return the matrix (K, N) that codes and scales stand for."""
    return (codes * scale.astype(np.float64)).astype(np.float32)


def hidden_step() -> np.float32:
    """Return the step to which h is rounded, as the files store it."""
    return np.float32(1 / HIDDEN_STEPS)


def product_scale(scale: Array) -> Array:
    """Return what turns a product of codes into numbers, (N,): the step of each column times the step of h."""
    return (scale.astype(np.float64) / HIDDEN_STEPS).astype(np.float32)


def round_hidden(h: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return h as an int8 product reads it: multiples of 1/63, halves to the even one."""
    rounded: NDArray[np.float64] = np.rint(h * HIDDEN_STEPS) / HIDDEN_STEPS
    return rounded


def distance_to_tie(h: NDArray[np.float64]) -> float:
    """Return how close any value of h comes to the middle between two steps, where rounding is undecided."""
    fraction = h * HIDDEN_STEPS - np.floor(h * HIDDEN_STEPS)
    return float(np.abs(fraction - 0.5).min()) / HIDDEN_STEPS


def to_array(tensor: Any) -> Array:
    """Return a tensor as a contiguous float32 array, which may share the tensor's memory."""
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


def _matrices_of_hidden(network: Network) -> Iterator[tuple[torch.nn.Parameter, NDArray[np.int64]]]:
    """Yield the parameters that multiply an h, with the rows that become one matrix (see `weights.StepWeights`)."""
    first = 0
    for index, size in enumerate(network.config.hidden):
        layer = network.layer(index)
        rows = np.arange(len(layer.weight))
        is_above = (rows >= size) & (rows < size + layer.above)
        is_window = (rows >= size + layer.above) & (index == 0)  # layer 1 has the window's vector there, not an h
        yield layer.weight, rows[~is_above & ~is_window]
        if layer.above:
            yield layer.weight, rows[is_above]
        place = np.arange(first, first + size)
        yield network.output.gate, place
        yield network.output.project, place
        first += size


def _matrices_of_window(network: Network) -> Iterator[tuple[torch.nn.Parameter, NDArray[np.int64]]]:
    """Yield the parameters of which some rows multiply the window's vector, with those rows."""
    width = network.config.character_width if network.config.writes_text else 0
    for parameter in (network.layer(0).weight, network.output.gate, network.output.project):
        yield parameter, np.arange(len(parameter) - width, len(parameter))
