"""Pareto dominance, fronts and crowding distance (Deb et al. 2002, NSGA-II), everything minimised.

A row of costs that is not finite throughout has failed: it dominates nothing, forms the last front
and takes no part in a crowding distance. Ties go to the lowest index everywhere.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def succeeded(costs: Float[Array, "n m"]) -> Bool[Array, " n"]:
    """Which rows are finite throughout."""
    return jnp.all(jnp.isfinite(costs), axis=1)


def dominates(a: Float[Array, " m"], b: Float[Array, " m"]) -> Bool[Array, ""]:
    """a ≺ b  ⇔  ∀k a_k ≤ b_k  ∧  ∃k a_k < b_k."""
    return jnp.all(a <= b) & jnp.any(a < b)


def dominance(costs: Float[Array, "n m"]) -> Bool[Array, "n n"]:
    """D[i, j]: row i dominates row j. Failed rows are dominated by all others and dominate none."""
    costs = jnp.where(succeeded(costs)[:, None], costs, jnp.inf)
    return jax.vmap(jax.vmap(dominates, (None, 0)), (0, None))(costs, costs)


def non_dominated(costs: Float[Array, "n m"]) -> Bool[Array, " n"]:
    """Which rows succeeded and are dominated by no other row."""
    return succeeded(costs) & ~jnp.any(dominance(costs), axis=0)


def pareto_rank(costs: Float[Array, "n m"]) -> Int[Array, " n"]:
    """Front of each row, int32: 0 = non-dominated, k = non-dominated once fronts 0..k-1 are gone.

    All failed rows share one front behind every other. One pass of O(n²) per front.
    """
    beats = dominance(costs)

    def peel(carry):
        level, rank, left = carry
        front = left & ~jnp.any(beats & left[:, None], axis=0)
        return level + 1, jnp.where(front, level, rank), left & ~front

    count = costs.shape[0]
    start = (jnp.int32(0), jnp.zeros(count, jnp.int32), jnp.ones(count, bool))
    return jax.lax.while_loop(lambda carry: jnp.any(carry[2]), peel, start)[1]


def crowding(costs: Float[Array, "n m"], rank: Int[Array, " n"]) -> Float[Array, " n"]:
    """Crowding distance of each row inside its own front (larger = lonelier).

    The sum over the objectives of the gap between a row's two neighbours, divided by the span of
    the front. The two ends of an objective are +inf; an objective that is constant on a front adds
    nothing, not even ends; fronts of one or two rows are +inf. Failed rows get 0. Never NaN.

    Args:
        costs: minimised.
        rank: any label in 0..n-1 that is equal exactly within a front, as from `pareto_rank`.
    """
    count = costs.shape[0]
    ok = succeeded(costs)
    # Halved, so that the span of two representable numbers is representable; the ratios are unchanged.
    halved = 0.5 * jnp.where(ok[:, None], costs, 0)

    def one_objective(column):
        order = jnp.lexsort((column, rank))  # stable: equal costs keep the order of their index
        value, front = column[order], rank[order]
        change = front[1:] != front[:-1]
        first = jnp.concatenate([jnp.ones(1, bool), change])
        last = jnp.concatenate([change, jnp.ones(1, bool)])
        before = jnp.where(first, jnp.inf, value - jnp.roll(value, 1))
        after = jnp.where(last, jnp.inf, jnp.roll(value, -1) - value)
        highest = jax.ops.segment_max(column, rank, count)
        lowest = jax.ops.segment_min(column, rank, count)
        span = (highest - lowest)[front]
        safe = jnp.where(span > 0, span, 1)
        distance = jnp.where(span > 0, before / safe + after / safe, 0)
        return jnp.zeros_like(distance).at[order].set(distance)

    distance = jnp.sum(jax.vmap(one_objective, 1, 1)(halved), axis=1)
    size = jax.ops.segment_sum(jnp.ones(count, jnp.int32), rank, count)[rank]
    return jnp.where(ok, jnp.where(size <= 2, jnp.inf, distance), 0)
