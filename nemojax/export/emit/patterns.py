"""Equations that together are one ONNX operator: Clip, ReduceMean, AveragePool, Softmax, Gelu, ...

A file is read by tools that look for these. The first three are told by their form; the others, which every
library writes differently, by what they compute: the equations run on drawn numbers, and the operator takes
their place where both give the same.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from hwmodel import Equation

from .emitter import Emitter
from .reductions import pooled, reduced
from .shapes import Batch, ints
from .tensors import Tensor, relabelled

Emit = Callable[[], Tensor]


@dataclass(frozen=True)
class Match:
    """Equations that one operator stands for; the last one makes its output."""

    equations: frozenset[int]
    emit: Emit


class Finder:
    """Looks for matches that end at an equation; `kept` are values that must stay visible."""

    def __init__(self, em: Emitter, kept: Collection[int]):
        self.em, self.program = em, em.program
        self.kept = set(kept) | set(self.program.outputs)

    def ending_at(self, i: int) -> Match | None:
        eqn = self.program.equations[i]
        for find in (self._clip, self._mean, self._average_pool):
            if match := find(i, eqn):
                return match
        return None

    def maker(self, value: int, names: Collection[str]) -> int | None:
        """The equation that makes `value`, if it is one of `names` and nothing else reads the value."""
        made_by = self.program.producer.get(value)
        if made_by is None or self.program.is_weight(value) or value in self.kept:
            return None
        if self.program.uses(value) != 1 or self.program.equations[made_by].name not in names:
            return None
        return made_by

    def split(self, eqn: Equation) -> tuple[int, int] | None:
        """(activation, constant) of an equation with one of each."""
        roles = [self.program.is_weight(v) for v in eqn.inputs]
        if len(eqn.inputs) != 2 or sum(roles) != 1:
            return None
        return (eqn.inputs[1], eqn.inputs[0]) if roles[0] else (eqn.inputs[0], eqn.inputs[1])

    def _clip(self, i: int, eqn: Equation) -> Match | None:
        """min(max(x, low), high), in either order, and clamp."""
        if eqn.name == "clamp":
            ends = self.em.number(eqn.inputs[0]), self.em.number(eqn.inputs[2])
            return self._clip_match({i}, eqn.inputs[1], *ends)
        if eqn.name not in ("min", "max") or (operands := self.split(eqn)) is None:
            return None
        other = "max" if eqn.name == "min" else "min"
        before = self.maker(operands[0], {other})
        if before is None or (inner := self.split(self.program.equations[before])) is None:
            return None
        ends = self.em.number(inner[1]), self.em.number(operands[1])
        low, high = ends if eqn.name == "min" else ends[::-1]
        return self._clip_match({i, before}, inner[0], low, high)

    def _clip_match(self, equations: set[int], x: int, low: float | None, high: float | None) -> Match | None:
        if low is None or high is None or low > high or not self.program.is_real(x):
            return None
        dtype = self.program.values[x].dtype

        def emit() -> Tensor:
            ends = [Tensor.constant(np.asarray(end, dtype)) for end in (low, high)]
            return self.em.elementwise("Clip", [self.em.tensor(x), *ends])

        return Match(frozenset(equations), emit)

    def _quotient(self, eqn: Equation, names: Collection[str]) -> tuple[int, int, bool] | None:
        """(the equation of one of `names`, the constant, whether it multiplies) of y / c or y · c."""
        if eqn.name not in ("div", "mul") or (operands := self.split(eqn)) is None:
            return None
        if eqn.name == "div" and operands[0] != eqn.inputs[0]:
            return None
        before = self.maker(operands[0], names)
        return None if before is None else (before, operands[1], eqn.name == "mul")

    def _mean(self, i: int, eqn: Equation) -> Match | None:
        """A sum over axes divided by their elements; in between the axes may have come back as ones."""
        if (found := self._quotient(eqn, {"reduce_sum", "broadcast_in_dim", "reshape"})) is None:
            return None
        before, constant, multiplies = found
        group = {i, before}
        if self.program.equations[before].name != "reduce_sum":
            kept_axes = self.program.equations[before]
            if (first := self.maker(kept_axes.inputs[0], {"reduce_sum"})) is None:
                return None
            before = first
            group.add(before)
        total = self.program.equations[before]
        axes = ints(total.params["axes"])
        sizes = [self.em.shape(total.inputs[0])[a] for a in axes]
        number = self.em.number(constant)
        if number is None or not number or any(isinstance(n, Batch) for n in sizes):
            return None
        count = 1 / number if multiplies else number
        if abs(count - math.prod(n for n in sizes if isinstance(n, int))) > 1e-6 * count:
            return None
        keep = len(group) == 3
        ones = tuple(1 if a in axes else n for a, n in enumerate(self.em.shape(total.inputs[0])))
        if keep and self.em.shape(eqn.outputs[0]) != ones:
            return None
        return Match(frozenset(group), lambda: self._emit_mean(total.inputs[0], axes, keep))

    def _emit_mean(self, value: int, axes: Sequence[int], keep: bool) -> Tensor:
        """`keep`: with axes of one element in the place of those that go."""
        x = self.em.whole(value)
        kept = [a for a in range(x.rank) if a not in axes]
        if len(x.order) < 3 or set(x.order[2:]) != set(axes):
            mean = reduced(self.em, "ReduceMean", value, axes)
            return relabelled(mean, kept, x.rank) if keep else mean
        name = self.em.node("GlobalAveragePool", [x.name])
        if keep:
            return Tensor(x.order, tuple(1 if a in axes else n for a, n in enumerate(x.shape)), name)
        order = tuple(kept.index(a) for a in x.order[:2])
        return Tensor(order, tuple(x.shape[a] for a in kept), self.em.node("Flatten", [name], axis=1))

    def _average_pool(self, i: int, eqn: Equation) -> Match | None:
        """Divided by the number of elements in the window, or by that of those inside the image."""
        if (found := self._quotient(eqn, {"reduce_window_sum"})) is None:
            return None
        before, constant, multiplies = found
        total = self.program.equations[before]
        divisor = self.em.tensor(constant).array
        if divisor is None or not divisor.all():
            return None
        counts = 1 / divisor if multiplies else divisor
        area = math.prod(total.params["window_dimensions"])
        if np.allclose(counts, area, rtol=1e-6):
            include = 1
        elif _same(counts, self._inside(total)):
            include = 0
        else:
            return None

        def emit() -> Tensor:
            x = self.em.whole(total.inputs[0])
            return pooled(self.em, total, x, "AveragePool", count_include_pad=include)

        return Match(frozenset({i, before}), emit)

    def _inside(self, total: Equation) -> np.ndarray:
        """How many elements of the image each window of a windowed sum covers."""
        shape = self.program.values[total.inputs[0]].shape
        return np.asarray(total.bind(jnp.ones(shape, jnp.float32))[0])


def _same(counts: np.ndarray, wanted: np.ndarray) -> bool:
    if counts.ndim != wanted.ndim or any(
        a not in (1, b) for a, b in zip(counts.shape, wanted.shape, strict=True)
    ):
        return False
    return np.allclose(np.broadcast_to(counts, wanted.shape), wanted, rtol=1e-6)
