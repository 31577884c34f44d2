"""The matrix product inside the time loop: many left operands, one right operand, prepared once per window."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]

ROUNDS, REPEATS = 7, 10  # of the products that `fastest_operand` times


def prepare(weight: Tensor, batch: int) -> Product:
    """Return a function x (batch, K) -> x @ weight (batch, N).

    On a CPU whose oneDNN takes bfloat16 (it needs AVX-512), a bfloat16 weight is laid out once as oneDNN needs it,
    instead of in every product: 6 to 20 % less time at 64 and 32 rows. Elsewhere the product is written into one
    buffer, so a result lives until the next call.

    Args:
        weight: (K, N), in the operand dtype.
        batch: rows of a left operand, at the most.
    """
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and onednn_takes_bfloat16():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous(), batch)  # noqa: SLF001 (inductor's own)
        linear = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
        return lambda x: linear(x, packed, None, "none", [], "")
    out = torch.empty(batch, weight.shape[1], dtype=weight.dtype, device=weight.device)
    return lambda x: torch.mm(x, weight, out=out[: len(x)])


def fastest_operand(device: torch.device, batch: int, depth: int, width: int) -> torch.dtype:
    """Return the dtype in which this device multiplies (batch, depth) by (depth, width) faster: bfloat16 or float32.

    For a GPU it is bfloat16. CPUs differ by a factor of two and more in either direction (docs/log.md), so on a CPU it
    is measured.
    """
    if device.type != "cpu":
        return torch.bfloat16
    candidates = (torch.float32, torch.bfloat16)
    products = [prepare(torch.ones(depth, width, dtype=dtype), batch) for dtype in candidates]
    operands = [torch.ones(batch, depth, dtype=dtype) for dtype in candidates]
    best = [float("inf")] * len(candidates)
    for _ in range(ROUNDS):
        for index, (product, operand) in enumerate(zip(products, operands, strict=True)):
            begun = time.process_time_ns()
            for _ in range(REPEATS):
                product(operand)
            best[index] = min(best[index], time.process_time_ns() - begun)
    return candidates[best.index(min(best))]


def onednn_takes_bfloat16() -> bool:
    """Whether oneDNN is here and multiplies bfloat16 on this processor: on x86, with AVX-512."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
