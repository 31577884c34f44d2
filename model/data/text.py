"""Text corpora: files to ids, split for training, validation and testing."""

import hashlib
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.codec import REPLACEMENT, TextCodec
from model.data.errors import DataError
from model.data.known import PTB, PTB_MD5, TEXTS, UNKNOWN_LICENCE, UNKNOWN_USE, KnownText

SPLITS = ("train", "valid", "test")
SUFFIXES = (".txt", ".text", ".md", ".xml", ".xz")
BETWEEN_FILES = b"\n\n\n"
MIN_CHARACTERS = 200  # less cannot be split 90/5/5 into parts that say anything
MAX_SYMBOLS = 4096
LARGE_TRAIN = 1_000_000  # characters; in a longer text rare symbols get no id
MIN_COUNT_IN_LARGE = 100

_XZ_MAGIC = b"\xfd7zXZ\x00"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PIECE = 1 << 23  # bytes decoded at once: 100 MB of text must not lie in memory as code points


@dataclass(frozen=True)
class TextCorpus:
    """A text as ids, in three splits.

    Attributes:
        codec: between characters and ids.
        train: uint16 (n,) ids.
        valid: the same.
        test: the same.
        facts: JSON values that a checkpoint carries: name, path, sha256 of the unpacked text (of the derived
            character stream for Penn Treebank); bytes, characters, ids and replaced characters of each split; split
            rule, licence, use.
    """

    codec: TextCodec
    train: NDArray[np.uint16]
    valid: NDArray[np.uint16]
    test: NDArray[np.uint16]
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """Unpacked bytes with the offsets that cut them, and what is known of them."""

    raw: bytes
    cuts: tuple[int, int]
    rule: str
    sha256: str
    known: KnownText | None


def load_text(path: Path, codec: TextCodec | None = None) -> TextCorpus:
    """Read a corpus.

    Args:
        path: a UTF-8 file, plain or .xz; or a folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt (plain or .xz),
            which are cleaned by the rule for character models (spaces at line ends go); or a folder of text files,
            joined in the order of their names with three newlines in between.
        codec: the codec to use. None makes one from the train split, with "replace" for unknown characters: symbols
            seen at least 100 times if train has over a million characters, else all, and at most 4,096 of them.
            Where the alphabet is part of a benchmark, every symbol of train is kept.

    Returns:
        The corpus. One that is known by its content gets its documented split; any other is cut 90/5/5 by bytes, each
        cut moved to the next character.

    Raises:
        DataError: a file is missing, empty, damaged or not UTF-8, or the text is too short.
        UnknownSymbolError: the given codec's policy is "error" and a character has no symbol.
    """
    path = Path(path)
    source = _read(path)
    bounds = _bounds(source)
    if codec is None:
        codec = _codec_of_train(path, source, bounds["train"])
    elif codec.size > np.iinfo(np.uint16).max + 1:
        raise ValueError(f"a corpus holds ids of 16 bits, but the codec has {codec.size}")
    splits: dict[str, NDArray[np.uint16]] = {}
    characters: dict[str, int] = {}
    for split in SPLITS:
        if split == "test" and bounds["test"] == bounds["valid"]:
            splits[split], characters[split] = splits["valid"], characters["valid"]
        else:
            splits[split], characters[split] = _encode(path, source, bounds[split], codec)
    for split in SPLITS:
        if len(splits[split]) < 2:  # one to read, one to score
            raise DataError(f"{path}: expected at least 2 characters in the {split} split, found {characters[split]}")
    facts = _facts(path, source, bounds) | {
        "characters": characters,
        "ids": {split: len(ids) for split, ids in splits.items()},
        "replaced": {split: _num_replaced(codec, ids) for split, ids in splits.items()},
    }
    return TextCorpus(codec, splits["train"], splits["valid"], splits["test"], facts)


def _read(path: Path) -> _Source:
    """Read and unpack a file or a folder."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected a UTF-8 text, plain or .xz, or a folder of them")
    if path.is_dir():
        if any(path.glob("ptb.*.txt*")):
            return _read_ptb(path)
        raw = _read_folder(path)
    else:
        raw = _unpack(path)
    known = TEXTS.get(hashlib.md5(raw, usedforsecurity=False).hexdigest())
    sha256 = hashlib.sha256(raw).hexdigest()
    raw = raw.removeprefix(_BYTE_ORDER_MARK)
    if len(raw) < MIN_CHARACTERS:
        raise DataError(f"{path}: too short to be split, expected at least {MIN_CHARACTERS} bytes, found {len(raw)}")
    if known and known.cuts:
        return _Source(raw, known.cuts, known.rule, sha256, known)
    return _Source(raw, (len(raw) * 90 // 100, len(raw) * 95 // 100), "90/5/5 of the bytes, in order", sha256, None)


def _read_folder(path: Path) -> bytes:
    """Text files of a folder, sorted by name and joined."""
    files = sorted(file for file in path.iterdir() if file.is_file() and file.suffix in SUFFIXES)
    if not files:
        raise DataError(f"{path}: expected text files ({', '.join(SUFFIXES)}) in the folder, found none")
    return BETWEEN_FILES.join(_unpack(file).removeprefix(_BYTE_ORDER_MARK) for file in files)


def _read_ptb(path: Path) -> _Source:
    """Penn Treebank's three word-level files as one character stream."""
    files = [_unpack(_ptb_file(path, split)) for split in SPLITS]
    md5 = tuple(hashlib.md5(raw, usedforsecurity=False).hexdigest() for raw in files)
    streams = [_ptb_characters(raw) for raw in files]
    raw = b"".join(streams)
    cuts = (len(streams[0]), len(streams[0]) + len(streams[1]))
    known = PTB if md5 == PTB_MD5 else None
    return _Source(raw, cuts, known.rule if known else "three files", hashlib.sha256(raw).hexdigest(), known)


def _ptb_file(path: Path, split: str) -> Path:
    """The path of a split, plain or packed."""
    for name in (f"ptb.{split}.txt", f"ptb.{split}.txt.xz"):
        if (path / name).is_file():
            return path / name
    raise DataError(f"{path / f'ptb.{split}.txt'}: missing; a Penn Treebank folder needs train, valid and test")


def _ptb_characters(raw: bytes) -> bytes:
    """Strip the spaces at both ends of each line; every line ends with one newline."""
    lines = raw.removesuffix(b"\n").split(b"\n")
    return b"".join(line.strip(b" ") + b"\n" for line in lines)


def _unpack(path: Path) -> bytes:
    """Bytes of a file, unpacked if it is .xz; never empty."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a UTF-8 text, plain or .xz") from error
    if raw and (path.suffix == ".xz" or raw.startswith(_XZ_MAGIC)):
        try:
            raw = lzma.decompress(raw)
        except lzma.LZMAError as error:
            raise DataError(f"{path}: expected a whole .xz file, but it is truncated or damaged ({error})") from error
    if not raw:
        raise DataError(f"{path}: expected a UTF-8 text, but it is empty")
    return raw


def _bounds(source: _Source) -> dict[str, tuple[int, int]]:
    """Begin and end of each split in bytes, between characters; a known text without a test split gets valid twice."""
    first, second = (_next_character(source.raw, cut) for cut in source.cuts)
    end = len(source.raw)
    test = (first, second) if source.known and second == end else (second, end)
    return {"train": (0, first), "valid": (first, second), "test": test}


def _next_character(raw: bytes, offset: int) -> int:
    """The first offset from here on where a character begins or the text ends; in UTF-8 at most 3 bytes on."""
    for place in range(offset, min(offset + 4, len(raw))):
        if raw[place] & 0xC0 != 0x80:  # continuation bytes are 10xxxxxx
            return place
    return offset if offset + 4 <= len(raw) else len(raw)


def _pieces(path: Path, source: _Source, bounds: tuple[int, int]) -> Iterator[str]:
    """Decode a stretch of bytes in pieces of whole characters."""
    raw, (begin, last) = source.raw, bounds
    # A known text is whole, as its checksum says, even if it was once cut by bytes within its last character.
    errors = "replace" if source.known else "strict"
    while begin < last:
        end = min(_next_character(raw, begin + _PIECE), last)
        try:
            yield raw[begin:end].decode("utf-8", errors)
        except UnicodeDecodeError as error:
            at = begin + error.start
            raise DataError(f"{path}: expected UTF-8 text, but byte {raw[at]:#04x} at {at:,} is none") from error
        begin = end


def _codec_of_train(path: Path, source: _Source, bounds: tuple[int, int]) -> TextCodec:
    """Make the codec of a corpus from its train split."""
    min_count = 1
    if not (source.known and source.known.whole_alphabet):
        characters = sum(len(piece) for piece in _pieces(path, source, bounds))
        min_count = MIN_COUNT_IN_LARGE if characters > LARGE_TRAIN else 1
    return TextCodec.from_text(_pieces(path, source, bounds), min_count, MAX_SYMBOLS)


def _encode(path: Path, source: _Source, bounds: tuple[int, int], codec: TextCodec) -> tuple[NDArray[np.uint16], int]:
    """Ids of a stretch of bytes, and its number of characters."""
    ids, characters = [np.empty(0, np.uint16)], 0
    for piece in _pieces(path, source, bounds):
        characters += len(piece)
        ids.append(codec.encode(piece).astype(np.uint16))
    return np.concatenate(ids), characters


def _num_replaced(codec: TextCodec, ids: NDArray[np.uint16]) -> int:
    """How many characters of a split are U+FFFD: a model need not predict what they stand for, so figures say so."""
    return int(np.count_nonzero(ids == codec.symbols.index(REPLACEMENT))) if REPLACEMENT in codec.symbols else 0


def _facts(path: Path, source: _Source, bounds: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """The facts about the text that a checkpoint carries, without the counts."""
    known = source.known
    return {
        "name": known.name if known else path.resolve().name,
        "path": path.resolve().name,
        "sha256": source.sha256,
        "bytes": {split: end - begin for split, (begin, end) in bounds.items()},
        "split": source.rule,
        "licence": known.licence if known else UNKNOWN_LICENCE,
        "use": known.use if known else UNKNOWN_USE,
    }
