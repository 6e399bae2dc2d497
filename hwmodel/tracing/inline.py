"""From nested jaxprs to one list of equations: calls are entered, scans of static length unrolled.

Two forms are made alike on the way. A product with the weight on the left becomes one with the weight on
the right and a transposition of the result; two transpositions that undo each other vanish. So a layer
that a library writes as `w @ x` under `vmap` is the same operation as `x @ w`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from .equations import Equation, Role, Value, user_line

# Primitives that hold a jaxpr, but do not simply call it once.
_CONTROL = {"while", "cond", "shard_map", "pallas_call", "custom_partitioning", "xla_pmap"}


class Inliner:
    """Numbers values and collects equations while nested jaxprs are entered."""

    def __init__(self, unroll: int) -> None:
        self.unroll = unroll
        self.values: list[Value] = []
        self.equations: list[Equation] = []
        self.constants: dict[int, Any] = {}
        self.transposed: dict[int, tuple[int, tuple[int, ...]]] = {}  # value -> (of what, permutation)
        self.scans = 0  # around what is being inlined
        self.invariant: dict[tuple[int, ...], list[int]] = {}  # weights that all steps of a scan share

    def add(self, aval: Any, role: Role) -> int:
        self.values.append(Value(tuple(aval.shape), _dtype(aval), role))
        return len(self.values) - 1

    def add_constant(self, aval: Any, array: Any) -> int:
        index = self.add(aval, "weight")
        self.constants[index] = array
        return index

    def add_constants(self, aval: Any, array: Any) -> list[int]:
        return [self.add_constant(aval, array)]

    def inline(
        self, jaxpr: jex.Jaxpr, consts: Sequence[Any], given: Sequence[int], where: str = "an unknown line"
    ) -> list[int]:
        """Appends the equations of `jaxpr` on the values `given`; returns the values of its outputs."""
        env: dict[jex.Var, int] = dict(zip(jaxpr.invars, given, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            (env[var],) = self.once((id(const),), partial(self.add_constants, var.aval, const))

        def read(atom: Any) -> int:
            if isinstance(atom, jex.Literal):
                return self.add_constant(atom.aval, np.asarray(atom.val, _dtype(atom.aval)))
            return env[atom]

        def run(eqn: jex.JaxprEqn) -> list[int]:
            return self.step(eqn, [read(atom) for atom in eqn.invars], user_line(eqn) or where)

        for eqn in jaxpr.eqns:
            known = [env[atom] for atom in eqn.invars if not isinstance(atom, jex.Literal)]
            if all(self.values[i].role == "weight" for i in known):
                outs = self.once((id(eqn), *known), partial(run, eqn))
            else:
                outs = run(eqn)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def once(self, key: tuple[int, ...], make: Callable[[], list[int]]) -> list[int]:
        """What `make` gives; inside a scan the same for the same key, so that its steps share weights."""
        if not self.scans:
            return make()
        if key not in self.invariant:
            self.invariant[key] = make()
        return self.invariant[key]

    def step(self, eqn: jex.JaxprEqn, ins: list[int], where: str) -> list[int]:
        """One equation of a jaxpr on the values `ins`."""
        if eqn.primitive.name == "scan":
            return self.scan(eqn.params, ins, where)
        if eqn.primitive.name == "optimization_barrier":  # a hint for compilers
            return ins
        body = _called(eqn, where)
        if body is not None:
            return self.inline(getattr(body, "jaxpr", body), getattr(body, "consts", ()), ins, where)
        if eqn.primitive.name == "dot_general" and [self.values[i].role for i in ins] == [
            "weight",
            "activation",
        ]:
            return self.weight_on_the_right(eqn, ins, where)
        if eqn.primitive.name == "transpose":
            source, first = self.transposed.get(ins[0], (-1, ()))
            both = tuple(first[axis] for axis in eqn.params["permutation"]) if source >= 0 else ()
            if source >= 0 and both == tuple(range(len(both))):
                return [source]
        return self.append(eqn.primitive, eqn.params, ins, [var.aval for var in eqn.outvars], where)

    def append(
        self, primitive: jex.Primitive, params: Any, ins: Sequence[int], avals: Sequence[Any], where: str
    ) -> list[int]:
        role: Role = "weight" if all(self.values[i].role == "weight" for i in ins) else "activation"
        outs = [self.add(aval, role) for aval in avals]
        self.equations.append(Equation(primitive, params, tuple(ins), tuple(outs), where))
        if primitive.name == "transpose" and role == "activation":
            self.transposed[outs[0]] = (ins[0], tuple(params["permutation"]))
        return outs

    def weight_on_the_right(self, eqn: jex.JaxprEqn, ins: list[int], where: str) -> list[int]:
        """w · x as transpose(x · w): batch axes come first in both, then the free axes change places."""
        (w_c, x_c), (w_b, x_b) = eqn.params["dimension_numbers"]
        params = {**eqn.params, "dimension_numbers": ((x_c, w_c), (x_b, w_b))}
        w, x = (self.values[i] for i in ins)
        batch, free_w = len(w_b), len(w.shape) - len(w_b) - len(w_c)
        free_x = len(x.shape) - len(x_b) - len(x_c)
        first = tuple(range(batch))
        restore = (
            *first,
            *range(batch + free_x, batch + free_x + free_w),
            *range(batch, batch + free_x),
        )
        aval: Any = eqn.outvars[0].aval
        swapped = [0] * len(restore)
        for axis, source in enumerate(restore):
            swapped[source] = aval.shape[axis]
        product = self.append(
            eqn.primitive, params, ins[::-1], [jax.ShapeDtypeStruct(swapped, aval.dtype)], where
        )
        if restore == tuple(range(len(restore))):
            return product
        return self.call(lambda y: jax.lax.transpose(y, restore), product, where)

    def call(self, fn: Callable[..., Any], ins: Sequence[int], where: str) -> list[int]:
        """Inlines a function of jax.lax on values."""
        avals = [jax.ShapeDtypeStruct(self.values[i].shape, self.values[i].dtype) for i in ins]
        closed = jax.make_jaxpr(fn)(*avals)
        outs = []
        env = dict(zip(closed.jaxpr.invars, ins, strict=True))
        for eqn in closed.jaxpr.eqns:
            outs = self.append(
                eqn.primitive, eqn.params, [env[v] for v in eqn.invars], [v.aval for v in eqn.outvars], where
            )
            env.update(zip(eqn.outvars, outs, strict=True))
        return [env[v] for v in closed.jaxpr.outvars]

    def scan(self, params: Any, ins: list[int], where: str) -> list[int]:
        """The body once per step: carries handed on, slices of xs in, ys stacked at the end."""
        length, consts, carries = params["length"], params["num_consts"], params["num_carry"]
        if length > self.unroll:
            raise ValueError(
                f"primitive 'scan' at {where} has {length} steps, and trace unrolls at most unroll="
                f"{self.unroll}; pass a larger unroll, or trace the body and count it {length} times"
            )
        body = params["jaxpr"]
        constants, carry, xs = ins[:consts], ins[consts : consts + carries], ins[consts + carries :]
        steps: list[list[int]] = []
        self.scans += 1
        for t in reversed(range(length)) if params["reverse"] else range(length):
            slices = [self.call(_element(t), [x], where)[0] for x in xs]
            outs = self.inline(body.jaxpr, body.consts, [*constants, *carry, *slices], where)
            carry = outs[:carries]
            steps.append(outs[carries:])
        self.scans -= 1
        if params["reverse"]:
            steps.reverse()
        if not steps:
            empty = [jax.ShapeDtypeStruct((0, *v.aval.shape), v.aval.dtype) for v in body.jaxpr.outvars]
            return [*carry, *(self.add_constant(y, np.zeros(y.shape, y.dtype)) for y in empty[carries:])]
        stacked = [self.stack([step[k] for step in steps], where) for k in range(len(steps[0]))]
        return [*carry, *stacked]

    def stack(self, rows: list[int], where: str) -> int:
        return self.call(lambda *ys: jax.lax.concatenate([y[None] for y in ys], 0), rows, where)[0]


def _element(t: int) -> Callable[[Any], Any]:
    return lambda x: jax.lax.squeeze(jax.lax.slice_in_dim(x, t, t + 1), (0,))


def _called(eqn: jex.JaxprEqn, where: str) -> Any:
    """The jaxpr that an equation calls once with its own operands (jit, custom_jvp, remat, ...), or None."""
    bodies = [v for v in eqn.params.values() if hasattr(v, "eqns") or hasattr(v, "jaxpr")]
    name = eqn.primitive.name
    if name in _CONTROL:
        raise ValueError(
            f"primitive {name!r} at {where} is control flow, which trace does not unroll; a loop of static "
            "length (lax.scan, lax.fori_loop between Python numbers) is unrolled, and a branch on a Python "
            "value is taken"
        )
    if len(bodies) != 1:
        return None
    inner = getattr(bodies[0], "jaxpr", bodies[0])
    if list(map(_shape, inner.invars)) != list(map(_shape, eqn.invars)):
        return None
    return bodies[0]


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(atom.aval.shape)


def _dtype(aval: Any) -> Any:
    return aval.dtype
