"""Placed: a network in a chip's memories, who put it there, and how far from the rules and the best."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

import hwmodel as hw


@dataclass(frozen=True, eq=False)
class Course:
    """How a search came to its answer."""

    evaluations: Int[np.ndarray, " T"]  # maps measured
    best_s: Float[np.ndarray, " T"]  # the lowest latency measured by then


@dataclass(frozen=True, eq=False)
class Placed:
    """The outcome of `place`."""

    workload: hw.Workload
    chip: hw.Chip
    bits: hw.Bits
    engine: str  # what made it
    why: str  # it was that engine, in a sentence
    placement: Int[np.ndarray, "n 2"]  # levels of weights and outputs
    latency_s: float  # by the model, without noise; of a board's own: as measured
    rules_s: dict[str, float]  # latency of the compilers' placements, likewise
    bound_s: float | None  # no placement takes less; None: not proven, or the cost is not linear
    evaluations: int  # maps measured
    seconds: float  # spent
    finished: bool = True  # False: ended before the budget
    course: Course | None = None
    contention: float | None = None
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def best_rule(self) -> str:
        """The compiler with the lowest latency."""
        return min(self.rules_s, key=self.rules_s.__getitem__)

    @property
    def speedup(self) -> float:
        """Over the best of the compilers."""
        return self.rules_s[self.best_rule] / self.latency_s

    @property
    def gap(self) -> float | None:
        """Latency / proven lower bound - 1; None without a bound."""
        return None if not self.bound_s else max(self.latency_s / self.bound_s - 1, 0.0)

    def text(self) -> str:
        """What a person wants to know first."""
        lines = [
            f"{self.workload.name} on {self.chip.name}: {_us(self.latency_s)} by {self.engine}",
            self.why,
            f"{self.speedup:.3f}x as fast as the best compiler rule; "
            + ", ".join(f"{name} {_us(seconds)}" for name, seconds in self.rules_s.items()),
        ]
        if self.gap is not None:
            lines.append(f"no placement takes less than {_us(self.bound_s or 0)}: gap {self.gap:.3%}")
        elif self.contention is not None:
            lines.append("with contention there is no proven bound")
        if self.evaluations:
            lines.append(f"{self.evaluations:,} maps measured in {self.seconds:.1f} s")
        if not self.finished:
            lines.append("stopped before the budget was spent")
        return "\n".join(lines)

    def explain(self) -> hw.Explanation:
        """Where the time goes, per operation, by the model without contention."""
        return hw.explain(self.workload, self.chip, self.placement, self.bits)

    def before(self) -> hw.Explanation:
        """The same of the best compiler's placement."""
        problem = hw.problem(self.workload, self.chip, self.bits)
        return hw.explain(self.workload, self.chip, hw.BASELINES[self.best_rule](problem), self.bits)


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.6g} us"
