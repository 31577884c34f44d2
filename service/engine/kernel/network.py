"""Lays out a bundle's weights in the C structs of kernel.h."""

import ctypes
from collections.abc import Mapping
from ctypes import c_float, c_int32, c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle.folder import Bundle
from model.ink import CORRELATION_LIMIT, LOG_SCALE_CEILING, LOG_SCALE_FLOOR, STRIDE

Array = NDArray[Any]

TILE, LANES = 16, 8
MAX_LAYERS = 5  # 4 boundary bits before a step and 4 after it fill a trace byte
HIDDEN_ZERO = 64  # the byte that means 0 in an h rounded to bytes


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("codes", c_void_p),
        ("offset", c_void_p),
        ("scale", c_void_p),
        ("depth", c_int64),
        ("width", c_int64),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        ("own", _Matrix),
        ("above", _Matrix),
        ("out", _Matrix),
        ("gain", c_void_p),
        ("bias", c_void_p),
        ("edge", c_float),
        ("falls", c_int32),
        ("size", c_int64),
        ("detects", c_int64),
    )


class _Dense(ctypes.Structure):
    _fields_ = (("values", c_void_p), ("bias", c_void_p), ("depth", c_int64), ("width", c_int64))


class _Network(ctypes.Structure):
    _fields_ = (
        ("layers", c_void_p),
        ("num_layers", c_int64),
        ("table", c_void_p),
        ("table_bias", c_void_p),
        ("vocabulary", c_int64),
        ("stride", c_int64),
        ("sources", c_int64),
        ("sent", c_int64),
        ("head", _Dense),
        ("mixtures", c_int64),
        ("correlation_limit", c_float),
        ("scale_floor", c_float),
        ("scale_ceiling", c_float),
        ("window_mixtures", c_int64),
        ("character_width", c_int64),
        ("slots", c_int64),
        ("window", _Dense),
        ("window_into", c_void_p),
        ("window_out", c_void_p),
        ("window_out_width", c_int64),
        ("window_stride", c_float),
    )


def can_run(bundle: Bundle) -> bool:
    """Whether the kernel can run a bundle: an HM-LSTM with 8-bit weights and at most MAX_LAYERS layers."""
    model = bundle.model
    return (
        model["cell"] == "hmlstm"
        and model["precision"] == "int8"
        and len(bundle.hidden) <= MAX_LAYERS
        and (bundle.reader is None or model["character_width"] % LANES == 0)
    )


class KernelNetwork:
    """The weights of a bundle in the kernel's layout.

    Args:
        bundle: one for which `can_run` is true.

    Attributes:
        address: of the C struct `Network`, valid as long as this object lives.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._kept: list[Any] = []  # what the struct points to
        model, arrays = bundle.model, _Constants(bundle.constants)
        layers = (_Layer * len(bundle.hidden))()
        for number, size in enumerate(bundle.hidden, start=1):
            layers[number - 1] = self._layer(arrays, bundle, number, size)
        stride = max(layer.own.width for layer in layers)
        network = _Network(
            layers=ctypes.addressof(layers),
            num_layers=len(layers),
            stride=stride,
            vocabulary=model["vocabulary"] if bundle.kind == "text" else 0,
            sources=len(layers) + (bundle.reader is not None),
            sent=model["output"],
            head=self._dense(arrays["head.weight"], arrays["head.bias"]),
            mixtures=model["mixtures"] if bundle.kind == "ink" else 0,
            correlation_limit=CORRELATION_LIMIT,
            scale_floor=LOG_SCALE_FLOOR,
            scale_ceiling=LOG_SCALE_CEILING,
        )
        # In float64, because the order in which NumPy adds could change the last bit of a float32 sum.
        first = arrays["input.weight"].astype(np.float64)
        network.table = self._rows(arrays["embedding"].astype(np.float64) @ first, stride)
        if bundle.reader is not None:
            self._window(network, arrays, bundle, stride)
        elif bundle.kind == "ink":
            network.table_bias = self._rows(arrays["input.bias"][None], stride)
        self._kept += [layers, network]
        self.address = ctypes.addressof(network)

    def _layer(self, arrays: "_Constants", bundle: Bundle, number: int, size: int) -> _Layer:
        name = f"layer{number}"
        layer = _Layer(
            own=self._matrix(arrays, f"{name}.own.weight"),
            out=self._matrix(arrays, f"{name}.out.weight"),
            bias=self._keep(arrays[f"{name}.bias"]),
            size=size,
        )
        if f"{name}.gain" in arrays:
            layer.gain = self._keep(arrays[f"{name}.gain"])
        if number < len(bundle.hidden):
            layer.above = self._matrix(arrays, f"{name}.above.weight")
            layer.detects = 1
            layer.edge = float(arrays[f"{name}.detector.edge"][0])
            layer.falls = bundle.operators[f"{name}.over"] == "Less"
        return layer

    def _window(self, network: _Network, arrays: "_Constants", bundle: Bundle, stride: int) -> None:
        count, width = bundle.model["window_mixtures"], bundle.model["character_width"]
        # The graph has a column of zeros beside each of the last 2K columns; the kernel needs none of these.
        columns = [*range(count), *range(count + 1, 5 * count, 2)]
        bias = np.atleast_2d(arrays["window.bias"])[0]
        network.window = self._dense(arrays["window.weight"][:, columns], bias[columns])
        network.window_into = self._rows(arrays["window.into.weight"], stride)
        sent = arrays["window.out.weight"]
        network.window_out_width = _up(sent.shape[1], TILE)
        network.window_out = self._rows(sent, network.window_out_width)
        network.window_mixtures, network.character_width = count, width
        network.slots = next(spec.shape[1] for spec in bundle.draws if spec.name == "text")
        network.window_stride = STRIDE

    def _matrix(self, arrays: "_Constants", name: str) -> _Matrix:
        """Return an 8-bit matrix (depth, width) in tiles of 16 columns, with groups of 4 rows inside (see `Matrix`)."""
        codes, scale = arrays[name], arrays[f"{name}.scale"]
        depth, width = _up(codes.shape[0], 4), _up(codes.shape[1], TILE)
        whole = np.zeros((depth, width), np.int8)
        whole[: codes.shape[0], : codes.shape[1]] = codes
        tiles = whole.reshape(depth // 4, 4, width // TILE, TILE).transpose(2, 0, 3, 1)
        offset = -HIDDEN_ZERO * whole.sum(axis=0, dtype=np.int32)
        return _Matrix(self._keep(tiles), self._keep(offset), self._rows(scale[None], width), depth, width)

    def _dense(self, values: Array, bias: Array) -> _Dense:
        width = _up(values.shape[1], LANES)
        return _Dense(self._rows(values, width), self._rows(bias.reshape(1, -1), width), len(values), width)

    def _rows(self, values: Array, width: int) -> int:
        """Copy rows of floats (n, m) to float32 (n, width), padded with zeros, and return their address."""
        whole = np.zeros((len(values), width), np.float32)
        whole[:, : values.shape[1]] = values
        return self._keep(whole)

    def _keep(self, values: Array) -> int:
        """Copy an array to a 64-byte boundary, with room for reading past its end, and return its address."""
        values = np.ascontiguousarray(values)
        room = np.zeros(values.nbytes + 128, np.uint8)
        start = -room.ctypes.data % 64
        kept = room[start : start + values.nbytes].view(values.dtype)
        kept[:] = values.reshape(-1)
        self._kept.append(room)
        return int(kept.ctypes.data)


class _Constants:
    """A graph's arrays by name; 16-bit floats are returned as 32-bit ones."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays

    def __contains__(self, name: str) -> bool:
        return name in self._arrays or f"{name}.half" in self._arrays

    def __getitem__(self, name: str) -> Array:
        half = self._arrays.get(f"{name}.half")
        return self._arrays[name] if half is None else half.astype(np.float32)


def _up(size: int, step: int) -> int:
    """Round a size up to a multiple of step."""
    return -(-size // step) * step
