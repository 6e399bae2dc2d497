"""Latency with contention: the exact model at factor 0, a plain retelling elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hwmodel as hw


def retold(work, chip, placement, factor):
    """Seconds in float64 from the workload's and the chip's own numbers; 8 bits, so elements are bytes."""
    total = 0.0
    for i, op in enumerate(work.operations):
        owner = op.w_id if op.w_id >= 0 else i
        reads = [(placement[owner, 0], op.w_reads)] if op.w_elems else []
        reads += [(placement[e.producer, 1], e.elems) for e in op.parents]
        writes = [(placement[i, 1], op.o_elems)]
        if chip.external_io is not None:  # else graph inputs and outputs cost nothing
            outside = chip.level_index(chip.external_io)
            reads += [(outside, op.ext_in)] if op.ext_in else []
            writes += [(outside, op.o_elems)] if op.is_output else []
        compute = 2 * op.macs / chip.compute[0].ops_per_s + chip.overhead_s
        times = []
        for k, level in enumerate(chip.levels):
            read = sum(b / level.read_bytes_per_s + level.latency_s for at, b in reads if at == k)
            write = sum(b / level.write_bytes_per_s + level.latency_s for at, b in writes if at == k)
            streams = sum(at == k for at, _ in (*reads, *writes))
            taken = max(read, write) if level.ports == "dual" else read + write
            times.append(taken * (1 + factor * max(0, streams - 1)))
        longest, summed = max(compute, *times), compute + sum(times)
        total += chip.overlap * longest + (1 - chip.overlap) * summed
    return total


@pytest.mark.parametrize("options", [{}, {"overlap": 0.3}, {"external_io": "level1"}])
@pytest.mark.parametrize("factor", [0.0, 0.25])
def test_it_is_the_plain_retelling(reference, options, factor):
    rng = np.random.default_rng(0)
    work, chip = reference.random_work(rng, 12), reference.random_chip(rng, **options)
    problem = hw.problem(work, chip)
    placements = rng.integers(0, 3, (20, 12, 2)).astype(np.int32)
    found = hw.contended_latency(problem, jnp.asarray(placements), factor)
    expected = [retold(work, chip, p, factor) for p in placements]
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    if factor == 0:
        np.testing.assert_allclose(found, hw.latency(problem, placements), rtol=2e-6)
    np.testing.assert_allclose(
        hw.contended_latency(problem, jnp.asarray(placements[0]), factor), found[0], rtol=1e-6
    )


def test_the_breakdown_knows_of_it(reference):
    """In double precision, by a code of its own."""
    rng = np.random.default_rng(2)
    work, chip = reference.random_work(rng, 9), reference.random_chip(rng, external_io="level1")
    placement = rng.integers(0, 3, (9, 2)).astype(np.int32)
    for factor in (0.0, 0.7):
        told = hw.explain(work, chip, placement, contention=factor)
        assert told.latency_s == pytest.approx(retold(work, chip, placement, factor), rel=1e-9)
    with pytest.raises(ValueError, match="contention must be at least 0, got -1"):
        hw.explain(work, chip, placement, contention=-1.0)


def test_moves_count_and_the_factor_is_traced(reference):
    rng = np.random.default_rng(1)
    work, chip = reference.random_work(rng, 8), reference.random_chip(rng, move_cost=True)
    problem = hw.problem(work, chip, nodes=16)
    placements = jnp.asarray(rng.integers(0, 3, (5, 16, 2)).astype(np.int32))
    timed = jax.jit(hw.contended_latency)
    np.testing.assert_allclose(timed(problem, placements, 0.0), hw.latency(problem, placements), rtol=2e-6)
    assert (timed(problem, placements, 0.5) > timed(problem, placements, 0.0)).all()
    assert timed._cache_size() == 1
