from dataclasses import dataclass
from typing import Any

import numpy as np

from export.checks.skipping import PROFILED_STEPS
from export.checks.traces import Trace
from export.runtime import OnnxPrompt, OnnxStep


@dataclass(frozen=True)
class PrefillCheck:
    """Whether inputs that are read in one go leave what steps leave.

    Attributes:
        compared: rows that were read.
        steps: of each.
        different: rows whose state or boundaries differ in any bit.
    """

    compared: int
    steps: int
    different: int

    def faults(self) -> list[str]:
        """Return the sentence to say when it is not so."""
        if not self.different:
            return []
        return [f"{self.different} of {self.compared} rows that are read in one go are not as steps leave them"]

    def report(self) -> dict[str, Any]:
        """Return the figures."""
        return {"rows": self.compared, "steps": self.steps, "different": self.different}


def check_prefill(single: OnnxStep, prompt: OnnxPrompt, trace: Trace) -> PrefillCheck:
    """Read the beginning of every row of a trace in one go, and by steps, and compare every bit."""
    steps = min(trace.steps, PROFILED_STEPS)
    different = 0
    for row in range(trace.rows):
        inputs = trace.inputs[:steps, row]
        lines = trace.lines.rows([row]) if trace.lines else None
        state, fired = single.zeros(1), []
        boundaries, left = prompt.read(inputs, state, {} if lines is None else lines.given)
        for x in inputs:
            _, state = single.step(x[None], state, lines)
            fired.append([state[name][0] for name in sorted(state) if name[0] == "z"])
        same = all(np.array_equal(left[name], values) for name, values in state.items())
        different += not (same and np.array_equal(boundaries, np.reshape(fired, (steps, -1))))
    return PrefillCheck(trace.rows, steps, different)
