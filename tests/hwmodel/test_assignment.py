"""assign against a retelling in plain Python, and against the rule that it generalises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hwmodel as hw


def chip(capacities=(900, 400)):
    names = ("dram", "llc", "sram", "tcm")[: len(capacities) + 1]
    speeds = (1e9, 1e10, 1e11, 1e12)
    rooms = (None, *capacities)
    levels = [hw.Level(n, s, s, r) for n, s, r in zip(names, speeds, rooms, strict=False)]
    return hw.Chip("small", tuple(levels), (hw.Rate(8, 8, 1e12),))


def work(seed, nodes=9):
    return hw.random_workload(seed, nodes, weight_elems=(20, 600), output_elems=(20, 400))


def retold(problem, scores):
    """Tensors by margin, each to its best level with room, over lists of free units per step."""
    n, _, levels = problem.shape
    units = np.stack([problem.weight_units, problem.output_units], axis=1)
    sizes = np.stack([problem.weight_bytes, problem.output_bytes], axis=1)
    free = [[int(problem.capacity_units[s, k]) for k in range(levels)] for s in range(n)]
    order = sorted(
        ((i, c) for i in range(n) for c in range(2)),
        key=lambda t: -np.float32(scores[t].max() - scores[t][0]),
    )
    found = np.zeros((n, 2), int)
    for i, c in order:
        life = range(n) if c == 0 else range(i, int(problem.death[i]) + 1)
        for k in sorted(range(levels), key=lambda k: (-scores[i, c, k], k)):
            if k == 0 or all(free[s][k] >= units[i, c, k] for s in life):
                break
        if k > 0:
            for s in life:
                free[s][k] -= int(units[i, c, k])
        pin = int(problem.pin[i, c])
        found[i, c] = pin if pin >= 0 else (k if sizes[i, c] > 0 else 0)
    return found


@pytest.mark.long
@pytest.mark.parametrize("capacities", [(900, 400), (700,), (2000, 900, 200)])
def test_assignments_are_the_retold_ones_and_fit(capacities):
    run = jax.jit(hw.assign)
    moved = 0
    for seed in range(4):
        problem = hw.problem(work(seed), chip(capacities))
        scores = np.random.default_rng(seed).normal(size=(20, *problem.shape[:1], 2, problem.shape[2]))
        scores = scores.astype(np.float32)
        found = run(problem, jnp.asarray(scores))
        for one, given in zip(found, scores, strict=True):
            np.testing.assert_array_equal(one, retold(problem, given))
        left = hw.rectify(problem, found)
        assert bool(left.valid.all()), "nothing is left to rectify"
        np.testing.assert_array_equal(left.placement, found)
        np.testing.assert_array_equal(hw.assign(problem, jnp.asarray(scores[3])), found[3])
        wishes = jnp.argmax(jnp.asarray(scores), axis=-1).astype(jnp.int32)
        moved += int(jnp.sum(~hw.rectify(problem, wishes).valid))
    assert moved > 0, "capacity binds somewhere"


def test_scores_of_the_density_rule_give_its_placement():
    for seed in range(6):
        problem = hw.problem(work(seed, 14), chip())
        n = problem.shape[0]
        seconds = np.asarray(hw.tensor_seconds(problem), np.float64)
        size = np.stack([problem.weight_bytes, problem.output_bytes], axis=1)
        lives = np.stack([np.full(n, n), np.asarray(problem.death) - np.arange(n) + 1], axis=1)
        density = (seconds[..., 0] - seconds.min(-1)) / np.maximum(size * lives, 1)
        # Whole numbers: the rank of a tensor above the rank of a level.
        rank = np.empty(2 * n)
        rank[np.argsort(density.ravel(), kind="stable")] = np.arange(2 * n)
        quickness = -np.argsort(np.argsort(seconds, axis=-1), axis=-1) / 8
        scores = (10 + rank.reshape(n, 2, 1)) * (np.arange(3) > 0) + np.where(np.arange(3) > 0, quickness, 0)
        found = hw.assign(problem, jnp.asarray(scores, jnp.float32))
        held = size > 0
        np.testing.assert_array_equal(np.asarray(found)[held], hw.density(problem)[held])


@pytest.mark.long
def test_pins_and_forbidden_levels_hold():
    built, where = work(1), chip((4000, 2000))
    names = [t.name for t in hw.tensors(built)]
    problem = hw.pinned(hw.problem(built, where), built, where, {names[0]: "llc"})
    problem = hw.forbidden(problem, built, where, {names[1]: ["sram"], names[2]: ["llc", "sram"]})
    scores = jax.random.normal(jax.random.key(0), (50, *problem.shape[:1], 2, 3))
    scores += jnp.broadcast_to(jnp.arange(3.0), scores.shape)
    found = np.asarray(hw.assign(problem, scores))
    first, second, third = hw.tensors(built)[:3]
    assert (found[:, first.operation, first.column] == 1).all()
    assert (found[:, second.operation, second.column] < 2).all()
    assert (found[:, third.operation, third.column] == 0).all()


def test_other_shapes_are_refused():
    problem = hw.problem(work(0), chip())
    with pytest.raises(ValueError, match="scores must have shape"):
        hw.assign(problem, jnp.zeros((9, 2, 4)))
