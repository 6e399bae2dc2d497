"""NSGA-II and NSGA-III against brute force and pymoo 0.6.2, with ties, duplicates and failures.

pymoo computes in float64 and draws random numbers to break ties. So the comparisons run in float64, with a
random state that shuffles nothing, and with `ties="index"` on our side. Costs come from small integers sent
through a random increasing table per objective: ties in single objectives and whole duplicates abound,
while a row equally far from two directions is rare: pymoo lets the last bit decide there, we take the first.
"""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
from pymoo.core.population import Population
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding, classes
from pymoo.util.ref_dirs import get_reference_directions

from nemojax.pareto import pareto_rank
from nemojax.reference_points import (
    associate,
    das_dennis,
    init_normalisation,
    most_divisions,
    niche_order,
    update_normalisation,
)
from nemojax.survival import SURVIVALS, nsga3

inf = np.inf
SIZES = (1, 2, 3, 5, 8, 11, 17, 24, 30, 41, 47)  # of survivor sets, out of 12 to 60 rows
rank_of, niche_step, normalise = map(jax.jit, (pareto_rank, niche_order, update_normalisation))
to_fives = jax.jit(lambda costs, ideal, nadir: associate(costs, ideal, nadir, das_dennis(3, 5)))
NO_CONSTRAINTS = SimpleNamespace(has_constraints=lambda: False)


class NoShuffle:
    """A random state that leaves everything where it is."""

    def permutation(self, n):
        return np.arange(n)

    def shuffle(self, x):
        pass


def assert_trees_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def pymoo_survivors(survival, costs, keep):
    population = Population.new("F", np.array(costs, float))
    return survival.do(
        NO_CONSTRAINTS, population, n_survive=keep, random_state=NoShuffle(), return_indices=True
    )


def tied_costs(seed, n=48, m=3, values=6, offset=0.0):
    """Rows with ties in each objective and duplicate rows; see the top of the file."""
    rng = np.random.default_rng(seed)
    tables = np.sort(rng.random((m, values)), axis=1) + offset
    costs = tables[np.arange(m), rng.integers(0, values, (n, m))]
    costs[-4:] = costs[:4]
    return costs


def spherical_costs(seed, n=60, m=3):
    """Mostly one large front, some points behind it, some duplicates."""
    rng = np.random.default_rng(seed)
    points = np.abs(rng.normal(size=(n, m)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[n // 2 :] *= 1 + rng.random((n - n // 2, 1)) * rng.integers(0, 2, (n - n // 2, 1))
    points[5:9] = points[:4]
    return points


@cache
def step_of(name, *arguments):
    """The jitted `order` of a survival, and its `init`."""
    survival = SURVIVALS[name](*arguments)
    return jax.jit(survival.order), survival.init


def orders(survival, generations):
    """The order of each generation's costs, carrying the state, in float64."""
    with jax.enable_x64(True):
        step, init = step_of(*survival)
        state, found = init(generations[0].shape[1]), []
        for g, costs in enumerate(generations):
            order, state = step(jax.random.key(g), jnp.asarray(costs), state)
            found.append((np.asarray(order), state))
    return found


# NSGA-II


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("make", [tied_costs, spherical_costs])
def test_nsga2_equals_pymoo(seed, make, monkeypatch):
    """Survivor sets of all sizes, exactly, once pymoo's unstable sort is made stable."""
    monkeypatch.setattr(
        classes, "randomized_argsort", lambda a, **_: np.argsort(-np.asarray(a), kind="stable")
    )
    costs = make(seed)
    ((order, _),) = orders(("nsga2",), [costs])
    assert sorted(order) == list(range(len(costs)))
    for keep in SIZES:
        expected = pymoo_survivors(RankAndCrowding(), costs, keep)
        assert set(order[:keep]) == set(expected), keep


def test_nsga2_keeps_the_best_of_a_chain():
    """The case in which a public implementation kept [0, 4, 5]."""
    costs = jnp.arange(6.0)[:, None] * jnp.ones((1, 2))
    order, _ = step_of("nsga2")[0](jax.random.key(0), costs, ())
    np.testing.assert_array_equal(order, np.arange(6))


# The properties both share


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", SURVIVALS)
def test_no_survivor_is_dominated_while_the_first_front_overflows(seed, name):
    """40 non-dominated and 20 dominated rows, keep 10: where that implementation kept dominated rows."""
    rng = np.random.default_rng(seed)
    x = rng.random(40)
    front = np.stack([x, 1 - x], 1)
    rows = rng.permutation(np.concatenate([front, front[:20] + 0.5])).astype(np.float32)
    step, init = step_of(name)
    order, _ = step(jax.random.key(seed), rows, init(2))
    rank = np.asarray(rank_of(rows))
    assert (rank[order[:10]] == 0).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SURVIVALS)
def test_order_is_a_permutation_by_front_with_failures_last(seed, name):
    costs = tied_costs(seed).astype(np.float32)
    costs[7], costs[20, 1] = inf, np.nan
    step, init = step_of(name)
    order, _ = step(jax.random.key(seed), costs, init(3))
    assert sorted(np.asarray(order)) == list(range(len(costs)))
    assert (np.diff(np.asarray(rank_of(costs))[order]) >= 0).all()
    np.testing.assert_array_equal(order[-2:], [7, 20])


@pytest.mark.parametrize("survival", [("nsga2",), ("nsga3", 5, "index")])
def test_failed_rows_change_nothing(survival):
    """Order and state are as if the failed rows were absent, over three generations."""
    clean = [tied_costs(s, n=30) for s in range(3)]
    dirty = [np.insert(c, [0, 10, 30], [[inf] * 3, [inf, 0, 0], [0, np.nan, 0]], axis=0) for c in clean]
    new_index = np.concatenate([np.arange(1, 11), np.arange(12, 32)])
    for (order, state), (mixed, mixed_state) in zip(
        orders(survival, clean), orders(survival, dirty), strict=True
    ):
        np.testing.assert_array_equal(new_index[order], mixed[:30])
        np.testing.assert_array_equal(mixed[30:], [0, 11, 32])
        assert_trees_equal(state, mixed_state)


def test_a_generation_of_failures_leaves_the_normalisation_alone():
    good, bad = spherical_costs(0), np.full((60, 3), inf)
    (_, first), (order, second), (_, third) = orders(("nsga3", 5, "index"), [good, bad, good])
    np.testing.assert_array_equal(order, np.arange(60))
    assert_trees_equal(first, second)
    assert_trees_equal(first, third)
    ((_, empty),) = orders(("nsga3", 5, "index"), [bad])
    assert_trees_equal(empty, init_normalisation(3))


@pytest.mark.parametrize("name", SURVIVALS)
def test_vmap_equals_a_loop(name):
    batch = jnp.asarray(np.stack([tied_costs(s) for s in range(3)]), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 3)
    state = SURVIVALS[name]().init(3)
    together, _ = jax.jit(jax.vmap(SURVIVALS[name]().order, (0, 0, None)))(keys, batch, state)
    for key, costs, order in zip(keys, batch, together, strict=True):
        np.testing.assert_array_equal(step_of(name)[0](key, costs, state)[0], order)


@pytest.mark.parametrize("name", SURVIVALS)
def test_vmap_of_many_blocks_equals_a_loop(name):
    """Populations of several blocks of the ranking, each with fronts, ties and failures of its own.

    NSGA-III has no ties here: equal distances from a line are told apart by rounding, and two programs round
    in two ways.
    """
    batch = np.stack([tied_costs(s, n=300, values=4 + 20 * s) for s in range(3)]).astype(np.float32)
    if name == "nsga3":
        batch += np.random.default_rng(0).uniform(size=batch.shape).astype(np.float32)
    batch[1, ::7], batch[2, 5] = inf, np.nan
    keys = jax.random.split(jax.random.key(2), 3)
    step, init = step_of(name)
    together, _ = jax.jit(jax.vmap(SURVIVALS[name]().order, (0, 0, None)))(keys, batch, init(3))
    for key, costs, order in zip(keys, batch, together, strict=True):
        np.testing.assert_array_equal(step(key, costs, init(3))[0], order)


# NSGA-III


@pytest.mark.parametrize(("m", "divisions", "count"), [(2, 5, 6), (3, 12, 91), (3, 13, 105), (3, 14, 120)])
def test_das_dennis(m, divisions, count):
    ours = das_dennis(m, divisions)
    assert ours.shape == (count, m)
    np.testing.assert_array_equal(ours, get_reference_directions("das-dennis", m, n_partitions=divisions))


def test_most_divisions():
    assert most_divisions(3, 120) == 14
    assert most_divisions(3, 119) == 13
    assert most_divisions(2, 120) == 119
    assert most_divisions(4, 3) == 1


PYMOO_CASES = {
    "ties": [tied_costs(s) for s in range(4)],
    "moving ideal": [tied_costs(s, offset=0.3 * (2 - s)) for s in range(4)],
    "one front": [spherical_costs(s) for s in range(4)],
    "worse and worse": [spherical_costs(s) * (1 + s) for s in range(4)],
    "two objectives": [tied_costs(s, m=2, values=9) for s in range(3)],
    "five objectives": [tied_costs(s, m=5, values=4) for s in range(3)],
    "one point": [np.tile([[0.3, 0.2, 0.9]], (12, 1)), tied_costs(1)],
    "constant objective": [tied_costs(0) * [1, 0, 1] + [0, 0.25, 0], tied_costs(1)],
    "tiny span": [tied_costs(0) * [1, 1e-7, 1], tied_costs(1)],
    "two extremes on one point": [
        np.concatenate([[[0.1, 0.1, 0.9], [0.9, 0.8, 0.1]], tied_costs(s) + 1]) for s in range(3)
    ],
}


@pytest.mark.parametrize("case", PYMOO_CASES)
def test_nsga3_equals_pymoo(case):
    """Ideal, worst and extreme points and survivor sets, over generations with a carried normalisation."""
    generations = PYMOO_CASES[case]
    m = generations[0].shape[1]
    divisions = {2: 9, 3: 5, 5: 2}[m]
    directions = get_reference_directions("das-dennis", m, n_partitions=divisions)
    theirs = {keep: ReferenceDirectionSurvival(directions) for keep in SIZES}
    for costs, (order, state) in zip(
        generations, orders(("nsga3", divisions, "index"), generations), strict=True
    ):
        for keep, survival in theirs.items():
            expected = pymoo_survivors(survival, costs, min(keep, len(costs)))
            if keep < len(costs):
                assert set(order[:keep]) == set(expected), keep
            np.testing.assert_array_equal(state.ideal, survival.norm.ideal_point)
            np.testing.assert_array_equal(state.worst, survival.norm.worst_point)
            np.testing.assert_array_equal(state.extremes, survival.norm.extreme_points)


@pytest.mark.parametrize("case", PYMOO_CASES)
def test_nadir_equals_pymoo(case):
    """To rounding: the two solve the hyperplane with different routines."""
    generations = PYMOO_CASES[case]
    m = generations[0].shape[1]
    survival = ReferenceDirectionSurvival(get_reference_directions("das-dennis", m, n_partitions=2))
    with jax.enable_x64(True):
        state = init_normalisation(m)
        for costs in generations:
            pymoo_survivors(survival, costs, len(costs))
            state, nadir = normalise(state, jnp.asarray(costs), rank_of(jnp.asarray(costs)))
            np.testing.assert_allclose(nadir, survival.norm.nadir_point, rtol=1e-12)


def test_nadir_by_hand():
    """Extreme points on the plane x/2 + y/4 = 1; then a singular one, where the worst of the front counts."""
    costs = jnp.array([[2.0, 0.0], [0.0, 4.0], [1.0, 1.0], [3.0, 5.0]])
    _, nadir = normalise(init_normalisation(2), costs, rank_of(costs))
    np.testing.assert_allclose(nadir, [2.0, 4.0], rtol=1e-6)
    one = jnp.array([[1.0, 2.0], [1.0, 2.0], [4.0, 5.0]])
    _, nadir = normalise(init_normalisation(2), one, rank_of(one))
    np.testing.assert_array_equal(nadir, [4.0, 5.0])  # the front has no span: the worst of the generation
    near = jnp.array([[2.0, 5e-4], [4.0, 0.0], [0.0, 3.0]])  # 5e-4 counts as on the axis, and 2 is nearer
    _, nadir = normalise(init_normalisation(2), near, rank_of(near))
    np.testing.assert_allclose(nadir, [2 / (1 - 5e-4 / 3), 3], rtol=1e-6)


def test_association_by_hand():
    """Normalised (1, 0), (0.5, 0.5) and (0.2, 0.8) against the directions of p = 2."""
    costs = jnp.array([[3.0, 1.0], [2.0, 1.5], [1.4, 1.8]])
    niche, distance = associate(costs, jnp.array([1.0, 1.0]), jnp.array([3.0, 2.0]), das_dennis(2, 2))
    np.testing.assert_array_equal(niche, [2, 1, 0])
    np.testing.assert_allclose(distance, [0, 0, 0.2], atol=1e-6)


@pytest.mark.parametrize("rows", [100, 256, 600])
def test_association_equals_a_direct_search(rows):
    """More and fewer rows than are taken at once; grid points, of which many are equally near to two."""
    rng = np.random.default_rng(rows)
    costs = rng.integers(0, 9, (rows, 3)) / 8
    costs[rows // 2] = inf
    directions = das_dennis(3, 7)
    with jax.enable_x64(True):
        niche, distance = jax.jit(lambda c: associate(c, jnp.zeros(3), jnp.ones(3), directions))(costs)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    clean = np.where(np.isfinite(costs).all(1, keepdims=True), costs, 0)
    rest = clean[:, None] - (clean @ unit.T)[..., None] * unit[None]
    all_distances = np.linalg.norm(rest, axis=2)
    np.testing.assert_allclose(distance, all_distances.min(axis=1), atol=1e-14)
    near = all_distances <= all_distances.min(axis=1, keepdims=True) + 1e-14
    assert (near.sum(axis=1) > 1).any()
    np.testing.assert_array_equal(niche, near.argmax(axis=1))


def brute_niching(rank, niche, distance, directions):
    """Algorithm 4 as the paper writes it, one row at a time, the lowest index in every tie."""
    count, order = np.zeros(directions, int), []
    for level in range(rank.max() + 1):
        left = [i for i in range(len(rank)) if rank[i] == level]
        while left:
            j = min({niche[i] for i in left}, key=lambda d: (count[d], d))
            members = [i for i in left if niche[i] == j]
            pick = min(members, key=lambda i: (distance[i] if count[j] == 0 else 0, i))
            count[j] += 1
            left.remove(pick)
            order.append(pick)
    return order


@pytest.mark.parametrize("seed", range(10))
def test_niching_equals_the_papers_loop(seed):
    rng = np.random.default_rng(seed)
    rank = rng.integers(0, 4, 50).astype(np.int32)
    niche = rng.integers(0, 7, 50).astype(np.int32)
    distance = rng.integers(0, 3, 50).astype(np.float32)
    order = niche_step(
        rank, niche, distance, np.ones(50, bool), np.zeros(50, np.float32), niche.astype(np.float32)
    )
    np.testing.assert_array_equal(order, brute_niching(rank, niche, distance, 7))


@pytest.mark.parametrize("seed", range(5))
def test_random_ties_keep_the_niche_counts(seed):
    """Whatever the draws, each prefix gives the directions the members that the loop gives them."""
    costs = spherical_costs(seed)
    ((random, state),) = orders(("nsga3", 5), [costs])
    ((fixed, _),) = orders(("nsga3", 5, "index"), [costs])
    with jax.enable_x64(True):
        rank = np.asarray(rank_of(jnp.asarray(costs)))
        _, nadir = normalise(init_normalisation(3), jnp.asarray(costs), jnp.asarray(rank))
        niche, distance = map(np.asarray, to_fives(jnp.asarray(costs), state.ideal, nadir))
    np.testing.assert_array_equal(rank[random], rank[fixed])
    assert not np.array_equal(random, fixed)
    available = np.bincount(niche[rank == 0], minlength=21)
    for keep in range(1, (rank == 0).sum() + 1):
        taken = np.bincount(niche[random[:keep]], minlength=21)
        spare = taken < available
        assert not spare.any() or taken.max(initial=0) <= taken[spare].min() + 1
    for j in set(niche[rank == 0]):
        members = [i for i in random if niche[i] == j]
        assert distance[members[0]] == distance[(niche == j) & (rank == rank[members[0]])].min()


def test_random_ties_are_uniform():
    """Four copies of one point and one direction: each copy comes first a quarter of the time."""
    costs = jnp.ones((4, 2))
    survival = nsga3(1)
    keys = jax.random.split(jax.random.key(0), 4000)
    first = jax.jit(jax.vmap(lambda k: survival.order(k, costs, survival.init(2))[0][0]))(keys)
    share = np.bincount(first, minlength=4) / 4000
    np.testing.assert_allclose(share, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / 4000))


def test_one_trace_for_many_generations():
    traces = 0
    survival = nsga3(3)

    @jax.jit
    def step(key, costs, state):
        nonlocal traces
        traces += 1
        return survival.order(key, costs, state)

    state = survival.init(3)
    for seed in range(4):
        _, state = step(jax.random.key(seed), spherical_costs(seed).astype(np.float32), state)
    assert traces == 1


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="divisions must be at least 1, got 0"):
        nsga3(0)
    with pytest.raises(ValueError, match='"random" or "index", got \'first\''):
        nsga3(4, ties="first")
    with pytest.raises(ValueError, match="num_objectives must be at least 1, got 0"):
        das_dennis(0, 4)
    with pytest.raises(ValueError, match="divisions must be at least 1, got 0"):
        das_dennis(3, 0)
