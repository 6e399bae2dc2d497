"""A JAX function as one flat list of equations: nested calls inlined, parameters told from inputs.

`jax.make_jaxpr` runs on shapes alone, so no weight is read and nothing is computed. The flat form is
what the tracer groups into operations, and what an evaluator walks to run the function with changes
(nemojax puts quantizers in).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from .equations import Equation as Equation, Role, Value as Value
from .inline import Inliner


@dataclass(frozen=True, eq=False)
class Program:
    """`fn(params, *inputs)` without nesting and without dead code."""

    values: tuple[Value, ...]
    equations: tuple[Equation, ...]
    params: tuple[int, ...]  # values of the leaves of `params`, in jax.tree order
    param_names: tuple[str, ...]  # their paths, "stem/conv/kernel"
    inputs: tuple[int, ...]  # values of the leaves of the inputs
    outputs: tuple[int, ...]
    constants: Mapping[int, Any]  # value -> array, for literals and captured arrays

    @cached_property
    def producer(self) -> Mapping[int, int]:
        """value -> index of the equation that makes it."""
        return {out: i for i, eqn in enumerate(self.equations) for out in eqn.outputs}

    @cached_property
    def consumers(self) -> Mapping[int, tuple[int, ...]]:
        """value -> indices of the equations that read it (an equation twice, if it reads it twice)."""
        found: dict[int, list[int]] = {}
        for i, eqn in enumerate(self.equations):
            for value in eqn.inputs:
                found.setdefault(value, []).append(i)
        return {value: tuple(readers) for value, readers in found.items()}

    def uses(self, value: int) -> int:
        """How often a value is read, by equations and as an output."""
        return len(self.consumers.get(value, ())) + self.outputs.count(value)

    def is_weight(self, value: int) -> bool:
        return self.values[value].role == "weight"

    def is_real(self, value: int) -> bool:
        """Whether a quantizer could stand there: not at indices or masks."""
        return bool(jax.dtypes.issubdtype(self.values[value].dtype, np.floating))

    @cached_property
    def parametric(self) -> frozenset[int]:
        """Values that depend on a parameter leaf."""
        found = set(self.params)
        for eqn in self.equations:
            if not found.isdisjoint(eqn.inputs):
                found.update(eqn.outputs)
        return frozenset(found)

    def params_behind(self, value: int) -> tuple[int, ...]:
        """Positions (in `params`) of the parameter leaves that a weight value is computed from."""
        seen: set[int] = set()
        stack = [value]
        while stack:
            v = stack.pop()
            if v in seen:
                continue
            seen.add(v)
            if v in self.producer:
                stack.extend(self.equations[self.producer[v]].inputs)
        return tuple(i for i, v in enumerate(self.params) if v in seen)


NO_PROGRAM = Program((), (), (), (), (), (), {})  # of a workload that was not traced


def flatten(fn: Callable[..., Any], *args: Any, params: int | Sequence[int] = 0, unroll: int = 64) -> Program:
    """Reads the jaxpr of `fn(*args)`; arrays and ShapeDtypeStructs both do.

    Args:
        fn: any JAX function.
        args: its arguments, pytrees; each of them either parameters or inputs as a whole.
        params: which of `args` hold parameters, as a position or positions; () for none.
        unroll: the longest scan that is unrolled.

    Raises:
        ValueError: control flow (while, cond, a longer scan), a leaf that is no array, a symbolic shape, a
            position in `params` that no argument has.
    """
    if unroll < 0:
        raise ValueError(f"unroll must be at least 0, got {unroll}")
    chosen = {params} if isinstance(params, int) else set(params)
    if not chosen <= set(range(len(args))) and not (params == 0 and not args):
        raise ValueError(f"params must name positions of the {len(args)} arguments, got {params}")
    roles: list[Role] = []
    names: list[str] = []
    for position, arg in enumerate(args):
        leaves = jax.tree_util.tree_flatten_with_path(arg)[0]
        for path, leaf in leaves:
            _check_leaf(position, path, leaf)
        is_params = position in chosen
        roles += ["weight" if is_params else "activation"] * len(leaves)
        names += [_path_name(path) for path, _ in leaves] if is_params else []
    closed = jax.make_jaxpr(fn)(*args)
    inliner, top = Inliner(unroll), closed.jaxpr
    given = [inliner.add(var.aval, role) for var, role in zip(top.invars, roles, strict=True)]
    outputs = inliner.inline(top, closed.consts, given)
    return _without_dead_code(
        Program(
            values=tuple(inliner.values),
            equations=tuple(inliner.equations),
            params=tuple(v for v, role in zip(given, roles, strict=True) if role == "weight"),
            param_names=tuple(names),
            inputs=tuple(v for v, role in zip(given, roles, strict=True) if role == "activation"),
            outputs=tuple(outputs),
            constants=inliner.constants,
        )
    )


def _check_leaf(position: int, path: tuple[Any, ...], leaf: Any) -> None:
    where = f"leaf {jax.tree_util.keystr(path) or '(itself)'} of argument {position}"
    if not isinstance(leaf, int | float | complex | bool | np.generic) and not (
        hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    ):
        raise ValueError(
            f"{where} is a {type(leaf).__name__}, no array: split arrays from the rest before tracing "
            "(nnx.split, eqx.partition, functools.partial)"
        )
    shape = np.shape(leaf) if not hasattr(leaf, "shape") else leaf.shape
    if not all(isinstance(n, int | np.integer) for n in shape):
        raise ValueError(f"{where} has shape {shape}; trace needs numbers, so put one for each symbol")


def _without_dead_code(program: Program) -> Program:
    """Keeps the equations that some output needs."""
    needed = set(program.outputs)
    kept: list[Equation] = []
    for eqn in reversed(program.equations):
        if needed.intersection(eqn.outputs):
            needed.update(eqn.inputs)
            kept.append(eqn)
    return replace(
        program,
        equations=tuple(reversed(kept)),
        constants={v: a for v, a in program.constants.items() if v in needed},
    )


def _path_name(path: tuple[Any, ...]) -> str:
    """("params", "stem", "conv", "kernel") -> "stem/conv/kernel"."""
    parts = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
    if len(parts) > 1 and parts[0] == "params":  # Flax's collection of that name
        parts = parts[1:]
    if len(parts) > 1 and getattr(path[-1], "name", None) == "value":  # the array in an nnx.Variable
        parts = parts[:-1]
    return "/".join(parts) or "param"
