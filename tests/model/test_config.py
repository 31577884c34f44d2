"""Configurations that can be, and errors that say why one cannot."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import _ADDED, PRESETS, ConfigError, ModelConfig, TrainConfig
from tests.strategies import model_configs


@settings(max_examples=50)
@given(model_configs())
def test_a_model_configuration_survives_json(config: ModelConfig) -> None:
    """to_json gives JSON values and from_json the same configuration."""
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    """Every preset can be written to a checkpoint and read back."""
    preset = PRESETS[name]
    assert ModelConfig.from_json(json.loads(json.dumps(preset.model.to_json()))) == preset.model
    assert TrainConfig.from_json(json.loads(json.dumps(preset.train.to_json()))) == preset.train


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "speech"}, "kind must be one of text, ink"),
        ({"cell": "gru"}, "cell must be one of hmlstm, lstm, bn-lstm"),
        ({"cell": "bn-lstm"}, 'layer_norm must be false for cell "bn-lstm"'),
        ({"cell": "bn-lstm", "layer_norm": False, "kind": "ink", "vocabulary": 0}, "kind must be text for cell"),
        ({"copy_boundary": "hold"}, "copy_boundary must be one of nested, recompute"),
        ({"detector": "hard"}, "detector must be one of step, sample, soft"),
        ({"detector_prior": "space"}, "detector_prior must be one of none, separator"),
        ({"hidden": ()}, "hidden must hold"),
        ({"hidden": (8, 0)}, "hidden must hold"),
        ({"embedding": 0}, "embedding must be at least 1, not 0"),
        ({"output": -1}, "output must be at least 1, not -1"),
        ({"mixtures": 0}, "mixtures must be at least 1, not 0"),
        ({"vocabulary": 0}, "vocabulary must be positive for text"),
        ({"kind": "ink"}, "0 for ink, not 7"),
    ],
)
def test_an_impossible_network_is_refused(changes: dict[str, Any], message: str) -> None:
    """The error names the field, what it must be and what it was."""
    with pytest.raises(ConfigError, match=message):
        replace(ModelConfig(vocabulary=7), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "float16"}, "precision must be one of auto, bfloat16, float32"),
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"window": 0}, "window must be at least 1, not 0"),
        ({"average": 1.0}, r"average must be in \[0, 1\), not 1.0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, not 0.0"),
        ({"clip": -1.0}, "clip must be positive"),
        ({"slope": 0.0}, "slope must be positive"),
        ({"final_slope": 0.0}, "final_slope must be positive"),
        ({"slope_share": 0.0}, "slope_share must be positive"),
        ({"detector_rate": 0.0}, "detector_rate must be positive"),
        ({"rate_band": (0.5, 0.2)}, "rate_band must be two shares in order"),
        ({"rate_band": (0.5, 1.2)}, "rate_band must be two shares in order"),
        ({"restarts": 1.0}, r"restarts must be in \[0, 1\)"),
    ],
)
def test_an_impossible_training_is_refused(changes: dict[str, Any], message: str) -> None:
    """The error names the field, what it must be and what it was."""
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**changes)


@given(st.sampled_from([f.name for f in fields(ModelConfig) if f.name not in _ADDED]), st.booleans())
def test_a_foreign_dictionary_is_refused(name: str, add: bool) -> None:
    """A missing or an unknown field is an error, not a default."""
    values = ModelConfig(vocabulary=7).to_json()
    if add:
        values["surprise"] = 1
    else:
        del values[name]
    with pytest.raises(ConfigError, match="has the fields"):
        ModelConfig.from_json(values)


def test_a_configuration_older_than_a_field_is_read() -> None:
    """Checkpoints and bundles made before a field was added have the value that changes nothing."""
    written = ModelConfig(kind="ink").to_json()
    older = {name: value for name, value in written.items() if name not in _ADDED}
    assert len(older) < len(written)
    assert ModelConfig.from_json(older) == ModelConfig(kind="ink")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "ink", "characters": 3}, "both be positive or both 0, not 3 and 0"),
        ({"kind": "ink", "writers": 3}, "both be positive or both 0"),
        ({"vocabulary": 5, "characters": 3, "writers": 1}, "0 but for ink"),
        ({"kind": "ink", "characters": 3, "writers": 1, "window_mixtures": 0}, "window_mixtures must be at least 1"),
    ],
)
def test_a_text_is_written_in_ink_and_by_somebody(changes: dict[str, Any], message: str) -> None:
    """Characters go with writers and with ink."""
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**changes)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2000))
def test_learning_rate_warms_up_and_falls(first: float, second: float, update: int) -> None:
    """Between the end of the warm-up and the end of the budget the rate never rises; it ends at the final rate."""
    config = TrainConfig()
    low, high = min(first, second), max(first, second)
    late = config.warmup + update
    assert config.learning_rate_at(late, high) <= config.learning_rate_at(late, low) <= config.learning_rate
    assert config.learning_rate_at(update, first) <= config.learning_rate_at(update + 1, first)
    assert config.learning_rate_at(late, 1) == pytest.approx(config.final_learning_rate)
    assert config.learning_rate_at(0, 0) == pytest.approx(config.learning_rate / config.warmup)


@given(st.floats(0, 1), st.floats(0, 1))
def test_slope_anneals_over_its_share(first: float, second: float) -> None:
    """The slope rises in a line from its start to its end and stays there for the rest of the budget."""
    config = TrainConfig(slope=1.0, final_slope=5.0, slope_share=0.5)
    low, high = min(first, second), max(first, second)
    assert 1 <= config.slope_at(low) <= config.slope_at(high) <= 5
    assert config.slope_at(0.25) == pytest.approx(3)
    assert config.slope_at(max(first, 0.5)) == 5
