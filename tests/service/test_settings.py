"""Settings come from COPYIST_ variables, are checked against limits, and cannot be changed afterwards."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.settings import Settings


def test_defaults_are_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the service listens to this machine only."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"COPYIST_{name.upper()}", raising=False)
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.bundles.name == "bundles"
    assert settings.bundles.parent.name == "service"


def test_the_environment_is_read_by_one_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field is set by its variable; the rest of the environment is ignored."""
    monkeypatch.setenv("COPYIST_PORT", "9001")
    monkeypatch.setenv("COPYIST_BUNDLES", "/somewhere")
    monkeypatch.setenv("COPYIST_DATA", "/elsewhere")
    monkeypatch.setenv("ROWS", "3")
    settings = Settings()
    assert (settings.port, settings.bundles, settings.rows) == (9001, Path("/somewhere"), 64)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("port", 65_535, 65_536),
        ("rows", 1, 0),
        ("rows", 1024, 1025),
        ("queue", 0, -1),
        ("queue", 100_000, 100_001),
        ("max_tokens", 1, 0),
        ("max_points", 1_000_000, 1_000_001),
        ("max_prompt_chars", 10_000_000, 10_000_001),
        ("max_body_bytes", 2**30, 2**30 + 1),
        ("flush_chars", 1, 0),
        ("flush_ms", 0, -0.1),
        ("body_timeout_s", 86_400, 86_401),
        ("heartbeat_s", 0.001, 0),
        ("drain_s", 0.001, float("inf")),
        ("log_format", "json", "xml"),
    ],
)
def test_each_limit_at_n_and_beyond(field: str, good: object, bad: object) -> None:
    """The last allowed value is taken, the next is refused."""
    assert getattr(Settings(**{field: good}), field) == good  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Settings(**{field: bad})  # type: ignore[arg-type]


def test_settings_do_not_change() -> None:
    """A setting cannot be assigned."""
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_state_keys_are_a_list_of_secrets() -> None:
    """Secrets are separated by commas, blanks are ignored, none is shown, and short ones are refused."""
    settings = Settings(state_keys=SecretStr(f"{'a' * 32}, {'b' * 40},"))
    assert settings.state_secrets == ["a" * 32, "b" * 40]
    assert Settings().state_secrets == Settings(state_keys=SecretStr("")).state_secrets == []
    assert "aaaa" not in repr(settings)
    with pytest.raises(ValidationError, match="32 characters"):
        Settings(state_keys=SecretStr(f"{'a' * 32},{'b' * 31}"))
