"""State tokens: a snapshot of a stream that a client keeps and any replica of the same build continues exactly.

Inside the seal the layout is fixed, little-endian and without gaps:

    fingerprint (32) | machine (16) | tenant (16) | seed (8, signed) | position (8) | choice (4) | kind (1)
    last symbol (4) of text, last offset (3 x 4) of ink
    held | trace of held | unfinished | counts | note | row        each preceded by its length in bytes (4)

fingerprint: sha256 of the bundle. machine, tenant: the first 16 bytes of the sha256 of `machine_class()` and of the
name of the client's key. held is UTF-8; a count is a symbol and a number (4 each); note is what the reply leaves for
the one that continues it, which checks it; row is as `Runner.save` gives it.
Nothing is taken over unless all of it fits: the lengths, the numbers, and whom and what it was made for.
"""

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Any, Protocol

from model.codec import InkCodec, TextCodec
from service.access.seal import Purpose, Sealer
from service.engine.sequences.snapshot import Snapshot
from service.errors import InvalidTokenError
from service.registry.fingerprint import machine_class

PARAM = "state"
MAX_HELD_CHARS = 64
MAX_NOTE_BYTES = 256
MAX_CHOICES = 2**16
_HEAD = struct.Struct("<32s16s16sqQIB")
_TEXT = struct.Struct("<I")
_INK = struct.Struct("<3f")
_COUNT = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_KINDS = {"text": 0, "ink": 1}
_BLOBS = 6
_LAST_POSITION = 2**63


class Rows(Protocol):
    """What a state token's row is judged by."""

    @property
    def stepper(self) -> str:
        """By whom rows are stepped."""
        ...

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        ...

    def check(self, saved: bytes) -> None:
        """Raise ValueError unless it is a row of this bundle."""
        ...


@dataclass(frozen=True)
class State:
    """What a state token holds.

    Attributes:
        snapshot: of the sequence.
        seed: that its draws belonged to.
        choice: index of the choice within its request.
        note: what a reply leaves for the one that continues it, such as the pen's place.
    """

    snapshot: Snapshot
    seed: int
    choice: int
    note: bytes = b""


class StateKeeper:
    """Makes and reads the state tokens of one bundle.

    Args:
        sealer: of the service.
        fingerprint: of the bundle, 64 hexadecimal digits.
        codec: of the bundle.
        rows: its runner.
    """

    def __init__(self, sealer: Sealer, fingerprint: str, codec: TextCodec | InkCodec, rows: Rows) -> None:
        self._sealer = sealer
        self._codec = codec
        self._rows = rows
        self._fingerprint = bytes.fromhex(fingerprint)
        self._kind = _KINDS["text" if isinstance(codec, TextCodec) else "ink"]
        self._machine = _digest(f"{machine_class()} {rows.stepper}")
        counts = _COUNT.size * codec.size if isinstance(codec, TextCodec) else 0
        fixed = _HEAD.size + (_INK.size if self._kind else _TEXT.size) + _BLOBS * _LENGTH.size
        self.max_bytes = fixed + 5 * MAX_HELD_CHARS + 4 + MAX_NOTE_BYTES + counts + rows.row_bytes

    def seal(self, state: State, tenant: str) -> str:
        """Return the token of a state for the client that it belongs to."""
        snapshot = state.snapshot
        head = (self._fingerprint, self._machine, _digest(tenant), state.seed, snapshot.position, state.choice)
        last = _INK.pack(*snapshot.last) if self._kind else _TEXT.pack(snapshot.last)
        counts = b"".join(_COUNT.pack(*item) for item in sorted(snapshot.counts.items()))
        blobs = (snapshot.held.encode(), snapshot.held_trace, snapshot.unfinished, counts, state.note, snapshot.row)
        content = b"".join(_LENGTH.pack(len(blob)) + blob for blob in blobs)
        return self._sealer.seal(Purpose.STATE, _HEAD.pack(*head, self._kind) + last + content)

    def open(self, token: str, tenant: str) -> State:
        """Return the state of a token.

        Raises:
            InvalidTokenError: it is not a token, or not for this client, bundle and machine; the code says why.
        """
        content = self._sealer.open(Purpose.STATE, token, self.max_bytes, PARAM)
        try:
            fingerprint, machine, owner, seed, position, choice, kind = _HEAD.unpack_from(content)
        except struct.error:
            raise _broken() from None
        if owner != _digest(tenant):
            raise InvalidTokenError("tenant", "state: this state belongs to another client.", PARAM)
        if fingerprint != self._fingerprint or kind != self._kind:
            raise InvalidTokenError("model", "state: made by another model, or by another version of this one.", PARAM)
        if machine != self._machine:
            raise InvalidTokenError(
                "machine", "state: made on another kind of machine; this one would not continue it exactly.", PARAM
            )
        try:
            return self._read(content, seed, position, choice)
        except (ValueError, struct.error):
            raise _broken() from None

    def _read(self, content: bytes, seed: int, position: int, choice: int) -> State:
        """The rest of the content, every part of it checked.

        Raises:
            ValueError: a part is not what `seal` writes.
            struct.error: it ends before its time.
        """
        form = _INK if self._kind else _TEXT
        numbers: tuple[Any, ...] = form.unpack_from(content, _HEAD.size)
        held, trace, unfinished, counts, note, row = _blobs(content, _HEAD.size + form.size)
        last = numbers if self._kind else numbers[0]
        text = held.decode()
        pairs = dict(_COUNT.iter_unpack(counts))
        _require(all(map(math.isfinite, numbers)))
        _require(len(text) <= MAX_HELD_CHARS and len(trace) <= len(text) and len(unfinished) <= 3)
        _require(len(note) <= MAX_NOTE_BYTES)
        _require(position < _LAST_POSITION and choice < MAX_CHOICES)
        if isinstance(self._codec, TextCodec):
            _require(all(symbol < self._codec.size for symbol in (last, *pairs)))
        if row:
            self._rows.check(row)
        snapshot = Snapshot(row, last, position, text, trace, unfinished, pairs)
        return State(snapshot, seed, choice, note)


def _blobs(content: bytes, start: int) -> list[bytes]:
    """The parts that say their length, which must end with the content."""
    blobs = []
    for _ in range(_BLOBS):
        (length,) = _LENGTH.unpack_from(content, start)
        start += _LENGTH.size
        _require(length <= len(content) - start)
        blobs.append(content[start : start + length])
        start += length
    _require(start == len(content))
    return blobs


def _require(is_true: bool) -> None:
    if not is_true:
        raise ValueError("not a state")


def _broken() -> InvalidTokenError:
    return InvalidTokenError("broken", "state: what this token holds is not a state of this model.", PARAM)


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:16]
