"""A trace byte says what every layer did, exactly as Eq. 2 does."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.operations import MAX_LAYERS, Hierarchy


@st.composite
def steps(draw: st.DrawFn) -> tuple[int, list[tuple[list[int], list[int]]]]:
    """A number of layers, and z before and after each of some steps."""
    layers = draw(st.integers(1, MAX_LAYERS))
    bits = st.lists(st.integers(0, 1), min_size=layers - 1, max_size=layers - 1)
    return layers, draw(st.lists(st.tuples(bits, bits), max_size=30))


def byte_of(before: list[int], after: list[int]) -> int:
    """Pack z before and after a step as the runner does."""
    code = sum(bit << layer for layer, bit in enumerate(after))
    return code | sum(bit << (layer + len(after)) for layer, bit in enumerate(before))


def operation(before: list[int], after: list[int], layer: int) -> str:
    """Eq. 2, written out: FLUSH after an own boundary, UPDATE on one below, else COPY."""
    if layer < len(before) and before[layer]:
        return "F"
    return "U" if layer == 0 or after[layer - 1] else "C"


@given(steps())
def test_bytes_are_read_as_the_equation_says(case: tuple[int, list[tuple[list[int], list[int]]]]) -> None:
    """Boundaries, operations and counts are those of z before and after, for any depth."""
    layers, history = case
    hierarchy = Hierarchy(layers)
    trace = bytes(byte_of(before, after) for before, after in history)
    expected = [[operation(before, after, layer) for before, after in history] for layer in range(layers)]
    assert hierarchy.operations(trace) == ["".join(row) for row in expected]
    assert hierarchy.updates(trace) == [sum(letter != "C" for letter in row) for row in expected]
    boundaries = [[after[layer] for _, after in history] for layer in range(layers - 1)]
    assert json.loads("{" + hierarchy.columns(trace) + "}") == {
        "z": boundaries,
        "op": ["".join(row) for row in expected],
    }


@given(steps(), st.data())
def test_work_spared_is_what_the_evaluation_counts(
    case: tuple[int, list[tuple[list[int], list[int]]]], data: st.DataObject
) -> None:
    """Of a run from a fresh state, the share spared is what is left of the evaluation's share of cell work."""
    metrics = pytest.importorskip("model.training.metrics", reason="the evaluation needs PyTorch")
    layers, history = case
    hidden = tuple(data.draw(st.lists(st.integers(1, 50), min_size=layers, max_size=layers)))
    hierarchy = Hierarchy(layers, hidden=hidden)
    z = [after for _, after in history] or [[0] * (layers - 1)]
    before = [[0] * (layers - 1), *z[:-1]]
    trace = bytes(byte_of(*pair) for pair in zip(before, z, strict=True))
    # Its top-down product counts the boundary that fires, ours the step after, which needs it: the last has none.
    z[-1] = [0] * (layers - 1)
    trace = trace[:-1] + bytes([byte_of(before[-1], z[-1])])
    rates = [sum(row[layer] for row in z) / len(z) for layer in range(layers - 1)]
    letters = hierarchy.operations(trace)
    active = [1 - letters[layer].count("C") / len(z) for layer in range(1, layers)]
    assert hierarchy.work_spared(trace) == pytest.approx(1 - metrics.cell_work_share(hidden, rates, active), abs=1e-12)
    counts = hierarchy.counts(trace)
    assert [sum(row) for row in zip(*counts.values(), strict=True)] == [len(trace)] * layers
    assert counts == {letter: [row.count(letter) for row in letters] for letter in "UCF"}


@pytest.mark.parametrize("layers", [0, MAX_LAYERS + 1])
def test_what_does_not_fit_a_byte_is_refused(layers: int) -> None:
    """A network too deep for a trace byte is refused when it is opened, not served wrongly."""
    with pytest.raises(ValueError, match="layers"):
        Hierarchy(layers)


def test_an_lstm_updates_every_layer_at_every_step() -> None:
    """The control has no detectors: no boundaries to tell, and all layers are computed always."""
    control = Hierarchy(3, has_detectors=False)
    assert json.loads("{" + control.columns(bytes(2)) + "}") == {"z": [], "op": ["UU", "UU", "UU"]}
    assert control.updates(bytes(2)) == [2, 2, 2]
    assert control.counts(bytes(2)) == {"U": [2, 2, 2], "C": [0, 0, 0], "F": [0, 0, 0]}
    assert control.work_spared(bytes(2)) == 0
    assert control.work_spared(b"") == 0
