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
    pytest.param("nnp_i_paperstyle", "resnet101", 336.7, 1269.8, 169.6, marks=pytest.mark.slow),
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


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_what_fits_only_within_the_solvers_tolerance_is_refused(seed):
    """Sizes of 10^7 bytes with a capacity a few bytes short: HiGHS alone would accept an overfull level."""
    rng = np.random.default_rng(seed)
    sizes = [int(s) for s in rng.integers(10**7, 10**7 + 50, 5)]
    ops = tuple(
        hw.Operation(
            f"op{i}", "conv", 0, size, size, i, 0, 1, (hw.Edge(i - 1, 1),) if i else (), (1, 1, 1), (1, 1, 1)
        )
        for i, size in enumerate(sizes)
    )
    work = hw.Workload(ops)
    levels = (
        hw.Level("dram", 1e9, 1e9, align_bytes=1),
        hw.Level(
            "sram", 1e10, 1e10, sorted(sizes)[0] + sorted(sizes)[1] + int(rng.integers(0, 20)), align_bytes=1
        ),
    )
    problem = hw.problem(work, hw.Chip("tight", levels, (hw.Rate(8, 8, 1e12),)))
    found = hw.optimal_placement(problem)
    assert hw.evaluate(problem, found.placement).valid
    assert found.latency_s == pytest.approx(brute_force(problem), rel=1e-5)
    assert found.lower_bound_s <= found.latency_s
    assert found.status == "optimal"


def test_times_of_picoseconds_are_solved_as_exactly_as_seconds(reference):
    """The program counts in its own unit of time, so that HiGHS's absolute tolerances mean nothing."""
    rng = np.random.default_rng(3)
    work, chip = reference.random_work(rng, 5), reference.random_chip(rng, capacity=(300, 1500))
    levels = tuple(
        dataclasses.replace(
            level,
            read_bytes_per_s=level.read_bytes_per_s * 1e6,
            write_bytes_per_s=level.write_bytes_per_s * 1e6,
            latency_s=level.latency_s / 1e6,
        )
        for level in chip.levels
    )
    quick = dataclasses.replace(
        chip, levels=levels, compute=(hw.Rate(8, 8, chip.compute[0].ops_per_s * 1e6),)
    )
    with jax.enable_x64(True):
        problem = hw.problem(work, quick)
        found = hw.optimal_placement(problem)
        assert found.latency_s == pytest.approx(brute_force(problem), rel=1e-9)
    assert found.status == "optimal"
    assert found.gap < 1e-5


def test_pinning_again_keeps_what_was_pinned_before():
    """Outputs x, a, b, c of 10, 60, 60, 10 bytes on a level of 100: b is pinned first, c later."""
    sizes = (10, 60, 60, 10)
    ops = tuple(
        hw.Operation(
            n, "add", 0, 0, 0, -1, 0, s, (hw.Edge(i - 1, sizes[i - 1]),) if i else (), (1, 1, 1), (1, 1, 1)
        )
        for i, (n, s) in enumerate(zip("xabc", sizes, strict=True))
    )
    levels = (hw.Level("dram", 1e9, 1e9, align_bytes=1), hw.Level("sram", 1e10, 1e10, 100, align_bytes=1))
    work, chip = hw.Workload(ops), hw.Chip("two", levels, (hw.Rate(8, 8, 1e12),))
    free = hw.problem(work, chip)
    once = hw.pinned(free, work, chip, {"b.output": "sram"})
    twice = hw.pinned(once, work, chip, {"c.output": "sram"})
    placed = hw.rectify(twice, np.ones((4, 2), np.int32)).placement
    np.testing.assert_array_equal(placed[:, 1], [1, 0, 1, 1])
    assert hw.evaluate(free, placed).valid
    with pytest.raises(ValueError, match="pinned already"):
        hw.pinned(twice, work, chip, {"b.output": "dram"})
    other = dataclasses.replace(chip, levels=(*levels, hw.Level("l2", 1e9, 1e9, 10)))
    with pytest.raises(ValueError, match="not that of workload"):
        hw.pinned(free, work, other, {"b.output": "sram"})


def test_bytes_beyond_32_bits_are_refused_by_name():
    """Biases count, and tied biases lie together."""
    op = hw.Operation("fc", "dense", 1, 10, 10, 0, 2**29, 4, (), (1, 1, 1), (1, 1, 1))
    levels = (hw.Level("dram", 1e9, 1e9), hw.Level("sram", 1e10, 1e10, 100))
    chip = hw.Chip("two", levels, (hw.Rate(8, 8, 1e12),))
    assert hw.problem(hw.Workload((op,)), chip).weight_bytes[0] == 10
    with pytest.raises(ValueError, match=r"'fc.weight' takes 2147483658 bytes"):
        hw.problem(hw.Workload((op,)), dataclasses.replace(chip, count_bias=True))
    with pytest.raises(ValueError, match="at most 32768 operations"):
        hw.workload_arrays(hw.Workload((op,)), nodes=2**15 + 1)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
@pytest.mark.long
def test_neither_padding_nor_the_order_in_a_file_changes_a_result(reference, seed):
    """Operations listed in another order are put into execution order; times follow the names."""
    rng, n, extra = np.random.default_rng(seed), 10, 6
    work, chip = reference.random_work(rng, n, shared=False), reference.random_chip(rng)
    mixed = rng.permutation(n)
    where = {int(old): new for new, old in enumerate(mixed)}
    listed = [
        dataclasses.replace(
            work.operations[old],
            parents=tuple(hw.Edge(where[e.producer], e.elems) for e in work.operations[old].parents),
            w_id=where[int(old)] if work.operations[old].w_id >= 0 else -1,
        )
        for old in mixed
    ]
    again = hw.Workload(tuple(hw.in_execution_order(listed)))
    position = {op.name: i for i, op in enumerate(again.operations)}
    wishes = reference.random_placements(rng, 10, n, 3)
    moved = np.zeros((10, n + extra, 2), np.int32)
    for i, op in enumerate(work.operations):
        moved[:, position[op.name]] = wishes[:, i]
    before = hw.latency(hw.problem(work, chip), wishes)
    after = hw.latency(hw.problem(again, chip, nodes=n + extra), moved)
    np.testing.assert_allclose(before, after, rtol=2e-6)


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


@pytest.mark.long
@pytest.mark.parametrize(("name", "network", "optimum", "dram", "compute"), SPEC)
def test_published_regression_values(name, network, optimum, dram, compute):
    """To all printed digits in the order above; ours, torchvision's, differs by at most 0.1 %."""
    chip = hw.load_chip(name, warn=False)
    chip = dataclasses.replace(
        chip, levels=tuple(dataclasses.replace(level, align_bytes=1) for level in chip.levels)
    )
    work = hw.zoo.by_name(network)
    for order, tolerance in ((shortcut_before_last(work), 2e-4), (work, 1e-3)):
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


@pytest.mark.long
def test_a_time_limit_still_gives_a_placement_and_a_bound(reference):
    rng = np.random.default_rng(1)
    problem = hw.problem(reference.random_work(rng, 80), reference.random_chip(rng, capacity=(2000, 6000)))
    found = hw.optimal_placement(problem, time_limit_s=0.05)
    assert hw.evaluate(problem, found.placement).valid
    assert 0 < found.lower_bound_s <= found.latency_s
    assert found.gap >= 0


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), level=st.integers(0, 2), factor=st.floats(1.0, 8.0))
@pytest.mark.long
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
@pytest.mark.long
def test_fewer_bits_never_slow_a_fixed_placement(reference, seed, bits):
    rng = np.random.default_rng(seed)
    work, chip = reference.random_work(rng, 6), reference.random_chip(rng)
    wishes = jnp.asarray(reference.random_placements(rng, 20, 6, 3))
    full = hw.latency(hw.problem(work, chip), wishes)
    assert (hw.latency(hw.problem(work, chip, hw.Bits(*bits)), wishes) <= full * (1 + 1e-6)).all()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
@pytest.mark.long
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
