"""Lays out a bundle's weights as the kernel reads them; the structures are those of `kernel.h`."""

import ctypes
from collections.abc import Mapping
from ctypes import c_float, c_int32, c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle.folder import Bundle

Array = NDArray[Any]

TILE, LANES = 16, 8  # columns of a tile of 8-bit weights; floats of a vector
MOST_LAYERS = 5  # the boundaries of more layers, before and after a step, do not fit into a trace byte
HIDDEN_ZERO = 64  # the byte that stands for 0 in a rounded h
# As in `model.network.heads` and `model.network.attention`, which bring PyTorch with them; a test holds them together.
CORRELATION_LIMIT, LOG_SCALE_FLOOR, LOG_SCALE_CEILING, STRIDE = 0.999, -6.0, 4.0, 15.0


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
    """Return whether the kernel can run a bundle: an HM-LSTM with 8-bit weights and at most five layers."""
    model = bundle.model
    return (
        model["cell"] == "hmlstm"
        and model["precision"] == "int8"
        and len(bundle.hidden) <= MOST_LAYERS
        and (bundle.reader is None or model["character_width"] % LANES == 0)
    )


class KernelNetwork:
    """The weights of a bundle for which `can_run` is true, in the kernel's layout.

    Attributes:
        address: address of the network structure, valid as long as this object lives.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._kept: list[Any] = []
        model = bundle.model
        arrays = _Constants(bundle.constants)
        # The layers, then the network around them.
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
        # The table of first-layer inputs, one row per symbol or coordinate. It is computed in float64, so that the last
        # float32 bit of a sum does not depend on the order in which NumPy adds.
        first = arrays["input.weight"].astype(np.float64)
        network.table = self._rows(arrays["embedding"].astype(np.float64) @ first, stride)
        if bundle.reader is not None:
            self._window(network, arrays, bundle, stride)
        elif bundle.kind == "ink":
            network.table_bias = self._rows(arrays["input.bias"][None], stride)
        self._kept += [layers, network]
        self.address = ctypes.addressof(network)

    def _layer(self, arrays: "_Constants", bundle: Bundle, number: int, size: int) -> _Layer:
        """Lay out one layer, numbered from 1, of `size` units; the top layer has no detector and no layer above."""
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
        """Lay out the attention window over the text and the weights that it is multiplied with."""
        count = bundle.model["window_mixtures"]
        width = bundle.model["character_width"]
        # The graph has a column of zeros beside each of the last 2K, which the kernel has no use for.
        columns = [*range(count), *range(count + 1, 5 * count, 2)]
        bias = np.atleast_2d(arrays["window.bias"])[0]
        network.window = self._dense(arrays["window.weight"][:, columns], bias[columns])
        network.window_into = self._rows(arrays["window.into.weight"], stride)
        sent = arrays["window.out.weight"]
        network.window_out_width = _up(sent.shape[1], TILE)
        network.window_out = self._rows(sent, network.window_out_width)
        network.window_mixtures = count
        network.character_width = width
        network.slots = next(spec.shape[1] for spec in bundle.draws if spec.name == "text")
        network.window_stride = STRIDE

    def _matrix(self, arrays: "_Constants", name: str) -> _Matrix:
        """Lay out 8-bit weights (K, N) in tiles of 16 columns, with four rows of a column beside each other."""
        codes = arrays[name]
        scale = arrays[f"{name}.scale"]
        depth, width = _up(codes.shape[0], 4), _up(codes.shape[1], TILE)
        whole = np.zeros((depth, width), np.int8)
        whole[: codes.shape[0], : codes.shape[1]] = codes
        tiles = whole.reshape(depth // 4, 4, width // TILE, TILE).transpose(2, 0, 3, 1)
        offset = -HIDDEN_ZERO * whole.sum(axis=0, dtype=np.int32)
        return _Matrix(self._keep(tiles), self._keep(offset), self._rows(scale[None], width), depth, width)

    def _dense(self, values: Array, bias: Array) -> _Dense:
        """Lay out float32 weights (K, N) and their bias (N,), padded to whole vectors."""
        width = _up(values.shape[1], LANES)
        return _Dense(self._rows(values, width), self._rows(bias.reshape(1, -1), width), len(values), width)

    def _rows(self, values: Array, width: int) -> int:
        """Keep rows of float32, padded with zeros to `width`, and return their address."""
        whole = np.zeros((len(values), width), np.float32)
        whole[:, : values.shape[1]] = values
        return self._keep(whole)

    def _keep(self, values: Array) -> int:
        """Copy an array to the start of a cache line and return its address; a vector may be read past its end."""
        values = np.ascontiguousarray(values)
        room = np.zeros(values.nbytes + 128, np.uint8)
        start = -room.ctypes.data % 64
        kept = room[start : start + values.nbytes].view(values.dtype)
        kept[:] = values.reshape(-1)
        self._kept.append(room)
        return int(kept.ctypes.data)


class _Constants:
    """The arrays of a graph by name; those stored as float16 are returned as float32."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays

    def __contains__(self, name: str) -> bool:
        return name in self._arrays or f"{name}.half" in self._arrays

    def __getitem__(self, name: str) -> Array:
        half = self._arrays.get(f"{name}.half")
        return self._arrays[name] if half is None else half.astype(np.float32)


def _up(size: int, step: int) -> int:
    """Return the smallest multiple of `step` that is not below `size`."""
    return -(-size // step) * step
