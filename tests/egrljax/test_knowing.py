"""What is known before a run is where it starts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw
from egrljax.knowing import chromosomes_of

from .small import algorithm, brute_force, small_chip, small_work, tiny

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def env():
    return egrl.environment(small_work(), small_chip())


def some(env, count, seed=0):
    """Placements that fit, all different."""
    maps = jax.random.randint(jax.random.key(seed), (4 * count, *env.allowed.shape[:2]), 0, 3)
    found = np.unique(np.asarray(hw.rectify(env.problem, maps).placement), axis=0)
    return jnp.asarray(np.random.default_rng(seed).permutation(found)[:count])


@pytest.mark.parametrize("start", ["density", "backing", "uniform"])
@pytest.mark.parametrize("acting", ["margins", "levels"])
def test_a_chromosome_of_a_placement_acts_it(env, start, acting):
    placements = some(env, 30)
    logits = chromosomes_of(env, placements, start)
    acted = hw.rectify(env.problem, egrl.act_greedily(env, logits, acting)).placement
    # Levels of tensors without bytes mean nothing.
    sizes = np.stack([env.problem.weight_bytes, env.problem.output_bytes], axis=1)
    np.testing.assert_array_equal(np.asarray(acted)[:, sizes > 0], np.asarray(placements)[:, sizes > 0])


@pytest.mark.long
def test_the_fastest_become_members_and_all_are_learned_from(env):
    config = tiny(chromosomes=4, chromosome_elites=2)
    algo = algorithm(config, env)
    placements = some(env, 7)
    seconds = egrl.exact_latency(env, placements).at[3].set(jnp.nan)
    state = jax.jit(algo.know)(jax.jit(algo.init)(KEY, env), env, placements, seconds)
    order = np.argsort(np.where(np.isnan(seconds), np.inf, seconds), kind="stable")[:4]
    members = slice(config.policies, config.members)
    np.testing.assert_array_equal(state.population.placement[members], placements[order])
    np.testing.assert_allclose(
        state.population.fitness[members], -5 * env.reference_s / seconds[order], rtol=1e-6
    )
    assert float(state.best_s) == float(seconds[order[0]])
    np.testing.assert_array_equal(state.best, placements[order[0]])
    assert int(state.replay.added) == 7
    assert float(state.replay.speedup[3]) == 0
    assert int(state.measured) == 0
    assert 3 not in order


@pytest.mark.long
def test_a_run_that_knows_the_optimum_answers_it_and_one_without_chromosomes_does_too(env):
    maps = np.stack(np.unravel_index(np.arange(3**10), (3,) * 10), axis=1).reshape(-1, 5, 2)
    maps = jnp.asarray(maps.astype(np.int32))
    seconds = egrl.exact_latency(env, maps)
    best = hw.rectify(env.problem, maps[int(jnp.argmin(seconds))][None]).placement
    for changes in ({}, {"chromosomes": 0, "chromosome_elites": 0, "seed_every": 0}):
        algo = algorithm(tiny(budget=40, **changes), env)
        state = jax.jit(algo.know)(jax.jit(algo.init)(KEY, env), env, best, egrl.exact_latency(env, best))
        state, _ = egrl.run(algo, env, state)
        assert float(state.best_s) == pytest.approx(brute_force(env), rel=1e-6)
        assert int(state.measured) == 40


@pytest.mark.long
def test_place_starts_from_the_rules_and_the_solver():
    placed = egrl.place(
        KEY, small_work(), small_chip(), contention=0.5, config=replace(tiny(), budget=40), solver_s=5.0
    )
    assert placed.evaluations == 40 + 4
    problem = egrl.environment(small_work(), small_chip(), contention=0.5)
    solved = hw.optimal_placement(problem.problem, 5.0).placement
    known = [*placed.rules_s.values(), float(egrl.exact_latency(problem, jnp.asarray(solved)))]
    assert placed.latency_s <= min(known) * (1 + 1e-6)
    # It holds of the search itself, from its first generation on.
    assert placed.course.best_s[0] <= min(known) * (1 + 1e-6)
