"""What is read of an ONNX file without the onnx package is what the package reads."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.bundle import folder as bundles_of
from export.bundle.onnx_wire import WireError, constants, operators
from tests.service.live_server import ROOT


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those of its branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_of(attribute.g)


@pytest.mark.parametrize("name", ["prose", "ink"])
def test_arrays_and_operators_are_those_of_the_package(name: str) -> None:
    """All of them, those within branches too: dtype, shape and every value."""
    bundle = bundles_of.load(ROOT / "service" / "bundles" / name)
    graphs = list(graphs_of(onnx.load_from_string(bundle.single).graph))
    wanted = {one.name: numpy_helper.to_array(one) for graph in graphs for one in graph.initializer}
    found = bundle.constants
    assert found.keys() == wanted.keys()
    for each, values in wanted.items():
        assert (found[each].dtype, found[each].shape) == (values.dtype, values.shape)
        assert np.array_equal(found[each], values)
    assert bundle.operators == {node.name: node.op_type for graph in graphs for node in graph.node}


def model_of(tensor: onnx.TensorProto) -> bytes:
    """A model that holds one tensor."""
    return bytes(helper.make_model(helper.make_graph([], "one", [], [], [tensor])).SerializeToString())


def test_what_is_not_understood_is_refused() -> None:
    """Another type, or bytes that are not the shape's: a sentence with the tensor's name, never other numbers."""
    with pytest.raises(WireError, match="odd is of the unknown type"):
        constants(model_of(helper.make_tensor("odd", TensorProto.BOOL, [1], [True])))
    short = helper.make_tensor("short", TensorProto.FLOAT, [3], np.zeros(3, np.float32).tobytes(), raw=True)
    short.raw_data = b"12345678"
    with pytest.raises(WireError, match=r"short has 8 bytes, which are not \[3\]"):
        constants(model_of(short))
    with pytest.raises(WireError):
        operators(b"\xff\xff")
