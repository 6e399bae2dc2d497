"""Dominance, fronts and crowding against brute force, and crowding against pymoo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function

from nemojax import pareto
from nemojax.pareto import dominates, succeeded

inf, nan = np.inf, np.nan
crowding, non_dominated, pareto_rank = map(
    jax.jit, (pareto.crowding, pareto.non_dominated, pareto.pareto_rank)
)


def brute_dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def brute_rank(costs):
    """Peel off, again and again, the rows that no remaining row dominates; failed rows count as +inf."""
    rows = [tuple(r) if np.isfinite(r).all() else (inf,) * len(r) for r in costs]
    rank, left, level = np.full(len(rows), -1), set(range(len(rows))), 0
    while left:
        front = {i for i in left if not any(brute_dominates(rows[j], rows[i]) for j in left)}
        for i in front:
            rank[i] = level
        left, level = left - front, level + 1
    return rank


def tied_costs(seed, n=40, m=3, values=5, failed=0.0):
    """Integer costs with many ties and duplicates; a share of the entries is inf or nan."""
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, values, (n, m)).astype(np.float32)
    costs[rng.random((n, m)) < failed / 2] = inf
    costs[rng.random((n, m)) < failed / 2] = nan
    return costs


def test_dominates_is_strict_somewhere():
    a, b, c = jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0]), jnp.array([0.0, 4.0])
    assert bool(dominates(a, b))
    assert not bool(dominates(b, a))
    assert not bool(dominates(a, a))
    assert not bool(dominates(a, c))
    assert not bool(dominates(c, a))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("m", [1, 2, 3, 5])
@pytest.mark.parametrize("failed", [0.0, 0.1])
def test_rank_matches_brute_force(seed, m, failed):
    costs = tied_costs(seed, m=m, failed=failed)
    expected = brute_rank(costs)
    np.testing.assert_array_equal(pareto_rank(costs), expected)
    np.testing.assert_array_equal(
        non_dominated(jnp.asarray(costs)), (expected == 0) & np.isfinite(costs).all(1)
    )


def numpy_rank(costs):
    """As brute_rank, for thousands of rows: the same peeling on a matrix of who dominates whom."""
    rows = np.where(np.isfinite(costs).all(1, keepdims=True), costs, inf)
    beats = np.all(rows[:, None] <= rows[None], axis=2) & np.any(rows[:, None] < rows[None], axis=2)
    rank, left, level = np.zeros(len(rows), int), np.ones(len(rows), bool), 0
    while left.any():
        front = left & ~beats[left].any(axis=0)
        rank[front], left, level = level, left & ~front, level + 1
    return rank


def many_costs(kind, m, n=2500):
    rng = np.random.default_rng(m)
    costs = rng.random((n, m)).astype(np.float32)
    if kind == "ties":
        costs = tied_costs(m, n, m, values=12, failed=0.05)
    elif kind == "duplicates":
        costs = costs[rng.integers(0, n // 3, n)]
    elif kind == "constant":
        costs[:, m // 2] = 0.5
    elif kind == "signed zeros":
        costs = np.where(rng.random((n, m)) < 0.3, np.float32([0.0, -0.0])[rng.integers(0, 2, (n, m))], costs)
        costs -= (rng.random((n, m)) < 0.1).astype(np.float32)
    return costs


@pytest.mark.long
@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("kind", ["random", "ties", "duplicates", "constant", "signed zeros"])
def test_rank_of_thousands_of_rows(kind, m):
    costs = many_costs(kind, m)
    expected = numpy_rank(costs)
    np.testing.assert_array_equal(pareto_rank(costs), expected)
    np.testing.assert_array_equal(
        non_dominated(jnp.asarray(costs)), (expected == 0) & np.isfinite(costs).all(1)
    )


@pytest.mark.parametrize("size", [1, 3, 8, 1024])
def test_rank_does_not_depend_on_the_blocks(size, monkeypatch):
    """Blocks of one row, such as leave a rest, the largest used, and one block for all."""
    monkeypatch.setattr(pareto, "BLOCK_ON_CPU", size)
    for n in (200, 1100):
        costs = tied_costs(n, n, values=9, failed=0.05)
        np.testing.assert_array_equal(jax.jit(lambda c: pareto.pareto_rank(c))(costs), numpy_rank(costs))


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 64, 65])
def test_rank_at_the_borders_of_the_blocks(n):
    costs = tied_costs(n, n, values=4, failed=0.1)
    np.testing.assert_array_equal(pareto_rank(costs), numpy_rank(costs))


def test_a_failed_row_ranks_last_even_where_it_is_cheapest():
    costs = jnp.array([[0.0, inf], [5.0, 5.0], [nan, 0.0], [6.0, 6.0], [inf, inf], [-inf, 0.0]])
    np.testing.assert_array_equal(succeeded(costs), [False, True, False, True, False, False])
    np.testing.assert_array_equal(pareto_rank(costs), [2, 0, 2, 1, 2, 2])
    np.testing.assert_array_equal(non_dominated(costs), [False, True, False, False, False, False])


def test_all_rows_failed():
    costs = jnp.full((4, 2), inf)
    np.testing.assert_array_equal(pareto_rank(costs), [0, 0, 0, 0])
    assert not np.any(non_dominated(costs))
    np.testing.assert_array_equal(crowding(costs, pareto_rank(costs)), [0, 0, 0, 0])


def test_a_chain_has_as_many_fronts_as_rows():
    costs = jnp.arange(30.0)[::-1, None] * jnp.ones((1, 3))
    np.testing.assert_array_equal(pareto_rank(costs), np.arange(30)[::-1])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("m", [2, 3])
def test_crowding_matches_pymoo_exactly(seed, m):
    """In float64, since pymoo computes in float64; it takes the mean over objectives, Deb et al. the sum."""
    costs = tied_costs(seed, n=60, m=m, values=7).astype(np.float64)
    measure = get_crowding_function("cd")
    with jax.enable_x64(True):
        rank = np.asarray(pareto_rank(jnp.asarray(costs)))
        ours = np.asarray(crowding(jnp.asarray(costs), jnp.asarray(rank)))
    for level in range(rank.max() + 1):
        front = rank == level
        np.testing.assert_array_equal(ours[front] / m, measure.do(costs[front]))


def test_crowding_by_hand():
    """Front (0,4) (1,2) (3,1) (4,0): spans 4; the inner rows get 3/4 + 3/4 and 3/4 + 2/4."""
    costs = jnp.array([[1.0, 2.0], [4.0, 0.0], [0.0, 4.0], [3.0, 1.0], [9.0, 9.0]])
    np.testing.assert_array_equal(crowding(costs, pareto_rank(costs)), [1.5, inf, inf, 1.25, inf])


def test_constant_objective_has_no_ends():
    costs = jnp.array([[7.0], [7.0], [7.0]])
    np.testing.assert_array_equal(crowding(costs, pareto_rank(costs)), [0, 0, 0])


def test_failed_rows_do_not_change_the_crowding_of_others():
    costs = tied_costs(3, n=30).astype(np.float32)
    with_failures = np.concatenate([costs[:10], np.full((5, 3), inf, np.float32), costs[10:]])
    alone = crowding(jnp.asarray(costs), pareto_rank(jnp.asarray(costs)))
    mixed = crowding(jnp.asarray(with_failures), pareto_rank(jnp.asarray(with_failures)))
    np.testing.assert_array_equal(np.delete(mixed, np.s_[10:15]), alone)
    np.testing.assert_array_equal(mixed[10:15], 0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(arrays(np.float32, (7, 2), elements=st.floats(width=32)))
def test_any_float_gives_a_permutable_rank_and_no_nan(costs):
    rank = pareto_rank(costs)
    distance = np.asarray(crowding(costs, rank))
    assert not np.isnan(distance).any()
    assert (distance >= 0).all()
    assert set(np.asarray(rank)) == set(range(int(rank.max()) + 1))


def test_vmap_equals_a_loop():
    batch = jnp.asarray(np.stack([tied_costs(s, failed=0.05) for s in range(4)]))
    ranks = jax.vmap(pareto_rank)(batch)
    distances = jax.vmap(crowding)(batch, ranks)
    for costs, rank, distance in zip(batch, ranks, distances, strict=True):
        np.testing.assert_array_equal(pareto_rank(costs), rank)
        np.testing.assert_array_equal(crowding(costs, rank), distance)
