"""Packing of buffers: every solver against brute force over all integer offsets, and the public instances."""

import itertools

import numpy as np
import pytest

from hwmodel.addresses import (
    Buffer,
    cpsat,
    faults,
    greedy,
    lower_bound,
    lowest,
    pack,
    read_minimalloc,
    search,
)
from hwmodel.addresses.task import split

pytest.importorskip("omnimalloc", reason="needs frugaljax[addresses]")
pytest.importorskip("ortools", reason="needs frugaljax[addresses]")

CAPACITY = 1_048_576
TRUE_BOUND = dict.fromkeys("ABEFGHIK", CAPACITY) | {"C": 1_039_360, "D": 986_112, "J": 989_184}
FRAGMENTED = [
    Buffer(f"b{i}", *row)
    for i, row in enumerate(
        [
            (0, 1, 5),
            (0, 3, 1),
            (1, 4, 2),
            (0, 4, 5),
            (0, 5, 1),
            (5, 6, 3),
            (3, 6, 3),
            (1, 7, 1),
            (5, 10, 4),
            (6, 10, 6),
        ]
    )
]
EXAMPLE = (("a", 0, 3, 4), ("b", 3, 9, 4), ("c", 0, 9, 4), ("d", 9, 21, 4), ("e", 0, 21, 4))


def random_buffers(seed, n=5, fix=False):
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        lower = int(rng.integers(0, 5))
        upper = lower + int(rng.integers(1, 4))
        offset = 2 if fix and i == n - 1 else None
        found.append(Buffer(f"b{i}", lower, upper, int(rng.integers(1, 4)), offset))
    return found


def full_house(seed):
    """Every byte of 12 is held at every step: who dies leaves its bytes to new buffers of other sizes."""
    rng = np.random.default_rng(seed)
    alive, found, free = [], [], 12
    for step in range(10):
        while free:
            size = int(rng.integers(1, min(free, 6) + 1))
            alive.append((step, size))
            free -= size
        for i in reversed([i for i in range(len(alive)) if rng.random() < 0.3]):
            lower, size = alive.pop(i)
            found.append((lower, step + 1, size))
            free += size
    found += [(lower, 10, size) for lower, size in alive]
    return [Buffer(f"b{i}", *row) for i, row in enumerate(found)]


def brute_force_height(buffers):
    """The lowest height over all assignments of whole offsets; plain loops."""

    def rest_fits(height, offsets):
        if len(offsets) == len(buffers):
            return True
        b = buffers[len(offsets)]
        for x in range(height - b.size + 1) if b.offset is None else [b.offset]:
            free = x + b.size <= height and not any(
                a.lower < b.upper and b.lower < a.upper and y < x + b.size and x < y + a.size
                for a, y in zip(buffers, offsets, strict=False)
            )
            if free and rest_fits(height, [*offsets, x]):
                return True
        return False

    return next(height for height in itertools.count(1) if rest_fits(height, []))


def solve_all(solve, buffers, capacity):
    """Offsets of all parts, or None where a part has none; a miss must be proven."""
    tasks, unit = split(buffers, capacity)
    offsets = [0] * len(buffers)
    for task in tasks:
        answer = solve(task, 20.0, 0)
        if answer.offsets is None:
            assert answer.bound > task.capacity
            return None
        for i, at in zip(task.index, answer.offsets, strict=True):
            offsets[i] = at * unit
    return offsets


@pytest.mark.parametrize("fix", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_search_fits_exactly_where_brute_force_does(seed, fix):
    buffers = random_buffers(seed, fix=fix)
    least = brute_force_height(buffers)
    assert least >= lower_bound(buffers)
    for capacity in range(1, least + 3):
        offsets = solve_all(search.solve, buffers, capacity)
        assert (offsets is not None) == (capacity >= least)
        if offsets is not None:
            assert faults(buffers, offsets, capacity) == []


@pytest.mark.parametrize("fix", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_cpsat_fits_exactly_where_brute_force_does(seed, fix):
    buffers = random_buffers(seed, fix=fix)
    least = brute_force_height(buffers)
    for capacity in (least - 1, least):
        offsets = solve_all(cpsat.solve, buffers, capacity)
        assert (offsets is not None) == (capacity >= least)
        if offsets is not None:
            assert faults(buffers, offsets, capacity) == []


@pytest.mark.parametrize("seed", [20, 44, 50, *range(8)])
def test_search_and_cpsat_agree_on_full_houses(seed):
    buffers = full_house(seed)
    assert lower_bound(buffers) == 12
    ours, theirs = (solve_all(solve, buffers, 12) for solve in (search.solve, cpsat.solve))
    assert (ours is None) == (theirs is None) == (seed in (20, 44, 50))
    if ours is not None:
        assert faults(buffers, ours, 12) == []


@pytest.mark.parametrize("fix", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_greedy_packings_are_valid(seed, fix):
    buffers = random_buffers(seed, n=12, fix=fix)
    offsets = [0] * len(buffers)
    tasks, unit = split(buffers, 1)
    for task in tasks:
        for i, at in zip(task.index, greedy.solve(task).offsets, strict=True):
            offsets[i] = at * unit
    assert faults(buffers, offsets) == []


@pytest.mark.parametrize("seed", range(8))
def test_lowest_equals_brute_force(seed):
    buffers = random_buffers(100 + seed)
    found = lowest(buffers, time_limit_s=20.0)
    assert found.height == found.bound == brute_force_height(buffers)
    assert found.status == "optimal"


def test_pack_says_how_it_went():
    buffers = [Buffer(*row) for row in EXAMPLE]
    fits, optimal, failed = (pack(buffers, capacity) for capacity in (40, 12, 11))
    assert (fits.height, optimal.height) == (12, 12)
    assert (optimal.status, failed.status) == ("optimal", "failed")
    assert failed.bound == 12 > 11
    assert faults(buffers, failed.offsets) == []  # a packing all the same, only too high
    assert pack([], 5).height == 0
    assert pack(buffers, None).status == "optimal"


@pytest.mark.parametrize("solver", ["search", "cpsat"])
def test_a_proof_that_nothing_fits_raises_the_bound(solver):
    """Never more than 12 bytes are alive, and yet 12 do not suffice."""
    assert lower_bound(FRAGMENTED) == 12
    assert brute_force_height(FRAGMENTED) == 13
    found = pack(FRAGMENTED, 12, solvers=(solver,), time_limit_s=60.0)
    assert (found.status, found.bound, found.solver) == ("failed", 13, solver)
    assert lowest(FRAGMENTED, time_limit_s=60.0).height == 13


@pytest.mark.parametrize("align", [1, 4, 64])
def test_offsets_are_aligned_and_each_buffer_takes_full_units(align):
    rng = np.random.default_rng(align)
    buffers = [Buffer(f"b{i}", i, i + 3, int(rng.integers(1, 200))) for i in range(20)]
    found = pack(buffers, 10_000, align)
    assert faults(buffers, found.offsets, 10_000, align) == []
    assert found.height % align == 0
    assert all(at % align == 0 for at in found.offsets)


def test_fixed_offsets_stay():
    buffers = [Buffer("in", 0, 4, 8, 16), Buffer("x", 1, 3, 16), Buffer("y", 2, 6, 8)]
    found = pack(buffers, 32, 8)
    assert found.offsets[0] == 16
    assert faults(buffers, found.offsets, 32, 8) == []


@pytest.mark.parametrize(
    ("offsets", "capacity", "align", "says"),
    [
        ((0, 0), None, 1, "overlap from step 1"),
        ((0, 3), None, 1, "overlap"),
        ((0, 4), 7, 1, "above the capacity 7"),
        ((0, 6), None, 4, "not a multiple of 4"),
        ((0, -4), None, 1, "no whole number"),
        ((0,), None, 1, "1 offsets for 2 buffers"),
    ],
)
def test_the_validator_finds_each_fault(offsets, capacity, align, says):
    buffers = [Buffer("a", 0, 2, 4), Buffer("b", 1, 3, 4)]
    assert any(says in fault for fault in faults(buffers, offsets, capacity, align))
    assert faults(buffers, (0, 4), 8, 4) == []


def test_the_validator_sees_a_moved_pin_and_lets_touching_lifetimes_share():
    assert "fixed at 8" in faults([Buffer("a", 0, 2, 4, 8)], (0,))[0]
    assert faults([Buffer("a", 0, 2, 4), Buffer("b", 2, 3, 4)], (0, 0), 4) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (("a", 2, 2, 4), "upper must be greater than lower"),
        (("a", 0, 2, 0), "size must be at least 1"),
        (("a", 0, 2, -3), "size must be at least 1"),
        (("a", 0, 2, 4, -1), "offset must be at least 0"),
    ],
)
def test_bad_buffers_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        Buffer(*fields)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"capacity": 0}, "capacity must be"),
        ({"align": 0}, "align must be"),
        ({"time_limit_s": float("nan")}, "time_limit_s"),
        ({"solvers": ("magic",)}, "solvers must be of search, cpsat"),
        ({"solvers": ("search", "search")}, "once each"),
        ({"buffers": [Buffer("a", 0, 1, 1), Buffer("a", 0, 1, 1)]}, "'a' twice"),
        ({"buffers": [Buffer("a", 0, 2, 4, 0), Buffer("b", 1, 3, 4, 2)]}, "cannot stand"),
        ({"buffers": [Buffer("a", 0, 2, 4, 97)]}, "above the capacity"),
        ({"buffers": [Buffer("a", 0, 2, 4, 3)], "align": 2}, "not a multiple of 2"),
    ],
)
def test_bad_arguments_are_refused(change, says):
    arguments = {"buffers": [Buffer("a", 0, 1, 1)], "capacity": 100} | change
    with pytest.raises(ValueError, match=says):
        pack(**arguments)


def test_bounds_of_the_public_instances(data_dir):
    for name, bound in TRUE_BOUND.items():
        buffers = read_minimalloc(data_dir / "minimalloc" / f"{name}.{CAPACITY}.csv")
        assert lower_bound(buffers) == bound


def test_the_published_example_has_height_12(data_dir):
    assert pack(read_minimalloc(data_dir / "minimalloc" / "input.12.csv"), 12).status == "optimal"


@pytest.mark.parametrize("name", [pytest.param("B", marks=pytest.mark.slow), *"CFGHJK"])
def test_quick_public_instances_fit(data_dir, name):
    buffers = read_minimalloc(data_dir / "minimalloc" / f"{name}.{CAPACITY}.csv")
    found = pack(buffers, CAPACITY, time_limit_s=120.0)
    assert found.status in ("optimal", "fits")
    assert found.solver == "search"


@pytest.mark.slow
@pytest.mark.parametrize("name", "ADE")
def test_slower_public_instances_fit(data_dir, name):
    buffers = read_minimalloc(data_dir / "minimalloc" / f"{name}.{CAPACITY}.csv")
    assert pack(buffers, CAPACITY, time_limit_s=180.0, solvers=("search",)).status in ("optimal", "fits")


@pytest.mark.slow
@pytest.mark.parametrize("name", "BFGHKCE")
def test_cpsat_fits_the_instances_that_it_can(data_dir, name):
    buffers = read_minimalloc(data_dir / "minimalloc" / f"{name}.{CAPACITY}.csv")
    assert pack(buffers, CAPACITY, time_limit_s=300.0, solvers=("cpsat",)).status in ("optimal", "fits")
