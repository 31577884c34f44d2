"""Characters to numbers and back: a text as ids, whole or as it comes.

NumPy only. Read it through codec.py, where the codecs of ink stand beside it.
"""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Unknown = Literal["replace", "bytes", "error"]

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
NUM_BYTES = 256
_NUM_CODE_POINTS = 0x110000


class UnknownSymbolError(ValueError):
    """A character has no symbol and the codec's policy is "error".

    Attributes:
        character: the first character without a symbol.
        position: its index in the text, from 0.
    """

    def __init__(self, character: str, position: int) -> None:
        super().__init__(f"character {character!r} (U+{ord(character):04X}) at position {position} has no symbol")
        self.character = character
        self.position = position


@dataclass(frozen=True)
class TextCodec:
    """Characters to ids in 0 .. size-1 and back.

    Ids below len(symbols) are the symbols in their order. What happens to any other character is `unknown`:

    - "replace": it becomes U+FFFD, which is one of the symbols.
    - "bytes": it becomes its UTF-8 bytes, whose 256 ids follow the symbols. Without symbols, this is a byte codec.
    - "error": `encode` raises UnknownSymbolError.

    A lone surrogate is no character and has no UTF-8 form; it is treated as U+FFFD, except under "error".

    Args:
        symbols: single characters, all different, none of them a surrogate.
        unknown: the policy above.

    Raises:
        ValueError: a symbol or the policy breaks the rules above.
    """

    symbols: tuple[str, ...]
    unknown: Unknown = "replace"

    def __post_init__(self) -> None:
        if self.unknown not in get_args(Unknown):
            raise ValueError(f"unknown must be one of {', '.join(get_args(Unknown))}, not {self.unknown!r}")
        for symbol in self.symbols:
            if len(symbol) != 1 or _is_surrogate(symbol):
                raise ValueError(f"a symbol is one character and no surrogate, not {symbol!r}")
        if len(set(self.symbols)) != len(self.symbols):
            raise ValueError("each symbol may appear once")
        if self.unknown == "replace" and REPLACEMENT not in self.symbols:
            raise ValueError('with unknown="replace" U+FFFD must be one of the symbols')
        if self.size == 0:
            raise ValueError("a codec without symbols can encode nothing")

    @property
    def size(self) -> int:
        """Number of ids, V."""
        return len(self.symbols) + (NUM_BYTES if self.unknown == "bytes" else 0)

    @cached_property
    def separators(self) -> NDArray[np.bool_]:
        """Which ids are white space, as bool (V,): which a separator prior starts the boundary detector on."""
        flags = np.zeros(self.size, np.bool_)
        flags[: len(self.symbols)] = [symbol.isspace() for symbol in self.symbols]
        if self.unknown == "bytes":
            flags[len(self.symbols) :] = [chr(byte).isspace() and byte < 0x80 for byte in range(NUM_BYTES)]
        return flags

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a text, int64 (n,); n is its length, or more where characters become bytes.

        Raises:
            UnknownSymbolError: the policy is "error" and a character has no symbol.
        """
        points = _code_points(text)
        ids = self._table[np.minimum(points, len(self._table) - 1)]
        missing = np.flatnonzero(ids < 0)
        if not missing.size:
            return ids
        if self.unknown == "error":
            position = int(missing[0])
            raise UnknownSymbolError(text[position], position)
        if self.unknown == "replace":
            ids[missing] = self.symbols.index(REPLACEMENT)
            return ids
        return self._with_bytes(ids, missing, points)

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of ids (n,); bytes that form no character become U+FFFD.

        Raises:
            ValueError: an id is outside 0 .. size-1.
        """
        return b"".join(self._bytes_of(int(i)) for i in np.asarray(ids, np.int64)).decode("utf-8", "replace")

    def decoder(self, pending: bytes = b"") -> "TextDecoder":
        """Return a decoder that takes one id at a time, starting with the pending bytes of another one."""
        return TextDecoder(self, pending)

    def to_json(self) -> dict[str, Any]:
        """Return the codec as JSON values; `from_json` gives it back."""
        return {"kind": "text", "symbols": list(self.symbols), "unknown": self.unknown}

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Return the codec that `to_json` described.

        Raises:
            ValueError: with the reason, when the values describe none.
        """
        check_keys(values, "text", {"symbols", "unknown"})
        symbols = values["symbols"]
        if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
            raise ValueError("symbols must be a list of characters")
        return cls(tuple(symbols), values["unknown"])

    @classmethod
    def from_text(
        cls,
        text: str | Iterable[str],
        min_count: int = 1,
        max_size: int | None = None,
        unknown: Unknown = "replace",
    ) -> Self:
        """Return a codec of the characters of a text, most frequent first, ties by code point.

        Args:
            text: the text, or its pieces, so that a large one need not lie in memory twice.
            min_count: rarer characters get no symbol.
            max_size: at most so many symbols, U+FFFD included; None sets no bound.
            unknown: the policy for everything else. "replace" adds U+FFFD as the last symbol if it has none.
        """
        counts = np.zeros(_NUM_CODE_POINTS, np.int64)
        for piece in [text] if isinstance(text, str) else text:
            found = np.bincount(_code_points(piece))
            counts[: len(found)] += found
        counts[0xD800:0xE000] = 0
        chosen = np.flatnonzero(counts >= max(min_count, 1))
        chosen = chosen[np.argsort(-counts[chosen], kind="stable")]
        symbols = [chr(point) for point in chosen]
        if unknown != "replace":
            return cls(tuple(symbols[:max_size]), unknown)
        if REPLACEMENT not in symbols[:max_size]:
            symbols = [*symbols[: None if max_size is None else max_size - 1], REPLACEMENT]
        return cls(tuple(symbols[:max_size]), unknown)

    @cached_property
    def _table(self) -> NDArray[np.int64]:
        """Id of each code point up to the largest symbol; -1 for none, and in the last place for all beyond."""
        points = np.array([ord(symbol) for symbol in self.symbols], np.int64)
        table = np.full(int(points.max(initial=-1)) + 2, -1, np.int64)
        table[points] = np.arange(len(points))
        return table

    @cached_property
    def _symbol_bytes(self) -> tuple[bytes, ...]:
        """UTF-8 of each symbol, then each single byte: any sequence of ids is the join of these."""
        symbols = tuple(symbol.encode() for symbol in self.symbols)
        return symbols + (tuple(bytes([byte]) for byte in range(NUM_BYTES)) if self.unknown == "bytes" else ())

    def _bytes_of(self, token_id: int) -> bytes:
        """UTF-8 of one id, or ValueError."""
        if not 0 <= token_id < self.size:
            raise ValueError(f"id {token_id} is outside 0 .. {self.size - 1}")
        return self._symbol_bytes[token_id]

    def _with_bytes(
        self, ids: NDArray[np.int64], missing: NDArray[np.intp], points: NDArray[np.uint32]
    ) -> NDArray[np.int64]:
        """Replace each missing id by the ids of its character's UTF-8 bytes."""
        lengths = np.ones(len(ids), np.int64)
        encoded = [_utf8(int(point)) for point in points[missing]]
        lengths[missing] = [len(piece) for piece in encoded]
        starts = np.cumsum(lengths) - lengths
        longer = np.repeat(ids, lengths)
        places = np.repeat(starts[missing], lengths[missing]) + _ranges(lengths[missing])
        longer[places] = np.frombuffer(b"".join(encoded), np.uint8).astype(np.int64) + len(self.symbols)
        return longer


class TextDecoder:
    """Turns ids into text as they come; all pieces joined equal `TextCodec.decode` of all ids."""

    def __init__(self, codec: TextCodec, pending: bytes = b"") -> None:
        self._codec = codec
        self._symbols = codec.symbols
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._utf8.setstate((pending, 0))
        self._is_between = not pending

    def push(self, token_id: int) -> str:
        """Return the text that one more id completes; "" while a character of several bytes is unfinished.

        Raises:
            ValueError: the id is outside 0 .. size-1.
        """
        if self._is_between and 0 <= token_id < len(self._symbols):
            return self._symbols[token_id]  # nearly every id ends here
        text = self._utf8.decode(self._codec._bytes_of(int(token_id)))  # noqa: SLF001 - two halves of one idea
        self._is_between = not self.pending
        return text

    @property
    def pending(self) -> bytes:
        """The last bytes, one for each id, of a character that is unfinished."""
        return self._utf8.getstate()[0]

    @property
    def num_pending(self) -> int:
        """Number of ids, each a byte, of the unfinished character."""
        return len(self.pending)

    def flush(self) -> str:
        """Return U+FFFD for an unfinished character, else "", and reset."""
        self._is_between = True
        return self._utf8.decode(b"", final=True)


def check_keys(values: Any, kind: str, keys: set[str]) -> None:
    """Raise ValueError unless the values are an object of this kind with exactly these keys."""
    if not isinstance(values, dict) or values.get("kind") != kind:
        raise ValueError(f'expected a codec of kind "{kind}"')
    if set(values) != keys | {"kind"}:
        raise ValueError(f"a codec of kind {kind} has the keys {sorted(keys | {'kind'})}, not {sorted(values)}")


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def _code_points(text: str) -> NDArray[np.uint32]:
    """Code points of a text, surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))


def _utf8(point: int) -> bytes:
    """UTF-8 of a code point; a surrogate has none and gives that of U+FFFD."""
    character = chr(point)
    return (REPLACEMENT if _is_surrogate(character) else character).encode()


def _ranges(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0 .. length-1 for each length, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
