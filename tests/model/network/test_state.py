"""The state that callers carry."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.network.state import LayerState, NetworkState
from tests.model.networks import config_for, random_state
from tests.strategies import layer_widths


@settings(max_examples=30)
@given(layer_widths, st.integers(1, 5), st.sampled_from((torch.float32, torch.float64)))
def test_it_starts_as_zeros(hidden: tuple[int, ...], batch: int, dtype: torch.dtype) -> None:
    """Before the first step h = c = 0 and z = 0 in every layer, each tensor its own."""
    state = NetworkState.zeros(hidden, batch, dtype, torch.device("cpu"))
    assert [name for name, _ in state.named()] == [f"{part}{n + 1}" for n in range(len(hidden)) for part in "hcz"]
    for size, layer in zip(hidden, state.layers, strict=True):
        assert layer.h.shape == layer.c.shape == (batch, size)
        assert layer.z.shape == (batch,)
    for _, tensor in state.named():
        assert tensor.dtype == dtype
        assert not tensor.any()
    assert len({tensor.data_ptr() for _, tensor in state.named()}) == 3 * len(hidden)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@given(rows=st.lists(st.booleans(), min_size=4, max_size=4))
def test_keep_zeroes_rows_whatever_they_held(poison: float, rows: list[bool]) -> None:
    """Rows not kept are exactly 0, NaN and infinity included; kept rows keep their bits."""
    state = random_state(config_for(), 4, seed=1)
    for _, tensor in state.named():
        tensor[~torch.tensor(rows)] = poison
    kept = state.keep(torch.tensor(rows))
    for (_, before), (_, after) in zip(state.named(), kept.named(), strict=True):
        for row, keep in enumerate(rows):
            assert torch.equal(after[row], before[row] if keep else torch.zeros_like(before[row]))


def test_select_takes_rows_in_order() -> None:
    """Rows can be dropped, repeated and reordered, all tensors alike."""
    state = random_state(config_for(), 3, seed=2)
    chosen = state.select(torch.tensor([2, 0, 2]))
    for (_, before), (_, after) in zip(state.named(), chosen.named(), strict=True):
        assert torch.equal(after, torch.stack([before[2], before[0], before[2]]))


def test_detach_drops_the_history() -> None:
    """A detached state has the same bits and no gradient."""
    state = random_state(config_for(), 2, seed=3)
    tracked = NetworkState(tuple(LayerState(s.h.requires_grad_() * 1, s.c * s.h, s.z) for s in state.layers))
    assert tracked.layers[0].h.requires_grad
    for (_, before), (_, after) in zip(tracked.named(), tracked.detach().named(), strict=True):
        assert not after.requires_grad
        assert torch.equal(before, after)


@given(layer_widths)
def test_names_lead_back(hidden: tuple[int, ...]) -> None:
    """from_named is the inverse of named, in any order of the names."""
    state = random_state(config_for(hidden=hidden), 2, seed=4)
    names = dict(reversed(list(state.named())))
    again = NetworkState.from_named(names)
    assert len(again.layers) == len(hidden)
    for (_, before), (_, after) in zip(state.named(), again.named(), strict=True):
        assert before is after
