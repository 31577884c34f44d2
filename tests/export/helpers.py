"""Small networks and engines for the tests of export/: real ones, only with few units."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from export.graphs.quantisation import Precision, round_weights
from export.graphs.specs import input_spec, output_spec, state_specs
from export.graphs.step import build_step
from export.graphs.weights import StepWeights
from export.runtime import OnnxStep
from model.config import ModelConfig
from model.network.stack import Network
from model.network.state import NetworkState

Array = NDArray[Any]

TEXT = ModelConfig(vocabulary=13, embedding=6, hidden=(12, 9, 15), output=10)
INK = ModelConfig(kind="ink", embedding=5, hidden=(11, 14), output=8, mixtures=3, layer_norm=False)
LSTM = ModelConfig(vocabulary=13, cell="lstm", embedding=6, hidden=(12, 9, 15), output=10)
SINGLE = ModelConfig(vocabulary=5, embedding=3, hidden=(7,), output=4)
CONFIGS = {"text": TEXT, "ink": INK, "lstm": LSTM, "single": SINGLE}


def network_of(config: ModelConfig, seed: int = 0) -> Network:
    """A network with random weights, its detectors about as often on as off."""
    torch.manual_seed(seed)
    return Network(config).eval()


def onnx_step(network: Network, precision: Precision = "float32", graph: bytes | None = None) -> OnnxStep:
    """The network's graph in ONNX Runtime, or another graph with the same face."""
    config = network.config
    built = graph or build_step(StepWeights.of(round_weights(network, precision), precision))
    return OnnxStep(built, input_spec(config), output_spec(config), state_specs(config))


def random_inputs(config: ModelConfig, steps: int, rows: int, seed: int = 0) -> Array:
    """Symbols (T, B), or offsets (T, B, 3) with a pen that is lifted now and then."""
    generator = np.random.default_rng(seed)
    if config.kind == "text":
        return generator.integers(0, config.vocabulary, (steps, rows))
    offsets = generator.standard_normal((steps, rows, 3))
    offsets[..., 2] = generator.random((steps, rows)) < 0.1
    return offsets.astype(np.float32)


def state_with(network: Network, rows: int, z: Mapping[str, Array], seed: int = 0) -> dict[str, Array]:
    """A random state with the given boundaries, and e as it follows from h."""
    generator = np.random.default_rng(seed)
    state = {}
    for spec in state_specs(network.config):
        values = np.tanh(generator.standard_normal(spec.shape_for(rows))).astype(np.float32)
        state[spec.name] = z[spec.name].astype(np.float32) if spec.name in z else values
    out = torch.cat([network.output.gate, network.output.project], 1).detach().numpy()
    for layer, rows_of in enumerate(np.split(out, np.cumsum(network.config.hidden)[:-1]), start=1):
        if f"e{layer}" in state:
            state[f"e{layer}"] = state[f"h{layer}"] @ rows_of
    return state


@torch.no_grad()
def network_step(network: Network, x: Array, state: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """One step of `Network.step`, in and out by name."""
    tensors = {name: torch.tensor(values) for name, values in state.items() if name[0] in "hcz"}
    for number in range(1, network.config.num_layers + 1):
        tensors.setdefault(f"z{number}", torch.zeros(len(x)))
    output, following = network.step(torch.tensor(x), NetworkState.from_named(tensors))
    return output.numpy(), {name: values.numpy() for name, values in following.named()}


def with_weight(graph: bytes, name: str, change: Any) -> bytes:
    """The same ONNX file with one initialiser changed, in whatever branch it is."""
    model = onnx.ModelProto.FromString(graph)
    found = list(_initialisers(model.graph, name))
    assert len(found) == 1, f"{name} is there {len(found)} times"
    values = numpy_helper.to_array(found[0]).copy()
    found[0].CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), name))
    return bytes(model.SerializeToString())


def initialisers(graph: bytes) -> dict[str, Array]:
    """Every initialiser of an ONNX file by name, those of branches too."""
    return {
        one.name: numpy_helper.to_array(one) for one in _initialisers(onnx.ModelProto.FromString(graph).graph, None)
    }


def _initialisers(graph: onnx.GraphProto, name: str | None) -> Any:
    yield from (one for one in graph.initializer if name in (None, one.name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _initialisers(attribute.g, name)
