"""Sizes of a program's values with the batch left open, found by tracing at batch sizes 2 and 3.

A dimension that differs between the two is a multiple of the batch: N itself, or say N·L where rows and batch
were merged by a reshape. (Batch 1 is not asked: libraries treat axes of one element in their own ways.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from hwmodel import Program, Workload

from ...traced import Traced


@dataclass(frozen=True)
class Batch:
    """A dimension of `per` elements for each sample of the batch."""

    per: int = 1


Dim = int | Batch


class Unsupported(ValueError):
    """Why an equation has no ONNX form here."""


def ints(values: Any) -> tuple[int, ...]:
    """As Python's own integers; vmap leaves NumPy's in an equation's parameters."""
    return tuple(int(value) for value in values)


def product(dims: Sequence[Dim]) -> Dim:
    """Of sizes; at most one of them may be open."""
    opened = [d for d in dims if isinstance(d, Batch)]
    known = math.prod(d for d in dims if not isinstance(d, Batch))
    if len(opened) > 1:
        raise Unsupported("two axes that both grow with the batch are merged: give batch=a number")
    return Batch(opened[0].per * known) if opened else known


def known(dim: Dim) -> int:
    """A size that does not grow with the batch."""
    if isinstance(dim, Batch):
        raise Unsupported("an axis grows with the batch where a number is needed: give batch=a number")
    return dim


@dataclass(frozen=True, eq=False)
class Sizes:
    """The program to emit, sizes of its values, and the arrays of those that depend on constants alone."""

    workload: Workload
    symbol: str | None  # of an open batch; None: fixed
    other: Workload | None  # the same at another batch size, where it is open

    @classmethod
    def of(cls, traced: Traced, batch: int | str) -> "Sizes":
        if isinstance(batch, str):
            return cls(traced.workload(2), batch, traced.workload(3))
        return cls(traced.workload(batch), None, None)

    @property
    def program(self) -> Program:
        return self.workload.program

    def shape(self, value: int) -> tuple[Dim, ...]:
        """Of a value of the program, axis by axis."""
        here = self.program.values[value].shape
        if self.other is None:
            return here
        there = self.other.program.values[value].shape
        return tuple(self._dim(a, b, value) for a, b in zip(here, there, strict=True))

    def _dim(self, at_two: int, at_three: int, value: int) -> Dim:
        if at_two == at_three:
            return at_two
        if at_two % 2 or at_three != at_two // 2 * 3:
            raise Unsupported(f"an axis has {at_two} elements at batch 2 and {at_three} at batch 3")
        return Batch(at_two // 2)


class Constants:
    """Weight values as arrays: those that the network carries, and arithmetic on constants.

    With an open batch an array has one row where its value has one for each sample; what differs from
    sample to sample by its place in the batch, or depends on how many there are, is refused.
    """

    def __init__(self, sizes: Sizes, carried: dict[int, np.ndarray]):
        self.sizes = sizes
        self.here = _Evaluator(sizes.program, carried)
        self.there = None if sizes.other is None else _Evaluator(sizes.other.program, carried)

    def array(self, value: int) -> np.ndarray:
        array = self.here.array(value)
        if self.there is None:
            return array
        other = self.there.array(value)
        for axis, dim in enumerate(self.sizes.shape(value)):
            if isinstance(dim, Batch):
                first = array.take([0], axis)
                if not _equal(np.broadcast_to(first, array.shape), array):
                    raise Unsupported("a constant differs from sample to sample: give batch=a number")
                array, other = first, other.take([0], axis)
        if not _equal(array, other):
            raise Unsupported("a constant depends on the size of the batch: give batch=a number")
        return array


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


class _Evaluator:
    """Weight values of one program, each computed at most once."""

    def __init__(self, program: Program, carried: dict[int, np.ndarray]):
        self.program, self.known = program, dict(carried)

    def array(self, value: int) -> np.ndarray:
        if value not in self.known:
            if value in self.program.constants:
                self.known[value] = np.asarray(self.program.constants[value])
            else:
                eqn = self.program.equations[self.program.producer[value]]
                with jax.default_device(jax.devices("cpu")[0]):
                    made = eqn.bind(*(jax.numpy.asarray(self.array(v)) for v in eqn.inputs))
                self.known.update(zip(eqn.outputs, map(np.asarray, made), strict=True))
        return self.known[value]
