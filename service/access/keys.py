"""API keys: each has a name, and only its hash is stored.

    copyist key NAME      make a key and print it, once, with the entry to configure

An entry is NAME:SHA256, the hash as 64 hexadecimal digits. Two keys may have the same name, so that a key can be
replaced without an interruption: rate limits and tokens belong to the name, not to the key.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Self

_ENTRY = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-fA-F]{64})")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SEPARATORS = re.compile(r"[,\s]+")


class Keys:
    """The set of valid keys.

    Args:
        entries: (name, SHA-256 of the key) of each key.

    Attributes:
        names: the names of all keys.
    """

    def __init__(self, entries: Iterable[tuple[str, bytes]] = ()) -> None:
        self._entries = tuple(entries)
        self.names = frozenset(name for name, _ in self._entries)

    def __bool__(self) -> bool:
        return bool(self._entries)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the keys of entries that are separated by commas or white space; `#` starts a comment.

        Raises:
            ValueError: there is no entry, one is malformed, or two have the same hash. The message gives the position
                of the entry, never its content.
        """
        entries: dict[bytes, str] = {}
        words = [word for line in text.splitlines() for word in _SEPARATORS.split(line.partition("#")[0]) if word]
        for number, word in enumerate(words, 1):
            found = _ENTRY.fullmatch(word)
            if not found:
                raise ValueError(f"entry {number} is not NAME:SHA256; `copyist key NAME` makes one")
            digest = bytes.fromhex(found[2])
            if digest in entries:
                raise ValueError(f"entry {number} repeats the key of an earlier one")
            entries[digest] = found[1]
        if not entries:
            raise ValueError("there is no key; leave the setting unset to let everyone in")
        return cls((name, digest) for digest, name in entries.items())

    @classmethod
    def of(cls, text: str | None, file: Path | None) -> Self:
        """Return the keys of a setting and of a file together, or no keys if neither is given."""
        texts = [text] * (text is not None) + [file.read_text("utf-8") for file in (file,) if file]
        return cls.parse("\n".join(map(str, texts))) if texts else cls()

    def whose(self, key: bytes) -> str | None:
        """Return the name of a key, or None if it is not valid. Takes the same time for every key."""
        digest, name = hashlib.sha256(key).digest(), None
        for candidate, known in self._entries:
            if hmac.compare_digest(digest, known):
                name = candidate
        return name


def make(name: str) -> tuple[str, str]:
    """Return a new key of 256 random bits, and its entry.

    Raises:
        ValueError: the name is not 1 to 64 letters, digits, dots, dashes and underscores.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("a name is 1 to 64 letters, digits, dots, dashes and underscores")
    key = "copyist-" + secrets.token_urlsafe(32)
    return key, f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"
