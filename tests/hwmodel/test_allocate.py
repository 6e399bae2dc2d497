"""Addresses of placed networks: against a plain check of all pairs, and of every published network here."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from hwmodel.addresses import allocate, min_capacity
from hwmodel.baselines import banked_greedy, density, first_fit
from hwmodel.chip import Chip, Level, Rate
from hwmodel.chips.file import load_chip
from hwmodel.problem import problem
from hwmodel.tensors import tensors
from hwmodel.workload import Edge, Operation, Workload
from hwmodel.zoo import NAMES, by_name

pytest.importorskip("omnimalloc", reason="needs frugaljax[addresses]")
pytest.importorskip("ortools", reason="needs frugaljax[addresses]")

UNIT = 64
DRAM = Level("dram", 1e9, 5e8)
RATES = (Rate(8, 8, 1e12),)
# Twelve units are alive at most, and yet they cannot be packed into twelve (see test_addresses.py).
FRAGMENTED = (
    (0, 1, 5), (0, 3, 1), (1, 4, 2), (0, 4, 5), (0, 5, 1),
    (5, 6, 3), (3, 6, 3), (1, 7, 1), (5, 10, 4), (6, 10, 6),
)  # fmt: skip


def operation(i, weights, outputs, readers_of, is_output=False):
    return Operation(
        f"op{i}", "conv", 10, weights, weights, i, 0, outputs,
        tuple(Edge(p, elems) for p, elems in readers_of), (1, 1, 1), (1, 1, 1), is_output=is_output,
    )  # fmt: skip


def network_of(spans, weights=0):
    """Operation i makes the i-th born buffer; its last reader is the last one born before it dies."""
    born = sorted(spans)
    reads = [[] for _ in born]
    for i, (_, upper, size) in enumerate(born):
        last = max(j for j, (lower, _, _) in enumerate(born) if lower < upper)
        if last > i:
            reads[last].append((i, size * UNIT))
    return Workload(
        tuple(operation(i, weights, size * UNIT, reads[i]) for i, (_, _, size) in enumerate(born)), name="net"
    )


def random_network(seed, n=12):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 400, n)
    ops = []
    for i in range(n):
        parents = sorted({int(p) for p in rng.integers(0, i, 2)}) if i else []
        edges = [(p, int(sizes[p])) for p in parents]
        ops.append(operation(i, int(rng.integers(0, 300)), int(sizes[i]), edges, i == n - 1))
    return Workload(tuple(ops), name=f"random{seed}")


def chip_of(capacity, **options):
    sram = Level("sram", 1e10, 1e10, capacity_bytes=capacity, align_bytes=options.pop("align_bytes", UNIT))
    return Chip(name="two", levels=(DRAM, sram), compute=RATES, **options)


def check_addresses(allocation, workload, chip):
    """All pairs, all capacities, all rows; plain Python."""
    expected = {t.name: t for t in tensors(workload, count_bias=chip.count_bias)}
    assert [a.name for a in allocation.addresses] == list(expected)
    ends = {}
    for a in allocation.addresses:
        t, level = expected[a.name], chip.levels[chip.level_index(a.level)]
        assert (a.bytes, a.birth, a.death) == (t.bytes, t.birth, t.death)
        assert chip.level_names[allocation.placement[t.operation, t.column]] == a.level
        assert a.offset % level.align_bytes == 0
        step = -(-a.bytes // level.align_bytes) * level.align_bytes
        ends[a.name] = a.offset + step * (a.copies - 1) + a.bytes
        if level.capacity_bytes is not None:
            assert ends[a.name] <= level.capacity_bytes - level.reserved_bytes
    for a, b in combinations(allocation.addresses, 2):
        if a.level == b.level and a.birth <= b.death and b.birth <= a.death:
            assert ends[a.name] <= b.offset or ends[b.name] <= a.offset, (a, b)


@pytest.mark.long
@pytest.mark.parametrize("double_buffer", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_random_networks_get_valid_addresses(seed, double_buffer):
    workload = random_network(seed)
    align = [1, 16, 64][seed % 3]
    sram = Level("sram", 1e10, 1e10, capacity_bytes=9000, align_bytes=align, reserved_bytes=500)
    chip = Chip(name="two", levels=(DRAM, sram), compute=RATES, double_buffer=double_buffer)
    placement = first_fit(problem(workload, chip))
    allocation = allocate(workload, chip, placement, time_limit_s=5.0)
    check_addresses(allocation, workload, chip)
    assert allocation.demoted == ()
    np.testing.assert_array_equal(allocation.placement, placement)
    use = allocation.levels[1]
    weights = [a for a in allocation.addresses if a.level == "sram" and a.name.endswith(".weight")]
    copies = 2 if double_buffer else 1
    assert use.weight_bytes == sum(-(-a.bytes // align) * align * copies for a in weights)
    assert use.capacity_bytes == 8500 // align * align
    assert use.height_bytes <= use.capacity_bytes


def test_weights_lie_below_outputs():
    workload = random_network(0)
    chip = chip_of(1 << 16)
    allocation = allocate(workload, chip, np.ones((12, 2), np.int64))
    below = allocation.levels[1].weight_bytes
    for a in allocation.addresses:
        assert (a.offset < below) == a.name.endswith(".weight")


def test_what_cannot_be_packed_is_demoted_cheapest_first():
    workload, chip = network_of(FRAGMENTED), chip_of(12 * UNIT)
    allocation = allocate(workload, chip, np.ones((10, 2), np.int64))
    check_addresses(allocation, workload, chip)
    assert len(allocation.demoted) >= 1
    assert int((allocation.placement[:, 1] == 0).sum()) == len(allocation.demoted)
    first = allocation.demoted[0]
    assert (first.from_level, first.to_level) == ("sram", "dram")
    saved = {}  # per byte, from the formula: one write and all reads
    for i, op in enumerate(workload.operations):
        read = sum(e.elems for other in workload.operations for e in other.parents if e.producer == i)
        saved[f"op{i}.output"] = (
            op.o_elems * (1 / 5e8 - 1 / 1e10) + read * (1 / 1e9 - 1 / 1e10)
        ) / op.o_elems
    name = first.name
    assert saved[name] == pytest.approx(min(saved.values()))
    assert first.saved_s == pytest.approx(saved[name] * first.bytes)
    assert name in allocation.report()
    assert "demoted" in allocation.report()


def test_pinned_tensors_stay_and_all_pinned_is_an_error():
    workload, chip = network_of(FRAGMENTED), chip_of(12 * UNIT)
    every = {f"op{i}.output": "sram" for i in range(10)}
    top = np.ones((10, 2), np.int64)
    free = allocate(workload, chip, top).demoted[0].name
    others = {name: level for name, level in every.items() if name != free}
    assert [d.name for d in allocate(workload, chip, top, pins=others).demoted] == [free]
    with pytest.raises(ValueError, match=r"'sram' cannot be packed into 768 bytes .* pinned"):
        allocate(workload, chip, top, pins=every)


def test_a_demoted_tensor_skips_a_full_level():
    """The middle level holds weights to the brim, so the backing store takes what leaves the top."""
    workload = network_of(FRAGMENTED, weights=UNIT)
    middle = Level("llc", 5e9, 5e9, capacity_bytes=10 * UNIT)
    top = Level("sram", 1e10, 1e10, capacity_bytes=12 * UNIT)
    chip = Chip(name="three", levels=(DRAM, middle, top), compute=RATES)
    allocation = allocate(workload, chip, np.array([[1, 2]] * 10))
    check_addresses(allocation, workload, chip)
    assert {(d.from_level, d.to_level) for d in allocation.demoted} == {("sram", "dram")}


def test_a_backing_store_that_cannot_be_packed_is_an_error():
    workload = network_of(FRAGMENTED)
    dram = replace(DRAM, capacity_bytes=12 * UNIT)
    chip = Chip(name="two", levels=(dram, chip_of(UNIT).levels[1]), compute=RATES)
    with pytest.raises(ValueError, match=r"'dram' cannot be packed .* enlarge it"):
        allocate(workload, chip, np.zeros((10, 2), np.int64))


@pytest.mark.parametrize(
    ("placement", "pins", "says"),
    [
        (np.ones((9, 2), np.int64), {}, r"whole numbers of shape \(10, 2\).*of shape \(9, 2\)"),
        (np.full((10, 2), 2), {}, r"on level -?\d; chip 'two' has 0 to 1"),
        (np.full((10, 2), -1), {}, r"on level -?\d; chip 'two' has 0 to 1"),
        (np.zeros((10, 2), np.int64), {"op0.output": "sram"}, "pinned to 'sram', but placed on 'dram'"),
        (np.zeros((10, 2), np.int64), {"op99.output": "sram"}, "no tensor 'op99.output'"),
        (
            np.ones((10, 2), np.int64),
            {},
            "must hold 768 bytes .* room for 704: rectify",
        ),
    ],
)
def test_bad_placements_are_refused(placement, pins, says):
    with pytest.raises(ValueError, match=says):
        allocate(network_of(FRAGMENTED), chip_of(11 * UNIT), placement, pins=pins)


def test_min_capacity_is_the_least_that_packs():
    workload = network_of(FRAGMENTED, weights=UNIT)
    found = min_capacity(workload, chip_of(100), "sram")
    assert (found.bytes, found.bound_bytes, found.weight_bytes) == (23 * UNIT, 23 * UNIT, 10 * UNIT)
    placement = np.ones((10, 2), np.int64)
    assert allocate(workload, chip_of(found.bytes), placement).demoted == ()
    assert len(allocate(workload, chip_of(found.bytes - UNIT), placement).demoted) >= 1
    weights_only = np.array([[1, 0]] * 10)
    assert min_capacity(workload, chip_of(100), "sram", weights_only).bytes == 10 * UNIT
    with pytest.raises(ValueError, match="has levels"):
        min_capacity(workload, chip_of(100), "tcm")


def check_network(name, chip_name, rule):
    workload, chip = by_name(name), load_chip(chip_name, warn=False)
    allocation = allocate(workload, chip, rule(problem(workload, chip)), time_limit_s=60.0)
    assert allocation.demoted == ()
    check_addresses(allocation, workload, chip)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_network_here_packs_without_a_demotion(name):
    check_network(name, "nnp_i_tight", density)


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["nnp_i_tight", "nnp_i_paperstyle", "nnp_i_one_ice"])
@pytest.mark.parametrize("rule", [first_fit, density, banked_greedy])
@pytest.mark.parametrize("name", NAMES)
def test_every_network_here_packs_by_every_rule_on_more_chips(name, rule, chip):
    check_network(name, chip, rule)


def test_nothing_is_demoted_to_a_level_that_is_forbidden_to_it():
    workload, chip = network_of(FRAGMENTED), chip_of(12 * UNIT)
    dram, sram = chip.levels
    between = replace(sram, name="between", capacity_bytes=100 * UNIT)
    chip = replace(chip, levels=(dram, between, sram))
    top = np.full((10, 2), 2)
    free = allocate(workload, chip, top).demoted
    assert {d.to_level for d in free} == {"between"}
    one = free[0].name
    found = allocate(workload, chip, top, forbidden={one: ["between"]}).demoted
    assert {d.name: d.to_level for d in found}.get(one, "dram") == "dram"
    every = {f"op{i}.output": ["between"] for i in range(10)}
    found = allocate(workload, chip, top, forbidden=every).demoted
    assert {d.to_level for d in found} == {"dram"}
