"""From a bundle back to a checkpoint, so that training can go on where only the bundle was kept.

The weights are those of the TorchScript file, rounded as they were for the bundle, so the checkpoint computes what the
bundle computes. The optimiser's moments and the place in the corpus are not in a bundle and start anew.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.bundle.folder import SCRIPT_FILE, Bundle
from export.bundle.onnx_wire import WireError, constants
from export.errors import ExportError
from export.graphs.quantisation import HIDDEN_STEPS
from export.graphs.recogniser import GATES
from export.graphs.torchscript import load_script
from export.runtime import config_of
from model.checkpoints.checkpoint import Checkpoint
from model.codec import HandwritingCodec, codec_from_json
from model.config import ModelConfig, TrainConfig
from model.network.stack import Network
from model.recogniser.network import Recogniser, RecogniserConfig


def restore(bundle: Bundle) -> Checkpoint:
    """Return a checkpoint of a bundle's network, to use, to measure or to start a training from.

    Raises:
        ExportError: the TorchScript file does not hold the network that the manifest describes.
    """
    config = config_of(bundle)
    script = load_script(bundle.files[SCRIPT_FILE])
    held = {name: tensor.detach() for name, tensor in (*script.named_parameters(), *script.named_buffers())}
    try:
        weights = _weights(config, held)
    except (KeyError, RuntimeError) as error:
        raise ExportError(f"{bundle.name}: {SCRIPT_FILE} does not hold a network of this shape ({error})") from error
    training = dict(bundle.manifest["training"])
    facts = {key: value for key, value in training.items() if key not in ("config", "detector_prior")}
    facts |= {"data": dict(bundle.manifest["data"]), "bundle": bundle.fingerprint}
    train = TrainConfig.from_json(training["config"]) if "config" in training else TrainConfig()
    return Checkpoint(config, train, codec_from_json(dict(bundle.codec)), facts, weights)


def restore_recogniser(bundle: Bundle) -> Recogniser:
    """Return the recogniser of a bundle, to ship it with another network; `build_recogniser` gives the same file again.

    Raises:
        ExportError: the bundle has none, or its file does not hold one of this shape.
    """
    if bundle.recogniser is None:
        raise ExportError(f"{bundle.name} has no recogniser")
    codec = codec_from_json(dict(bundle.writing["recogniser"]["codec"]))
    try:
        # The sizes follow from the arrays.
        held = {name.removesuffix(".half"): values for name, values in constants(bundle.recogniser).items()}
        layers = sum(name.endswith(".own") for name in held)
        hidden = len(held["head.weight"]) // 2
        assert isinstance(codec, HandwritingCodec), "the manifest was checked"
        made = Recogniser(RecogniserConfig(channels=len(held["fine.bias"]), hidden=hidden, layers=layers), codec)
        # Convolutions, then the layers, whose gates ONNX orders otherwise than PyTorch, then the head.
        for name, convolution in (("fine", made.fine), ("coarse", made.coarse)):
            _set(_parameter(convolution.weight), _tensor(held[f"{name}.weight"]).reshape(convolution.weight.shape))
            _set(_parameter(convolution.bias), _tensor(held[f"{name}.bias"]))
        for number, layer in enumerate(made.layers, start=1):
            given, own = (_tensor(held[f"lstm{number}.{kind}"]).reshape(2, 4 * hidden, -1) for kind in ("input", "own"))
            biases = _tensor(held[f"lstm{number}.bias"]).reshape(2, 2, 4 * hidden)
            for way, side in enumerate((layer.ahead, layer.back)):
                parts = {"weight_ih": given[way], "weight_hh": own[way]}
                parts |= {"bias_ih": biases[way, 0], "bias_hh": biases[way, 1]}
                for kind, values in parts.items():
                    _set(_parameter(getattr(side, f"{kind}_l0")), _gates(values))
        _set(made.head.weight, _tensor(held["head.weight"]).T)
        _set(made.head.bias, _tensor(held["head.bias"]))
    except (KeyError, RuntimeError, WireError) as error:
        raise ExportError(f"{bundle.name}: its recogniser is not one of this shape ({error})") from error
    return made.eval()


def _gates(values: Tensor) -> Tensor:
    """Return rows (4H, ...) of the gates in PyTorch's order from rows in ONNX' order."""
    parts = values.chunk(4)
    return torch.cat([parts[GATES.index(gate)] for gate in range(4)])


def _tensor(values: NDArray[Any]) -> Tensor:
    """Return values as a float32 tensor, whatever they were stored as."""
    return torch.from_numpy(values.astype(np.float32))


def _weights(config: ModelConfig, held: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of a `Network` by name, put together from the parts that the step multiplies."""
    network = Network(config)
    sizes = config.hidden
    gates = len(config.output_sources)
    sent = []
    for index, size in enumerate(sizes):
        layer, prefix = network.layer(index), f"layers.{index}."
        own = _matrix(held, prefix + "own")
        above = [_matrix(held, prefix + "above")] if layer.above else []
        # Rows of the trained matrix: own h, h above, h below. In layer 1 the last are those of the window's vector.
        below = held["window.into"] if index == 0 and config.writes_text else own[size:]
        _set(layer.weight, torch.cat([own[:size], *above, below]))
        if layer.gain is not None:
            _set(layer.gain, held[prefix + "gain"])
        _set(layer.bias, held[prefix + "bias"])
        sent.append(_matrix(held, prefix + "out"))
    if config.writes_text:
        sent.append(held["window.out"])
    into = torch.cat(sent)
    _set(network.output.gate, into[:, :gates])
    _set(network.output.project, into[:, gates:])
    _set(network.output.weight, _matrix(held, "head"))
    _set(network.output.bias, held["head_bias"])
    _set_embedding(network, held)
    if network.attention is not None and network.hands is not None:
        _set(network.attention.embedding.weight, held["window.embedding"])
        _set(network.attention.neighbours, held["window.neighbours"])
        _set(network.attention.weight, held["window.weight"])
        _set(network.attention.bias, held["window.bias"])
        _set(network.hands.weight, held["window.hands"])
    return dict(network.state_dict())


def _set_embedding(network: Network, held: dict[str, Tensor]) -> None:
    left = held["embedding.left"]
    right = held["embedding.right"]
    first = network.layer(0).input
    if first is None:
        msg = "layer 1 has an input matrix"
        raise RuntimeError(msg)
    _set(first, right)
    if network.config.kind == "text":
        _set(network.embedding.weight, left)
        return
    _set(network.embedding.weight, left.T)
    # The file has the bias already multiplied by the input weights: N equations for E unknowns, solved exactly.
    seen = held["embedding_bias"].double()
    bias = torch.linalg.lstsq(right.double().T, seen[:, None]).solution[:, 0]
    _set(_parameter(network.embedding.bias), bias.to(left.dtype))


def _matrix(held: dict[str, Tensor], name: str) -> Tensor:
    """Return a matrix (K, N) as the network has it: in int8, whole numbers times the step of their column."""
    value = held[name + ".value"]
    scale = held[name + ".scale"]
    if not scale.numel():
        return value
    # The stored scale is that of a product, and includes the step of h (`quantisation.product_scale`).
    return (value.double() * scale.double() * HIDDEN_STEPS).to(value.dtype)


def _set(parameter: Tensor, value: Tensor) -> None:
    if parameter.shape != value.shape:
        msg = f"{tuple(value.shape)} in place of {tuple(parameter.shape)}"
        raise RuntimeError(msg)
    with torch.no_grad():
        parameter.copy_(value)


def _parameter(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(type(value))
    return value
