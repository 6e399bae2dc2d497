"""Placed: a network in a chip's memories, who put it there, and how far from the rules and the best."""

from dataclasses import dataclass, field

import jax.numpy as jnp
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
    latency_s: float  # by the model, without noise; of a board's own: the mean of its measurements
    rules: dict[str, Int[np.ndarray, "n 2"]]  # the compilers' placements, under the same pins
    rules_s: dict[str, float]  # their latencies
    bound_s: float | None  # no placement takes less; None: not known
    evaluations: int = 0  # maps measured
    seconds: float = 0.0  # spent in all, with compiling and the solver
    finished: bool = True  # False: ended before the budget
    course: Course | None = None
    contention: float | None = None
    pins: dict[str, str] = field(default_factory=dict)
    forbidden: dict[str, tuple[str, ...]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)  # key, versions, config, ...: to do it again

    @property
    def best_rule(self) -> str:
        """The compiler with the lowest latency; what a board failed to measure comes last."""
        return min(self.rules_s, key=lambda name: np.nan_to_num(self.rules_s[name], nan=np.inf))

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
        if self.evaluations:
            lines.append(f"{self.evaluations:,} maps measured, {self.seconds:.1f} s in all")
        if "reward" in self.settings:
            lines.append(f"reward of a map: {self.settings['reward']}")
        if not self.finished:
            lines.append("stopped before the budget was spent")
        return "\n".join(lines)

    def explain(self) -> hw.Explanation:
        """Where the time goes, per operation, by the model, contention and all."""
        return self._explained(self.placement)

    def before(self) -> hw.Explanation:
        """The same of the best compiler's placement."""
        return self._explained(self.rules[self.best_rule])

    def _explained(self, placement: Int[np.ndarray, "n 2"]) -> hw.Explanation:
        return hw.explain(self.workload, self.chip, placement, self.bits, contention=self.contention or 0.0)

    def model_s(self, placement: Int[np.ndarray, "n 2"]) -> float:
        """Latency of another placement by the model, contention and all."""
        problem = hw.problem(self.workload, self.chip, self.bits)
        if self.contention is None:
            return float(hw.latency(problem, placement))
        return float(hw.contended_latency(problem, jnp.asarray(placement), self.contention))


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.6g} us"
