"""How far an engine may be from the reference, and the running comparison that holds it to that.

Values are compared within a tolerance, boundaries exactly. A boundary may differ only where the reference's detector
logit is so close to 0 that rounding decides; those cases are counted apart and reported, not hidden in a tolerance.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checks.reference import ReferenceStep
from export.graphs.quantisation import Precision

Array = NDArray[Any]


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from the reference, as |difference| / max(1, |reference|).

    Attributes:
        output: largest difference of any output.
        state: largest difference of any h, c or e, or of the window over a text.
        near: a boundary may differ only where the reference's detector logit is closer to 0 than this.
        set_back: share of row-steps after which a row may be set back to the state of the reference.
        reason: why these figures, as it is written into parity.json.
    """

    output: float
    state: float
    near: float
    set_back: float
    reason: str


# The reasons are part of parity.json; "the judge" in them is the reference.
STEP = Tolerance(
    output=2e-5,
    state=2e-5,
    near=2e-5,
    set_back=0.0,
    reason="float32 keeps 6e-8 of a number; sums of a thousand products and a LayerNorm with large gains lose two "
    "decimal places of it",
)
FREE = Tolerance(
    output=1e-2,
    state=1e-2,
    near=1e-1,
    set_back=0.01,
    reason="errors of single steps travel on; on trained networks they stay below a thousandth of these bounds, and a "
    "detector's logit, which LayerNorm and gain may magnify, below a tenth",
)
FREE_INT8 = Tolerance(
    output=5e-1,
    state=2e-1,
    near=5e-1,
    set_back=0.01,
    reason="a value near the middle between two multiples of 1/63 may be rounded to either; such a row goes on from "
    "there a little apart from the judge's until it has forgotten, as far as the bounds say",
)
UNROUNDED = Tolerance(
    output=2.0,
    state=1.0,
    near=2.0,
    set_back=0.05,
    reason="the network before h is rounded to multiples of 1/63: not the same function, only a near one; what that "
    "costs is measured in the bundle's metrics",
)


def tolerances_for(engine: str, precision: Precision) -> tuple[Tolerance, Tolerance]:
    """Return the tolerances of an engine: over one step, and over a trace with a state of its own."""
    if precision != "int8":
        return STEP, FREE
    return (UNROUNDED, UNROUNDED) if engine == "pytorch" else (STEP, FREE_INT8)


@dataclass
class Tally:
    """Running comparison of one engine with the reference.

    Attributes:
        tolerance: what is allowed.
        output: largest relative difference of an output so far.
        state: largest relative difference so far by the first letter of the state: h, c, e or w.
        decisions: boundaries compared.
        near: those that differ where the reference's logit was near 0.
        wrong: those that differ anywhere else.
        set_back: rows set back to the state of the reference because a boundary differed or they drifted too far.
        row_steps: rows times steps compared in full.
        tied: rows left out because an h was too close to the middle between two steps.
    """

    tolerance: Tolerance
    output: float = 0.0
    state: dict[str, float] = field(default_factory=dict)
    decisions: int = 0
    near: int = 0
    wrong: int = 0
    set_back: int = 0
    row_steps: int = 0
    tied: int = 0

    def compare(self, output: Array, state: Mapping[str, Array], truth: ReferenceStep) -> NDArray[np.bool_]:
        """Add one step and return which rows (B,) are to be set back, because a boundary differs or they drifted.

        Boundaries are compared from layer 1 up. Once one differs, the layers above have computed something else, so the
        row is not compared any further.

        Args:
            output: (B, outputs) of the engine.
            state: of the engine, by name.
            truth: the step of the reference.
        """
        # Boundaries, exactly. Over one step, a row whose rounding of h is undecided is left out.
        parted = truth.tied if self.tolerance is STEP else np.zeros(len(output), bool)
        self.tied += int(parted.sum())
        for index, name in enumerate(name for name in sorted(state) if name[0] == "z"):
            self.decisions += int((~parted).sum())
            differs = (state[name] != truth.state[name]) & ~parted
            near = np.abs(truth.logits[:, index]) < self.tolerance.near
            self.near += int((differs & near).sum())
            self.wrong += int((differs & ~near).sum())
            parted = parted | differs
        # Outputs and states of the rows that took the same boundaries, within the tolerance; NaN is out of it.
        self.row_steps += int((~parted).sum())
        off = np.where(parted, 0, differences(output, truth.output))
        self.output = max(self.output, float(off.max()))
        lost = parted | ~(off <= self.tolerance.output)
        for name in (name for name in state if name[0] in "hcew"):
            off = np.where(parted, 0, differences(state[name], truth.state[name]))
            self.state[name[0]] = max(self.state.get(name[0], 0.0), float(off.max()))
            lost |= ~(off <= self.tolerance.state)
        self.set_back += int(lost.sum())
        return lost

    def faults(self, engine: str) -> list[str]:
        """Return what is wrong, one sentence each."""
        found = []
        if self.wrong:
            found.append(f"{engine}: {self.wrong} boundaries differ where the reference's logit was not near 0")
        if self.tolerance is not STEP:
            if self.set_back > self.tolerance.set_back * self.row_steps:
                found.append(f"{engine}: its own trajectory left the reference {self.set_back} times")
            return found
        if not self.output <= self.tolerance.output:
            found.append(f"{engine}: outputs differ by {self.output:.2g} in one step, over {self.tolerance.output:g}")
        worst = max(self.state.values(), default=0.0)
        if not worst <= self.tolerance.state:
            found.append(f"{engine}: states differ by {worst:.2g} in one step, over {self.tolerance.state:g}")
        return found

    def report(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "max_output_difference": self.output,
            "max_state_difference": self.state,
            "row_steps": self.row_steps,
            "z_decisions": self.decisions,
            "z_mismatches": self.near + self.wrong,
            "z_mismatches_near_threshold": self.near,
            "rows_set_back": self.set_back,
            "rows_tied": self.tied,
        }


def differences(values: Array, truth: Array) -> Array:
    """Return the largest |difference| / max(1, |truth|) of each row (B,); infinite where a value is not a number."""
    worst: Array = (np.abs(values - truth) / np.maximum(1, np.abs(truth))).max(1)
    return np.where(np.isfinite(worst), worst, np.inf)
