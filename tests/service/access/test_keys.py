"""Keys are stored as hashes, have names and are random; mistakes in their settings never open the service."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.access.keys import Keys, make
from service.settings import Settings
from tests.service.live_server import PATIENCE_S, ROOT


def entry(name: str, key: str) -> str:
    """Return the entry of a key."""
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


def test_a_key_is_its_names() -> None:
    """Each key gives its name, two keys may have the same name, and any other key has none."""
    keys = Keys.parse(f"{entry('ann', 'one')}, {entry('bob', 'two')}\n{entry('ann', 'three')}  # the new one\n")
    assert [keys.whose(key) for key in (b"one", b"two", b"three")] == ["ann", "bob", "ann"]
    assert keys.names == {"ann", "bob"}
    digest = entry("ann", "one").partition(":")[2].encode()
    for other in (b"", b"one ", b"On\xe9", b"four", digest, b"x" * 100_000):
        assert keys.whose(other) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no key"),
        (" ,\n# nobody\n", "no key"),
        ("ann", "entry 1"),
        (entry("ann", "one") + ",bob:secret", "entry 2"),
        (entry("ann", "one")[:-1], "entry 1"),
        (entry("an n", "one"), "entry 1"),
        (entry("", "one"), "entry 1"),
        (entry("a" * 65, "one"), "entry 1"),
        (f"{entry('ann', 'one')},{entry('bob', 'one')}", "entry 2 repeats"),
    ],
)
def test_mistakes_are_refused_by_their_place(text: str, words: str) -> None:
    """A malformed, missing or repeated entry is an error, which gives its position and not its content."""
    with pytest.raises(ValueError, match=words) as caught:
        Keys.parse(text)
    assert "secret" not in str(caught.value)


def test_settings_take_both_a_list_and_a_file(tmp_path: Path) -> None:
    """Keys of the environment and of a file are both valid; the settings show neither."""
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{entry('bob', 'two')}\n")
    settings = Settings(api_keys=SecretStr(entry("ann", "one")), api_keys_file=file)
    assert settings.keys.names == {"ann", "bob"}
    assert entry("ann", "one").partition(":")[2] not in repr(settings)
    assert not Settings().keys


def test_an_empty_setting_does_not_open_the_service(tmp_path: Path) -> None:
    """An empty variable or file is an error, and does not mean that no key is needed."""
    with pytest.raises(ValidationError, match="no key"):
        Settings(api_keys=SecretStr(""))
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(ValidationError, match="no key"):
        Settings(api_keys_file=tmp_path / "keys")
    with pytest.raises(ValidationError):
        Settings(api_keys_file=tmp_path / "nothing")


def test_a_key_is_made_and_let_in() -> None:
    """The command prints a key and its entry; the entry makes the key valid, and no two keys are equal."""
    command = [sys.executable, "-m", "service.cli", "key", "ann"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    key, line = made.stdout.splitlines()
    assert Keys.parse(line).whose(key.encode()) == "ann"
    assert len({make("ann")[0] for _ in range(100)} | {key}) == 101
    with pytest.raises(ValueError, match="letters"):
        make("two words")
    command[-1] = "two words"
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "NAME: a name is 1 to 64 letters" in " ".join(refused.stderr.split())
