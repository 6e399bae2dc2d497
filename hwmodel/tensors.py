"""The tensors of a workload that a placement puts somewhere: bytes and lifetimes, in exact integers."""

from dataclasses import dataclass

import numpy as np

from .bits import INT8, Bits, host_bits
from .workload import Workload

WEIGHT, OUTPUT = 0, 1  # columns of a placement


@dataclass(frozen=True)
class Tensor:
    """Weights live through all steps; an output from its operation to its last reader, both inclusive."""

    name: str
    operation: int  # that owns the weights or makes the output
    column: int  # of a placement: WEIGHT or OUTPUT
    bytes: int
    birth: int
    death: int


def tensors(workload: Workload, bits: Bits = INT8, count_bias: bool = False) -> tuple[Tensor, ...]:
    """All weights in execution order, then all outputs; shared weights once, biases at 32 bits."""
    wide = host_bits(workload, bits)
    ops, last = workload.operations, len(workload.operations) - 1
    stored = [0] * len(ops)
    for i, op in enumerate(ops):
        owner = op.w_id if op.w_id >= 0 else i
        if owner == i:
            stored[i] += nbytes(op.w_elems, int(wide.weights[i]))
        if count_bias:
            stored[owner] += 4 * op.bias_elems
    weights = [Tensor(f"{op.name}.weight", i, WEIGHT, stored[i], 0, last) for i, op in enumerate(ops)]
    death = workload.death
    outputs = [
        Tensor(f"{op.name}.output", i, OUTPUT, nbytes(op.o_elems, int(wide.outputs[i])), i, int(death[i]))
        for i, op in enumerate(ops)
    ]
    return tuple(t for t in (*weights, *outputs) if t.bytes)


def nbytes(elems: int, bits: int) -> int:
    """ceil(elems * bits / 8)."""
    return -(-elems * bits // 8)


def aligned(size: int, align: int) -> int:
    """`size` rounded up to a multiple of `align`."""
    return -(-size // align) * align


def occupancy(workload: Workload, placed: list[tuple[Tensor, int]]) -> np.ndarray:
    """(n,) int64: bytes held at each step by tensors of which each takes the given number of bytes."""
    change = np.zeros(len(workload.operations) + 1, np.int64)
    for tensor, size in placed:
        change[tensor.birth] += size
        change[tensor.death + 1] -= size
    return np.cumsum(change)[:-1]
