"""Look inside an ONNX file without the onnx package: does it ask for data that is kept outside of it?

ONNX Runtime follows `external_data` references to any path they name, so a file from elsewhere could make a server map
a file of its host. A bundle must be self-contained; this check reads just enough of the protobuf encoding
(https://protobuf.dev/programming-guides/encoding/) to say so before any runtime opens the graph.
"""

from collections.abc import Iterator
from typing import Final

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 64

# Field numbers of onnx.proto: for each message, the fields that lead to further messages which may hold tensors.
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14


class WireError(ValueError):
    """The bytes are not a protobuf message."""


def has_external_data(model: bytes) -> bool:
    """Return whether any tensor of an ONNX model, in subgraphs and functions too, is stored outside the file.

    Raises:
        WireError: the bytes are not a protobuf message that holds a graph (truncated or foreign).
    """
    view = memoryview(model)
    if not any(number == 7 for number, _ in _fields(view)):
        raise WireError("there is no graph in it")
    return _has_external(view, "Model", 0)


def _has_external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise WireError("it is nested too deeply")
    if kind == "Tensor":
        return any(
            number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)
            for number, value in _fields(message)
        )
    children = _CHILDREN[kind]
    return any(
        _has_external(value, children[number], depth + 1)
        for number, value in _fields(message)
        if number in children and isinstance(value, memoryview)
    )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of every field; bytes are views, fixed-width numbers are given as 0."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, form = key >> 3, key & 7
        value: int | memoryview = 0
        if form == _VARINT:
            value, at = _varint(message, at)
        elif form == _BYTES:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        elif form in (_FIXED64, _FIXED32):
            at += 8 if form == _FIXED64 else 4
        else:
            raise WireError(f"it has a field of the unknown form {form}")
        if at > len(message) or number == 0:
            raise WireError("it ends within a field")
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return (value, position after it) of a base-128 number."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise WireError("it ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WireError("it has a number of more than ten bytes")
