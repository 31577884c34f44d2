"""Sealed tokens: binary content that only this service can make and read, encrypted under a secret key.

A token is base64url without padding of

    version (1 byte) | purpose (1) | key id (4) | nonce (12) | AES-256-GCM of [expiry (8) | content] (16 more)

where the first six bytes are authenticated but not encrypted, and the expiry is in unix seconds. Key and key id are
derived from a secret by HKDF-SHA256. The first secret seals tokens; each of them opens tokens. To replace a secret, put
the new one first, and remove the old one when its last token has expired.
"""

import base64
import binascii
import os
import struct
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from enum import Enum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.errors import InvalidTokenError

VERSION = 1
_HEAD = struct.Struct("<BB4s")
_EXPIRY = struct.Struct("<Q")
_NONCE_BYTES, _TAG_BYTES, _KEY_BYTES = 12, 16, 32
_OVERHEAD = _HEAD.size + _NONCE_BYTES + _EXPIRY.size + _TAG_BYTES


class Purpose(Enum):
    """What a token is for. A token cannot be opened for another purpose."""

    STATE = 1
    STREAM = 2


class Sealer:
    """Seals and opens tokens.

    Args:
        secrets: long random strings, the sealing one first. Without any, a random one is made for this process.
        lifetime_s: how long a token is valid.
        clock: returns unix seconds; replicas need synchronised clocks.

    Attributes:
        sealed: how many tokens were made, by purpose.
    """

    def __init__(self, secrets: Seq[str], lifetime_s: float, clock: Callable[[], float] = time.time) -> None:
        keys = [_derive(secret) for secret in secrets or [os.urandom(_KEY_BYTES).hex()]]
        self._ciphers = {name: AESGCM(key) for name, key in keys}
        self._first = keys[0][0]
        self._lifetime_s = lifetime_s
        self._clock = clock
        self.sealed = dict.fromkeys(Purpose, 0)

    def seal(self, purpose: Purpose, content: bytes) -> str:
        """Return a token with this content."""
        self.sealed[purpose] += 1
        head = _HEAD.pack(VERSION, purpose.value, self._first)
        nonce = os.urandom(_NONCE_BYTES)
        plain = _EXPIRY.pack(int(self._clock() + self._lifetime_s)) + content
        sealed = self._ciphers[self._first].encrypt(nonce, plain, head)
        return base64.urlsafe_b64encode(head + nonce + sealed).rstrip(b"=").decode("ascii")

    def open(self, purpose: Purpose, token: str, max_bytes: int, param: str) -> bytes:
        """Return the content of a token.

        Args:
            purpose: the purpose that it must have been sealed for.
            token: as a client sent it.
            max_bytes: largest content; a longer token is not decoded.
            param: the request field, for the error.

        Raises:
            InvalidTokenError: the token is too long, malformed, of another version or purpose, sealed with an unknown
                key, damaged, or expired; the code says which.
        """
        if len(token) > token_chars(max_bytes):
            raise InvalidTokenError("too_large", f"{param}: longer than any token of this service.", param)
        raw = _decode(token)
        if raw is None or len(raw) < _OVERHEAD:
            raise InvalidTokenError("malformed", f"{param}: this is not a token, or only a part of one.", param)
        version, kind, name = _HEAD.unpack_from(raw)
        if version != VERSION:
            raise InvalidTokenError("version", f"{param}: made by another version of the service.", param)
        if kind != purpose.value:
            raise InvalidTokenError("purpose", f"{param}: this token is for another purpose.", param)
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise InvalidTokenError(
                "unknown_key", f"{param}: sealed with a key that this service does not have, or no longer has.", param
            )
        start = _HEAD.size + _NONCE_BYTES
        try:
            plain = cipher.decrypt(raw[_HEAD.size : start], raw[start:], raw[: _HEAD.size])
        except InvalidTag:
            raise InvalidTokenError("damaged", f"{param}: this token was changed after it was made.", param) from None
        if _EXPIRY.unpack_from(plain)[0] <= self._clock():
            raise InvalidTokenError("expired", f"{param}: this token has expired.", param)
        return plain[_EXPIRY.size :]


def token_chars(content_bytes: int) -> int:
    """Return how many characters a token with this many bytes of content has."""
    return -(-4 * (_OVERHEAD + content_bytes) // 3)


def _derive(secret: str) -> tuple[bytes, bytes]:
    """Return (key id, key) of a secret."""
    derived = HKDF(SHA256(), 4 + _KEY_BYTES, None, b"copyist token key").derive(secret.encode())
    return derived[:4], derived[4:]


def _decode(token: str) -> bytes | None:
    """Return the bytes of a token, or None if it is not base64url exactly as `seal` writes it."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii") == token else None
