"""Energy: against a plain sum over operations in exact numbers of bytes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel.bits import Bits
from hwmodel.chip import Chip, Level, Rate
from hwmodel.energy import energy_j
from hwmodel.problem import problem
from hwmodel.random_graphs import random_workload
from hwmodel.report.explain import explain

N = 25
CHIP = Chip(
    name="toy",
    levels=(
        Level("slow", 1e9, 1e9, energy_j_per_byte=1e-10),
        Level("mid", 1e10, 1e10, capacity_bytes=1 << 20, energy_j_per_byte=2e-11),
        Level("fast", 1e11, 1e11, capacity_bytes=1 << 18, energy_j_per_byte=3e-12),
    ),
    compute=(Rate(8, 8, 1e12, energy_j_per_mac=2e-13), Rate(4, 8, 2e12, energy_j_per_mac=1e-13)),
    external_io="mid",
    count_bias=True,
)


def workload(seed):
    return random_workload(seed, N, 0.5, tied_probability=0.3, output_probability=0.2)


def plain_sum(work, chip, placement, w_bits, o_bits):
    """Joules, one tensor after the other; no edge of `workload` reads a part."""
    level_j = [level.energy_j_per_byte for level in chip.levels]
    total = 0.0
    for i, op in enumerate(work.operations):
        owner = op.w_id if op.w_id >= 0 else i
        small = bool(op.w_elems) and w_bits[owner] <= 4
        total += op.macs * (1e-13 if small or (not op.w_elems and o_max(work, i, o_bits) <= 4) else 2e-13)
        total += level_j[placement[owner, 0]] * -(-op.w_elems * int(w_bits[owner]) // 8)
        total += level_j[placement[i, 1]] * -(-op.o_elems * int(o_bits[i]) // 8)
        for edge in op.parents:
            made = work.operations[edge.producer].o_elems * int(o_bits[edge.producer])
            total += level_j[placement[edge.producer, 1]] * -(-made // 8)
        total += level_j[1] * op.ext_in
        total += level_j[1] * -(-op.o_elems * int(o_bits[i]) // 8) * op.is_output
    return total


def o_max(work, i, o_bits):
    """Widest input of operation i; graph inputs have 8 bits."""
    op = work.operations[i]
    return max([int(o_bits[e.producer]) for e in op.parents] + [8] * (op.ext_in > 0))


@pytest.mark.parametrize("seed", range(5))
def test_energy_is_the_plain_sum(seed):
    rng = np.random.default_rng(seed)
    work = workload(seed)
    w_bits, o_bits = rng.integers(2, 9, N), rng.integers(2, 9, N)
    placements = rng.integers(0, 3, (7, N, 2))
    expected = [plain_sum(work, CHIP, placement, w_bits, o_bits) for placement in placements]
    tables = problem(work, CHIP, Bits(w_bits, o_bits))
    padded = problem(work, CHIP, Bits(w_bits, o_bits), nodes=32)
    batch = jnp.asarray(placements, jnp.int32)
    np.testing.assert_allclose(energy_j(tables, batch), expected, rtol=2e-6)
    np.testing.assert_allclose(jax.jit(energy_j)(padded, batch), expected, rtol=2e-6)
    np.testing.assert_allclose(energy_j(tables, batch[0]), expected[0], rtol=2e-6)
    found = [explain(work, CHIP, p, Bits(w_bits, o_bits)).energy_j for p in placements]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_energy_is_linear_in_the_placement():
    # Moving one tensor changes the energy by the same amount wherever the others lie.
    work, rng = workload(0), np.random.default_rng(0)
    tables = problem(work, CHIP)
    placements = rng.integers(0, 3, (2, N, 2))
    with jax.enable_x64(True):
        exact = problem(work, CHIP)
        change = []
        for placement in placements:
            there, here = placement.copy(), placement.copy()
            there[5, 1], here[5, 1] = 2, 0
            change.append(float(energy_j(exact, jnp.asarray(there)) - energy_j(exact, jnp.asarray(here))))
    assert change[0] == pytest.approx(change[1], rel=1e-9)
    assert change[0] < 0
    assert energy_j(tables, jnp.zeros((N, 2), jnp.int32)).shape == ()


@pytest.mark.parametrize(
    "chip",
    [
        replace(CHIP, compute=(Rate(8, 8, 1e12),)),
        replace(CHIP, levels=(replace(CHIP.levels[0], energy_j_per_byte=None), *CHIP.levels[1:])),
    ],
)
def test_a_chip_that_reports_no_energy_has_none(chip):
    with pytest.raises(ValueError, match="the chip reports no energy: give energy_j_per_byte for all levels"):
        energy_j(problem(workload(0), chip), jnp.zeros((N, 2), jnp.int32))


def test_pins_and_the_range_of_levels_count_as_in_latency():
    work = workload(1)
    tables = problem(work, CHIP)
    pin = np.full((N, 2), -1)
    pin[3], pin[7, 1] = 1, 0
    wish = np.random.default_rng(0).integers(-2, 6, (4, N, 2))
    placed = np.where(pin >= 0, pin, np.clip(wish, 0, 2))
    held = tables._replace(pin=jnp.asarray(pin, tables.pin.dtype))
    expected = [plain_sum(work, CHIP, placement, np.full(N, 8), np.full(N, 8)) for placement in placed]
    np.testing.assert_allclose(energy_j(held, jnp.asarray(wish)), expected, rtol=2e-6)


def test_what_is_no_placement():
    with pytest.raises(ValueError, match=r"placement must be \(N, 2\) or \(M, N, 2\)"):
        energy_j(problem(workload(0), CHIP), jnp.zeros((N + 1, 2), jnp.int32))
