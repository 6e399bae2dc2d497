"""The integer program against brute force, rules and pins, and what more bandwidth or room must do."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import hwmodel as hw

SPEC = [  # chip, network, optimum, all in DRAM, compute, in microseconds: hwmodel.md section 9, measured
    ("nnp_i_paperstyle", "resnet50", 95.05, 790.6, 88.9),
    ("nnp_i_tight", "resnet50", 279.89, 790.6, 88.9),
    ("nnp_i_one_ice", "resnet50", 1070.55, 1212.8, 1067.2),
    ("nnp_i_one_ice", "resnet101", 2039.0, 2181.2, 2035.6),
]


def brute_force(problem):
    """The best of all placements that rectification leaves as they are."""
    n, _, levels = problem.shape
    wishes = np.array(list(itertools.product(range(levels), repeat=2 * n)), np.int32).reshape(-1, n, 2)
    found = hw.evaluate(problem, jnp.asarray(wishes))
    return float(np.min(np.where(found.valid, found.latency_s, np.inf)))


@pytest.mark.parametrize("options", [{}, {"overlap": 0.3}, {"move_cost": True, "external_io": "level1"}])
@pytest.mark.parametrize("seed", range(4))
def test_optimum_equals_brute_force(reference, seed, options):
    rng = np.random.default_rng(seed)
    work = reference.random_work(rng, 5)
    chip = reference.random_chip(rng, capacity=(300, 1500), **options)
    with jax.enable_x64(True):
        problem = hw.problem(work, chip)
        best = brute_force(problem)
        found = hw.optimal_placement(problem)
        exact = hw.evaluate(problem, found.placement)
    assert found.status == "optimal"
    assert found.latency_s == pytest.approx(best, rel=1e-9)
    assert found.lower_bound_s == pytest.approx(best, rel=2e-6)
    assert bool(exact.valid)
    assert found.latency_s == pytest.approx(float(exact.latency_s), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_optimum_equals_brute_force_many_times(reference, seed):
    rng = np.random.default_rng(1000 + seed)
    work, chip = reference.random_work(rng, 5), reference.random_chip(rng, capacity=(200, 2000))
    with jax.enable_x64(True):
        problem = hw.problem(work, chip, nodes=5)
        assert hw.optimal_placement(problem).latency_s == pytest.approx(brute_force(problem), rel=1e-9)


def shortcut_before_last(work):
    """ResNet with each projection shortcut ahead of its block's last convolution, which takes the add."""
    ops = list(work.operations)
    for i, op in enumerate(ops):
        if not op.name.endswith("shortcut"):
            continue
        last, (x, y) = ops[i - 1], op.parents
        assert y.producer == i - 1
        ops[i - 1] = dataclasses.replace(op, parents=(x,), w_id=i - 1)
        ops[i] = dataclasses.replace(last, parents=(*last.parents, hw.Edge(i - 1, op.o_elems)), w_id=i)
    return hw.Workload(tuple(ops))


@pytest.mark.parametrize(("name", "network", "optimum", "dram", "compute"), SPEC)
def test_published_regression_values(name, network, optimum, dram, compute):
    """To all printed digits in the order above; ours, torchvision's, differs by at most 0.1 %."""
    chip = hw.load_chip(name, warn=False)
    chip = dataclasses.replace(
        chip, levels=tuple(dataclasses.replace(level, align_bytes=1) for level in chip.levels)
    )
    work = hw.zoo.by_name(network)
    for order, tolerance in ((shortcut_before_last(work), 6e-5), (work, 1e-3)):
        problem = hw.problem(order, chip)
        found = hw.optimal_placement(problem)
        everything = jnp.zeros((len(work.operations), 2), jnp.int32)
        assert found.latency_s * 1e6 == pytest.approx(optimum, rel=tolerance)
        assert float(hw.latency(problem, everything)) * 1e6 == pytest.approx(dram, rel=tolerance)
        assert float(problem.compute_s.sum()) * 1e6 == pytest.approx(compute, rel=6e-4)


@pytest.mark.parametrize("rule", hw.BASELINES)
def test_rules_are_feasible_and_no_better_than_the_optimum(reference, rule):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        work, chip = reference.random_work(rng, 12), reference.random_chip(rng)
        problem = hw.problem(work, chip)
        placement = hw.BASELINES[rule](problem)
        granted, moved = reference.rectify(work, chip, placement)
        assert moved == 0
        np.testing.assert_array_equal(granted, placement)
        best = hw.optimal_placement(problem)
        assert float(hw.latency(problem, placement)) >= best.lower_bound_s * (1 - 1e-6)


def two_tensors(first, second, capacity):
    """Two operations with weights of the given sizes, nothing else of weight."""
    ops = tuple(
        hw.Operation(name, "conv", 0, size, size, i, 0, 1, (), (1, 1, 1), (1, 1, 1))
        for i, (name, size) in enumerate((("first", first), ("second", second)))
    )
    levels = (
        hw.Level("dram", 1e9, 1e9, align_bytes=1),
        hw.Level("sram", 1e10, 1e10, capacity, align_bytes=1),
    )
    chip = hw.Chip("two", levels, (hw.Rate(8, 8, 1e12),))
    return hw.Workload(ops), chip


def test_rules_by_hand():
    """Room for the larger weights only if the smaller ones stay out."""
    work, chip = two_tensors(60, 90, 100)
    problem = hw.problem(work, chip)
    np.testing.assert_array_equal(hw.first_fit(problem)[:, 0], [1, 0])
    np.testing.assert_array_equal(hw.banked_greedy(problem)[:, 0], [1, 0])
    np.testing.assert_array_equal(hw.optimal_placement(problem).placement[:, 0], [0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_pins_hold_everywhere(reference, seed):
    """Pinned tensors stay, the others keep out of their room, and the optimum is brute force's."""
    rng = np.random.default_rng(seed)
    work = reference.random_work(rng, 5, shared=False)
    chip = reference.random_chip(rng, capacity=(1200, 1600))
    some = [t for t in hw.tensors(work) if t.column == 1][2:4]
    pins = {t.name: "level1" if i else "level2" for i, t in enumerate(some)}
    free = hw.problem(work, chip)
    problem = hw.pinned(free, work, chip, pins)
    where = {(t.operation, t.column): chip.level_index(pins[t.name]) for t in some}

    def obeys(placement):
        return all(placement[i, column] == level for (i, column), level in where.items())

    wishes = np.array(list(itertools.product(range(3), repeat=10)), np.int32).reshape(-1, 5, 2)
    everything = hw.evaluate(free, jnp.asarray(wishes))
    obedient = np.array([obeys(w) for w in wishes])
    feasible = np.asarray(everything.valid) & obedient
    found = hw.evaluate(problem, jnp.asarray(wishes))
    assert all(obeys(p) for p in np.asarray(found.placement[:500]))
    again = hw.evaluate(free, found.placement)
    assert again.valid.all()  # feasible without the pins' special treatment
    np.testing.assert_array_equal(found.placement[feasible], wishes[feasible])  # nothing is moved needlessly
    assert found.valid[feasible].all()
    best = float(np.min(np.asarray(everything.latency_s)[feasible]))
    optimum = hw.optimal_placement(problem)
    assert obeys(optimum.placement)
    assert optimum.latency_s == pytest.approx(best, rel=1e-5)
    for rule in hw.BASELINES.values():
        assert obeys(rule(problem))
        assert hw.evaluate(free, rule(problem)).valid


def test_pins_that_cannot_be_are_refused():
    work, chip = two_tensors(60, 90, 100)
    problem = hw.problem(work, chip)
    with pytest.raises(ValueError, match=r"150 bytes.*room for 100.*second.weight 90, first.weight 60"):
        hw.pinned(problem, work, chip, {"first.weight": "sram", "second.weight": "sram"})
    with pytest.raises(ValueError, match=r"no tensor 'frist.weight'.*did you mean 'first.weight'"):
        hw.pinned(problem, work, chip, {"frist.weight": "sram"})
    with pytest.raises(ValueError, match="not 'cache'"):
        hw.pinned(problem, work, chip, {"first.weight": "cache"})


def test_limits_and_impossible_problems_are_refused():
    work, chip = two_tensors(60, 90, 100)
    problem = hw.problem(work, chip)
    with pytest.raises(ValueError, match="time_limit_s"):
        hw.optimal_placement(problem, time_limit_s=0.0)
    wide = hw.problem_from_arrays(hw.workload_arrays(work), hw.chip_arrays(chip), hw.Bits(16, 16, 16))
    with pytest.raises(ValueError, match="no compute rate"):
        hw.optimal_placement(wide._replace(compute_s=jnp.full((2,), jnp.inf)))


def test_a_time_limit_still_gives_a_placement_and_a_bound(reference):
    rng = np.random.default_rng(1)
    problem = hw.problem(reference.random_work(rng, 80), reference.random_chip(rng, capacity=(2000, 6000)))
    found = hw.optimal_placement(problem, time_limit_s=0.05)
    assert hw.evaluate(problem, found.placement).valid
    assert 0 < found.lower_bound_s <= found.latency_s
    assert found.gap >= 0


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), level=st.integers(0, 2), factor=st.floats(1.0, 8.0))
def test_more_bandwidth_room_or_compute_never_hurts(reference, seed, level, factor):
    rng = np.random.default_rng(seed)
    work, chip = reference.random_work(rng, 5), reference.random_chip(rng, capacity=(300, 1500))
    wishes = jnp.asarray(reference.random_placements(rng, 20, 5, 3))

    def better(**change):
        levels = list(chip.levels)
        levels[level] = dataclasses.replace(levels[level], **change)
        return dataclasses.replace(chip, levels=tuple(levels))

    old = chip.levels[level]
    faster = better(
        read_bytes_per_s=old.read_bytes_per_s * factor, write_bytes_per_s=old.write_bytes_per_s * factor
    )
    rate = dataclasses.replace(chip, compute=(hw.Rate(8, 8, chip.compute[0].ops_per_s * factor),))
    before = hw.latency(hw.problem(work, chip), wishes)
    for improved in (faster, rate):
        assert (hw.latency(hw.problem(work, improved), wishes) <= before * (1 + 1e-6)).all()
    best = hw.optimal_placement(hw.problem(work, chip))
    roomier = [faster, rate]
    if level:
        roomier.append(better(capacity_bytes=int(old.capacity_bytes * factor)))
    for improved in roomier:
        assert hw.optimal_placement(hw.problem(work, improved)).latency_s <= best.latency_s * (1 + 1e-5)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), bits=st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8)))
def test_fewer_bits_never_slow_a_fixed_placement(reference, seed, bits):
    rng = np.random.default_rng(seed)
    work, chip = reference.random_work(rng, 6), reference.random_chip(rng)
    wishes = jnp.asarray(reference.random_placements(rng, 20, 6, 3))
    full = hw.latency(hw.problem(work, chip), wishes)
    assert (hw.latency(hw.problem(work, chip, hw.Bits(*bits)), wishes) <= full * (1 + 1e-6)).all()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_the_order_in_which_levels_are_listed_changes_no_latency(reference, seed):
    """Levels above the backing store may change places: a fixed placement and the optimum stay."""
    rng = np.random.default_rng(seed)
    work, chip = reference.random_work(rng, 5), reference.random_chip(rng, capacity=(300, 1500))
    store, one, two = chip.levels
    swapped = dataclasses.replace(chip, levels=(store, two, one))
    wishes = reference.random_placements(rng, 20, 5, 3)
    mirrored = np.array([0, 2, 1], np.int32)[wishes]
    first, second = hw.problem(work, chip), hw.problem(work, swapped)
    np.testing.assert_allclose(hw.latency(first, wishes), hw.latency(second, mirrored), rtol=1e-6)
    assert hw.optimal_placement(first).latency_s == pytest.approx(
        hw.optimal_placement(second).latency_s, rel=1e-5
    )
