"""The external archive: every non-dominated candidate found so far, up to a fixed capacity.

A population alone loses front points to truncation. Rows are candidates as bit-vectors.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Num, UInt32

from .pareto import crowding, non_dominated, succeeded


@struct.dataclass
class Archive:
    """A slots, n quantizers, M objectives; the valid slots come first, the oldest in front."""

    bits: jax.Array  # (A, n) int32, 0 where not valid
    costs: jax.Array  # (A, M) float, +inf where not valid
    valid: jax.Array  # (A,) bool
    hashes: jax.Array  # (A, 2) uint32, of the bits


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
        hashes=jnp.zeros((capacity, 2), jnp.uint32),
    )


def update_archive(archive: Archive, bits: Num[Array, "N n"], costs: Float[Array, "N M"]) -> Archive:
    """Merge N candidates in; drop failed, repeated and dominated ones; truncate to the capacity.

    Of equal bit-vectors the one that came first stays, whatever its costs. Equal costs of different
    bit-vectors all stay. Truncation keeps one best member of each objective, then by crowding
    distance within the merged front, ties to the older one.
    """
    capacity = archive.valid.shape[0]
    hashes = _hashes(bits)
    fresh = first_copies(bits, succeeded(costs), hashes) & ~_known(archive, bits, hashes)
    new = jnp.where(fresh[:, None], costs, jnp.inf)
    hashes, bits = jnp.concatenate([archive.hashes, hashes]), jnp.concatenate([archive.bits, bits])
    # The members do not dominate each other.
    keep = jnp.concatenate(
        [archive.valid & ~_beaten(archive.costs, new), non_dominated(new) & ~_beaten(new, archive.costs)]
    )
    costs = jnp.concatenate([archive.costs, new])
    keep = jax.lax.cond(jnp.sum(keep) > capacity, lambda: _least_crowded(costs, keep, capacity), lambda: keep)
    (slots,) = jnp.nonzero(keep, size=capacity, fill_value=0)
    keep = jnp.arange(capacity) < jnp.sum(keep)
    return Archive(
        jnp.where(keep[:, None], bits[slots], 0),
        jnp.where(keep[:, None], costs[slots], jnp.inf),
        keep,
        hashes[slots],
    )


def _known(archive: Archive, bits: Num[Array, "N n"], hashes: UInt32[Array, "N 2"]) -> Bool[Array, " N"]:
    """Which rows have the bits of a member; see `first_copies` about hashes."""
    index = jnp.arange(archive.valid.shape[0], dtype=jnp.int32)
    same = archive.valid[None]
    for own, theirs in zip(hashes.T, archive.hashes.T, strict=True):
        same &= own[:, None] == theirs[None]
    member = jnp.max(jnp.where(same, index[None], -1), axis=1)
    return (member >= 0) & jnp.all(archive.bits[member] == bits, axis=1)


def _beaten(costs: Float[Array, "N M"], by: Float[Array, "K M"]) -> Bool[Array, " N"]:
    """Which rows are dominated by one of `by`; failed rows of +inf dominate nothing."""
    no_worse = jnp.bool_(True)
    better = jnp.bool_(False)
    for a, b in zip(by.T, costs.T, strict=True):
        no_worse &= a[None] <= b[:, None]
        better |= a[None] < b[:, None]
    return jnp.any(no_worse & better, axis=1)


def _least_crowded(costs: Float[Array, "N M"], front: Bool[Array, " N"], count: int) -> Bool[Array, " N"]:
    """So many of a front's rows: one best of each objective, then the loneliest."""
    costs = jnp.where(front[:, None], costs, jnp.inf)
    distance = crowding(costs, jnp.where(front, 0, 1))
    best = jnp.zeros_like(front).at[jnp.argmin(costs, axis=0)].set(True)
    chosen = jnp.lexsort((-distance, ~best, ~front))[:count]
    return jnp.zeros_like(front).at[chosen].set(front[chosen])


def first_copies(
    bits: Num[Array, "N n"], valid: Bool[Array, " N"], hashes: UInt32[Array, "N 2"] | None = None
) -> Bool[Array, " N"]:
    """Which valid rows have no valid row with the same bits before them.

    Rows are sorted by two hashes, together 63 bits, and each is compared with the one before it, gene
    by gene. So rows that differ are never taken for copies; a copy is overlooked only if a row that
    differs, but has the same hashes, stands between the two. Rows may also be real numbers; then 0
    and -0 may count as different, and a row with a NaN is never a copy.
    """
    first, second = (_hashes(bits) if hashes is None else hashes).T
    # Among equal hashes the valid rows come first, by index.
    second = (second & ~jnp.uint32(1)) | (~valid).astype(jnp.uint32)
    order = jnp.lexsort((second, first))
    sorted_bits = bits[order]
    copy = jnp.pad(jnp.all(sorted_bits[1:] == sorted_bits[:-1], axis=1), (1, 0))
    return valid & ~jnp.zeros_like(valid).at[order].set(copy)


def _hashes(rows: Num[Array, "N n"]) -> UInt32[Array, "N 2"]:
    """Two sums over the genes of mixed gene times a factor of its place, modulo 2³²."""
    if jnp.issubdtype(rows.dtype, jnp.floating):
        words = jax.lax.bitcast_convert_type(rows.astype(jnp.float32), jnp.uint32)
    else:
        words = rows.astype(jnp.uint32)
    mixed = _mix(words)
    factors = _mix(jnp.arange(1, 2 * rows.shape[1] + 1, dtype=jnp.uint32).reshape(2, 1, -1)) | jnp.uint32(1)
    return jnp.sum(mixed[None] * factors, axis=2, dtype=jnp.uint32).T


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A bijection of 32-bit words after which each bit depends on all (C. Wellons's hash prospector)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
