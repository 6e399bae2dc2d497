"""One unit as a little workload of its own, which the interpreter runs like a whole network.

Values, operations and points are numbered anew from 0, so that units that look alike (the repeated blocks of
a stage) are equal as static arguments of jit and share one compilation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from hwmodel import Program, Workload

from ..interpreter import Folded, Quantize, execute
from ..lowering import Lowering
from ..traced import Traced
from .gradients import dense_convolution, depthwise_convolution
from .units import Unit


@dataclass(frozen=True, eq=False)
class Segment:
    """A unit at one batch size; equal to another that computes the same steps on the same shapes."""

    workload: Workload
    operations: tuple[str, ...]  # of the network; those of `workload` are named "0", "1", ...
    points: tuple[int, ...]  # of the network, of the activations made here
    constants: tuple[int, ...]  # values of the network's program that Folded.constants holds
    lowering: Lowering
    batch: int
    key: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Segment) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def folded(self, folded: Folded) -> Folded:
        """The weights of the segment, under its own names."""
        at = self.workload.program.inputs
        return Folded(
            {str(i): folded.kernels[name] for i, name in enumerate(self.operations)},
            {str(i): folded.biases[name] for i, name in enumerate(self.operations) if name in folded.biases},
            {str(len(at) + i): folded.constants[str(v)] for i, v in enumerate(self.constants)},
        )

    def run(
        self, folded: Folded, entries: Sequence[Array], quantize: Quantize | None = None
    ) -> tuple[Array, ...]:
        """Values of the exits; `entries` with samples in their leading axis."""
        program = self.workload.program
        shaped = [e.reshape(program.values[v].shape) for v, e in zip(program.inputs, entries, strict=True)]
        return execute(self.workload, folded, tuple(shaped), lowering=self.lowering, quantize=quantize)


class _Primitive(NamedTuple):
    """Stands in an equation for a primitive, with a gradient of its own."""

    name: str
    bind: Any
    multiple_results: bool = False


def make_segment(
    traced: Traced,
    folded: Folded,
    unit: Unit,
    batch: int,
    *,
    exits: Sequence[int] | None = None,
    trainable: bool = False,
) -> Segment:
    """The segment of a unit.

    Args:
        exits: other values to give back, of those that the unit makes.
        trainable: depthwise convolutions get a cheap gradient where the lowering is "cpu".
    """
    work = traced.workload(batch)
    taken = _Taken(work, folded, unit)
    program = taken.program(unit.exits if exits is None else exits)
    operations = [op for op in work.operations if op.name in unit.operations]
    local = [
        replace(
            op,
            name=str(i),
            parents=(),
            w_id=i,
            equations=tuple(taken.position[e] for e in op.equations if e in taken.position),
            affine_value=taken.number.get(op.affine_value, -1),
            weight_point=i,
            input_point=-1,
        )
        for i, op in enumerate(operations)
    ]
    inside = [i for i, p in enumerate(work.points) if not p.is_weight and p.value in taken.made]
    weights = [replace(work.points[op.weight_point], name=f"weight {i}", value=-1, operation=i)
               for i, op in enumerate(operations)]  # fmt: skip
    points = [replace(work.points[i], name=f"activation {k}", value=taken.number[work.points[i].value],
                      operation=-1) for k, i in enumerate(inside)]  # fmt: skip
    if trainable and traced.lowering == "cpu":
        program = _with_cheap_gradients(program)
    segment_work = Workload(tuple(local), (*weights, *points), program)
    return Segment(
        segment_work,
        tuple(op.name for op in operations),
        tuple(inside),
        tuple(taken.constants),
        traced.lowering,
        batch,
        _key(segment_work, batch, traced.lowering, trainable),
    )


class _Taken:
    """The equations that a unit needs, with its values numbered: entries, constants, then in order met."""

    def __init__(self, work: Workload, folded: Folded, unit: Unit):
        self.source, self.unit = work.program, unit
        source = work.program
        inside = [
            i for i in range(unit.first, unit.last) if not source.is_weight(source.equations[i].outputs[0])
        ]
        self.made = {out for i in inside for out in source.equations[i].outputs}
        given = {int(v) for v in folded.constants}
        kernels: set[int] = set()
        away: set[int] = set()
        for op in work.operations:
            if op.weight_point >= 0 and op.name in unit.operations and op.kind != "gather":
                kernels.add(source.equations[op.equations[0]].inputs[1])
                away.update(op.equations[1 : 1 + len(op.affine)])
        self.constants: list[int] = []
        needed: list[int] = []  # weight equations, which execute runs when they are read
        seen: set[int] = set()

        def need(value: int) -> None:
            if value in seen:
                return
            seen.add(value)
            if value in given:
                self.constants.append(value)
            elif value in source.producer and value not in self.tables:
                eqn = source.equations[source.producer[value]]
                for v in eqn.inputs:
                    need(v)
                needed.append(source.producer[value])

        self.tables = {
            source.equations[i].inputs[0]
            for op in work.operations
            if op.kind == "gather" and op.name in unit.operations
            for i in op.equations
            if source.equations[i].name == "gather" and source.is_weight(source.equations[i].inputs[0])
        }
        for i in inside:
            if i not in away:
                for v in source.equations[i].inputs:
                    if source.is_weight(v) and v not in kernels:
                        need(v)
        self.equations = [*dict.fromkeys(needed), *inside]
        self.position = {e: i for i, e in enumerate(self.equations)}
        order = [*unit.entries, *self.constants]
        for i in self.equations:
            order += [*source.equations[i].inputs, *source.equations[i].outputs]
        self.number = {v: i for i, v in enumerate(dict.fromkeys(order))}

    def program(self, exits: Sequence[int]) -> Program:
        source, number = self.source, self.number
        given = set(self.constants)
        return Program(
            values=tuple(source.values[v] for v in number),
            equations=tuple(
                eqn._replace(
                    inputs=tuple(number[v] for v in eqn.inputs),
                    outputs=tuple(number[v] for v in eqn.outputs),
                    where="",
                )
                for eqn in (source.equations[i] for i in self.equations)
            ),
            params=(),
            param_names=(),
            inputs=tuple(number[v] for v in self.unit.entries),
            outputs=tuple(number[v] for v in exits),
            constants={number[v]: a for v, a in source.constants.items() if v in number and v not in given},
        )


def _with_cheap_gradients(program: Program) -> Program:
    def changed(eqn: Any) -> Any:
        if eqn.name != "conv_general_dilated":
            return eqn
        p, dims = eqn.params, eqn.params["dimension_numbers"]
        x, w = (program.values[v].shape for v in eqn.inputs)
        groups, pad, stride = p["feature_group_count"], tuple(map(tuple, p["padding"])), p["window_strides"]
        plain = set(p["rhs_dilation"]) == {1} and set(p["lhs_dilation"]) == {1} and len(x) == 4
        layout = (dims.lhs_spec, dims.rhs_spec, dims.out_spec) == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
        pointwise = w[:2] == (1, 1) and set(stride) == {1} and set(pad) == {(0, 0)}
        if not plain or not layout or any(min(ends) < 0 for ends in pad) or (groups == 1 and pointwise):
            return eqn
        if groups == x[3] == w[3] > 1:
            kind = depthwise_convolution
        elif groups == 1:
            kind = dense_convolution
        else:
            return eqn

        def bind(x: Array, w: Array, **_: Any) -> Array:
            return kind(x, w, tuple(stride), pad)

        return eqn._replace(primitive=_Primitive("convolution", bind))

    return replace(program, equations=tuple(map(changed, program.equations)))


def _key(work: Workload, batch: int, lowering: Lowering, trainable: bool) -> Any:
    program = work.program
    return (
        batch,
        lowering,
        trainable,
        tuple((str(v.shape), str(v.dtype), v.role) for v in program.values),
        tuple((e.name, repr(sorted(e.params.items())), e.inputs, e.outputs) for e in program.equations),
        program.inputs,
        program.outputs,
        tuple((v, np.asarray(a).tobytes()) for v, a in program.constants.items() if not _is_key(a)),
        tuple((o.kind, o.equations, len(o.affine), o.affine_value, o.weight_axis) for o in work.operations),
        tuple((p.is_weight, p.value) for p in work.points),
    )


def _is_key(array: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(array, "dtype", np.float32), jax.dtypes.prng_key)
