"""Hypothesis strategies named by what they draw, with its shape."""

from hypothesis import strategies as st

from model.config import Detector, Kind, ModelConfig

seeds = st.integers(0, 2**31 - 1)
slopes = st.floats(0.25, 8, allow_nan=False)
logits = st.floats(-50, 50, allow_nan=False)
rates = st.floats(0, 1, allow_nan=False)

# Widths of layers from layer 1 up, unequal more often than not.
layer_widths = st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple)
stacked_widths = st.lists(st.integers(1, 7), min_size=2, max_size=4).map(tuple)


@st.composite
def model_configs(draw: st.DrawFn, *, detector: Detector | None = None, min_layers: int = 1) -> ModelConfig:
    """Small HM-LSTMs over text or ink, with every switch drawn."""
    drawn: Detector = draw(st.sampled_from(("step", "sample", "soft")))
    kind: Kind = draw(st.sampled_from(("text", "ink")))
    return ModelConfig(
        kind=kind,
        vocabulary=draw(st.integers(2, 9)) if kind == "text" else 0,
        embedding=draw(st.integers(1, 5)),
        hidden=draw(layer_widths if min_layers == 1 else stacked_widths),
        output=draw(st.integers(1, 6)),
        mixtures=draw(st.integers(1, 3)),
        layer_norm=draw(st.booleans()),
        copy_boundary=draw(st.sampled_from(("nested", "recompute"))),
        detector=detector or drawn,
    )


@st.composite
def boundary_rates(draw: st.DrawFn) -> tuple[tuple[int, ...], list[float], list[float]]:
    """Widths (L,), z rates (L-1,), and active rates (L-1,) of layers 2 .. L, each at least the z rate below it."""
    hidden = draw(stacked_widths)
    z = [draw(rates) for _ in hidden[1:]]
    return hidden, z, [max(rate, draw(rates)) for rate in z]
