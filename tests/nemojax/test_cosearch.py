"""Co-search at equal evaluations: pairs of bits and placement, in turn and one after the other."""

from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hwmodel as hw
import nemojax as nemo
from egrljax.baselines.course import generations
from nemojax import cosearch
from nemojax.algorithm import ranking_units
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
from nemojax.cosearch_outcome import settings_of
from nemojax.fingerprint import fingerprint
from nemojax.joint import placed_by
from nemojax.objectives import KLDivergence
from nemojax.placing import small_evolution
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
    assert found.settings["key"] == np.asarray(jax.random.key_data(jax.random.key(3))).tolist()
    assert (found.settings["budget"], found.chip) == (budget, CHIP)
    for one in found.costs:
        assert not ((found.costs <= one).all(1) & (found.costs < one).any(1)).any()
    front = found.front()
    np.testing.assert_array_equal(front.costs, found.costs)
    assert front.objectives == ("error", "model_ratio", "bitops_max", "latency")
    assert front.settings["quantizers"] == asdict(task.network.config)
    assert front.settings == {**found.settings}


def test_what_is_not_dominated_among_the_pairs_is_kept(task):
    bits = np.full((4, task.space.size), 8, np.int32)
    placement = np.arange(4, dtype=np.int32)[:, None, None] * np.ones((1, 6, 2), np.int32)
    costs = np.array([[1, 2, 1, 1], [1, 1, 1, 1], [0, 3, 1, 1], [np.inf, 0, 0, 0]], np.float32)
    parts = [Pairs(bits[:2], placement[:2], costs[:2], 5), Pairs(bits[2:], placement[2:], costs[2:], 7)]
    found = CoFound.of(task, parts)
    np.testing.assert_array_equal(found.costs, costs[[2, 1]])
    np.testing.assert_array_equal(found.placement[:, 0, 0], [2, 1])
    assert (found.evaluations, found.pairs, found.finished) == (12, 4, True)
    stopped = CoFound.of(task, [parts[0], parts[1]._replace(finished=False)], {"model_ratio": 2})
    np.testing.assert_array_equal(stopped.costs, costs[[1]])
    assert not stopped.finished
    assert found.hypervolume([2, 4, 2, 2]) == pytest.approx((2 * 1 + 1 * 2) / 8 / 4)
    with pytest.raises(ValueError, match="none of 2 pairs of bits and placement has finite costs"):
        CoFound.of(task, [Pairs(bits[2:], placement[2:], costs[2:] + np.inf, 7)])
    with pytest.raises(ValueError, match=r"none of 4 pairs .* has finite costs within the limits"):
        CoFound.of(task, parts, {"latency": 0.5})


def test_few_evaluations_of_an_evolution_are_generations():
    for budget in range(1, 80):
        config = small_evolution(budget)
        bred = generations(budget, config.population, config.children)
        assert bred >= min(budget - 1, 2)
    assert (config.population, config.children) == (20, 10)


class Counted:
    """Calls of everything that is an evaluation, counted where it happens; evolutions are only noted."""

    def __init__(self, monkeypatch):
        self.errors, self.placed, self.evolutions = 0, 0, []
        self._placements = cosearch._placements
        monkeypatch.setattr(cosearch, "_placements", self.placements)
        monkeypatch.setattr(cosearch, "_evolved", self.evolved)

    def error(self, bits):
        self.errors += 1
        return float(np.mean(4.0 ** (2 - bits.astype(np.float64))))

    def placements(self, cost, bits):
        self.placed += len(bits)
        return self._placements(cost, bits)

    def evolved(self, cost, keys, bits, budget, config):
        """As the density rule places them."""
        self.evolutions.append((len(bits), budget, generations(budget, config.population, config.children)))
        return self._placements(cost.placed_by("density"), bits)

    def task(self, task):
        own = bits_task(task.network, self.error, host=True, costs=dict(task.costs_of_bits))
        before = self.errors
        fingerprint(own)
        self.identified = self.errors - before
        self.errors = 0
        return own


@pytest.mark.long
def test_bits_first_places_the_whole_front_and_keeps_the_budget(task, monkeypatch):
    counted = Counted(monkeypatch)
    own = counted.task(task)
    limits = {"latency": 1.0, "bitops_max": 0.9}  # one of the chip's, one that the search without it knows
    found = bits_then_placement(jax.random.key(3), own, 120, rows=4, limits=limits, **OPTIONS)
    ((rows, each, bred),) = counted.evolutions
    runs = counted.errors - counted.identified
    assert 40 < found.runs == runs <= 60
    assert found.pairs == counted.placed + rows
    assert counted.placed > rows
    assert found.evaluations == runs + counted.placed + rows * (each + 3) <= 120
    assert 1 <= rows <= 4
    assert bred >= 3
    assert found.finished
    check(own, found, 120)


@pytest.mark.long
def test_a_round_has_files_of_its_own_and_all_share_one_time(task, monkeypatch, tmp_path):
    counted = Counted(monkeypatch)
    own = counted.task(task)
    seeds = np.full((1, own.space.size), 7, np.int32)
    options = {**OPTIONS, "seeds": seeds, "checkpoint": tmp_path / "run", "rows": 3}
    found = alternate(jax.random.key(3), own, 80, **options)
    runs = counted.errors - 2 * counted.identified
    assert found.runs == runs == counted.placed
    assert found.evaluations == runs + sum(rows * (each + 3) for rows, each, _ in counted.evolutions) <= 80
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.round0", "run.round1"]
    again = alternate(jax.random.key(3), own, 80, **options)
    assert counted.errors == runs + 4 * counted.identified  # nothing is evaluated twice
    np.testing.assert_array_equal(again.costs, found.costs)
    assert found.finished
    late = alternate(jax.random.key(3), own, 80, time_limit_s=0.0, **OPTIONS)
    assert not late.finished
    assert late.runs < runs / 2


@pytest.mark.long
def test_a_table_that_is_given_counts_once(task, monkeypatch):
    counted = Counted(monkeypatch)
    own = counted.task(task)
    widths = own.space.widths
    values = np.ones((own.space.size, 1)) * 4.0 ** (2 - np.array(widths, float))[None]
    table = nemo.Sensitivity(own.space.names, widths, values, "error", evaluations=9)
    options = {"config": CONFIG, "warm_start": table, "warm_share": 0.25}
    found = alternate(jax.random.key(3), own, 120, rows=3, **options)
    runs = counted.errors - 2 * counted.identified
    assert found.runs == runs + 9
    spent = runs + 9 + sum(rows * (each + 3) for rows, each, _ in counted.evolutions)
    assert found.evaluations == spent <= 120


@pytest.mark.long
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
    assert found.evaluations == 3 * len(found.bits) == 3 * found.runs == 48
    assert found.costs.shape == (16, 4)
    check(best, CoFound.of(best, [found], settings=settings_of("bits", jax.random.key(3), 50)), 50)


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
        "at 4 bits": lambda key: placement_then_bits(key, task, 120, width=4, **OPTIONS),
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


def test_only_objectives_of_another_scale_are_ranked_in_units(task):
    corner = np.array([7, 1, 1, 1e-6])
    np.testing.assert_array_equal(ranking_units(task, corner), corner)
    own = task.replace(score=KLDivergence())  # as published: KL is ranked as it is
    np.testing.assert_array_equal(ranking_units(own, corner), [1, 1, 1, 1e-6])


def test_refusals(task):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="share must be between 0 and 1, got 1"):
        alternate(key, task, 100, share=1.0)
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        alternate(key, task, 100, rounds=0)
    with pytest.raises(ValueError, match="options holds 'settings': a co-search takes those of search in"):
        alternate(key, task, 100, settings={})
    for rows in (0, -3):
        with pytest.raises(ValueError, match=f"rows must be at least 1, got {rows}"):
            bits_then_placement(key, task, 100, rows=rows)
    with pytest.raises(ValueError, match="time_limit_s must be a number of seconds, at least 0, got '3'"):
        alternate(key, task, 1000, time_limit_s="3")
    with pytest.raises(ValueError, match=r"no objective 'latncy'; there are .*latency"):
        bits_then_placement(key, task, 100, limits={"latncy": 1}, **OPTIONS)
    alone = task.replace(costs_of_bits=task.costs_of_bits[-1:])
    with pytest.raises(ValueError, match="bits alone need a cost that is not on a chip"):
        bits_then_placement(key, alone, 1000)
    second = (*task.costs_of_bits, ("again", latency(task.network, CHIP, "first_fit")))
    with pytest.raises(ValueError, match=r"objectives \['again', 'latency'\] place tensors differently"):
        searched_bits(key, task.replace(costs_of_bits=second), 1000)
    other = latency(task.network, replace(CHIP, overlap=1.0))
    with pytest.raises(ValueError, match="the task has objectives on chips"):
        alternate(key, task.replace(costs_of_bits=(*task.costs_of_bits, ("more", other))), 1000)


def test_a_budget_that_is_too_small_is_said_in_the_callers_own_numbers(task):
    key, small = jax.random.key(0), {"config": CONFIG, "warm_start": None}  # a population of 8
    evolved = placed_by(task, nemo.Evolved(60))  # 63 placements a configuration
    with pytest.raises(ValueError, match=r"at least 504, got 50: .* of 8 of 63 placements each$"):
        searched_bits(key, evolved, 50, **small)
    with pytest.raises(
        ValueError, match=r"at least 22, got 21: .* 8 in each of 2 rounds on a share of 0\.75"
    ):
        alternate(key, task, 21, **small)
    with pytest.raises(ValueError, match=r"at least 33, got 32: .* in each of 3 rounds"):
        alternate(key, task, 32, rounds=3, **small)
    with pytest.raises(ValueError, match="budget must be at least 16, got -5"):
        placement_then_bits(key, task, -5, **small)
    with pytest.raises(ValueError, match="budget must be at least 16, got 15"):
        bits_then_placement(key, task, 15, **small)
    with pytest.raises(ValueError, match=r"more than 3 evaluations, got 30 with a share of 0\.1"):
        placement_then_bits(key, task, 30, share=0.1, **small)


def test_a_joint_task_has_no_warm_start(task):
    for given in ("fisher", "sqnr"):
        with pytest.raises(ValueError, match=f"warm_start must be None for a joint task, got '{given}'"):
            nemo.search(jax.random.key(0), nemo.joint(task), budget=100, warm_start=given)


def test_a_hypervolume_needs_a_corner_for_every_objective(task):
    bits = np.full((1, task.space.size), 8, np.int32)
    found = CoFound.of(task, [Pairs(bits, np.zeros((1, 6, 2), np.int32), np.full((1, 4), 0.5), 1)])
    assert found.hypervolume([1, 1, 1, 1]) == pytest.approx(0.5**4)
    for wrong in ([1, 1], [1, 1, 1, 0]):
        with pytest.raises(ValueError, match="reference must be 4 numbers above 0"):
            found.hypervolume(wrong)
