"""Runs a traced network from its equations, with folded batch norms and quantizers at its points.

`fold` does the arithmetic of the weights once: every bias and batch norm goes into the kernel before it.
`execute` then walks the equations in order. Without quantizers it gives the function's own output, to
rounding; with them, every point with its bit-width. The network's code knows nothing of this.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from hwmodel import Affine, Operation, Program, Workload

from .lowering import Lowering, contract


class Folded(NamedTuple):
    """Weights ready to run; a pytree. Keys are names of operations, and values of Program.values."""

    kernels: dict[str, Array]  # in the layout of the traced function; tables of lookups, too
    biases: dict[str, Array]  # (channels,)
    constants: dict[str, Array]  # what else of the parameters activations meet, by str(value)


Quantize = Callable[[int, Array], Array]  # (index of the point, tensor) -> tensor


def fold(workload: Workload, params: Any) -> Folded:
    """Kernels and biases of all operations with weights, batch norms folded in."""
    value_of = _weight_values(workload.program, params)
    kernels, biases = {}, {}
    for op in workload.operations:
        if op.weight_point < 0:
            continue
        if op.kind == "gather":  # a table whose rows are looked up: nothing folds into it
            kernels[op.name] = value_of(_table(workload, op))
            continue
        eqn = workload.program.equations[op.equations[0]]
        axis = op.weight_axis
        kernel = value_of(eqn.inputs[1])
        scale, shift = _scale_and_shift(op.affine, value_of, kernel.shape[axis])
        shape = [-1 if i == axis else 1 for i in range(kernel.ndim)]
        kernels[op.name] = kernel * scale.reshape(shape)
        biases[op.name] = shift
    constants = {str(v): value_of(v) for v in carried(workload)}
    return Folded(kernels, biases, constants)


def execute(
    workload: Workload,
    folded: Folded,
    inputs: tuple[Array, ...],
    *,
    lowering: Lowering,
    quantize: Quantize | None = None,
) -> tuple[Array, ...]:
    """The outputs of the traced function, every point passed through `quantize`.

    Args:
        workload: traced at the batch size of `inputs`.
        inputs: leaves of the function's inputs.
        quantize: called with the index of a point and its tensor, weights included; None: nothing is.
    """
    program = workload.program
    point_at = {p.value: i for i, p in enumerate(workload.points) if not p.is_weight}
    weighted = [op for op in workload.operations if op.weight_point >= 0]
    opened = {op.equations[0]: op for op in weighted if op.kind != "gather"}
    folded_away = {
        i for op in opened.values() for i in op.equations[1 : 1 + len(op.affine)]
    }  # affine steps follow the contraction directly
    env: dict[int, Any] = {int(v): a for v, a in folded.constants.items()}

    def read(value: int) -> Array:
        if value not in env:  # a constant, or a weight as the equations broadcast it
            if value in program.constants:
                env[value] = jnp.asarray(program.constants[value])
            else:
                maker = program.equations[program.producer[value]]
                made = maker.bind(*(read(v) for v in maker.inputs))
                env.update(zip(maker.outputs, made, strict=True))
        return env[value]

    def put(value: int, array: Array) -> None:
        i = point_at.get(value)
        env[value] = array if quantize is None or i is None else quantize(i, array)

    for op in weighted:
        if op.kind == "gather":
            table = folded.kernels[op.name]
            env[_table(workload, op)] = table if quantize is None else quantize(op.weight_point, table)
    for value, array in zip(program.inputs, inputs, strict=True):
        put(value, array)
    for i, eqn in enumerate(program.equations):
        if i in opened:
            op, kernel = opened[i], folded.kernels[opened[i].name]
            if quantize is not None:
                kernel = quantize(op.weight_point, kernel)
            y = contract(eqn, env[eqn.inputs[0]], kernel, lowering)
            if op.affine:
                axis = _output_axis(workload, op)
                y = y + folded.biases[op.name].reshape([-1 if d == axis else 1 for d in range(y.ndim)])
            put(op.affine_value, y)
        elif i not in folded_away and not program.is_weight(eqn.outputs[0]):
            for value, array in zip(eqn.outputs, eqn.bind(*(read(v) for v in eqn.inputs)), strict=True):
                put(value, array)
    return tuple(read(v) for v in program.outputs)


def _weight_values(program: Program, params: Any) -> Callable[[int], Array]:
    """A function value -> array for weight values, each computed at most once."""
    leaves = jax.tree.leaves(params)
    if len(leaves) != len(program.params):
        raise ValueError(f"params has {len(leaves)} leaves, the traced function had {len(program.params)}")
    known: dict[int, Any] = dict(program.constants)
    for value, leaf in zip(program.params, leaves, strict=True):
        if np.shape(leaf) != program.values[value].shape:
            name = program.param_names[program.params.index(value)]
            raise ValueError(
                f"parameter {name!r} has shape {np.shape(leaf)}, traced as {program.values[value].shape}"
            )
        known[value] = leaf

    def value_of(value: int) -> Array:
        if value not in known:
            eqn = program.equations[program.producer[value]]
            outs = eqn.bind(*(value_of(v) for v in eqn.inputs))
            known.update(zip(eqn.outputs, outs, strict=True))
        return jnp.asarray(known[value])

    return value_of


def _scale_and_shift(
    steps: tuple[Affine, ...], value_of: Callable[[int], Array], channels: int
) -> tuple[Array, Array]:
    """The affine steps as one y -> scale·y + shift, each (channels,)."""
    scale, shift = jnp.ones(channels), jnp.zeros(channels)
    for step in steps:
        c = jnp.broadcast_to(value_of(step.value).reshape(-1), (channels,))
        if step.op == "mul":
            scale, shift = scale * c, shift * c
        elif step.op == "div":
            scale, shift = scale / c, shift / c
        elif step.op == "add":
            shift = shift + c
        elif step.reversed:  # c - y
            scale, shift = -scale, c - shift
        else:
            shift = shift - c
    return scale, shift


def carried(workload: Workload) -> list[int]:
    """Weight values that equations on activations start from; kernels and folded steps are left out.

    A weight that is broadcast to the batch is carried as it was before, and arithmetic without parameters
    (masks, positions) not at all: `execute` does both anew, so they may differ with the batch size.
    """
    program = workload.program
    weighted = [op for op in workload.operations if op.weight_point >= 0]
    skip = {i for op in weighted if op.kind != "gather" for i in op.equations[: 1 + len(op.affine)]}
    stack = [
        v
        for i, eqn in enumerate(program.equations)
        if i not in skip and not program.is_weight(eqn.outputs[0])
        for v in eqn.inputs
        if program.is_weight(v)
    ]
    found: set[int] = set()
    while stack:
        value = stack.pop()
        made_by = program.producer.get(value)
        if value not in program.parametric:
            continue
        if made_by is not None and program.equations[made_by].name == "broadcast_in_dim":
            stack.extend(program.equations[made_by].inputs)
        else:
            found.add(value)
    return sorted(found - {_table(workload, op) for op in weighted if op.kind == "gather"})


def _table(workload: Workload, op: Operation) -> int:
    """The value that a lookup takes its rows from."""
    program = workload.program
    gathers = (program.equations[i] for i in op.equations if program.equations[i].name == "gather")
    return next(eqn.inputs[0] for eqn in gathers if program.is_weight(eqn.inputs[0]))


def _output_axis(workload: Workload, op: Operation) -> int:
    eqn = workload.program.equations[op.equations[0]]
    if eqn.name == "conv_general_dilated":
        return eqn.params["dimension_numbers"].out_spec[1]
    return len(workload.program.values[eqn.outputs[0]].shape) - 1
