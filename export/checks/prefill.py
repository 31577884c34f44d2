"""Prefill: the graph that takes many inputs at once must leave the very bits that single steps leave."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from export.checks.skipping import PROFILED_STEPS
from export.checks.traces import Trace
from export.runtime import OnnxPrompt, OnnxStep


@dataclass(frozen=True)
class PrefillCheck:
    """Whether prefill leaves what single steps leave.

    Attributes:
        compared: rows compared.
        steps: inputs of each.
        different: rows of which a bit of the state or of the boundaries differs.
    """

    compared: int
    steps: int
    different: int

    def faults(self) -> list[str]:
        """Return what is wrong, if anything, in one sentence."""
        if not self.different:
            return []
        return [f"prefill leaves {self.different} of {self.compared} rows otherwise than single steps do"]

    def report(self) -> dict[str, Any]:
        """Return the figures as parity.json has them."""
        return {"rows": self.compared, "steps": self.steps, "different": self.different}


def check_prefill(single: OnnxStep, prompt: OnnxPrompt, trace: Trace) -> PrefillCheck:
    """Take the beginning of every row of a trace by prefill and by single steps, and compare every bit."""
    steps = min(trace.steps, PROFILED_STEPS)
    different = 0
    for row in range(trace.rows):
        inputs = trace.inputs[:steps, row]
        lines = trace.lines.rows([row]) if trace.lines else None
        state, fired = single.zeros(1), []
        boundaries, left = prompt.prefill(inputs, state, lines)
        for x in inputs:
            _, state = single.step(x[None], state, lines)
            fired.append([state[name][0] for name in sorted(state) if name[0] == "z"])
        same = all(np.array_equal(left[name], values) for name, values in state.items())
        different += not (same and np.array_equal(boundaries, np.reshape(fired, (steps, -1))))
    return PrefillCheck(trace.rows, steps, different)
