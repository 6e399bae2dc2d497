"""One order of all members of all species, best first, of which each species keeps its own best."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .archive import first_copies
from .pareto import succeeded
from .survival import Survival


class Order(NamedTuple):
    """Where each of K members stands."""

    position: Int[Array, " K"]  # 0 = best; a permutation of 0 ... K-1
    unique: Bool[Array, " K"]  # succeeded, and no earlier member has the same bits
    state: Any  # the survival's


def joint_order(
    key: jax.Array,
    survival: Survival,
    state: Any,
    phenotypes: Array,
    costs: Float[Array, "K M"],
    violation: Float[Array, " K"],
    demote_repeats: bool,
) -> Order:
    """Orders K living members.

    First those that succeeded within the budgets, as the survival orders them; then those that repeat the
    bits of one before them (if repeats are demoted); then those that exceed a budget, the least excess
    first (constrained dominance: Jain & Deb 2014); then failures. Ties go to the lowest index.

    Args:
        phenotypes: (K, n) bit-widths; parents before children, so that of equal ones the parent stays.
        costs: +inf rows failed.
        violation: how far a member exceeds the budgets, 0 = within; it counts though its costs failed.
    """
    over = violation > 0
    valid = succeeded(costs) & ~over
    unique = first_copies(phenotypes, valid)
    ranked = unique if demote_repeats else valid
    order, state = survival.order(key, jnp.where(ranked[:, None], costs, jnp.inf), state)
    index = jnp.arange(costs.shape[0], dtype=jnp.int32)
    place = jnp.where(ranked, jnp.zeros_like(index).at[order].set(index), index)
    excess = jnp.where(jnp.isnan(violation), 0, violation)
    # Sorted only if there are any, which is rare.
    least = jax.lax.cond(
        jnp.any(over),
        lambda: jnp.zeros_like(index).at[jnp.lexsort((excess, ~over))].set(index),
        lambda: index,
    )
    start, position = jnp.int32(0), jnp.zeros_like(index)
    for group, within in (
        (ranked, place),
        (valid & ~ranked, None),
        (over, least),
        (~valid & ~over, None),
    ):
        own = _count(group) if within is None else within
        position = jnp.where(group, start + own, position)
        start = start + jnp.sum(group, dtype=jnp.int32)
    return Order(position, unique, state)


def _count(group: Bool[Array, " K"]) -> Int[Array, " K"]:
    """How many of a group come before each row."""
    return jnp.cumsum(group, dtype=jnp.int32) - 1
