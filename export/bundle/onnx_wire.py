"""Look inside an ONNX file without the onnx package: whether it refers to other files, its arrays and its operators.

ONNX Runtime follows `external_data` references to any path they name, so a file from elsewhere could make a server map
a file of its host. A bundle must be self-contained. This module reads just enough of the protobuf encoding
(https://protobuf.dev/programming-guides/encoding/) to check that before any runtime opens the graph. It also gives the
weights to code that computes without ONNX Runtime, such as the service's kernel.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

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
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_NODE_NAME, _NODE_OPERATOR = 3, 4
_DTYPES: Final = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}  # TensorProto.DataType


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


def constants(model: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays in an ONNX model, branches included, by name; of two with the same name the last.

    Raises:
        WireError: it is not an ONNX model, or an array has a type or size that is not supported.
    """
    found: dict[str, NDArray[Any]] = {}
    for kind, message in _walk(memoryview(model), "Model", 0):
        if kind == "Tensor":
            name, values = _tensor(message)
            found[name] = values
    return found


def operators(model: bytes) -> dict[str, str]:
    """Return the operators of an ONNX model's nodes, branches included, by the names of the nodes.

    Raises:
        WireError: it is not an ONNX model.
    """
    found = {}
    for kind, message in _walk(memoryview(model), "Model", 0):
        if kind == "Node":
            texts = {
                number: _text(value) for number, value in _fields(message) if number in (_NODE_NAME, _NODE_OPERATOR)
            }
            found[texts.get(_NODE_NAME, "")] = texts.get(_NODE_OPERATOR, "")
    return found


def _walk(message: memoryview, kind: str, depth: int) -> Iterator[tuple[str, memoryview]]:
    """Yield the kind and the bytes of a message and of all messages in it that may hold tensors."""
    if depth > _MAX_DEPTH:
        raise WireError("it is nested too deeply")
    yield kind, message
    children = _CHILDREN.get(kind, {})
    for number, value in _fields(message) if children else ():
        if number in children and isinstance(value, memoryview):
            yield from _walk(value, children[number], depth + 1)


def _tensor(message: memoryview) -> tuple[str, NDArray[Any]]:
    """Return name and values of a tensor that keeps them as raw bytes, as `onnx.numpy_helper` writes them."""
    name = ""
    kind = 0
    shape: list[int] = []
    raw = memoryview(b"")
    for number, value in _fields(message):
        if number == _TENSOR_NAME:
            name = _text(value)
        elif number == _TENSOR_RAW and isinstance(value, memoryview):
            raw = value
        elif number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == _TENSOR_DIMS:
            shape += [value] if isinstance(value, int) else _varints(value)
    if kind not in _DTYPES:
        raise WireError(f"{name} is of the unknown type {kind}")
    try:
        return name, np.frombuffer(raw, _DTYPES[kind]).reshape(shape)
    except ValueError:
        raise WireError(f"{name} has {len(raw)} bytes, which are not {shape}") from None


def _text(value: int | memoryview) -> str:
    return "" if isinstance(value, int) else bytes(value).decode("utf-8", "replace")


def _varints(message: memoryview) -> list[int]:
    """Return the numbers of a packed field."""
    values, at = [], 0
    while at < len(message):
        value, at = _varint(message, at)
        values.append(value)
    return values


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
    """Yield (field number, value) of every field; bytes are views, and fixed-width numbers, not needed here, are 0."""
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
