"""A JAX function as one flat list of equations: nested calls inlined, parameters told from inputs.

`jax.make_jaxpr` runs on shapes alone, so no weight is read and nothing is computed. The flat form is
what the tracer groups into operations, and what an evaluator walks to run the function with changes
(nemojax puts quantizers in). Values are numbered, so that both talk about the same things.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex

_LIBRARIES = ("jax", "flax", "jaxlib", "jaxtyping", "beartype")

Role = Literal["weight", "activation"]

# Primitives that hold a jaxpr, but do not simply call it once.
_CONTROL = {"scan", "while", "cond", "shard_map", "pallas_call", "custom_partitioning", "xla_pmap"}


class Value(NamedTuple):
    """One array of the program. A weight depends on parameters and constants only."""

    shape: tuple[int, ...]
    dtype: np.dtype
    role: Role

    @property
    def elems(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


class Equation(NamedTuple):
    """A primitive with its parameters; inputs and outputs are indices into Program.values."""

    primitive: jex.Primitive
    params: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    where: str  # the user's line, for messages

    @property
    def name(self) -> str:
        return self.primitive.name

    def bind(self, *inputs: Any) -> tuple[Any, ...]:
        """Runs the primitive as it stood in the function."""
        out = self.primitive.bind(*inputs, **self.params)
        return tuple(out) if self.primitive.multiple_results else (out,)


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


def flatten(fn: Callable[..., Any], params: Any, *inputs: Any) -> Program:
    """Reads the jaxpr of `fn(params, *inputs)`; arrays and ShapeDtypeStructs both do.

    Raises:
        ValueError: control flow (scan, while, cond), or an output that is no activation.
    """
    closed = jax.make_jaxpr(fn)(params, *inputs)
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    builder = _Builder()
    top = closed.jaxpr
    roles: list[Role] = ["weight" if i < len(paths) else "activation" for i in range(len(top.invars))]
    given = [builder.add(var.aval, role) for var, role in zip(top.invars, roles, strict=True)]
    outputs = builder.inline(top, closed.consts, given)
    return _without_dead_code(
        Program(
            values=tuple(builder.values),
            equations=tuple(builder.equations),
            params=tuple(given[: len(paths)]),
            param_names=tuple(_path_name(path) for path, _ in paths),
            inputs=tuple(given[len(paths) :]),
            outputs=tuple(outputs),
            constants=builder.constants,
        )
    )


class _Builder:
    """Numbers values and collects equations while nested jaxprs are entered."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.equations: list[Equation] = []
        self.constants: dict[int, Any] = {}

    def add(self, aval: Any, role: Role) -> int:
        self.values.append(Value(tuple(aval.shape), _dtype(aval), role))
        return len(self.values) - 1

    def add_constant(self, aval: Any, array: Any) -> int:
        index = self.add(aval, "weight")
        self.constants[index] = array
        return index

    def inline(
        self, jaxpr: jex.Jaxpr, consts: Sequence[Any], given: Sequence[int], where: str = "an unknown line"
    ) -> list[int]:
        env: dict[jex.Var, int] = dict(zip(jaxpr.invars, given, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self.add_constant(var.aval, const)

        def read(atom: Any) -> int:
            if isinstance(atom, jex.Literal):
                return self.add_constant(atom.aval, np.asarray(atom.val, _dtype(atom.aval)))
            return env[atom]

        for eqn in jaxpr.eqns:
            ins = [read(atom) for atom in eqn.invars]
            line = user_line(eqn) or where
            body = _called(eqn, line)
            if body is not None:
                outs = self.inline(getattr(body, "jaxpr", body), getattr(body, "consts", ()), ins, line)
            else:
                role: Role = "weight" if all(self.values[i].role == "weight" for i in ins) else "activation"
                outs = [self.add(var.aval, role) for var in eqn.outvars]
                self.equations.append(Equation(eqn.primitive, eqn.params, tuple(ins), tuple(outs), line))
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]


def _called(eqn: jex.JaxprEqn, where: str) -> Any:
    """The jaxpr that an equation calls once with its own operands (jit, custom_jvp, remat, ...), or None."""
    bodies = [v for v in eqn.params.values() if hasattr(v, "eqns") or hasattr(v, "jaxpr")]
    name = eqn.primitive.name
    if name in _CONTROL:
        raise ValueError(f"primitive {name!r} at {where} is control flow, which trace does not unroll")
    if len(bodies) != 1:
        return None
    inner = getattr(bodies[0], "jaxpr", bodies[0])
    if list(map(_shape, inner.invars)) != list(map(_shape, eqn.invars)):
        return None
    return bodies[0]


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(atom.aval.shape)


def _dtype(aval: Any) -> np.dtype:
    return aval.dtype


def _without_dead_code(program: Program) -> Program:
    """Keeps the equations that some output needs."""
    needed = set(program.outputs)
    kept: list[Equation] = []
    for eqn in reversed(program.equations):
        if needed.intersection(eqn.outputs):
            needed.update(eqn.inputs)
            kept.append(eqn)
    return Program(
        values=program.values,
        equations=tuple(reversed(kept)),
        params=program.params,
        param_names=program.param_names,
        inputs=program.inputs,
        outputs=program.outputs,
        constants={v: a for v, a in program.constants.items() if v in needed},
    )


def _path_name(path: tuple[Any, ...]) -> str:
    """("params", "stem", "conv", "kernel") -> "stem/conv/kernel"."""
    parts = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
    if len(parts) > 1 and parts[0] == "params":  # Flax's collection of that name
        parts = parts[1:]
    return "/".join(parts) or "param"


def user_line(eqn: jex.JaxprEqn) -> str:
    """file:line of the innermost frame outside jax and flax; empty where there is none."""
    traceback = getattr(eqn.source_info, "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        if not any(f"/site-packages/{library}/" in frame.file_name for library in _LIBRARIES):
            return f"{frame.file_name}:{frame.line_num}"
    return ""
