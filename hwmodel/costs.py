"""Size and bit-operations of a workload whose quantizers take given bit-widths."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .bits import FULL_BITS
from .workload import Workload

BitOperations = Literal["max", "product"]


def model_ratio(workload: Workload, bits: Int[Array, " n"]) -> Float[Array, ""]:
    """Σ_t elems_t · b_t / Σ_t elems_t · 32 over all stored parameters (Miret et al. 2022, "Model-Ratio").

    Biases (batch norms folded into them) have no quantizer and count 32 bits. Tied weights are stored,
    and counted, once. Scales and zero points are not counted.

    Args:
        bits: (n,) bit-width of each of `workload.points`.
    """
    stored = [op for i, op in enumerate(workload.operations) if op.w_elems and op.w_id == i]
    elems = np.array([op.w_elems for op in stored], np.float64)
    total = elems.sum() + sum(op.bias_elems for op in workload.operations)
    point = {op.w_id: op.weight_point for op in workload.operations if op.weight_point >= 0}
    padded = jnp.append(bits, jnp.asarray(FULL_BITS, bits.dtype)).astype(jnp.float32)  # index -1: unquantized
    widths = padded[np.array([point.get(op.w_id, -1) for op in stored])]
    saved = jnp.sum(jnp.asarray(elems / total, jnp.float32) * (FULL_BITS - widths)) / FULL_BITS
    return 1.0 - saved


def bit_operations_ratio(
    workload: Workload, bits: Int[Array, " n"], definition: BitOperations = "max"
) -> Float[Array, ""]:
    """Bit-operations over those of the 32-bit network, for operations with weights; others count nothing.

    "max":     Σ_l MAC_l · max(b_w, b_a) / Σ_l MAC_l · 32     (NEMO; NNCF's precision of an operation)
    "product": Σ_l MAC_l · b_w · b_a / Σ_l MAC_l · 32²        (HAWQ-V3)

    b_a is the bit-width of the quantizer that feeds the operation, 32 where none does. The two definitions
    are different units: never compare one with the other.

    Args:
        bits: (n,) bit-width of each of `workload.points`.
    """
    layers = [op for op in workload.operations if op.weight_point >= 0]
    macs = np.array([op.macs for op in layers], np.float64)
    share = jnp.asarray(macs / macs.sum(), jnp.float32)
    padded = jnp.append(bits, jnp.asarray(FULL_BITS, bits.dtype)).astype(jnp.float32)  # index -1: unquantized
    w = padded[np.array([op.weight_point for op in layers])]
    a = padded[np.array([op.input_point for op in layers])]
    if definition == "max":
        return jnp.sum(share * jnp.maximum(w, a)) / FULL_BITS
    if definition == "product":
        return jnp.sum(share * w * a) / FULL_BITS**2
    raise ValueError(f"definition must be 'max' or 'product', got {definition!r}")
