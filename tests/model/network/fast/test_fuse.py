"""Fused kernels: what a kernel returns and writes, absent arguments and results kept in their places."""

import shutil

import pytest
import torch
from torch import Tensor

from model.network.fast.fuse import fused

Result = tuple[Tensor, Tensor | None, Tensor]


def kernel(x: Tensor, absent: Tensor | None, scale: Tensor, out: Tensor) -> Result:
    """Row sums and products, one result written into a part of a wider tensor."""
    y = torch.sigmoid(x) * scale[:, None]
    out.copy_(y)
    return y.sum(1), absent, y * x


def arguments(seed: int) -> tuple[Tensor, None, Tensor, Tensor]:
    """Arguments of one shape and layout: `out` is the middle of rows of 20."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 8, generator=generator), None, torch.rand(3, generator=generator), torch.zeros(3, 20)[:, 5:13]


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiled kernels need g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the compiler's own
def test_fused_kernel_does_what_the_plain_one_does() -> None:
    """At every call, with other values than those it was traced with, and with nothing held back from the first."""
    quick = fused(kernel, torch.device("cpu"))
    for seed in (1, 2, 3):
        wanted_arguments, found_arguments = arguments(seed), arguments(seed)
        wanted, found = kernel(*wanted_arguments), quick(*found_arguments)
        assert found[1] is None
        torch.testing.assert_close((found[0], found[2]), (wanted[0], wanted[2]))
        torch.testing.assert_close(found_arguments[3], wanted_arguments[3])
        whole = found_arguments[3]._base
        assert whole is not None
        assert whole[:, :5].abs().sum() + whole[:, 13:].abs().sum() == 0
