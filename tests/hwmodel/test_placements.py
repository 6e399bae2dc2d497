"""Rectification and latency against the integer model of reference.py, and what must hold of them anyway."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hwmodel as hw

OPTIONS = [
    {},
    {"overlap": 0.0},
    {"overlap": 0.25, "move_cost": True},
    {"external_io": "level1", "double_buffer": True},
]


def chain(*sizes, weights=None, macs=0):
    """Operations in a row with the given output sizes."""
    weights = weights or [0] * len(sizes)
    ops = [
        hw.Operation(
            name=f"op{i}", kind="conv", macs=macs, w_elems=w, w_reads=w, w_id=i if w else -1, bias_elems=0,
            o_elems=o, parents=(hw.Edge(i - 1, sizes[i - 1]),) if i else (), ifm=(1, 1, 1), ofm=(1, 1, 1),
            ext_in=0 if i else 7, is_output=i == len(sizes) - 1,
        )
        for i, (o, w) in enumerate(zip(sizes, weights, strict=True))
    ]  # fmt: skip
    return hw.Workload(tuple(ops))


def two_levels(capacity=100, slow=1e9, fast=1e10, **options):
    levels = (
        hw.Level("dram", slow, slow, align_bytes=1),
        hw.Level("sram", fast, fast, capacity_bytes=capacity, align_bytes=1),
    )
    return hw.Chip("two", levels, (hw.Rate(8, 8, 1e12),), **options)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_evaluate_equals_the_integer_model(reference, seed, options):
    rng = np.random.default_rng(seed)
    work = reference.random_work(rng, int(rng.integers(2, 40)))
    chip = reference.random_chip(rng, levels=2 + seed % 3, **options)
    n = len(work.operations)
    wishes = reference.random_placements(rng, 40, n, len(chip.levels))
    with jax.enable_x64(True):
        problem = hw.problem(work, chip, nodes=40)  # one shape for all cases
        found = jax.tree.map(np.asarray, hw.evaluate(problem, padded(wishes, 40)))
        chained = hw.latency(problem, found.placement, "critical_path")
        wished = hw.latency(problem, padded(wishes, 40))
    all_bytes = sum(t.bytes for t in hw.tensors(work))
    for m, wish in enumerate(wishes):
        granted, moved = reference.rectify(work, chip, wish)
        np.testing.assert_array_equal(found.placement[m, :n], granted)
        assert float(found.moved[m]) * all_bytes == pytest.approx(moved, abs=1e-6)
        assert bool(found.valid[m]) == (moved == 0)
        np.testing.assert_allclose(found.latency_s[m], reference.latency_s(work, chip, granted), rtol=1e-12)
        np.testing.assert_allclose(chained[m], reference.critical_path_s(work, chip, granted), rtol=1e-12)
        np.testing.assert_allclose(wished[m], reference.latency_s(work, chip, wish), rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_rectification_is_idempotent_feasible_and_the_identity_on_feasible_placements(reference, seed):
    rng = np.random.default_rng(seed)
    work, chip = reference.random_work(rng, 25), reference.random_chip(rng)
    problem = hw.problem(work, chip)
    once = hw.rectify(problem, jnp.asarray(reference.random_placements(rng, 200, 25, 3)))
    again = hw.rectify(problem, once.placement)
    np.testing.assert_array_equal(once.placement, again.placement)
    assert again.valid.all()
    assert not np.asarray(again.moved).any()
    assert ((once.moved >= 0) & (once.moved <= 1)).all()
    assert not once.valid.all()
    for wish in np.asarray(once.placement[:20]):
        granted, moved = reference.rectify(work, chip, wish)
        assert moved == 0
        np.testing.assert_array_equal(granted, wish)


def test_float32_keeps_bytes_exact_and_times_to_a_millionth(reference):
    rng = np.random.default_rng(0)
    work, chip = reference.random_work(rng, 60), reference.random_chip(rng)
    wishes = reference.random_placements(rng, 100, 60, 3)
    found = hw.evaluate(hw.problem(work, chip), jnp.asarray(wishes))
    assert found.latency_s.dtype == jnp.float32
    for m, wish in enumerate(wishes):
        granted, _ = reference.rectify(work, chip, wish)
        np.testing.assert_array_equal(found.placement[m], granted)
        np.testing.assert_allclose(found.latency_s[m], reference.latency_s(work, chip, granted), rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("schedule", ["sequential", "critical_path"])
def test_padding_batching_and_jit_change_nothing(reference, schedule):
    rng = np.random.default_rng(3)
    work, chip = reference.random_work(rng, 20), reference.random_chip(rng)
    wishes = jnp.asarray(reference.random_placements(rng, 16, 20, 3))
    plain, wide = hw.problem(work, chip), hw.problem(work, chip, nodes=32)
    batch = hw.evaluate(plain, wishes, schedule)
    jitted = jax.jit(hw.evaluate, static_argnums=2)(wide, padded(wishes, 32), schedule)
    single = jax.tree.map(lambda *x: jnp.stack(x), *[hw.evaluate(plain, w, schedule) for w in wishes])
    np.testing.assert_array_equal(batch.placement, jitted.placement[:, :20])
    np.testing.assert_array_equal(batch.placement, single.placement)
    for other in (jitted, single):
        np.testing.assert_allclose(batch.latency_s, other.latency_s, rtol=1e-6)
        np.testing.assert_allclose(batch.moved, other.moved, rtol=1e-6)
        np.testing.assert_array_equal(batch.valid, other.valid)


@pytest.mark.long
def test_one_program_serves_many_chips_bit_widths_and_placements(reference):
    rng = np.random.default_rng(4)
    work = reference.random_work(rng, 15)
    chips = [reference.random_chip(rng) for _ in range(3)]
    wishes = jnp.asarray(reference.random_placements(rng, 8, 15, 3))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(hw.chip_arrays, chips))
    traces = 0

    def run(chip, w_bits):
        nonlocal traces
        traces += 1
        problem = hw.problem_from_arrays(hw.workload_arrays(work), chip, hw.Bits(w_bits, 4, 8))
        return hw.evaluate(problem, wishes).latency_s

    widths = jnp.asarray(rng.integers(2, 9, (2, 15)), jnp.int32)
    found = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(stacked, widths)
    assert found.shape == (3, 2, 8)
    assert traces == 1
    for c, chip in enumerate(chips):
        for b in range(2):
            alone = hw.evaluate(hw.problem(work, chip, hw.Bits(np.asarray(widths[b]), 4, 8)), wishes)
            np.testing.assert_allclose(found[c, b], alone.latency_s, rtol=1e-6)


@pytest.mark.long
def test_one_compilation_per_bucket():
    chip, traces = two_levels(), 0

    @jax.jit
    def run(problem, wishes):
        nonlocal traces
        traces += 1
        return hw.evaluate(problem, wishes).latency_s

    for name in ("mobilenet_v2", "resnet50", "efficientnet_lite0"):
        problem = hw.problem(hw.zoo.by_name(name), chip, nodes=64)
        run(problem, jnp.zeros((4, 64, 2), jnp.int32))
    assert traces == 1


def test_many_releases_at_once_and_many_alive_at_once():
    """40 branches that end in one operation: the tables of slots and releases must be as wide as that."""
    branches = [
        hw.Operation(f"b{i}", "add", 0, 0, 0, -1, 0, 10, (hw.Edge(0, 5),) if i else (), (1, 1, 1), (1, 1, 1))
        for i in range(40)
    ]
    join = hw.Operation(
        "join", "add", 0, 0, 0, -1, 0, 10, tuple(hw.Edge(i, 10) for i in range(40)), (1, 1, 1), (1, 1, 1)
    )
    last = hw.Operation("last", "add", 0, 0, 0, -1, 0, 400, (hw.Edge(40, 10),), (1, 1, 1), (1, 1, 1))
    work = hw.Workload((*branches, join, last))
    for capacity, branches_in, rest in ((400, 40, [0, 1]), (200, 20, [0, 0]), (410, 40, [1, 1])):
        found = hw.evaluate(hw.problem(work, two_levels(capacity)), jnp.ones((42, 2), jnp.int32))
        np.testing.assert_array_equal(
            found.placement[:, 1], [1] * branches_in + [0] * (40 - branches_in) + rest
        )


def test_a_chain_by_hand():
    """1000 B/µs and 10000 B/µs; three outputs of 50 B, room for 100: all three alive pairwise fit."""
    work, chip = chain(50, 50, 50), two_levels(100)
    found = hw.evaluate(hw.problem(work, chip), jnp.ones((3, 2), jnp.int32))
    np.testing.assert_array_equal(found.placement[:, 1], [1, 1, 1])
    np.testing.assert_allclose(found.latency_s, (50 + 100 + 100) / 1e10, rtol=1e-6)
    tight = hw.evaluate(hw.problem(work, two_levels(99)), jnp.ones((3, 2), jnp.int32))
    np.testing.assert_array_equal(tight.placement[:, 1], [1, 0, 1])
    np.testing.assert_allclose(tight.moved, 50 / 150, rtol=1e-6)
    np.testing.assert_allclose(tight.latency_s, 50 / 1e10 + 50 / 1e9 + 50 / 1e9, rtol=1e-6)


def test_timeloops_worked_example():
    """NVlabs/timeloop#273: 100 B at 5 B/cycle, 1000 B at 20, 10,000 MACs at 1000: 20, 50, 10, so 50."""
    first = chain(1000, weights=[100], macs=10_000)
    levels = (hw.Level("a", 5.0, 5.0, align_bytes=1), hw.Level("b", 20.0, 20.0, 10_000, align_bytes=1))
    chip = hw.Chip("example", levels, (hw.Rate(8, 8, 2000.0),))
    assert float(hw.latency(hw.problem(first, chip), jnp.array([[0, 1]], jnp.int32))) == 50


def test_shared_and_dual_ports_and_overlap():
    work = chain(100, 100)
    slow = two_levels(1000)
    dual = dataclasses.replace(
        slow, levels=tuple(dataclasses.replace(level, ports="dual") for level in slow.levels)
    )
    none = jnp.zeros((2, 2), jnp.int32)
    np.testing.assert_allclose(hw.latency(hw.problem(work, slow), none), 300 / 1e9, rtol=1e-6)
    np.testing.assert_allclose(hw.latency(hw.problem(work, dual), none), 200 / 1e9, rtol=1e-6)
    busy = chain(100, 100, macs=50_000)  # 0.1 µs of compute each
    serial = dataclasses.replace(slow, overlap=0.0)
    np.testing.assert_allclose(hw.latency(hw.problem(busy, serial), none), 0.3e-6 + 0.2e-6, rtol=1e-6)


def test_bits_change_bytes_and_rates_and_nothing_else():
    work = chain(1000, 1000, weights=[1000, 1000], macs=10**6)
    chip = two_levels(10**6)
    faster = dataclasses.replace(chip, compute=(hw.Rate(8, 8, 1e12), hw.Rate(4, 4, 4e12)))
    on_chip = jnp.ones((2, 2), jnp.int32)

    def seconds(chip, w, o, i=8):
        return float(hw.latency(hw.problem(work, chip, hw.Bits(w, o, i)), on_chip))

    assert seconds(chip, 8, 8) == pytest.approx(4e-6)  # bound by compute
    assert seconds(chip, 4, 4) == pytest.approx(4e-6)  # the chip has no faster unit for it
    assert seconds(faster, 4, 4) == pytest.approx(2e-6 + 0.5e-6)  # the first operation reads 8-bit inputs
    assert seconds(faster, 4, 4, 4) == pytest.approx(1e-6)
    assert seconds(faster, 4, 8) == pytest.approx(4e-6)
    with pytest.raises(ValueError, match=r"'op0'.*1x1|8x8"):
        seconds(chip, 9, 8)


def test_an_operation_without_a_rate_takes_forever_in_the_traced_form():
    work, chip = chain(10, 10, weights=[5, 5], macs=3), two_levels()
    problem = hw.problem_from_arrays(hw.workload_arrays(work), hw.chip_arrays(chip), hw.Bits(16, 8, 8))
    found = hw.evaluate(problem, jnp.zeros((3, 2, 2), jnp.int32))
    assert np.isposinf(found.latency_s).all()


@pytest.mark.long
def test_three_gibibytes_and_a_slow_level_do_not_overflow():
    """48 weights of 64 MiB on a 50 MB/s store; a level of 2 GiB above it, counted in 64 bytes."""
    work = chain(*[64] * 48, weights=[64 * 2**20] * 48)
    levels = (
        hw.Level("flash", 50e6, 50e6, capacity_bytes=4 * 2**30),
        hw.Level("dram", 1e9, 1e9, capacity_bytes=2 * 2**30),
    )
    chip = hw.Chip("big", levels, (hw.Rate(8, 8, 1e12),))
    found = hw.evaluate(hw.problem(work, chip), jnp.ones((2, 48, 2), jnp.int32))
    np.testing.assert_array_equal(found.placement[0, :, 0], [1] * 32 + [0] * 16)
    np.testing.assert_allclose(found.moved[0], (16 * 2**26 + 64 * 48) / (48 * 2**26 + 64 * 48), rtol=1e-6)
    expected = 16 * 2**26 / 50e6 + 32 * 2**26 / 1e9
    np.testing.assert_allclose(found.latency_s[0], expected, rtol=1e-3)


def test_placements_that_are_none_are_refused():
    problem = hw.problem(chain(10, 10), two_levels())
    with pytest.raises(ValueError, match=r"shape \(2, 2\) or \(M, 2, 2\).*int32 of shape \(5, 2\)"):
        hw.latency(problem, np.zeros((5, 2), np.int32))
    with pytest.raises(ValueError, match=r"\[0, 1\], got 0 to 7"):
        hw.evaluate(problem, np.array([[0, 7], [0, 0]], np.int32))
    with pytest.raises(ValueError, match="schedule"):
        hw.latency(problem, jnp.zeros((2, 2), jnp.int32), "parallel")
    traced = hw.rectify(problem, jnp.array([[9, 9], [-3, -3]], jnp.int32))  # may be traced: the nearest level
    np.testing.assert_array_equal(traced.placement, [[1, 1], [0, 0]])


def padded(wishes, nodes):
    return np.pad(wishes, ((0, 0), (0, nodes - wishes.shape[1]), (0, 0)))
