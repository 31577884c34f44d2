"""Checks of single values in bundle.json: each returns the value, or raises BundleError with the name of the field.

`where` is the name of the field as a message shows it. Only the standard library is needed.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


class BundleError(Exception):
    """A folder is not a bundle that may be used; the message is one sentence with the reason."""


def check_facts(value: Any, where: str, depth: int = 0) -> None:
    """Check free facts: plain JSON with simple keys and at most six levels, so that it is harmless to show them."""
    if depth > 6:
        raise BundleError(f"bundle.json: {where} is nested too deeply")
    if isinstance(value, Mapping):
        for key, entry in check_record(value, where, required=(), optional=None).items():
            check_facts(entry, f"{where}.{check_key(key, where)}", depth + 1)
    elif isinstance(value, list):
        for index, entry in enumerate(check_list(value, where, 0, 10_000)):
            check_facts(entry, f"{where}[{index}]", depth + 1)
    elif isinstance(value, str):
        check_text(value, where, longest=10_000)
    elif value is not None and not isinstance(value, bool):
        check_number(value, where)


def check_record(
    value: Any, where: str, required: Collection[str], optional: Collection[str] | None = ()
) -> Mapping[str, Any]:
    """Return an object after checking that it has every required key and, unless `optional` is None, no unknown one."""
    if not isinstance(value, Mapping):
        raise BundleError(f"bundle.json: {where} must be an object, not {_shown(value)}")
    for key in required:
        if key not in value:
            raise BundleError(f"bundle.json: {where} lacks the field {key!r}")
    for key in value:
        if optional is not None and key not in required and key not in optional:
            raise BundleError(f"bundle.json: {where} has the unknown field {_shown(key)}")
    return value


def check_list(value: Any, where: str, shortest: int, longest: int) -> list[Any]:
    """Return a list after checking its length."""
    if not isinstance(value, list) or not shortest <= len(value) <= longest:
        raise BundleError(f"bundle.json: {where} must be a list of {shortest} to {longest}, not {_shown(value)}")
    return value


def check_text(value: Any, where: str, longest: int, shortest: int = 0) -> str:
    """Return a text after checking that it is Unicode (no lone surrogates) and of a length in this range."""
    if not isinstance(value, str) or not shortest <= len(value) <= longest or not _is_unicode(value):
        raise BundleError(f"bundle.json: {where} must be text of length {shortest} to {longest}, not {_shown(value)}")
    return value


def check_key(value: Any, where: str) -> str:
    """Return the key of a free fact after checking that it is a simple name."""
    return check_pattern(value, where, _KEY)


def check_pattern(value: Any, where: str, pattern: re.Pattern[str]) -> str:
    """Return a text after checking that it matches a pattern as a whole."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BundleError(f"bundle.json: {where} has {_shown(value)}, which does not match {pattern.pattern}")
    return value


def check_choice(value: Any, where: str, choices: Collection[str]) -> str:
    """Return a text after checking that it is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise BundleError(f"bundle.json: {where} is {_shown(value)} but must be one of {', '.join(choices)}")
    return value


def check_integer(value: Any, where: str, low: int, high: int) -> int:
    """Return an integer after checking its range."""
    if type(value) is not int or not low <= value <= high:
        raise BundleError(f"bundle.json: {where} must be an integer from {low} to {high}, not {_shown(value)}")
    return value


def check_number(value: Any, where: str) -> None:
    """Raise BundleError unless a value is a finite number."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise BundleError(f"bundle.json: {where} must be a finite number, not {_shown(value)}")


def _is_unicode(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _shown(value: object) -> str:
    """Return a value as a message shows it, shortened so that a hostile manifest cannot fill a log."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
