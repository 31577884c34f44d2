"""Write and load bundles, the folders that the service serves. It needs NumPy, but neither PyTorch nor onnx.

Every file is read a single time, its sha256 is compared with the manifest, and the bytes that were hashed are handed
out, so nothing can change between the check and the use. Refused, with the reason in one sentence, are: another format
version, a manifest field that is missing or wrong, a file that is missing, unknown, changed, truncated, oversized or a
link, and a graph that keeps tensors outside its file. The hashes guard against accidents and mixed-up files; they do
not say who made a bundle.
"""

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from export.bundle import manifest
from export.bundle.fields import BundleError
from export.bundle.onnx_wire import WireError, constants, has_external_data, operators

__all__ = ["Bundle", "BundleError", "StateSpec", "TensorSpec", "load", "write"]

MANIFEST_FILE = "bundle.json"
GRAPH_FILE = "step.onnx"
SINGLE_FILE = "single.onnx"
PROMPT_FILE = "prompt.onnx"
SCRIPT_FILE = "step.pt"
READER_FILE = "read.onnx"
RECOGNISER_FILE = "recogniser.onnx"
PARITY_FILE = "parity.json"
LICENCE_FILE = "LICENSE-DATA.txt"
MAX_MANIFEST_BYTES = 4 * 2**20
MAX_FILE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the step graph; `shape` starts with "batch"."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]

    def shape_for(self, batch: int) -> tuple[int, ...]:
        """Return the concrete shape for a number of rows."""
        return (batch, *(size for size in self.shape if isinstance(size, int)))


@dataclass(frozen=True)
class StateSpec(TensorSpec):
    """A tensor carried from step to step: `name` goes in, `next` comes out. Every state starts as zeros."""

    next: str


@dataclass(frozen=True)
class Bundle:
    """A bundle of which every byte was checked against its manifest.

    Attributes:
        path: the folder it came from, for messages; it may be gone by now.
        manifest: the checked content of `bundle.json`; treat it as read-only.
        files: verified bytes of every other file, by name.
    """

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def name(self) -> str:
        """The bundle's public name."""
        return str(self.manifest["name"])

    @property
    def kind(self) -> str:
        """`text` or `ink`."""
        return str(self.manifest["kind"])

    @property
    def description(self) -> str:
        """One or two sentences for people."""
        return str(self.manifest["description"])

    @property
    def fingerprint(self) -> str:
        """The sha256 (64 hex digits) that stands for every byte of the bundle."""
        return str(self.manifest["fingerprint"])

    @property
    def codec(self) -> Mapping[str, Any]:
        """The codec as `model.codec.codec_from_json` reads it."""
        return dict(self.manifest["codec"])

    @property
    def model(self) -> Mapping[str, Any]:
        """Sizes and switches of the network."""
        return dict(self.manifest["model"])

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units per layer, from layer 1 up."""
        return tuple(self.manifest["model"]["hidden"])

    @property
    def data(self) -> Mapping[str, Any]:
        """Data set, licence and what the weights may be used for."""
        return dict(self.manifest["data"])

    @property
    def training(self) -> Mapping[str, Any]:
        """Facts about the training run."""
        return dict(self.manifest["training"])

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Figures measured on this very bundle."""
        return dict(self.manifest["metrics"])

    @property
    def input(self) -> TensorSpec:
        """The graph's input beside state and sampling inputs: `token` (batch,) int64 or `offset` (batch, 3) float32."""
        return _tensor(self.manifest["graph"]["input"])

    @property
    def output(self) -> TensorSpec:
        """The graph's only output beside the state: `logits` (batch, V) or `mixture` (batch, 6M+1), float32."""
        return _tensor(self.manifest["graph"]["output"])

    @property
    def draws(self) -> tuple[TensorSpec, ...]:
        """The sampling inputs, and the inputs that say what to write, in the order of the graph's inputs."""
        return tuple(_tensor(one) for one in self.manifest["graph"]["draw"])

    @property
    def drawn(self) -> TensorSpec:
        """What the graph draws, in the form of its input; where a text is written, two numbers about it follow."""
        return _tensor(self.manifest["graph"]["drawn"])

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """The carried tensors in the order of the graph's inputs."""
        return tuple(
            StateSpec(one["name"], one["dtype"], tuple(one["shape"]), one["next"])
            for one in self.manifest["graph"]["state"]
        )

    @property
    def graph(self) -> bytes:
        """The verified ONNX file for any number of rows, to be given to `onnxruntime.InferenceSession` as it is."""
        return self.files[self.manifest["graph"]["file"]]

    @property
    def single(self) -> bytes:
        """The verified ONNX file for one row; it gives that row the same bits as `graph` does."""
        return self.files[self.manifest["graph"]["single"]]

    @property
    def constants(self) -> dict[str, NDArray[Any]]:
        """The arrays in the graph for one row, by the names that `export/graphs/step.py` gives them."""
        return constants(self.single)

    @property
    def operators(self) -> dict[str, str]:
        """The operators of the graph for one row, by the names of their nodes."""
        return operators(self.single)

    @property
    def prompt(self) -> bytes:
        """The verified ONNX file for prefill: many inputs of one row at once; it leaves the bits that steps leave."""
        return self.files[self.manifest["graph"]["prompt"]]

    @property
    def reader(self) -> bytes | None:
        """The verified ONNX file that encodes a text before it is written, where the bundle writes texts."""
        name = self.manifest["graph"].get("reader")
        return None if name is None else self.files[name]

    @property
    def writing(self) -> Mapping[str, Any]:
        """The named hands and the recogniser of a bundle that writes texts; empty where it names none."""
        return dict(self.manifest.get("writing", {}))

    @property
    def recogniser(self) -> bytes | None:
        """The verified ONNX file that reads ink, where the bundle has one."""
        found = self.writing.get("recogniser")
        return None if found is None else self.files[found["file"]]


def load(path: Path | str) -> Bundle:
    """Return the bundle in a folder after checking all of it.

    Args:
        path: the folder. It may be reached through a link; nothing in it may be one.

    Raises:
        BundleError: the folder is missing, incomplete, changed, foreign or not self-contained; one sentence says why.
    """
    folder = Path(path)
    try:
        return _load(folder)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from None


def write(path: Path | str, facts: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle whole or not at all, replacing an older one in its place, and return it as `load` reads it back.

    Args:
        path: the folder to make. An existing one is replaced only if it is empty or a bundle itself.
        facts: the manifest without `format`, `files` and `fingerprint`, which are filled in here.
        files: every other file by name: at least the graph and `parity.json`.

    Raises:
        BundleError: the result would not load, or something that is not a bundle is in its place.
    """
    folder = Path(path).absolute()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    facts = {"format": manifest.FORMAT, **_plain(facts), "files": digests}
    facts["fingerprint"] = manifest.fingerprint(facts)
    manifest.check(facts)
    if folder.exists() and not (folder.is_dir() and _is_replaceable(folder)):
        raise BundleError(f"{folder} exists and is not a bundle; it is left as it is")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Write beside the place and load it back; then swap the folders, and put the old one back if that fails.
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh = scratch / "new"
        fresh.mkdir()
        for name, content in files.items():
            _write_file(fresh / name, content)
        _write_file(fresh / MANIFEST_FILE, manifest.pretty(facts))
        load(fresh)
        if folder.exists():
            folder.rename(scratch / "old")
        fresh.rename(folder)
    except OSError as error:
        raise BundleError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        if (scratch / "old").exists() and not folder.exists():
            (scratch / "old").rename(folder)
        shutil.rmtree(scratch, ignore_errors=True)
    return load(folder)


def _load(folder: Path) -> Bundle:
    try:
        present = {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise BundleError(f"the folder cannot be read: {error.strerror}") from None
    if MANIFEST_FILE not in present:
        raise BundleError(f"there is no {MANIFEST_FILE} in it, so it is not a bundle")
    # The manifest, and exactly the files that it lists.
    facts = manifest.parse(_read(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES))
    listed: dict[str, str] = facts["files"]
    for name in sorted(present - listed.keys() - {MANIFEST_FILE}):
        raise BundleError(f"{name!r} is in the folder but not in the manifest")
    for name in sorted(listed.keys() - present):
        raise BundleError(f"{name} is in the manifest but not in the folder")
    # Each is read once, and its bytes are those of the manifest.
    files = {name: _read(folder, name, MAX_FILE_BYTES) for name in sorted(listed)}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != listed[name]:
            raise BundleError(f"{name} does not have the sha256 of the manifest: it was changed or cut short")
    for name, content in files.items():
        if name.endswith(".onnx"):
            _check_self_contained(name, content)
    return Bundle(folder, MappingProxyType(facts), MappingProxyType(files))


def _read(folder: Path, name: str, longest: int) -> bytes:
    """Return a file's bytes; links and devices are refused before reading, files that are too large while reading."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(folder / name, flags)
    except OSError as error:
        if (folder / name).is_symlink():
            raise BundleError(f"{name} is a link; a bundle holds its own files") from None
        raise BundleError(f"{name} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{name} is not a plain file")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        raise BundleError(f"{name} is larger than {longest // 2**20} MiB, more than a bundle may hold")
    return content


def _check_self_contained(name: str, content: bytes) -> None:
    try:
        if has_external_data(content):
            raise BundleError(f"{name} keeps tensors in other files, which a bundle may not")
    except WireError as error:
        raise BundleError(f"{name} is not an ONNX graph: {error}") from None


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts as they will be read back from JSON: tuples as lists, no NaN, nothing of NumPy."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(facts), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BundleError(f"the facts of the bundle are not plain JSON: {error}") from None
    return plain


def _is_replaceable(folder: Path) -> bool:
    return (folder / MANIFEST_FILE).is_file() or not any(folder.iterdir())


def _write_file(path: Path, content: bytes) -> None:
    """Write and flush to the disk, so that a rename cannot overtake the content."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _tensor(entry: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(entry["name"], entry["dtype"], tuple(entry["shape"]))
