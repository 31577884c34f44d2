"""What is inside of ONNX graphs."""

from collections.abc import Iterator
from typing import Any


def constants(graph: Any) -> Iterator[Any]:
    """All constants of a graph, those in its branches and loops included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from constants(attribute.g)
