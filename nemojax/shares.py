"""Size and bit-operations as plain sums over quantizers and operations: what a solver needs.

The same numbers as hwmodel's `model_ratio` and `bit_operations_ratio(..., "max")`, in float64 NumPy and for
many configurations at once.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from hwmodel import Workload

_FULL_BITS = 32.0  # of what no quantizer stands at


@dataclass(frozen=True, eq=False)
class Shares:
    """n quantizers and the L operations with weights; both costs are 1 for the 32-bit network.

    model_ratio = size_rest + Σ_i size_i · b_i / 32
    bitops_max  = Σ_l macs_l · max(b_w(l), b_a(l)) / 32
    """

    size: np.ndarray  # (n,) share of the stored parameters; 0 for activations
    size_rest: float  # share of what is always stored at 32 bits
    macs: np.ndarray  # (L,) share of the multiply-accumulates
    weight: np.ndarray  # (L,) quantizer of the operation's weight
    input: np.ndarray  # (L,) quantizer that feeds the operation; -1: none, 32 bits

    @classmethod
    def of(cls, workload: Workload) -> "Shares":
        """Raises ValueError: a workload without quantizers, or without multiply-accumulates."""
        operations = workload.operations
        stored = [op for i, op in enumerate(operations) if op.w_elems and op.w_id == i]
        total = sum(op.w_elems for op in stored) + sum(op.bias_elems for op in operations)
        point = {op.w_id: op.weight_point for op in operations if op.weight_point >= 0}
        layers = [op for op in operations if op.weight_point >= 0]
        macs = np.array([op.macs for op in layers], np.float64)
        if not workload.points or not macs.sum() > 0:
            raise ValueError(f"workload {workload.name!r} has no operation with a quantized weight")
        size = np.zeros(len(workload.points))
        for op in stored:
            if point.get(op.w_id, -1) >= 0:
                size[point[op.w_id]] += op.w_elems / total
        return cls(
            size,
            float(1 - size.sum()),
            macs / macs.sum(),
            np.array([op.weight_point for op in layers]),
            np.array([op.input_point for op in layers]),
        )

    def model_ratio(self, bits: Int[np.ndarray, "K n"]) -> Float[np.ndarray, " K"]:
        return self.size_rest + bits @ self.size / _FULL_BITS

    def bitops_max(self, bits: Int[np.ndarray, "K n"]) -> Float[np.ndarray, " K"]:
        inputs = np.where(self.input >= 0, bits[:, self.input], _FULL_BITS)
        return np.maximum(bits[:, self.weight], inputs) @ self.macs / _FULL_BITS
