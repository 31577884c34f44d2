"""What several commands are given alike: a preset and what overrides it, seeds, and whether kernels are compiled."""

import shutil
from dataclasses import fields, replace
from typing import Any, get_type_hints

from model.config import PRESETS, ConfigError, Preset


def preset_named(name: str) -> Preset:
    """Return a preset.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def whole_numbers(text: str, option: str) -> list[int]:
    """Return numbers such as "1,2,3".

    Raises:
        ConfigError: the text is something else, or a number is there twice.
    """
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: expected whole numbers with commas between, like 1,2,3") from error
    if len(set(numbers)) != len(numbers):
        raise ConfigError(f"{option} {text!r}: a seed twice is one training twice")
    return numbers


def whether_compiled(wanted: bool | None) -> bool:
    """Return whether to compile the pointwise kernels: as wanted, else where there is a C++ compiler."""
    return shutil.which("g++") is not None if wanted is None else wanted


def overridden(preset: Preset, settings: list[str]) -> Preset:
    """Apply `model.hidden=128,128` or `train.batch=64` to a preset."""
    parts: dict[str, Any] = {"model": preset.model, "train": preset.train}
    for setting in settings:
        key, _, text = setting.partition("=")
        part, _, name = key.partition(".")
        if part not in parts or name not in {f.name for f in fields(parts[part])} or not text:
            raise ConfigError(
                f"{setting!r}: expected model.FIELD=VALUE or train.FIELD=VALUE with a field of model/config.py"
            )
        parts[part] = replace(parts[part], **{name: _parse(text, get_type_hints(type(parts[part]))[name], setting)})
    return Preset(**parts)


def _parse(text: str, wanted: Any, setting: str) -> Any:
    parsers: dict[Any, Any] = {
        bool: lambda word: {"true": True, "false": False}[word.lower()],
        int: int,
        float: float,
        tuple[int, ...]: lambda words: tuple(int(word) for word in words.split(",")),
        tuple[float, float]: lambda words: tuple(float(word) for word in words.split(",")),
    }
    try:
        return parsers.get(wanted, str)(text)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{setting!r}: {text!r} is no value for this field") from error
