"""The product of the time loop gives what a plain product gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.product import prepare
from tests.strategies import seeds


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@settings(max_examples=20)
@given(seed=seeds, batch=st.integers(1, 9), depth=st.integers(1, 20), width=st.integers(1, 30))
def test_it_is_the_product(dtype: torch.dtype, seed: int, batch: int, depth: int, width: int) -> None:
    """For any shape, again and again with other operands: x @ weight, to the roundings of its sums.

    bfloat16 is summed in float32, so one rounding at the end; the others round at each of the terms.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(depth, width, generator=generator).to(dtype)
    product = prepare(weight, batch)
    for _ in range(3):
        x = torch.randn(batch, depth, generator=generator).to(dtype)
        exact = x.double() @ weight.double()
        found = product(x)
        assert found.dtype == dtype
        terms = 1 if dtype == torch.bfloat16 else depth
        scale = float((x.double().abs() @ weight.double().abs()).max())
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=scale * torch.finfo(dtype).eps * terms)


def test_one_layout_serves_many_windows() -> None:
    """A result lives until the next call: what was copied out of it stays."""
    product = prepare(torch.eye(3), 2)
    one = product(torch.ones(2, 3)).clone()
    product(torch.zeros(2, 3))
    assert torch.equal(one, torch.ones(2, 3))
