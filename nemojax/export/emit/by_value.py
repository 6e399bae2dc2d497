"""Softmax, layer norm and activation functions, recognised by what their equations compute.

A group of equations with one tensor going in and one coming out is run on drawn numbers. Where an ONNX
operator gives the same numbers, it takes the group's place; else the group is exported equation by equation,
which is as exact and only reads worse.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from scipy import special

from hwmodel import Operation

from .emitter import Emitter
from .numpy_rules import ELEMENTWISE, NUMPY
from .patterns import Match
from .shapes import ints
from .tensors import Tensor

_LARGEST = 40  # equations of a group
_CLOSE = 1e-6  # of the largest number, in float64
_DRAWN = 10_000_000  # elements: above, a group is not tried
_LINE = np.linspace(-9, 9, 361)  # on which functions of one number are compared, and far from 0:
_FAR = np.geomspace(9.5, 1e6, 120)
_BESIDE = np.array([-1.0, -1e-2, 1e-2, 1.0])  # and around every number that the function itself holds
_TIMES = np.array([0.5, 0.99, 1.01, 2.0])
_LARGE = 1e30  # numbers of a function are met up to here: their cubes are float64, too
_SPREADS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)  # of what is normalised, as multiples of √ε,
_WIDE = (-1e1, 1e3, -1e5)  # and where ε is nothing; all with means of their own size
_LOGITS = ((0.3, 60.0), (-80.0, 3.0), (80.0, 3.0))  # mean and spread of what goes into a softmax
_TELLING = frozenset({"erf", "erfc", "tanh", "min", "log1p", "expm1", "clamp"})


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


# ONNX operator -> its function, the opset that it came with, its attributes.
_FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int, dict[str, str]]] = {
    "Gelu": (lambda x: x * special.ndtr(x), 20, {}),
    "Gelu:tanh": (_gelu_tanh, 20, {"approximate": "tanh"}),
    "HardSwish": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), 14, {}),
    "Softplus": (lambda x: np.logaddexp(x, 0), 1, {}),
    "Elu": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), 6, {}),
    "Mish": (lambda x: x * np.tanh(np.logaddexp(x, 0)), 18, {}),
}


class ByValue:
    """Looks for matches; `kept` are values that must stay visible (quantizers stand there)."""

    def __init__(self, em: Emitter, operations: Collection[Operation], kept: Collection[int]):
        self.em, self.program = em, em.program
        self.kept = set(kept) | set(self.program.outputs)
        self.rng = np.random.default_rng(0)
        self.owner = {
            i: op
            for op in operations
            if op.kind in ("softmax", "norm") and self.axes(op.equations)
            for i in op.equations
        }

    def ending_at(self, i: int) -> Match | None:
        op, name = self.owner.get(i), self.program.equations[i].name
        if op is not None and name in ("div", "mul", "sub", "add"):
            group = {j for j in op.equations if j <= i}
            find = self._softmax if op.kind == "softmax" else self._norm
            if (entry := self.entry(group, i)) is not None and (match := find(group, entry, i)):
                return match
        if name in ("mul", "select_n", "add", "sub"):
            for entry, group in self.grown(i):
                if match := self._function(group, entry, i):
                    return match
        return None

    def active(self, i: int) -> set[int]:
        return {v for v in self.program.equations[i].inputs if not self.program.is_weight(v)}

    def entry(self, group: Collection[int], last: int) -> int | None:
        """The one value that goes in, if nothing but the last equation's output is read outside."""
        made = {v for j in group for v in self.program.equations[j].outputs}
        read = {v for j in group for v in self.active(j)} - made
        inner = made - set(self.program.equations[last].outputs)
        if len(read) != 1 or inner & self.kept:
            return None
        if any(reader not in group for v in inner for reader in self.program.consumers.get(v, ())):
            return None
        return next(iter(read))

    def grown(self, last: int) -> Iterator[tuple[int, set[int]]]:
        """Groups of element-wise equations that end at `last` and start at one value, small ones first."""
        group, frontier = {last}, self.active(last)
        while len(group) < _LARGEST:
            if len(frontier) == 1 and len(group) > 2 and self.entry(group, last) is not None:
                yield next(iter(frontier)), set(group)
            makers = {self.program.producer[v]: v for v in frontier if v in self.program.producer}
            if not makers:
                return
            latest = max(makers)
            if self.program.equations[latest].name not in ELEMENTWISE:
                return
            group.add(latest)
            frontier = (frontier - {makers[latest]}) | self.active(latest)

    def run(self, group: Collection[int], last: int, env: dict[int, np.ndarray]) -> np.ndarray | None:
        """What a group makes of its entry and what else is in `env`; None if a primitive is not in NUMPY."""
        for j in sorted(group):
            eqn = self.program.equations[j]
            if eqn.name not in NUMPY:
                return None
            for v in eqn.inputs:
                if v not in env:
                    array = self.em.tensor(v).array
                    assert array is not None
                    env[v] = array.astype(np.float64) if array.dtype.kind == "f" else array
            with np.errstate(all="ignore"):
                env[eqn.outputs[0]] = NUMPY[eqn.name](eqn.params, *(env[v] for v in eqn.inputs))
        return env[self.program.equations[last].outputs[0]]

    def draw(self, entry: int, spread: float, mean: float = 0.3) -> np.ndarray | None:
        value = self.program.values[entry]
        if value.dtype != np.float32 or not 0 < value.elems <= _DRAWN:
            return None
        return self.rng.normal(mean, spread, value.shape)

    def axes(self, group: Collection[int]) -> set[tuple[int, ...]]:
        """Axes of the sums in a group."""
        eqns = (self.program.equations[j] for j in group)
        return {ints(eqn.params["axes"]) for eqn in eqns if eqn.name == "reduce_sum"}

    def _softmax(self, group: set[int], entry: int, last: int) -> Match | None:
        if len(axes := self.axes(group)) != 1 or (x := self.draw(entry, 3.0)) is None:
            return None
        (axis, *more) = next(iter(axes))
        if more or (found := self.run(group, last, {entry: x})) is None:
            return None
        for op_type, fn in (("Softmax", special.softmax), ("LogSoftmax", special.log_softmax)):
            if _close(found, fn(x, axis=axis)) and all(
                self._agrees(group, last, entry, self.draw(entry, spread, mean), partial(fn, axis=axis))
                for mean, spread in _LOGITS
            ):
                return Match(frozenset(group), lambda: self._along_axis(op_type, entry, axis))  # noqa: B023
        return None

    def _agrees(
        self,
        group: set[int],
        last: int,
        entry: int,
        x: np.ndarray | None,
        fn: Callable[[np.ndarray], np.ndarray],
    ) -> bool:
        found = None if x is None else self.run(group, last, {entry: x})
        return x is not None and found is not None and _close(found, fn(x))

    def _along_axis(self, op_type: str, entry: int, axis: int) -> Tensor:
        x = self.em.whole(entry)
        return Tensor(x.order, x.shape, self.em.node(op_type, [x.name], axis=x.axis(axis)))

    def _norm(self, group: set[int], entry: int, last: int) -> Match | None:
        """(x - mean) / sqrt(variance + ε) · scale + bias over the last axes."""
        rank = len(self.program.values[entry].shape)
        if len(axes := self.axes(group)) != 1 or (x := self.draw(entry, 1.5)) is None:
            return None
        over = next(iter(axes))
        if over != tuple(range(rank - len(over), rank)):
            return None
        if (found := self.run(group, last, {entry: x})) is None:
            return None
        sizes = x.shape[over[0] :]
        epsilons, vectors = self._constants(group, sizes)
        ones, zeros = np.ones(sizes, np.float32), np.zeros(sizes, np.float32)
        for epsilon, scale, bias in product(epsilons, [ones, *vectors], [zeros, *vectors]):
            norm = partial(_normalised, over=over, epsilon=epsilon, scale=scale, bias=bias)
            if _close(found, norm(x)) and self._is_norm(group, last, entry, epsilon, norm):
                shift = None if bias is zeros else bias
                return Match(
                    frozenset(group),
                    lambda: self._layer_norm(entry, over[0], epsilon, scale, shift),  # noqa: B023
                )
        return None

    def _is_norm(
        self,
        group: set[int],
        last: int,
        entry: int,
        epsilon: float,
        norm: Callable[[np.ndarray], np.ndarray],
    ) -> bool:
        """Whether ε stands where ONNX has it, which shows where the variance is about as small, and no
        variance is treated apart."""
        for spread in (*(np.sqrt(epsilon) * times for times in _SPREADS), *_WIDE):
            # A mean of the spread's size: E[x²] - E[x]², as flax has it, would cancel beside a larger one.
            x = self.draw(entry, abs(spread), 0.2 * spread)
            if not self._agrees(group, last, entry, x, norm):
                return False
        return True

    def _constants(
        self, group: Collection[int], sizes: tuple[int, ...]
    ) -> tuple[list[float], list[np.ndarray]]:
        """Small numbers that may be ε, and arrays that may be scale and bias."""
        epsilons, vectors = [], []
        for v in dict.fromkeys(v for j in sorted(group) for v in self.program.equations[j].inputs):
            if not self.program.is_weight(v) or (array := self.em.tensor(v).array) is None:
                continue
            if array.size == 1 and 0 < float(array.reshape(())) < 0.1:
                epsilons.append(float(array.reshape(())))
            if array.shape[array.ndim - len(sizes) :] == sizes and array.size == np.prod(sizes):
                vectors.append(array.reshape(sizes))
        return epsilons, vectors

    def _layer_norm(
        self, entry: int, axis: int, epsilon: float, scale: np.ndarray, bias: np.ndarray | None
    ) -> Tensor:
        x = self.em.whole(entry)
        inputs = [self.em.plain(x), self.em.graph.constant(scale)]
        if bias is not None:
            inputs.append(self.em.graph.constant(bias))
        name = self.em.node("LayerNormalization", inputs, axis=axis, epsilon=epsilon)
        return Tensor(tuple(range(x.rank)), x.shape, name)

    def _function(self, group: set[int], entry: int, last: int) -> Match | None:
        """Of one number: on a line, where all that is read beside is numbers."""
        names = {self.program.equations[j].name for j in group}
        out = self.program.equations[last].outputs[0]
        if not names & _TELLING or self.em.shape(entry) != self.em.shape(out):
            return None
        beside = {v for j in group for v in self.program.equations[j].inputs if self.program.is_weight(v)}
        numbers = {v: self.em.number(v) for v in beside}
        if self.program.values[entry].dtype != np.float32 or None in numbers.values():
            return None
        env = {v: np.asarray(number, np.float64) for v, number in numbers.items()}
        if (found := self.run(group, last, {entry: _LINE, **env})) is None:
            return None
        for name, (fn, opset, attributes) in _FUNCTIONS.items():
            if self.em.graph.opset < opset or not _close(found, fn(_LINE)):
                continue
            op_type, others = name.partition(":")[0], _telling(numbers.values())
            elsewhere = self.run(group, last, {entry: others, **env})
            if elsewhere is not None and _close_each(elsewhere, fn(others)):
                return Match(
                    frozenset(group),
                    lambda: self.em.elementwise(op_type, [self.em.tensor(entry)], **attributes),  # noqa: B023
                )
        return None


def _telling(numbers: Iterable[Any]) -> np.ndarray:
    """Arguments far from 0, and on both sides of what a function compares or clips with."""
    held = np.array([float(n) for n in numbers if abs(float(n)) < _LARGE]).reshape(-1, 1)
    beside = np.concatenate([held + _BESIDE, held * _TIMES]).reshape(-1)
    return np.concatenate([_FAR, -_FAR, beside, -beside])


def _normalised(
    x: np.ndarray, *, over: tuple[int, ...], epsilon: float, scale: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """(x - mean) / sqrt(variance + ε) · scale + bias."""
    centred = x - x.mean(over, keepdims=True)
    variance = np.mean(centred * centred, over, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * scale + bias


def _close_each(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Each number by itself, for a large one would hide what small ones are off."""
    if found.shape != wanted.shape or not np.isfinite(wanted).all():
        return False
    return bool((np.abs(found - wanted) <= _CLOSE * np.maximum(np.abs(wanted), 1)).all())


def _close(found: np.ndarray, wanted: np.ndarray) -> bool:
    if found.shape != wanted.shape or not np.isfinite(wanted).all():
        return False
    return bool(np.abs(found - wanted).max() <= _CLOSE * max(np.abs(wanted).max(), 1e-6))
