"""The product of the time loop gives what a plain product gives."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model.network.fast.product
from model.network.fast.product import fastest_operand, prepare
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fewer_rows_are_multiplied_alike(dtype: torch.dtype) -> None:
    """A product prepared for eight rows takes any number of them."""
    weight = torch.arange(12.0).view(4, 3).to(dtype)
    product = prepare(weight, 8)
    for rows in (1, 3, 8):
        x = torch.eye(4)[torch.arange(rows) % 4].to(dtype)
        assert torch.equal(product(x), weight[torch.arange(rows) % 4])


@pytest.mark.parametrize("slow", [torch.float32, torch.bfloat16])
def test_the_faster_dtype_is_taken(slow: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one of the two takes ten times as long by the clock, the other is chosen; a GPU is not asked."""
    clock = {"now": 0}

    def slowly(weight: torch.Tensor, _: int) -> model.network.fast.product.Product:
        def product(x: torch.Tensor) -> torch.Tensor:
            clock["now"] += 10 if weight.dtype == slow else 1
            return x

        return product

    monkeypatch.setattr(model.network.fast.product, "prepare", slowly)
    monkeypatch.setattr(time, "process_time_ns", lambda: clock["now"])
    other = {torch.float32: torch.bfloat16, torch.bfloat16: torch.float32}[slow]
    assert fastest_operand(torch.device("cpu"), 4, 3, 2) == other
    assert fastest_operand(torch.device("cuda"), 4, 3, 2) == torch.bfloat16


def test_one_layout_serves_many_windows() -> None:
    """A result lives until the next call: what was copied out of it stays."""
    product = prepare(torch.eye(3), 2)
    one = product(torch.ones(2, 3)).clone()
    product(torch.zeros(2, 3))
    assert torch.equal(one, torch.ones(2, 3))
