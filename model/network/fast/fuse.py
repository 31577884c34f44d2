"""A pointwise kernel compiled into one C++ function that is called directly.

torch.compile's own callable looks up the compiled code at every call and unwraps its arguments several times. For
kernels of some 50 microseconds, called six hundred times in an update, that costs as much as the kernels. All calls of
a kernel here have arguments like those of the first, so on a CPU it is traced once and the function that inductor makes
is kept. On a GPU, where a replayed graph runs no Python, torch.compile is used as it is.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

Kernel = Callable[..., Any]


def fused(kernel: Kernel, device: torch.device) -> Kernel:
    """Return the function, fused for the shapes and dtypes of its first call; all later calls must have the same.

    Args:
        kernel: takes tensors and None by position, may write into tensors given to it, and returns a tuple of tensors
            and None.
        device: of the tensors.
    """
    return _through_dynamo(kernel) if device.type == "cuda" else _Direct(kernel)


class _Direct:
    """A kernel that is traced at its first call; later calls go straight to inductor's function."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.call: Callable[[list[Tensor]], Any] | None = None
        self.given: list[int] = []
        self.returned: list[int] = []
        self.width = 0

    def __call__(self, *arguments: Tensor | None) -> tuple[Tensor | None, ...]:
        if self.call is None:
            self.call = self._compile(arguments)
        found = self.call([arguments[place] for place in self.given])  # type: ignore[misc]
        result: list[Tensor | None] = [None] * self.width
        for place, tensor in zip(self.returned, found, strict=True):
            result[place] = tensor
        return tuple(result)

    @torch.no_grad()
    def _compile(self, arguments: tuple[Tensor | None, ...]) -> Callable[[list[Tensor]], Any]:
        # Inductor takes seconds to import: only those who compile pay for it.
        from torch._inductor import config as inductor
        from torch._inductor.compile_fx import compile_fx_inner
        from torch._inductor.decomposition import select_decomp_table
        from torch._inductor.output_code import CompiledFxGraph

        self.given = [place for place, value in enumerate(arguments) if value is not None]

        def flat(*tensors: Tensor) -> list[Tensor]:
            filled: list[Tensor | None] = [None] * len(arguments)
            for place, tensor in zip(self.given, tensors, strict=True):
                filled[place] = tensor
            result = self.kernel(*filled)
            self.width = len(result)
            self.returned = [n for n, value in enumerate(result) if value is not None]
            return [value for value in result if value is not None]

        tensors = [arguments[place] for place in self.given]
        graph = make_fx(functionalize(flat), select_decomp_table(), tracing_mode="fake")(*tensors)
        fakes = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
        with inductor.patch(size_asserts=False):
            output = compile_fx_inner(graph, fakes, is_inference=True)
        if not isinstance(output, CompiledFxGraph) or output.current_callable is None:
            raise TypeError(type(output))
        return output.current_callable


def _through_dynamo(kernel: Kernel) -> Kernel:
    # torch.compile keeps compiled code by code object, and all variants share two of these. Each variant gets one of
    # its own, whose only entry needs no guards; evaluating guards costs a tenth of a kernel.
    function = cast(FunctionType, kernel)
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__)
    unguarded: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    return torch.compile(own, fullgraph=True, dynamic=False, options=unguarded)
