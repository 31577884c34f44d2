"""Pen trajectories: stroke files and InkML folders to standardised offsets, split for training."""

import hashlib
import io
import itertools
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.codec import HandwritingCodec, InkCodec
from model.data.batches import Caption, shuffled
from model.data.captions import Transcripts, caption_lines, read_transcripts
from model.data.errors import DataError
from model.data.inkml import read_inkml
from model.data.known import INKS, UNKNOWN_LICENCE, UNKNOWN_USE

Protocol = Literal["paper", "official"]
Line = NDArray[np.float64]

MIN_POINTS = 300  # the paper drops shorter lines
MIN_LONG_LINES = 20  # a set with fewer lines of that length keeps all it has
MIN_LINES = 3  # one for each split
CAPTIONS = ("text", "text_offsets", "writer", "low_likelihood")
OFFICIAL = {"train": 0, "valid": 1, "test": 3}  # codes of IAM-OnDB's task; 2 is its second validation set


@dataclass(frozen=True)
class InkCorpus:
    """Lines of handwriting in three splits.

    Attributes:
        codec: between raw and standardised offsets, measured on train.
        train: lines, each float32 (n, 3): standardised dx, dy and pen_up, 1 on the last point of a stroke. The first
            point of a line has no predecessor: its raw offset is 0, and no statistic and no score counts it.
        valid: the same.
        test: the same.
        facts: JSON values that a checkpoint carries: name, path, sha256, protocol, seed, lines and points, split rule,
            raw mean and std, log_scale, licence, use.
        ids: of the lines of each split as the file names them, else their numbers in it.
        captions: of the lines of each split, where they are read with their texts; else empty.
    """

    codec: InkCodec | HandwritingCodec
    train: list[NDArray[np.float32]]
    valid: list[NDArray[np.float32]]
    test: list[NDArray[np.float32]]
    facts: dict[str, Any]
    ids: dict[str, list[str]] = field(default_factory=dict)
    captions: dict[str, list[Caption]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Source:
    """Raw lines as they were read, their split codes and texts where there are any, names, checksum of the files."""

    lines: list[Line]
    split: NDArray[np.int64] | None
    sha256: str
    names: list[str]
    transcripts: Transcripts | None = None


def load_ink(
    path: Path,
    codec: InkCodec | HandwritingCodec | None = None,
    protocol: Protocol = "paper",
    seed: int = 0,
    *,
    texts: bool = False,
) -> InkCorpus:
    """Read a set of pen strokes.

    Both protocols keep lines of at least 300 points as they were recorded: nothing is smoothed, clipped or removed. A
    set with fewer than 20 such lines keeps every line of at least 2 points instead, and its facts say so.

    Args:
        path: an .npz with dx, dy, eos and offsets (and split, for "official"), or a folder of .inkml files, one a line.
        codec: the codec to use; None measures mean and std of the train split's offsets, each axis by itself.
        protocol: "paper" shuffles all lines and cuts them 90/5/5, which gives 10,465 / 581 / 582 on IAM-OnDB and lets
            writers occur on both sides; "official" takes the file's own writer-disjoint split.
        seed: of the shuffle.
        texts: read the captions too (model/data/captions.py). Valid and test keep every line that has a text; train
            leaves out those whose text is doubtful.

    Raises:
        DataError: a file is missing, damaged or of another kind, or there are too few lines.
    """
    path = Path(path)
    source = _read(path, texts=texts)
    least = MIN_POINTS if sum(len(line) >= MIN_POINTS for line in source.lines) >= MIN_LONG_LINES else 2
    kept = np.flatnonzero([len(line) >= least for line in source.lines])
    if len(kept) < MIN_LINES:
        raise DataError(f"{path}: expected at least {MIN_LINES} lines of 2 or more points, found {len(kept)}")
    parts = _official_split(path, source, kept) if protocol == "official" else _paper_split(kept, seed)
    ink = codec.ink if isinstance(codec, HandwritingCodec) else codec
    if ink is None:
        ink = _measure(path, [source.lines[i] for i in parts["train"]])
    facts = _facts(path, source, parts, ink)
    captions: dict[str, list[Caption]] = {}
    written: InkCodec | HandwritingCodec = ink
    if texts:
        given = codec if isinstance(codec, HandwritingCodec) else None
        transcripts = _transcripts(path, source)
        parts, written, captions, cleaning = caption_lines(path, parts, source.lines, transcripts, ink, given)
        facts |= {"captions": cleaning, "lines": {name: len(part) for name, part in parts.items()}}
    train, valid, test = ([ink.encode(source.lines[i]) for i in part] for part in parts.values())
    facts |= {
        "protocol": protocol,
        "seed": seed if protocol == "paper" else None,
        "min_points": least,
        "split": (
            "the file's own, without its second validation set"
            if protocol == "official"
            else "90/5/5 of the kept lines, shuffled; writers are shared between the splits"
        ),
    }
    ids = {name: [source.names[i] for i in part] for name, part in parts.items()}
    return InkCorpus(written, train, valid, test, facts, ids, captions)


def _transcripts(path: Path, source: _Source) -> Transcripts:
    """The texts, or DataError."""
    if source.transcripts is None:
        raise DataError(f"{path}: expected an .npz with text and text_offsets, to learn to write a given text")
    return source.transcripts


def _read(path: Path, *, texts: bool) -> _Source:
    """Read a file or a folder."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected strokes as .npz or a folder of .inkml files")
    if path.is_dir():
        return _read_inkml_folder(path)
    return _read_npz(path, texts=texts)


def _read_inkml_folder(path: Path) -> _Source:
    """Each InkML file of a folder is one line; the order is that of the names."""
    files = sorted(file for file in path.rglob("*.inkml") if file.is_file())
    if not files:
        raise DataError(f"{path}: expected .inkml files in the folder, found none")
    contents = [_content(file) for file in files]
    lines = [read_inkml(file, content) for file, content in zip(files, contents, strict=True)]
    names = [file.relative_to(path).with_suffix("").as_posix() for file in files]
    return _Source(lines, None, hashlib.sha256(b"".join(contents)).hexdigest(), names)


def _read_npz(path: Path, *, texts: bool) -> _Source:
    """Strokes in the .npz format, checked before they are cut into lines."""
    content = _content(path)
    arrays = _load_arrays(path, content, ("dx", "dy", "eos", "offsets"), ("split",))
    dx, dy, eos, offsets = (arrays[name] for name in ("dx", "dy", "eos", "offsets"))
    if not len(dx) == len(dy) == len(eos):
        raise DataError(f"{path}: expected dx, dy and eos of one length, found {len(dx)}, {len(dy)} and {len(eos)}")
    if not np.isin(eos, (0, 1)).all():
        raise DataError(f"{path}: expected 0 or 1 in eos, found other values")
    if offsets.dtype.kind not in "iu" or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(dx):
        raise DataError(f"{path}: expected integer offsets from 0 to the number of points, {len(dx)}")
    if (np.diff(offsets.astype(np.int64)) < 0).any():
        raise DataError(f"{path}: expected offsets that never fall")
    split = arrays.get("split")
    if split is not None and len(split) != len(offsets) - 1:
        raise DataError(f"{path}: expected one split code for each of {len(offsets) - 1} lines, found {len(split)}")
    points = np.stack([dx, dy, eos], 1).astype(np.float64)
    points[offsets[:-1][np.diff(offsets) > 0], :2] = 0  # the first point has no offset, whatever the file says
    lines = [points[begin:end] for begin, end in itertools.pairwise(offsets.tolist())]
    codes = None if split is None else split.astype(np.int64)
    transcripts = read_transcripts(path, _load_arrays(path, content, (), CAPTIONS), len(lines)) if texts else None
    return _Source(lines, codes, hashlib.sha256(content).hexdigest(), _names(content, len(lines)), transcripts)


def _names(content: bytes, count: int) -> list[str]:
    """Names of the lines where the file has them, else their numbers."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        names = archive["name"] if "name" in archive.files else np.empty(0, "S1")
    if names.dtype.kind != "S" or names.shape != (count,):
        return [str(number) for number in range(count)]
    return [name.decode("utf-8", "replace") for name in names.tolist()]


def _load_arrays(
    path: Path, content: bytes, needed: tuple[str, ...], optional: tuple[str, ...]
) -> dict[str, NDArray[Any]]:
    """Flat arrays of finite numbers from an .npz, or DataError."""
    file = io.BytesIO(content)
    if not zipfile.is_zipfile(file):
        raise DataError(f"{path}: expected an .npz of strokes, but the file is truncated or of another kind")
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in needed + optional if name in archive.files}
    except (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: expected plain arrays of numbers, but one cannot be read ({error})") from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise DataError(f"{path}: expected the arrays {', '.join(needed)}, but {', '.join(missing)} is missing")
    for name, array in arrays.items():
        is_flat = isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in "iuf"
        if not is_flat or not np.isfinite(array).all():
            raise DataError(f"{path}: expected {name} to be a flat array of finite numbers")
    return arrays


def _paper_split(kept: NDArray[np.intp], seed: int) -> dict[str, NDArray[np.intp]]:
    """Shuffle, then 90 % and 5 % rounded down and the rest; each split has at least one line."""
    order = kept[shuffled(len(kept), seed)]
    valid = max(len(kept) * 5 // 100, 1)
    test = max(len(kept) - len(kept) * 90 // 100 - valid, 1)
    train = len(kept) - valid - test
    return {"train": order[:train], "valid": order[train : train + valid], "test": order[train + valid :]}


def _official_split(path: Path, source: _Source, kept: NDArray[np.intp]) -> dict[str, NDArray[np.intp]]:
    """The lines of each split, as the file has them."""
    if source.split is None:
        raise DataError(f'{path}: the "official" protocol needs an .npz with an array named split')
    parts = {name: kept[source.split[kept] == code] for name, code in OFFICIAL.items()}
    for name, part in parts.items():
        if not len(part):
            raise DataError(f"{path}: expected lines with split code {OFFICIAL[name]} ({name}), found none")
    return parts


def _measure(path: Path, lines: list[Line]) -> InkCodec:
    """Codec of the train split; each line's first point has no offset to count."""
    try:
        return InkCodec.from_offsets([line[1:] for line in lines])
    except ValueError as error:
        raise DataError(f"{path}: expected points that move along both axes, but {error}") from error


def _facts(path: Path, source: _Source, parts: dict[str, NDArray[np.intp]], codec: InkCodec) -> dict[str, Any]:
    """The facts about the ink that a checkpoint carries, without the protocol."""
    known = INKS.get(source.sha256)
    order = np.concatenate(list(parts.values())).astype("<i8")
    return {
        "name": known.name if known else path.resolve().name,
        "path": path.resolve().name,
        "sha256": source.sha256,
        "lines": {name: len(part) for name, part in parts.items()},
        "points": {name: sum(len(source.lines[i]) for i in part) for name, part in parts.items()},
        "lines_read": len(source.lines),
        "order_sha256": hashlib.sha256(order.tobytes()).hexdigest(),
        "mean": list(codec.mean),
        "std": list(codec.std),
        "log_scale": codec.log_scale,
        "licence": known.licence if known else UNKNOWN_LICENCE,
        "use": known.use if known else UNKNOWN_USE,
    }


def _content(path: Path) -> bytes:
    """Bytes of a file; never empty."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected strokes as .npz or .inkml") from error
    if not content:
        raise DataError(f"{path}: expected strokes as .npz or .inkml, but the file is empty")
    return content
