"""Co-search at equal evaluations: pairs of bits and placement, in turn and one after the other."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hwmodel as hw
import nemojax as nemo
from nemojax.chip_bits import tensor_bits
from nemojax.chip_costs import latency
from nemojax.cosearch import (
    CoFound,
    Pairs,
    alternate,
    bits_then_placement,
    placement_then_bits,
    searched_bits,
    searched_placements,
)
from nemojax.joint import placed_by
from nemojax.reference_points import das_dennis
from nemojax.task import bits_task, costs_by_name

from .chip_cases import CHIP, quantized

CONFIG = nemo.NemoConfig(population=8, species=("continuous",), archive_capacity=32)
OPTIONS = {"config": CONFIG, "warm_start": None}


def error(bits):
    """Instead of running the network."""
    return jnp.mean(4.0 ** (2 - bits.astype(jnp.float32)))


@pytest.fixture(scope="module")
def task():
    network = quantized()
    costs = {name: costs_by_name(network)[name] for name in ("model_ratio", "bitops_max")}
    return bits_task(network, error, costs={**costs, "latency": latency(network, CHIP, "density")})


def check(task, found, budget):
    """Every pair costs what the host says, none is dominated, and the budget is kept."""
    assert found.evaluations <= budget
    work = task.network.workload
    for bits, placement, costs in zip(found.bits[:4], found.placement, found.costs, strict=False):
        problem = hw.problem(work, CHIP, jax.tree.map(np.asarray, tensor_bits(work, CHIP, bits)))
        told = hw.evaluate(problem, placement)
        assert bool(told.valid)
        np.testing.assert_allclose(told.latency_s, costs[3], rtol=1e-5)
        np.testing.assert_allclose(error(jnp.asarray(bits)), costs[0], rtol=1e-5)
    for one in found.costs:
        assert not ((found.costs <= one).all(1) & (found.costs < one).any(1)).any()
    front = found.front()
    np.testing.assert_array_equal(front.costs, found.costs)
    assert front.objectives == ("error", "model_ratio", "bitops_max", "latency")


def test_what_is_not_dominated_among_the_pairs_is_kept(task):
    bits = np.full((4, task.space.size), 8, np.int32)
    placement = np.arange(4, dtype=np.int32)[:, None, None] * np.ones((1, 6, 2), np.int32)
    costs = np.array([[1, 2, 1, 1], [1, 1, 1, 1], [0, 3, 1, 1], [np.inf, 0, 0, 0]], np.float32)
    parts = [Pairs(bits[:2], placement[:2], costs[:2], 5), Pairs(bits[2:], placement[2:], costs[2:], 7)]
    found = CoFound.of(task, parts)
    np.testing.assert_array_equal(found.costs, costs[[2, 1]])
    np.testing.assert_array_equal(found.placement[:, 0, 0], [2, 1])
    assert found.evaluations == 12
    assert found.hypervolume([2, 4, 2, 2]) == pytest.approx((2 * 1 + 1 * 2) / 8 / 4)
    with pytest.raises(ValueError, match="none of 2 pairs of bits and placement has finite costs"):
        CoFound.of(task, [Pairs(bits[2:], placement[2:], costs[2:] + np.inf, 7)])


def test_placements_at_fixed_bits_are_no_slower_than_any_rule(task):
    bits = np.asarray(task.space.sample(jax.random.key(0), 2))
    costs = np.ones((2, 4), np.float32)
    found = searched_placements(jax.random.key(1), task, bits, costs, 50)
    assert found.evaluations == 50
    work = task.network.workload
    for row, placement, seconds in zip(bits, found.placement, found.costs[:, 3], strict=True):
        problem = hw.problem(work, CHIP, jax.tree.map(np.asarray, tensor_bits(work, CHIP, row)))
        told = hw.evaluate(problem, placement)
        assert bool(told.valid)
        np.testing.assert_allclose(told.latency_s, seconds, rtol=1e-5)
        rules = [float(hw.latency(problem, rule(problem))) for rule in hw.BASELINES.values()]
        assert seconds <= min(rules) * (1 + 1e-6)
    np.testing.assert_array_equal(found.costs[:, :3], 1)
    np.testing.assert_array_equal(found.bits, bits)
    with pytest.raises(ValueError, match="budget must be at least 8 for 2 configurations, got 7"):
        searched_placements(jax.random.key(1), task, bits, costs, 7)


@pytest.mark.long
def test_bits_are_searched_with_as_many_evaluations_as_their_placing_looks_at(task):
    best = placed_by(task, "best")
    found = searched_bits(jax.random.key(2), best, 50, **OPTIONS)
    assert found.evaluations == 3 * len(found.bits) == 48
    assert found.costs.shape == (16, 4)
    check(best, CoFound.of(best, [found]), 50)


def test_four_objectives_have_directions_of_their_own():
    """NSGA-III: Das and Dennis's points in four objectives, against their number in closed form."""
    points = das_dennis(4, 5)
    assert len(points) == 56  # C(5 + 3, 3)
    np.testing.assert_allclose(np.asarray(points).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.long
def test_in_turn_and_one_after_the_other(task):
    seen = []
    kinds = {
        "in turn": lambda key: alternate(
            key, task, 120, rows=3, on_round=lambda n, so_far: seen.append((n, so_far)), **OPTIONS
        ),
        "bits first": lambda key: bits_then_placement(key, task, 120, rows=4, **OPTIONS),
        "placement first": lambda key: placement_then_bits(key, task, 120, **OPTIONS),
    }
    for search in kinds.values():
        found = search(jax.random.key(3))
        check(task, found, 120)
        assert found.evaluations > 90
    assert [number for number, _ in seen] == [0, 1]
    one, two = (so_far.hypervolume([1, 1, 1, 1e-6]) for _, so_far in seen)
    assert two >= one
    again = kinds["in turn"](jax.random.key(3))
    np.testing.assert_array_equal(again.costs, seen[1][1].costs)
    stopped = alternate(jax.random.key(3), task, 120, rows=3, on_round=lambda n, so_far: True, **OPTIONS)
    np.testing.assert_array_equal(stopped.costs, seen[0][1].costs)


def test_refusals(task):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="share must be between 0 and 1, got 1"):
        alternate(key, task, 100, share=1.0)
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        alternate(key, task, 100, rounds=0)
    alone = task.replace(costs_of_bits=task.costs_of_bits[-1:])
    with pytest.raises(ValueError, match="bits alone need a cost that is not on a chip"):
        bits_then_placement(key, alone, 100)
    other = latency(task.network, replace(CHIP, overlap=1.0))
    with pytest.raises(ValueError, match="the task has objectives on chips"):
        alternate(key, task.replace(costs_of_bits=(*task.costs_of_bits, ("more", other))), 100)
