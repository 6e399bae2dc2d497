"""The external archive: every non-dominated candidate found so far, up to a fixed capacity.

A population alone loses front points to truncation. Rows are candidates as bit-vectors.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from .pareto import crowding, non_dominated, succeeded


@struct.dataclass
class Archive:
    """A slots, n quantizers, M objectives; the valid slots come first, the oldest in front."""

    bits: jax.Array  # (A, n) int32, 0 where not valid
    costs: jax.Array  # (A, M) float, +inf where not valid
    valid: jax.Array  # (A,) bool


def init_archive(capacity: int, num_quantizers: int, num_objectives: int) -> Archive:
    """An empty archive.

    Raises:
        ValueError: a capacity below the number of objectives, whose best members are always kept.
    """
    if capacity < num_objectives:
        raise ValueError(
            f"archive capacity must be at least the number of objectives {num_objectives}, got {capacity}"
        )
    return Archive(
        bits=jnp.zeros((capacity, num_quantizers), jnp.int32),
        costs=jnp.full((capacity, num_objectives), jnp.inf, float),
        valid=jnp.zeros(capacity, bool),
    )


def update_archive(archive: Archive, bits: Int[Array, "N n"], costs: Float[Array, "N M"]) -> Archive:
    """Merge N candidates in; drop failed, repeated and dominated ones; truncate to the capacity.

    Of equal bit-vectors the one that came first stays, whatever its costs. Equal costs of different
    bit-vectors all stay. Truncation keeps one best member of each objective, then by crowding
    distance within the merged front, ties to the older one.
    """
    bits = jnp.concatenate([archive.bits, bits])
    costs = jnp.concatenate([archive.costs, costs])
    valid = jnp.concatenate([archive.valid, jnp.ones(bits.shape[0] - archive.valid.shape[0], bool)])
    valid = first_copies(bits, valid & succeeded(costs))
    costs = jnp.where(valid[:, None], costs, jnp.inf)
    keep = non_dominated(costs)
    costs = jnp.where(keep[:, None], costs, jnp.inf)
    distance = crowding(costs, jnp.where(keep, 0, 1))
    best = jnp.zeros_like(keep).at[jnp.argmin(costs, axis=0)].set(True)
    chosen = jnp.lexsort((-distance, ~best, ~keep))[: archive.valid.shape[0]]
    keep = jnp.zeros_like(keep).at[chosen].set(keep[chosen])
    slots = jnp.argsort(~keep, stable=True)[: archive.valid.shape[0]]
    keep = keep[slots]
    return Archive(
        jnp.where(keep[:, None], bits[slots], 0), jnp.where(keep[:, None], costs[slots], jnp.inf), keep
    )


def first_copies(bits: Int[Array, "N n"], valid: Bool[Array, " N"]) -> Bool[Array, " N"]:
    """Which valid rows have no valid row with the same bits before them."""
    # |a − b|² through a product of matrices: exact in float32 for the small integers that bits are,
    # and many times faster than comparing every pair of rows gene by gene.
    genes = bits.astype(jnp.float32)
    square = jnp.sum(genes**2, axis=1)
    product = jnp.matmul(genes, genes.T, precision=jax.lax.Precision.HIGHEST)
    same = square[:, None] + square[None] == 2 * product
    earlier = jnp.tri(bits.shape[0], k=-1, dtype=bool)
    return valid & ~jnp.any(same & earlier & valid[None], axis=1)
