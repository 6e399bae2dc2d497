"""How many members each species gets: utility, UCB score, apportionment (Miret et al. 2022, Algorithm 1).

The paper names the parts (R2 indicator, UCB of utility and number of evaluations) but we could not read
its equations; the forms below are standard ones, or CERL's (Khadka et al. 2019), and say so.
"""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .config import Resize
from .pareto import non_dominated


def r2(
    costs: Float[Array, "k m"], valid: Bool[Array, " k"], weights: Float[np.ndarray, "w m"]
) -> Float[Array, ""]:
    """R2 = mean over λ of min over members of max_j λ_j ``|f_j|``, for z* = 0 (Hansen & Jaszkiewicz 1998).

    Lower is better; 1 without a valid member, the worst of costs in [0, 1]. It falls with the number of
    points alone, so that a large species looks better for being large: see `r2_of_subsets`.
    """
    columns = zip(jnp.asarray(weights, costs.dtype).T, jnp.abs(costs).T, strict=True)
    # One objective after the other: compilers vectorise that, and not a reduction over so few.
    reached = reduce(jnp.maximum, [weight[None] * cost[:, None] for weight, cost in columns])
    best = jnp.min(jnp.where(valid[:, None], reached, jnp.inf), axis=0)
    return jnp.where(jnp.any(valid), jnp.mean(jnp.where(jnp.any(valid), best, 0)), 1)


def r2_of_subsets(
    key: jax.Array,
    costs: Float[Array, "k m"],
    valid: Bool[Array, " k"],
    weights: Float[np.ndarray, "w m"],
    size: int,
    draws: int,
) -> Float[Array, ""]:
    """Mean R2 of `draws` random subsets of `size` valid members: species of any size compare."""

    def one(key):
        chance = jnp.where(valid, jax.random.uniform(key, valid.shape), 2)
        chosen = jnp.argsort(chance)[:size]
        return r2(costs[chosen], valid[chosen], weights)

    return jnp.mean(jax.vmap(one)(jax.random.split(key, draws)))


def hypervolume(costs: Float[Array, "k m"], valid: Bool[Array, " k"]) -> Float[Array, ""]:
    """Exact volume between the members and the corner (1, ..., 1), for two or three objectives.

    Sweeps the last objective of three; O(k²) time and memory. Costs beyond the corner count nothing.

    Raises:
        ValueError: another number of objectives.
    """
    objectives = costs.shape[1]
    if objectives not in (2, 3):
        raise ValueError(f"hypervolume is for 2 or 3 objectives, got {objectives}")
    points = jnp.where(valid[:, None], jnp.minimum(costs, 1), 1)
    by_first = points[jnp.argsort(points[:, 0])]
    right = jnp.append(by_first[1:, 0], 1)
    if objectives == 2:
        lowest = jax.lax.cummin(by_first[:, 1])
        return jnp.sum((right - by_first[:, 0]) * (1 - lowest))
    depth = jnp.sort(points[:, 2])
    below = by_first[None, :, 2] <= depth[:, None]
    lowest = jax.lax.cummin(jnp.where(below, by_first[None, :, 1], 1), axis=1)
    area = jnp.sum((right - by_first[:, 0])[None] * (1 - lowest), axis=1)
    return jnp.sum(area * (jnp.append(depth[1:], 1) - depth))


def utilities(
    key: jax.Array,
    costs: Float[Array, "S k m"],
    weights: Float[np.ndarray, "w m"],
    rules: Resize,
) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
    """The utility v of each species, higher is better, and its R2; from its parents and evaluated children.

    Rows that are not finite are not there. "r2" and "r2_equal": v_s = max_t R2_t − R2_s, ours, since how
    the paper turns R2 round is not known. "front": members on the front of all (the patent's example).
    """
    valid = jnp.all(jnp.isfinite(costs), axis=2)
    known = jnp.where(valid[:, :, None], costs, 0)
    indicator = jax.vmap(lambda c, v: r2(c, v, weights))(known, valid)
    if rules.utility == "r2":
        return jnp.max(indicator) - indicator, indicator
    if rules.utility == "r2_equal":
        keys = jax.random.split(key, costs.shape[0])
        equal = jax.vmap(lambda k, c, v: r2_of_subsets(k, c, v, weights, rules.subset, rules.draws))(
            keys, known, valid
        )
        return jnp.max(equal) - equal, indicator
    if rules.utility == "hypervolume":
        return jax.vmap(hypervolume)(known, valid), indicator
    front = non_dominated(costs.reshape(-1, costs.shape[2])).reshape(valid.shape)
    return jnp.sum(front, axis=1).astype(jnp.float32), indicator


def ucb(
    utility: Float[Array, " S"], evaluations: Float[Array, " S"], exploration: float
) -> Float[Array, " S"]:
    """v'_s + c √(ln Σ y / y_s), with v' = (v − min v)/(Σ (v − min v) + 0.1) (CERL, Khadka et al. 2019)."""
    shifted = utility - jnp.min(utility)
    total = jnp.log(jnp.maximum(jnp.sum(evaluations), 1))
    return shifted / (jnp.sum(shifted) + 0.1) + exploration * jnp.sqrt(total / jnp.maximum(evaluations, 1))


def apportion(
    score: Float[Array, " S"], low: Int[Array, " S"], high: Int[Array, " S"], total: int
) -> Int[Array, " S"]:
    """Sizes that sum to `total` and stay within [low, high], near total · score / Σ score. Deterministic.

    Every species has its lowest size; then one place after the other goes to the species furthest below
    its target that has room, ties to the lowest index (largest remainder, with bounds). `low` must sum to
    at most `total` and `high` to at least that.
    """
    kinds = score.shape[0]
    sum_ = jnp.sum(score)
    share = jnp.where(sum_ > 0, score / jnp.where(sum_ > 0, sum_, 1), 1 / kinds)
    # The places handed out one by one are those with the largest deficits of all that there could be.
    step = jnp.arange(total, dtype=jnp.int32)
    deficit = (share * total - low.astype(share.dtype))[:, None] - step.astype(share.dtype)[None]
    deficit = jnp.where(step[None] < (high - low)[:, None], deficit, -jnp.inf).reshape(-1)
    order = jnp.argsort(-deficit, stable=True).astype(jnp.int32)
    place = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=jnp.int32))
    given = (place < total - jnp.sum(low)).reshape(kinds, total)
    return low + jnp.sum(given, axis=1, dtype=jnp.int32)


def roulette(
    key: jax.Array, score: Float[Array, " S"], low: Int[Array, " S"], total: int
) -> Int[Array, " S"]:
    """The lowest sizes, and each remaining place drawn with probability ∝ score (CERL's slots)."""
    weight = jnp.where(jnp.sum(score) > 0, score, 1)
    drawn = jax.random.categorical(key, jnp.log(jnp.maximum(weight, 1e-30)), shape=(total,))
    counted = jnp.arange(total) < total - jnp.sum(low)
    return low + jnp.zeros_like(low).at[drawn].add(counted.astype(low.dtype))


def sizes(
    key: jax.Array,
    score: Float[Array, " S"],
    old: Int[Array, " S"],
    total: int,
    least: int,
    rules: Resize,
) -> Int[Array, " S"]:
    """The sizes of the next generation; like the old ones they sum to `total`.

    With the rate limit no species leaves [old/2, 2·old], so that its parents and children always fill
    its places; without it one may grow beyond them, see `Resize.refill`.
    """
    kinds = score.shape[0]
    low = jnp.full(kinds, least, jnp.int32)
    high = jnp.full(kinds, total - (kinds - 1) * least, jnp.int32)
    if rules.apportionment == "roulette":
        return roulette(key, score, low, total)
    if rules.rate_limited:
        low, high = jnp.maximum(low, (old + 1) // 2), jnp.minimum(high, 2 * old)
    return apportion(score, low, high, total)


class Resized(NamedTuple):
    """The outcome of one generation for S species."""

    alloc: Int[Array, " S"]  # members from now on
    utility: Float[Array, " S"]  # smoothed
    r2: Float[Array, " S"]


def resized(
    key: jax.Array,
    costs: Float[Array, "S k m"],
    weights: Float[np.ndarray, "w m"],
    old_utility: Float[Array, " S"],
    evaluations: Int[Array, " S"],
    old: Int[Array, " S"],
    total: int,
    least: int,
    rules: Resize,
) -> Resized:
    """Utility, score and sizes after a generation (steps 3 and 4 of the paper's algorithm).

    Args:
        costs: of each species' parents and evaluated children, over their scale; +inf rows are not there.
        old_utility: of the generation before, NaN for none.
        evaluations: of each species so far.
        old: sizes so far, which sum to `total`.
        least: members that each species keeps.
    """
    k_utility, k_sizes = jax.random.split(key)
    value, indicator = utilities(k_utility, costs, weights, rules)
    smooth = rules.smoothing * old_utility + (1 - rules.smoothing) * value
    value = jnp.where(jnp.isnan(old_utility), value, smooth)
    if rules.rule == "equal":
        return Resized(old, value, indicator)
    score = ucb(value, evaluations.astype(value.dtype), rules.exploration)
    return Resized(sizes(k_sizes, score, old, total, least, rules), value, indicator)
