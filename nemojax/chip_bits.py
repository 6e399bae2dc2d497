"""From the bit-widths of points to those of a workload's tensors, as hwmodel's chips read them.

A chip sees what is stored: each operation's weights and its output. An operation can have several points. Of
these its weight's counts for the weights, and for the output the one that stands at the tensor which other
operations read, the last one: a convolution that an addition is fused with has a point before the addition,
which never leaves the accumulators and costs nothing here. A max pooling's output lies on its input's grid
and has its bit-width.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

import hwmodel as hw
from hwmodel import check_fields

NO_POINT = -1


class StoredPoints(NamedTuple):
    """Of N operations, as places in `Workload.points`; -1: no quantizer stands there."""

    weights: Int[np.ndarray, " N"]  # as the owner of shared weights has it
    outputs: Int[np.ndarray, " N"]
    inputs: Int[np.ndarray, " I"]  # of the graph inputs


def stored_points(workload: hw.Workload) -> StoredPoints:
    """Which point decides about each stored tensor."""
    ops, points = workload.operations, workload.points
    owner = [op.w_id if op.w_id >= 0 else i for i, op in enumerate(ops)]
    outputs = np.full(len(ops), NO_POINT, np.int32)
    for i, op in enumerate(ops):
        last = [p for p, point in enumerate(points) if point.operation == i and not point.is_weight]
        if last and points[last[-1]].value in _leaving(workload, op):
            outputs[i] = last[-1]
        else:
            outputs[i] = _grid_of(workload, i)
    return StoredPoints(
        np.array([ops[i].weight_point for i in owner], np.int32),
        outputs,
        np.array([p for p, point in enumerate(points) if point.operation < 0], np.int32),
    )


def _leaving(workload: hw.Workload, op: hw.Operation) -> set[int]:
    """Values of an operation that something outside of it reads."""
    program, own = workload.program, set(op.equations)
    made = {value for i in own for value in program.equations[i].outputs}
    return {
        value
        for value in made
        if value in program.outputs or not own.issuperset(program.consumers.get(value, ()))
    }


def _grid_of(workload: hw.Workload, i: int) -> int:
    """The point that quantized an output without a point of its own: what its first reader says feeds it."""
    for op in workload.operations[i + 1 :]:
        if op.parents and op.parents[0].producer == i and not op.ext_in:
            return op.input_point
    op = workload.operations[i]
    names = {workload.program.equations[e].name for e in op.equations}
    return op.input_point if op.kind == "pool" and names & {"reduce_window_max", "reduce_max"} else NO_POINT


@dataclass(frozen=True)
class Widths:
    """What a chip makes of bit-widths that it does not compute.

    Arithmetic always runs at the smallest rate that holds both operands, so that 3 bits take as long as 4
    where 4 is the next width that the chip has; wider ones than it has take infinitely long.
    """

    storage: str = "packed"  # bytes at the bit-width itself; "native": at the next width that the chip has
    unsupported: str = "next"  # "inf": an operation with weights whose pair the chip does not list costs +inf
    unquantized: int | None = None  # bits of tensors without a point; None: the chip's widest activations

    def __post_init__(self):
        check_fields(self)
        for name, choices in (("storage", ("packed", "native")), ("unsupported", ("next", "inf"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.unquantized is not None and not 1 <= self.unquantized <= 32:
            raise ValueError(f"unquantized must be 1-32 bits, got {self.unquantized}")


def tensor_bits(
    workload: hw.Workload,
    chip: hw.Chip,
    bits: Int[Array | np.ndarray, " n"],
    widths: Widths | None = None,
) -> hw.Bits:
    """Bit-widths of a workload's tensors where its points have `bits`; traced or not.

    With several graph inputs the widest counts for all: hwmodel has one number for them.
    """
    widths = widths or Widths()
    free = widths.unquantized or min(32, max(rate.activation_bits for rate in chip.compute))
    stored = stored_points(workload)
    padded = jnp.append(jnp.asarray(bits, jnp.int32), jnp.int32(free))  # index -1: no point
    inputs = jnp.max(padded[stored.inputs]) if len(stored.inputs) else jnp.int32(free)
    weights_at, outputs_at = padded[stored.weights], padded[stored.outputs]
    if widths.storage == "packed":
        return hw.Bits(weights_at, outputs_at, inputs)
    weights = sorted({rate.weight_bits for rate in chip.compute})
    activations = sorted({rate.activation_bits for rate in chip.compute})
    return hw.Bits(_next(weights_at, weights), _next(outputs_at, activations), _next(inputs, activations))


def listed(workload: hw.Workload, chip: hw.Chip, bits: hw.Bits) -> Bool[Array, ""]:
    """Whether the chip lists the very pair of bit-widths of every operation with weights."""
    weights, outputs, inputs = (jnp.asarray(b, jnp.int32) for b in bits)
    every = jnp.bool_(True)
    for i, op in enumerate(workload.operations):
        if op.w_elems and op.macs:
            read = [outputs[edge.producer] for edge in op.parents] + [inputs] * (op.ext_in > 0)
            widest = jnp.max(jnp.stack(read))
            pairs = [
                (weights[i] == rate.weight_bits) & (widest == rate.activation_bits) for rate in chip.compute
            ]
            every &= jnp.any(jnp.stack(pairs))
    return every


def _next(bits: Int[Array, "*N"], have: list[int]) -> Int[Array, "*N"]:
    """The smallest of the chip's widths that holds each; a wider one than it has stays."""
    table = jnp.asarray(np.array(have, np.int32))
    place = jnp.sum(jnp.asarray(bits)[..., None] > table.reshape((1,) * jnp.ndim(bits) + (-1,)), axis=-1)
    held = jnp.append(table, jnp.int32(0))[place]
    return jnp.where(place < len(have), held, bits)
