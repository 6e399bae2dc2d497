"""Chips: what the dataclasses accept, and which rate an operation gets."""

import math

import numpy as np
import pytest

from hwmodel.chip import Chip, Level, Rate

DRAM = Level("DRAM", 1e9, 1e9)
SRAM = Level("SRAM", 1e10, 1e10, capacity_bytes=1 << 20)
RATES = (Rate(8, 8, 1e12), Rate(4, 8, 2e12), Rate(16, 16, 1e11))


def chip(**changes):
    given = {"name": "c", "levels": (DRAM, SRAM), "compute": RATES} | changes
    return Chip(**given)


def many(count):
    return (DRAM, *(Level(f"L{i}", 1e9, 1e9, capacity_bytes=64) for i in range(1, count)))


@pytest.mark.parametrize(
    ("bits", "ops"),
    [((8, 8), 1e12), ((4, 8), 2e12), ((2, 3), 2e12), ((5, 8), 1e12), ((4, 9), 1e11), ((16, 16), 1e11)],
)
def test_the_smallest_rate_that_holds_both_bit_widths(bits, ops):
    assert chip().rate(*bits).ops_per_s == ops


def test_a_pair_that_no_rate_holds_is_refused():
    with pytest.raises(ValueError, match=r"lists compute rates 8x8, 4x8, 16x16; none holds 32-bit weights"):
        chip().rate(32, 8)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("name", ["read_bytes_per_s", "write_bytes_per_s"])
def test_impossible_bandwidths(name, value):
    with pytest.raises(ValueError, match=f"level 'DRAM': {name} must be a number of"):
        Level("DRAM", **({"read_bytes_per_s": 1e9, "write_bytes_per_s": 1e9} | {name: value}))


@pytest.mark.parametrize("value", [0, -1, 2**53 + 1, True, 8.0, np.int64(0), np.float32(8), np.bool_(True)])
@pytest.mark.usefixtures("as_users_have_it")
def test_impossible_capacities(value):
    with pytest.raises(ValueError, match="level 'x': capacity_bytes must be a whole number of"):
        Level("x", 1e9, 1e9, capacity_bytes=value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": " "}, "name of a chip must be text"),
        ({"levels": (DRAM,)}, "levels must hold a backing store and at least one memory above it"),
        ({"levels": (DRAM, DRAM)}, "level names must be unique, got 'DRAM' twice"),
        (
            {"levels": (SRAM, Level("L2", 1e9, 1e9))},
            "capacity_bytes of level 'L2' is missing; only the first level",
        ),
        ({"levels": ("a", "b")}, r"levels\[0\] must be a Level, got 'a'"),
        ({"levels": "ab"}, "levels must be a tuple of Level, got 'ab'"),
        ({"compute": (RATES[0], 8)}, r"compute\[1\] must be a Rate, got 8"),
        ({"levels": many(128)}, "chip 'c': levels must be at most 127, got 128"),
        ({"compute": ()}, "compute must list at least one rate"),
        ({"compute": RATES[:1] * 2}, r"lists the pair of bit-widths \(8, 8\) twice"),
        ({"overlap": 1.5}, r"overlap must be a number of \[0, 1\], got 1.5"),
        ({"overlap": math.nan}, "overlap must be a number"),
        ({"external_io": "LLC"}, r"external_io must be one of \('DRAM', 'SRAM'\), got 'LLC'"),
        ({"efficiency": (("conv2d", 0.5),)}, "efficiency names 'conv2d', which is none of conv, dwconv"),
        ({"efficiency": (("conv", 0.0),)}, "efficiency of conv must be a number"),
        ({"overhead_s": -1e-9}, "overhead_s must be a number"),
    ],
)
@pytest.mark.usefixtures("as_users_have_it")
def test_impossible_chips(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        chip(**changes)
    assert "\n" not in str(error.value)


def test_reserved_bytes_must_leave_something():
    with pytest.raises(ValueError, match="reserved_bytes 4096 leaves nothing of capacity_bytes 4096"):
        Level("SRAM", 1e9, 1e9, capacity_bytes=4096, reserved_bytes=4096)


def test_levels_by_name():
    assert chip().level_index("SRAM") == 1
    with pytest.raises(ValueError, match=r"has levels \('DRAM', 'SRAM'\), not 'sram'"):
        chip().level_index("sram")


def test_as_many_levels_as_a_placement_can_name():
    levels = chip(levels=many(127)).levels
    assert np.int8(len(levels) - 1) == 126


@pytest.mark.usefixtures("as_users_have_it")
def test_whole_numbers_of_numpy_are_stored_as_int():
    level = Level(
        "L",
        1e9,
        1e9,
        capacity_bytes=np.int64(4096),
        align_bytes=np.uint8(32),
        reserved_bytes=np.int32(128),
    )
    assert level == Level("L", 1e9, 1e9, capacity_bytes=4096, align_bytes=32, reserved_bytes=128)
    rate = Rate(np.int64(4), np.uint16(8), 1e12)
    stored = (level.capacity_bytes, level.align_bytes, level.reserved_bytes, rate.weight_bits)
    assert [type(value) for value in (*stored, rate.activation_bits)] == [int] * 5
