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

    kernels: dict[str, Array]  # in the layout of the traced function
    biases: dict[str, Array]  # (channels,)
    constants: dict[str, Array]  # other weight values that activations meet, by str(value)


Quantize = Callable[[int, Array], Array]  # (index of the point, tensor) -> tensor


def fold(workload: Workload, params: Any) -> Folded:
    """Kernels and biases of all operations with weights, batch norms folded in."""
    value_of = _weight_values(workload.program, params)
    kernels, biases = {}, {}
    for op in workload.operations:
        if op.weight_point < 0:
            continue
        eqn = workload.program.equations[op.equations[0]]
        axis = op.weight_axis
        kernel = value_of(eqn.inputs[1])
        scale, shift = _scale_and_shift(op.affine, value_of, kernel.shape[axis])
        shape = [-1 if i == axis else 1 for i in range(kernel.ndim)]
        kernels[op.name] = kernel * scale.reshape(shape)
        biases[op.name] = shift
    constants = {str(v): value_of(v) for v in _constants_met(workload)}
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
    opened = {op.equations[0]: op for op in workload.operations if op.weight_point >= 0}
    folded_away = {
        i for op in opened.values() for i in op.equations[1 : 1 + len(op.affine)]
    }  # affine steps follow the contraction directly
    env: dict[int, Array] = {int(v): a for v, a in folded.constants.items()}

    def put(value: int, array: Array) -> None:
        i = point_at.get(value)
        env[value] = array if quantize is None or i is None else quantize(i, array)

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
            for value, array in zip(eqn.outputs, eqn.bind(*(env[v] for v in eqn.inputs)), strict=True):
                put(value, array)
    return tuple(env[v] for v in program.outputs)


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


def _constants_met(workload: Workload) -> list[int]:
    """Weight values that equations on activations read, kernels and folded steps left out."""
    program = workload.program
    skip = {
        i for op in workload.operations for i in op.equations[: 1 + len(op.affine)] if op.weight_point >= 0
    }
    return sorted(
        {
            v
            for i, eqn in enumerate(program.equations)
            if i not in skip and not program.is_weight(eqn.outputs[0])
            for v in eqn.inputs
            if program.is_weight(v)
        }
    )


def _output_axis(workload: Workload, op: Operation) -> int:
    eqn = workload.program.equations[op.equations[0]]
    if eqn.name == "conv_general_dilated":
        return eqn.params["dimension_numbers"].out_spec[1]
    return len(workload.program.values[eqn.outputs[0]].shape) - 1
