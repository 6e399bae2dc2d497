"""Masking: an activation that is kept, or replaced by a constant, at places that the data alone decides.

Attention hides tokens by `where(mask, scores, -1e9)` or by adding -1e9. A quantizer behind that step would
stretch its range to the hiding constant and round all scores to one number, so none stands there: what is
kept was rounded before, and the constant stands for "hidden", whatever its size.
"""

from .equations import Equation
from .primitives import VIEWS
from .program import Program

# What masks are made of; sines, say, are not, so a position encoding is no mask.
_STEPS = VIEWS | {
    "add", "sub", "mul", "neg", "max", "min", "not", "and", "or", "xor", "eq", "ne", "lt", "le", "gt", "ge",
    "select_n", "slice", "transpose", "concatenate", "iota",
}  # fmt: skip


class Masks:
    """Which values are masks: made from whole numbers and constants alone, by comparisons and the like."""

    def __init__(self, program: Program):
        self.program = program
        self.made = {v for v in program.inputs if not program.is_real(v)}  # activations
        for eqn in program.equations:
            active = [v for v in eqn.inputs if not program.is_weight(v)]
            if active and eqn.name in _STEPS and all(map(self.__contains__, eqn.inputs)):
                self.made.update(eqn.outputs)

    def __contains__(self, value: int) -> bool:
        if self.program.is_weight(value):
            return value not in self.program.parametric
        return value in self.made

    def masked(self, eqn: Equation) -> int | None:
        """The activation that an equation masks, if that is what it does."""
        others = [v for v in eqn.inputs if v not in self]
        if len(others) != 1 or self.program.is_weight(others[0]) or not self.program.is_real(others[0]):
            return None
        if eqn.name == "select_n":
            return others[0] if others[0] != eqn.inputs[0] else None
        added = eqn.name in ("add", "add_any") or (eqn.name == "sub" and eqn.inputs[0] == others[0])
        return others[0] if added and any(v in self.made for v in eqn.inputs) else None
