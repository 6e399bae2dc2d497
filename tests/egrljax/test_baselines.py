"""The rivals against all maps of small networks, and their accounts of what they measured."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw
from egrljax import baselines
from egrljax.environment import exact_latency

BUDGET = 130  # no multiple of any generation


def small_chip(
    capacity=(900, 300), speeds=((1e9, 1e9), (1e10, 1e10), (1e11, 1e11)), overlap=1.0, latency_s=0.0
):
    levels = tuple(
        hw.Level(name, read, write, room, 0.0 if room else latency_s)
        for name, (read, write), room in zip(("dram", "llc", "sram"), speeds, (None, *capacity), strict=True)
    )
    return hw.Chip("small", levels, (hw.Rate(8, 8, 1e12),), overlap=overlap)


@cache
def small_env(operations=4, seed=7, capacity=(900, 300), latency_s=0.0, **options):
    work = hw.random_workload(seed, operations, weight_elems=(20, 600), output_elems=(20, 200), macs=(0, 200))
    return egrl.environment(work, small_chip(capacity, latency_s=latency_s), **options)


def brute_force(env):
    """Of all maps of 4 nodes."""
    every = np.array(list(itertools.product(range(3), repeat=8)), np.int32).reshape(-1, 4, 2)
    return float(exact_latency(env, jnp.asarray(every)).min())


@cache
def optimum():
    return brute_force(small_env())


def run(search, env, budget=BUDGET, runs=10, **options):
    """The courses of some keys, the first of which comes again as the last."""
    keys = jax.random.split(jax.random.key(0), runs)
    keys = jnp.concatenate([keys, keys[:1]])
    courses = jax.jit(jax.vmap(partial(search, env=env, budget=budget, **options)))(keys)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[-1], "same key, same course"), courses)
    return jax.tree.map(lambda x: x[:-1], courses)


# Accounts


def check_course(env, courses, budget=BUDGET):
    assert courses.exact_s.shape[1] == budget
    np.testing.assert_array_equal(courses.evaluations, budget)
    found = hw.evaluate(env.problem, courses.answer)
    assert found.valid.all(), "answers are placements as rectified"
    np.testing.assert_allclose(courses.answer_s, exact_latency(env, courses.answer), rtol=1e-6)
    np.testing.assert_array_equal(courses.answer_s, courses.exact_s[:, -1])


LONG = ("SNES", "CR_FM_NES", "LM_MA_ES", "LGA", "SimpleGA")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in baselines.SEARCHES]
)
def test_searches_spend_their_budget_and_tell_the_truth(name):
    env = small_env()
    courses = run(baselines.SEARCHES[name], env, runs=4)
    check_course(env, courses)
    np.testing.assert_allclose(courses.answer_s, hw.latency(env.problem, courses.answer), rtol=1e-6)
    assert (np.diff(courses.exact_s, axis=1) <= 1e-6 * float(env.reference_s)).all(), "without noise"
    assert (courses.answer_s >= optimum() * (1 - 1e-6)).all()
    assert (courses.answer_s < courses.exact_s[:, 0]).any(), "it searches"


@pytest.mark.long
@pytest.mark.parametrize("name", ["greedy_dp", "ea_direct", "ea_margins", "local_search"])
def test_a_budget_below_one_generation_and_noise_and_contention_and_padding(name):
    env = small_env(noise=0.3, contention=0.5, nodes=6)
    courses = run(baselines.SEARCHES[name], env, budget=7, runs=4)
    check_course(env, courses, 7)
    assert (np.asarray(courses.exact_s[0]) != np.asarray(courses.exact_s[1])).any(), (
        "other keys, other courses"
    )
    assert (np.asarray(courses.answer)[:, 4:] == 0).all(), "padding lies nowhere"


@pytest.mark.parametrize("name", baselines.SEARCHES)
def test_every_budget_is_spent_exactly(name):
    env = small_env()
    for budget in (1, 37):
        search = partial(baselines.SEARCHES[name], env=env, budget=budget)
        assert jax.eval_shape(search, jax.random.key(0)).exact_s.shape == (budget,)


def test_incumbents_by_hand():
    measured = jnp.array([jnp.nan, jnp.inf, 3.0, 3.0, 2.0, jnp.nan, 2.5, 1.0])
    exact = jnp.array([0.1, 0.1, 3.1, 0.5, 2.6, 0.1, 0.2, 1.2])
    placement = jnp.arange(16).reshape(8, 1, 2)
    course = baselines.course_from(measured, exact, placement)
    np.testing.assert_allclose(course.exact_s, [np.inf, np.inf, 3.1, 3.1, 2.6, 2.6, 2.6, 1.2])
    assert float(course.answer_s) == pytest.approx(1.2)
    np.testing.assert_array_equal(course.answer, [[14, 15]])
    assert int(course.evaluations) == 8


@pytest.mark.long
@pytest.mark.parametrize("name", ["greedy_dp", "ea_direct", "ea_margins", "local_search"])
def test_failed_measurements_never_win(name, monkeypatch):
    env = small_env()

    def fast(placement):
        return jnp.sum(placement == 2, axis=(1, 2))

    def fails(key, env, maps):
        """Where an odd number of tensors lies in sram."""
        found = egrl.measure(key, env, maps)
        count = fast(found.placement)
        failure = jnp.array([jnp.nan, jnp.inf, 0.0])[count // 2 % 3]
        return found._replace(latency_s=jnp.where(count % 2 == 1, failure, found.latency_s))

    monkeypatch.setattr("egrljax.baselines.course.measure", fails)
    courses = run(baselines.SEARCHES[name], env, runs=2)
    assert np.isfinite(courses.answer_s).all()
    assert (fast(courses.answer) % 2 == 0).all()


@pytest.mark.long
def test_repeats_find_what_a_lucky_measurement_hides():
    env = small_env(noise=0.3)
    maps = jnp.asarray(np.random.default_rng(0).integers(0, 3, (200, 4, 2)).astype(np.int32))
    found = egrl.measure(jax.random.key(0), env, maps)
    listed = baselines.shortlist(found.latency_s, found.placement)
    assert listed.shape == (20, 4, 2)
    assert len(np.unique(listed, axis=0)) == 20
    np.testing.assert_array_equal(listed[0], found.placement[jnp.argmin(found.latency_s)])
    exact = np.asarray(exact_latency(env, listed.astype(jnp.int32)))
    answers = [baselines.settle(jax.random.key(k), env, listed, 100) for k in range(5)]
    settled = np.array([float(exact_latency(env, answer)) for answer in answers])
    assert (settled <= exact.min() * 1.05).all(), "a hundred repeats leave 3 % of noise"


def test_without_a_measurement_there_is_no_answer():
    nothing = jnp.full((3,), jnp.inf)
    course = baselines.course_from(nothing, jnp.ones((3,)), jnp.zeros((3, 4, 2), jnp.int32))
    assert np.isinf(course.answer_s)
    assert np.isinf(course.exact_s).all()


def test_strict_fitness_answers_with_valid_maps_only():
    env = small_env(capacity=(300, 100))
    courses = run(baselines.random_search, env, runs=8, reward=egrl.RewardConfig(fitness="strict"))
    first = np.asarray(courses.exact_s[:, 0])
    assert np.isinf(first).any(), "a first map that does not fit is no answer"
    assert np.isfinite(courses.answer_s).all()


# Optima


@pytest.mark.parametrize("name", ["ea_direct", "ea_margins"])
def test_small_networks_are_solved(name):
    env = small_env()
    courses = run(baselines.SEARCHES[name], env, budget=500)
    assert optimum() < min(float(hw.latency(env.problem, rule)) for rule in baselines.rules(env).values())
    assert (courses.answer_s <= optimum() * (1 + 1e-6)).sum() >= 9


@pytest.mark.long
def test_local_search_leaves_local_optima():
    stuck, free = (run(baselines.local_search, small_env(), budget=1000, kicks=kicks) for kicks in (0.0, 6.0))
    assert not (stuck.answer_s <= optimum() * (1 + 1e-6)).any(), "swaps of two tensors are out of its reach"
    assert (free.answer_s <= optimum() * (1 + 1e-6)).sum() >= 5


def test_greedy_dp_is_optimal_where_nodes_are_independent():
    # One level is quick to read, the other to write; without overlap each tensor's time is its own.
    speeds = ((1e9, 1e9), (1e11, 2e9), (2e9, 1e11))
    work = hw.random_workload(2, 4, weight_elems=(20, 600), output_elems=(20, 200), output_probability=0.5)
    env = egrl.environment(work, small_chip((10**6, 10**6), speeds, overlap=0.0))
    best = brute_force(env)
    assert best < 0.99 * float(env.reference_s)
    course = run(baselines.greedy_dp, env, budget=36, runs=1)
    assert float(course.answer_s[0]) == pytest.approx(best, rel=1e-6)
    assert float(course.exact_s[0, 26]) > best * (1 + 1e-6), "the last node was not yet visited"


def test_greedy_dp_visits_node_after_node():
    env = small_env()
    course = run(baselines.greedy_dp, env, budget=18, runs=1)
    at, pairs = hw.first_fit(env.problem), np.array(list(itertools.product(range(3), repeat=2)))
    for node in range(2):
        maps = np.repeat(at[None], 9, axis=0)
        maps[:, node] = pairs
        times = np.asarray(hw.evaluate(env.problem, maps).latency_s)
        at = maps[times.argmin()]
    assert float(course.answer_s[0]) == pytest.approx(float(times.min()), rel=1e-6)


# Starts and settings


def test_ea_direct_starts_from_rules():
    env = small_env()
    rules = baselines.rules(env)
    seeds = jnp.asarray(np.stack(list(rules.values())))
    config = baselines.EADirectConfig(start="rules")
    courses = run(baselines.ea_direct, env, budget=3, runs=1, config=config, seeds=seeds)
    times = np.asarray(hw.latency(env.problem, seeds))
    np.testing.assert_allclose(courses.exact_s, [np.minimum.accumulate(times)], rtol=1e-6)


def test_elites_are_not_measured_again(monkeypatch):
    env = small_env()
    batches = []

    def watched(key, env, maps):
        batches.append(len(maps))
        return egrl.measure(key, env, maps)

    monkeypatch.setattr("egrljax.baselines.course.measure", watched)
    jax.eval_shape(partial(baselines.ea_direct, env=env, budget=100), jax.random.key(0))
    assert set(batches) == {20, 16}
    batches.clear()
    jax.eval_shape(partial(baselines.ea_margins, env=env, budget=100), jax.random.key(0))
    assert set(batches) == {80, 20}


@pytest.mark.long
def test_local_search_starts_from_density():
    # Seconds per byte differ between tensors only by the store's latency: without, all would tie.
    env = small_env(8, latency_s=1e-7)
    course = run(baselines.local_search, env, budget=1, runs=1)
    np.testing.assert_array_equal(course.answer[0], hw.density(env.problem))


def test_local_search_climbs_to_where_no_flip_helps():
    env = small_env(8, latency_s=1e-7)
    start = jnp.zeros((8, 2), jnp.int32)
    courses = run(baselines.local_search, env, runs=4, budget=300, start=start, kicks=0.0)
    first = float(hw.latency(env.problem, start))
    np.testing.assert_allclose(courses.exact_s[:, 0], first, rtol=1e-6)
    flips = np.repeat(np.asarray(courses.answer)[:, None], 48, axis=1).reshape(4, 8, 2, 3, 8, 2)
    for node, column, level in itertools.product(range(8), range(2), range(3)):
        flips[:, node, column, level, node, column] = level
    times = hw.evaluate(env.problem, flips.reshape(-1, 8, 2)).latency_s.reshape(4, 48)
    assert (np.asarray(times).min(axis=1) >= np.asarray(courses.answer_s) * (1 - 1e-6)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(baselines.random_search, budget=0), "budget must be at least 1, got 0"),
        (partial(baselines.random_search, budget=9, start="fast"), "start must be one of .*got 'fast'"),
        (partial(baselines.local_search, budget=9, block=0), "block must be at least 1, got 0"),
        (partial(baselines.local_search, budget=9, kicks=-1.0), r"kicks must be at least 0, got -1\.0"),
        (partial(baselines.evosax_search, budget=9, name="Adam"), "name must be one of .*got 'Adam'"),
        (partial(baselines.evosax_search, budget=9, name="SNES", population=0), "population must be .*got 0"),
        (
            partial(baselines.ea_direct, budget=9, config=baselines.EADirectConfig(start="rules")),
            "seeds go with start .*got start 'rules'",
        ),
        (
            partial(baselines.ea_direct, budget=9, seeds=jnp.zeros((3, 4, 2), jnp.int32)),
            "seeds go with start .*got start 'uniform'",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_have_it")
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jax.random.key(0), small_env())


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (baselines.EADirectConfig, {"elites": 20}, "elites must lie in .1, population - 1 = 19., got 20"),
        (baselines.EADirectConfig, {"tournament": 0}, "tournament must be at least 1, got 0"),
        (baselines.EADirectConfig, {"mutations": -1.0}, r"mutations must be at least 0, got -1\.0"),
        (baselines.EADirectConfig, {"start": "best"}, "start must be one of .*got 'best'"),
        (baselines.EAMarginsConfig, {"children": 0}, "children must be at least 1, got 0"),
        (baselines.EAMarginsConfig, {"crossover": 2.0}, r"crossover must lie in .0, 1., got 2\.0"),
        (baselines.EAMarginsConfig, {"start_std": -1.0}, r"start_std must be at least 0, got -1\.0"),
    ],
)
@pytest.mark.usefixtures("as_users_have_it")
def test_bad_settings_are_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


# White boxes


def test_white_boxes_read_the_model():
    env = small_env()
    found = baselines.exact(env)
    assert found.latency_s == pytest.approx(optimum(), rel=1e-5)
    assert found.lower_bound_s <= optimum() * (1 + 1e-6)
    assert found.evaluations == 0
    config = hw.GradientConfig(steps=20, restarts=4, warm_restarts=2)
    near = baselines.gradient(jax.random.key(0), env, config)
    assert near.evaluations == 8
    assert near.lower_bound_s is None
    assert near.latency_s >= optimum() * (1 - 1e-6)
    assert near.latency_s == pytest.approx(float(hw.latency(env.problem, near.placement)), rel=1e-6)


def test_exact_refuses_what_it_has_no_bound_for():
    with pytest.raises(ValueError, match=r"exact knows no contention.*got contention 0\.5"):
        baselines.exact(small_env(noise=0.3, contention=0.5, nodes=6))


def test_rules_are_hwmodels():
    env = small_env()
    assert baselines.rules(env).keys() == hw.BASELINES.keys()
    np.testing.assert_array_equal(baselines.rules(env)["density"], hw.density(env.problem))
