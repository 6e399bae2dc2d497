"""Utilities, UCB scores and sizes, against NumPy retellings, moocore and brute force."""

import jax
import jax.numpy as jnp
import moocore
import numpy as np
import pytest

from nemojax.config import Resize
from nemojax.reference_points import das_dennis
from nemojax.resize import apportion, hypervolume, r2, r2_of_subsets, roulette, sizes, ucb, utilities

# R2


def numpy_r2(costs, weights):
    """The definition, weight by weight."""
    return np.mean([min(max(w * abs(f)) for f in costs) for w in weights])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("objectives", [2, 3])
def test_r2_is_its_definition(seed, objectives):
    rng = np.random.default_rng(seed)
    costs, valid = rng.random((20, objectives)), rng.random(20) < 0.5
    weights = das_dennis(objectives, 6)
    found = r2(jnp.asarray(costs, jnp.float32), jnp.asarray(valid), weights)
    np.testing.assert_allclose(found, numpy_r2(costs[valid], weights), rtol=1e-5)


@pytest.mark.parametrize(
    ("front", "value"),
    [(lambda x: 1 - np.sqrt(x), 0.130479), (lambda x: 1 - x**2, 0.195456)],
    ids=["ZDT1", "ZDT2"],
)
def test_r2_of_the_continuous_fronts(front, value):
    """The values of a dense front under 101 uniform weights, worked out apart from this code."""
    x = np.linspace(0, 1, 200001)
    costs = jnp.asarray(np.stack([x, front(x)], 1), jnp.float32)
    np.testing.assert_allclose(r2(costs, jnp.ones(len(x), bool), das_dennis(2, 100)), value, atol=2e-6)


def test_a_species_without_a_valid_member_has_the_worst_r2():
    costs = jnp.full((5, 3), 0.1)
    assert r2(costs, jnp.zeros(5, bool), das_dennis(3, 4)) == 1
    assert r2_of_subsets(jax.random.key(0), costs, jnp.zeros(5, bool), das_dennis(3, 4), 3, 2) == 1


def test_r2_of_subsets_does_not_reward_size():
    """The same members five times over: R2 of everything is equal, and so is that of equal subsets of few."""
    rng = np.random.default_rng(0)
    costs = jnp.asarray(rng.random((200, 3)), jnp.float32)
    weights, few = das_dennis(3, 6), jnp.arange(200) < 20
    whole = [r2(costs, valid, weights) for valid in (few, jnp.ones(200, bool))]
    assert whole[1] < 0.85 * whole[0], "the plain one falls with the number of points"
    equal = [
        r2_of_subsets(jax.random.key(1), costs, valid, weights, 10, 200)
        for valid in (few, jnp.ones(200, bool))
    ]
    assert abs(equal[1] - equal[0]) < 0.1 * equal[0]


def test_a_subset_of_everything_is_r2_itself():
    costs = jnp.asarray(np.random.default_rng(0).random((12, 2)), jnp.float32)
    valid, weights = jnp.arange(12) < 9, das_dennis(2, 10)
    subset = r2_of_subsets(jax.random.key(0), costs, valid, weights, 12, 3)
    np.testing.assert_allclose(subset, r2(costs, valid, weights), rtol=1e-6)


# Hypervolume


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("objectives", [2, 3])
def test_hypervolume_equals_moocores(seed, objectives):
    rng = np.random.default_rng(seed)
    costs = np.round(rng.random((30, objectives)) * 1.2, 1 if seed % 2 else 6)  # ties; some beyond the corner
    valid = rng.random(30) < 0.7
    found = hypervolume(jnp.asarray(costs, jnp.float32), jnp.asarray(valid))
    np.testing.assert_allclose(found, moocore.hypervolume(costs[valid], ref=np.ones(objectives)), rtol=1e-5)


def test_hypervolume_of_nothing_is_zero_and_of_four_objectives_refused():
    assert hypervolume(jnp.zeros((4, 3)), jnp.zeros(4, bool)) == 0
    with pytest.raises(ValueError, match="hypervolume is for 2 or 3 objectives, got 4"):
        hypervolume(jnp.zeros((4, 4)), jnp.ones(4, bool))


# Utilities


COSTS = np.full((3, 4, 2), np.inf, np.float32)  # three species; the last has only failures
COSTS[0, :3] = [[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]]
COSTS[1, :2] = [[0.6, 0.6], [0.05, 0.95]]


def test_utilities_by_hand():
    key, weights = jax.random.key(0), das_dennis(2, 4)
    expected = [numpy_r2(COSTS[0, :3], weights), numpy_r2(COSTS[1, :2], weights), 1.0]
    value, indicator = utilities(key, jnp.asarray(COSTS), weights, Resize(utility="r2"))
    np.testing.assert_allclose(indicator, expected, rtol=1e-6)
    np.testing.assert_allclose(value, 1 - np.array(expected), atol=1e-6)
    value, _ = utilities(key, jnp.asarray(COSTS), weights, Resize(utility="front"))
    np.testing.assert_array_equal(value, [3, 1, 0])
    value, _ = utilities(key, jnp.asarray(COSTS), weights, Resize(utility="hypervolume"))
    volumes = [moocore.hypervolume(c[np.isfinite(c[:, 0])].astype(float), ref=[1, 1]) for c in COSTS[:2]]
    np.testing.assert_allclose(value, [*volumes, 0], rtol=1e-5)
    value, _ = utilities(key, jnp.asarray(COSTS), weights, Resize(utility="r2_equal", subset=4))
    np.testing.assert_allclose(value, 1 - np.array(expected), atol=1e-6)


def test_ucb_by_hand():
    """CERL's form, number by number; the least evaluated of equally good species scores highest."""
    value, seen = np.array([0.3, 0.1, 0.2]), np.array([100.0, 50.0, 10.0])
    shifted = value - 0.1
    expected = shifted / (0.3 + 0.1) + 0.7 * np.sqrt(np.log(160) / seen)
    np.testing.assert_allclose(ucb(jnp.float32(value), jnp.float32(seen), 0.7), expected, rtol=1e-5)
    equal = ucb(jnp.full(3, 0.4), jnp.float32(seen), 0.1)
    assert np.argmax(equal) == 2
    np.testing.assert_array_equal(ucb(jnp.full(3, 0.4), jnp.zeros(3), 0.0), 0)


# Apportionment


def one_by_one(score, low, high, total):
    """Every remaining place to the species furthest below its target that has room, ties to the first."""
    target = total * (score / score.sum() if score.sum() > 0 else np.full(len(score), 1 / len(score)))
    given = low.copy()
    for _ in range(total - low.sum()):
        deficit = np.where(given < high, target - given, -np.inf)
        given[int(np.argmax(deficit))] += 1
    return given


@pytest.mark.long
@pytest.mark.parametrize("seed", range(30))
def test_apportionment_is_the_handing_out_one_by_one(seed):
    rng = np.random.default_rng(seed)
    kinds, total = int(rng.integers(2, 6)), int(rng.integers(12, 60))
    low = rng.integers(0, total // kinds, kinds).astype(np.int32)
    high = np.maximum(low, rng.integers(total // kinds + 2, total + 1, kinds)).astype(np.int32)
    score = rng.integers(0, 5, kinds) / 4  # exact in float32, many ties
    found = np.asarray(apportion(jnp.float32(score), jnp.asarray(low), jnp.asarray(high), total))
    assert found.sum() == total
    assert (found >= low).all()
    assert (found <= high).all()
    if score.sum() in (0, 0.5, 1, 2, 4):  # targets exact in float32, too
        np.testing.assert_array_equal(found, one_by_one(score, low, high, total))


@pytest.mark.parametrize("rules", [Resize(), Resize(rate_limited=False), Resize(apportionment="roulette")])
def test_sizes_sum_to_the_population_and_keep_their_bounds(rules):
    total, least = 60, 4
    make = jax.jit(lambda key, score, old: sizes(key, score, old, total, least, rules))
    rng, old = np.random.default_rng(0), np.array([15, 15, 15, 15])
    for step in range(60):
        score = jnp.asarray(rng.random(4) ** 8, jnp.float32)
        new = np.asarray(make(jax.random.key(step), score, jnp.asarray(old, jnp.int32)))
        assert new.sum() == total
        assert (new >= least).all()
        assert (new <= total - 3 * least).all()
        if rules.rate_limited and rules.apportionment == "deterministic":
            assert (new <= 2 * old).all()
            assert (2 * new >= old).all()
        old = new
    assert make._cache_size() == 1


def test_the_rate_limit_is_what_slows_a_swing():
    """A species with all the score doubles; without a limit it takes all but the others' least."""
    score, old = jnp.asarray([1.0, 0, 0]), jnp.full(3, 40, jnp.int32)
    key = jax.random.key(0)
    np.testing.assert_array_equal(sizes(key, score, old, 120, 8, Resize()), [80, 20, 20])
    np.testing.assert_array_equal(sizes(key, score, old, 120, 8, Resize(rate_limited=False)), [104, 8, 8])


def test_roulette_follows_the_scores():
    low = jnp.full(3, 2, jnp.int32)
    drawn = jax.vmap(lambda key: roulette(key, jnp.asarray([3.0, 1, 0]), low, 106))(
        jax.random.split(jax.random.key(0), 400)
    )
    np.testing.assert_array_equal(drawn.sum(1), 106)
    assert (np.asarray(drawn)[:, 2] == 2).all()
    share = np.asarray(drawn)[:, 0].mean() - 2
    assert abs(share - 75) < 4 * np.sqrt(100 * 0.75 * 0.25 / 400)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "thompson"}, r"resize.rule must be one of \['ucb', 'equal'\], got 'thompson'"),
        ({"utility": "volume"}, "resize.utility must be one of"),
        ({"apportionment": "dice"}, "resize.apportionment must be one of"),
        ({"refill": "none"}, "resize.refill must be one of"),
        ({"exploration": -1.0}, r"resize.exploration must be at least 0, got -1\.0"),
        ({"smoothing": 1.0}, r"resize.smoothing must be in \[0, 1\), got 1\.0"),
        ({"least": 0}, "resize.least must be a whole number of at least 1, got 0"),
        ({"weight_divisions": 0}, "resize.weight_divisions must be a whole number of at least 1, got 0"),
    ],
)
def test_settings_errors(change, message):
    with pytest.raises(ValueError, match=message):
        Resize(**change)
