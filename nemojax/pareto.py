"""Pareto dominance, fronts and crowding distance (Deb et al. 2002, NSGA-II), everything minimised.

A row of costs that is not finite throughout has failed: it dominates nothing, forms the last front
and takes no part in a crowding distance. Ties go to the lowest index everywhere.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Rows ranked at a time: on a CPU a pair of blocks that stays in the registers and the first cache; elsewhere
# few steps, since each is a kernel or more.
BLOCK_ON_CPU, BLOCK_ELSEWHERE = 32, 1024


def succeeded(costs: Float[Array, "n m"]) -> Bool[Array, " n"]:
    """Which rows are finite throughout."""
    return jnp.all(jnp.isfinite(costs), axis=1)


def dominates(a: Float[Array, " m"], b: Float[Array, " m"]) -> Bool[Array, ""]:
    """a ≺ b  ⇔  ∀k a_k ≤ b_k  ∧  ∃k a_k < b_k."""
    return jnp.all(a <= b) & jnp.any(a < b)


def non_dominated(costs: Float[Array, "n m"]) -> Bool[Array, " n"]:
    """Which rows succeeded and are dominated by no other row."""
    return succeeded(costs) & (pareto_rank(costs) == 0)


def pareto_rank(costs: Float[Array, "n m"]) -> Int[Array, " n"]:
    """Front of each row, int32: 0 = non-dominated, k = non-dominated once fronts 0..k-1 are gone.

    All failed rows share one front behind every other. In lexicographic order a row comes after all
    that dominate it, and

        rank(i) = max over the j that dominate i of rank(j) + 1; 0 if there are none.

    So the rows are sorted and cut into blocks, each ranked against the finished blocks before it;
    inside a block the equation is iterated until nothing changes, at most once per front. Time
    O(m n²), memory O(m n).
    """
    count, objectives = costs.shape
    if count == 0:
        return jnp.zeros(0, jnp.int32)
    rows = jnp.where(succeeded(costs)[:, None], costs, jnp.inf)
    order, place = _lexicographic(rows)
    size = min(count, BLOCK_ON_CPU if jax.default_backend() == "cpu" else BLOCK_ELSEWHERE)
    blocks = -(-count // size)
    fill = (0, blocks * size - count)
    # Behind all others, the rows that fill the last block dominate nothing.
    place = jnp.pad(place, fill, constant_values=count).reshape(blocks, size)
    # Without the first objective: the order has compared it already.
    rest = jnp.pad(rows[order, 1:], (fill, (0, 0))).reshape(blocks, size, objectives - 1).transpose(0, 2, 1)

    def bound(earlier, rank, later):
        """What the ranks in one block say of those in another: at least this."""
        beats = place[earlier][:, None] < place[later][None]
        for k in range(objectives - 1):
            beats &= rest[earlier, k][:, None] <= rest[later, k][None]
        return jnp.max(jnp.where(beats, rank[:, None] + 1, 0), axis=0)

    def rank_block(ranks, this):
        def raise_by(earlier, least):
            return jnp.maximum(least, bound(earlier, ranks[earlier], this))

        def settle(carry):
            rank, _ = carry
            higher = jnp.maximum(least, bound(this, rank, this))
            return higher, jnp.any(higher != rank)

        least = jax.lax.fori_loop(0, this, raise_by, jnp.zeros(size, jnp.int32))
        rank, _ = jax.lax.while_loop(lambda carry: carry[1], settle, (least, jnp.bool_(True)))
        return ranks.at[this].set(rank), None

    ranks, _ = jax.lax.scan(rank_block, jnp.zeros((blocks, size), jnp.int32), jnp.arange(blocks))
    return jnp.zeros(count, jnp.int32).at[order].set(ranks.reshape(-1)[:count])


def _lexicographic(rows):
    """The rows' lexicographic order, and the sorted rows' places in it, which equal rows share."""
    order = jnp.lexsort(rows.T[::-1])
    rows = rows[order]
    differs = jnp.any(rows[1:] != rows[:-1], axis=1)
    return order, jnp.pad(jnp.cumsum(differs, dtype=jnp.int32), (1, 0))


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
