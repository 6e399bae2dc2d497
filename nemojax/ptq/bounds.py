"""ReLU6 after equalization: a bound of its own for each channel.

min(x, 6) is not homogeneous, but min(x/s, 6/s) = min(x, 6)/s: a channel whose scale moved takes its
bound along. The traced equation knows one number, so here it becomes a minimum with one number per channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from hwmodel import Workload

from ..traced import Traced


class Minimum(NamedTuple):
    """In the place of the primitive `min`, with broadcasting."""

    name: str = "min"
    multiple_results: bool = False

    def bind(self, x: Array, y: Array, **_: Any) -> Array:
        return jnp.minimum(x, y)


@dataclass(frozen=True, eq=False)
class Bounded(Traced):
    """A traced network in which the values `clips` may be given per channel, by Folded.constants."""

    clips: frozenset[int] = frozenset()
    plain: Traced | None = None  # with the function's own bounds
    _bounded: dict[int, Workload] = field(default_factory=dict)

    def workload(self, batch: int = 1) -> Workload:
        if batch not in self._bounded:
            work = super().workload(batch)
            equations = tuple(
                eqn._replace(primitive=Minimum())  # type: ignore[arg-type]
                if self.clips.intersection(eqn.inputs)
                else eqn
                for eqn in work.program.equations
            )
            self._bounded[batch] = replace(work, program=replace(work.program, equations=equations))
        return self._bounded[batch]


def bounded(traced: Traced, clips: Sequence[int]) -> Traced:
    """`traced`, with the bounds `clips` open to be given per channel."""
    earlier = traced.clips if isinstance(traced, Bounded) else frozenset()
    if not clips or earlier.issuperset(clips):
        return traced
    return Bounded(
        traced.apply,
        traced.params,
        traced.sample,
        traced.quantize_pooled_input,
        traced.lowering,
        name=traced.name,
        clips=earlier.union(clips),
        plain=unbounded(traced),
    )


def unbounded(traced: Traced) -> Traced:
    """With the bounds that the function itself has: the very trace that was bounded."""
    return traced.plain if isinstance(traced, Bounded) and traced.plain is not None else traced
