"""Bit-widths of a workload's tensors."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int

from .workload import Workload

FULL_BITS = 32  # of an unquantized element


class Bits(NamedTuple):
    """Bit-widths of weights and outputs, one number or one per operation, and of the graph's inputs."""

    weights: int | Int[Array, " N"] | Int[np.ndarray, " N"] = 8
    outputs: int | Int[Array, " N"] | Int[np.ndarray, " N"] = 8
    inputs: int | Int[Array, ""] | Int[np.ndarray, ""] = 8


INT8 = Bits()


class HostBits(NamedTuple):
    """Bits in full: (n,) int64 for weights (shared ones as their owner has them) and outputs."""

    weights: np.ndarray
    outputs: np.ndarray
    inputs: int


def host_bits(workload: Workload, bits: Bits = INT8) -> HostBits:
    """Bit-widths of every operation; ValueError for other shapes, fractions, or widths outside 1-32."""
    n = len(workload.operations)
    for name, given in zip(Bits._fields, bits, strict=True):
        values, shapes = np.asarray(given), ((),) if name == "inputs" else ((), (n,))
        if values.shape not in shapes or values.dtype.kind not in "iu":
            raise ValueError(
                f"bits.{name} must be whole numbers of shape {' or '.join(map(str, shapes))}, got "
                f"{values.dtype} of shape {values.shape}"
            )
        if values.size and (values.min() < 1 or values.max() > FULL_BITS):
            raise ValueError(
                f"bits.{name} must lie in [1, {FULL_BITS}], got {values.min()} to {values.max()}"
            )
    weights = np.broadcast_to(np.asarray(bits.weights, np.int64), (n,))
    outputs = np.broadcast_to(np.asarray(bits.outputs, np.int64), (n,))
    owner = np.array([op.w_id if op.w_id >= 0 else i for i, op in enumerate(workload.operations)], np.int64)
    return HostBits(weights[owner], outputs, int(bits.inputs))
