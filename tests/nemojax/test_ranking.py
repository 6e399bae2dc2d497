"""The joint order: within the budgets, repeats, beyond a budget by excess, failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.ranking import joint_order
from nemojax.survival import SURVIVALS

K = 40
ordered = jax.jit(
    lambda survival, *told: joint_order(jax.random.key(0), SURVIVALS[survival](), *told),
    static_argnums=(0, 5),
)


def candidates(seed):
    """Integer costs with ties, repeated bits, failures with NaN and +inf, budgets exceeded with ties."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(2, 9, (K, 3))
    bits[20:25] = bits[:5]
    costs = rng.integers(0, 6, (K, 2)).astype(np.float32)
    costs[20:25] = costs[:5]
    costs[3, 0], costs[7], costs[22] = np.nan, np.inf, np.inf
    over = np.where(rng.random(K) < 0.3, rng.integers(1, 4, K), 0).astype(np.float32)
    costs[over == 3] = np.inf  # not evaluated, since it exceeds a budget
    return bits, costs, over


def retold(bits, costs, over, demote):
    """Rows that come first in an order of their own, then the rest in order; and which are no repeats."""
    valid = np.isfinite(costs).all(axis=1) & (over == 0)
    seen, unique = set(), np.zeros(K, bool)
    for i in np.flatnonzero(valid):
        unique[i] = tuple(bits[i]) not in seen
        seen.add(tuple(bits[i]))
    first = unique if demote else valid
    repeats = np.flatnonzero(valid & ~first)
    beyond = sorted(np.flatnonzero(over > 0), key=lambda i: (over[i], i))
    failed = np.flatnonzero(~valid & (over == 0))
    return np.flatnonzero(first), [*repeats, *beyond, *failed], unique


def front_of(costs):
    """Rank of each row by peeling fronts."""
    rank, left, front = np.zeros(len(costs), int), list(range(len(costs))), 0
    while left:
        best = [
            i
            for i in left
            if not any((costs[j] <= costs[i]).all() and (costs[j] < costs[i]).any() for j in left)
        ]
        rank[best] = front
        left, front = [i for i in left if i not in best], front + 1
    return rank


@pytest.mark.parametrize("demote", [True, False])
@pytest.mark.parametrize("survival", ["nsga2", "nsga3"])
def test_order_equals_the_retelling(survival, demote):
    state = SURVIVALS[survival]().init(2)
    for seed in range(4):
        bits, costs, over = candidates(seed)
        told = (state, jnp.asarray(bits), jnp.asarray(costs), jnp.asarray(over), demote)
        found = ordered(survival, *told)
        first, rest, unique = retold(bits, costs, over, demote)
        np.testing.assert_array_equal(np.sort(found.position), np.arange(K))
        by_position = np.argsort(found.position)
        assert by_position[len(first) :].tolist() == rest
        ahead = by_position[: len(first)]
        assert (np.diff(front_of(costs[ahead].astype(float))) >= 0).all(), "front after front"
        np.testing.assert_array_equal(found.unique, unique)


def test_the_survival_sees_only_those_within_the_budgets():
    """A candidate beyond a budget has the lowest costs of all, yet moves nobody and no ideal point."""
    survival = SURVIVALS["nsga3"]()
    bits, costs, over = candidates(1)
    over = np.zeros(K, np.float32)
    over[10] = 0.5
    cheap = costs.copy()
    cheap[10] = -100
    told = [
        (survival.init(2), jnp.asarray(bits), jnp.asarray(c), jnp.asarray(over), True) for c in (costs, cheap)
    ]
    one, two = (ordered("nsga3", *t) for t in told)
    np.testing.assert_array_equal(one.position, two.position)
    np.testing.assert_array_equal(one.state.ideal, two.state.ideal)


def test_an_excess_that_is_no_number_orders_nothing():
    """NaN says no more than that nothing is known: not over a budget."""
    bits = jnp.arange(6, dtype=jnp.int32)[:, None]
    costs = jnp.stack([jnp.arange(6.0), jnp.arange(6.0)], axis=1)
    over = jnp.array([0, jnp.inf, 0.2, jnp.nan, 0.1, 0])
    found = ordered("nsga2", (), bits, costs, over, True)
    assert np.argsort(found.position).tolist() == [0, 3, 5, 4, 2, 1]
