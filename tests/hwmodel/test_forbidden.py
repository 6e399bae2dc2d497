"""Levels that tensors must not lie on: every rule, search and proof keeps off them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hwmodel as hw


@pytest.mark.parametrize("seed", range(2))
def test_forbidden_levels_stay_empty_and_the_optimum_is_brute_forces(reference, seed):
    rng = np.random.default_rng(seed)
    work = reference.random_work(rng, 4, shared=False)
    chip = reference.random_chip(rng, capacity=(900, 1500))
    names = [t.name for t in hw.tensors(work)]
    levels = {names[0]: ["level1", "level2"], names[-1]: ["level2"], names[-2]: ["level1"]}
    banned = [
        (t.operation, t.column, chip.level_index(k)) for t in hw.tensors(work) for k in levels.get(t.name, ())
    ]
    free = hw.problem(work, chip)
    problem = hw.forbidden(free, work, chip, levels)

    wishes = np.array(list(itertools.product(range(3), repeat=8)), np.int32).reshape(-1, 4, 2)
    everything, found = (hw.evaluate(p, jnp.asarray(wishes)) for p in (free, problem))
    obeys = np.array([all(w[i, column] != k for i, column, k in banned) for w in wishes])
    feasible = np.asarray(everything.valid) & obeys
    np.testing.assert_array_equal(found.valid, feasible)
    for i, column, k in banned:
        assert (np.asarray(found.placement)[:, i, column] != k).all()
    best = float(np.min(np.asarray(everything.latency_s)[feasible]))
    assert best > float(np.min(np.asarray(everything.latency_s)[np.asarray(everything.valid)])), "it binds"
    optimum = hw.optimal_placement(problem)
    config = hw.GradientConfig(steps=50, restarts=4, warm_restarts=2)
    gradient = hw.optimize_placement(jax.random.key(0), problem, config)
    assert optimum.latency_s == pytest.approx(best, rel=1e-5)
    for placement in (optimum.placement, gradient.placement, *(f(problem) for f in hw.BASELINES.values())):
        assert all(placement[i, column] != k for i, column, k in banned)


def test_what_cannot_be_forbidden_is_refused(reference):
    rng = np.random.default_rng(0)
    work, chip = reference.random_work(rng, 4, shared=False), reference.random_chip(rng)
    problem, name = hw.problem(work, chip), hw.tensors(work)[0].name
    with pytest.raises(ValueError, match=rf"'{name}' must be allowed on 'level0'.*pin it"):
        hw.forbidden(problem, work, chip, {name: ["level0"]})
    with pytest.raises(ValueError, match="not 'cache'"):
        hw.forbidden(problem, work, chip, {name: ["cache"]})
    with pytest.raises(ValueError, match=r"forbidden: there is no tensor 'nothing'"):
        hw.forbidden(problem, work, chip, {"nothing": ["level1"]})
    with pytest.raises(ValueError, match="must be a list of names, got 'level1'"):
        hw.forbidden(problem, work, chip, {name: "level1"})
    small = hw.tensors(work)[-1].name
    pinned = hw.pinned(problem, work, chip, {small: "level1"})
    with pytest.raises(ValueError, match="is pinned to 'level1'; drop one"):
        hw.forbidden(pinned, work, chip, {small: ["level1"]})
    with pytest.raises(ValueError, match="it is not that of"):
        hw.forbidden(problem, work, reference.random_chip(rng, levels=4), {name: ["level1"]})
