"""Latency against a discrete-event simulation: nothing is added up, jobs queue at servers, in picoseconds.

A level with shared ports is one first-come-first-served server, a dual-ported one has a server for reads and
one for writes, and compute is a server. An operation hands all its transfers and its multiply-accumulates in
at once and ends when all of them have ended. What differs between the schedules is what it waits for:

    barrier      the operation before it          = latency(schedule="sequential")
    free         its parents                      between the two others
    own servers  its parents, and no queue is shared with another operation
                                                  = latency(schedule="critical_path")

Free is never longer than the barrier. Take the server that ends last and go back to the start of its last
busy period: everything served in it was handed in since, and what opened it waited for a parent that ended
at that very time. Going on from that parent, no operation is met in two busy periods, so each adds what it
has on one server, at most its own time. (Other rules than first come, first served need not have this.)
"""

import dataclasses
from collections import defaultdict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simpy

import hwmodel as hw

pytestmark = pytest.mark.long  # `make test-long`; CI runs them

PS = 10**12


class Job(NamedTuple):
    """Something to be served: a transfer or an operation's compute."""

    server: tuple
    ps: int


def ps_each(per_s):
    """Whole picoseconds of one byte or multiply-accumulate; the random chips have no others."""
    return round(PS / per_s)


def stages_of(work, chip, placement):
    """For each operation, its jobs as stages that follow each other: one stage where all overlaps."""
    found = []
    for i, op in enumerate(work.operations):
        levels = [[] for _ in chip.levels]

        def transfer(k, direction, elems, levels=levels):  # int8: an element is a byte
            level = chip.levels[k]
            rate = level.read_bytes_per_s if direction == "read" else level.write_bytes_per_s
            server = (k, direction) if level.ports == "dual" else (k,)
            if elems:
                levels[k].append(Job(server, elems * ps_each(rate) + round(level.latency_s * PS)))

        transfer(placement[op.w_id if op.w_id >= 0 else i, 0], "read", op.w_elems)
        for edge in op.parents:
            transfer(placement[edge.producer, 1], "read", edge.elems)
        transfer(placement[i, 1], "write", op.o_elems)
        if chip.external_io is not None:
            outside = chip.level_index(chip.external_io)
            transfer(outside, "read", op.ext_in)
            transfer(outside, "write", op.o_elems if op.is_output else 0)
        compute = [Job(("compute",), op.macs * ps_each(chip.compute[0].ops_per_s / 2))]
        stages = [compute, *levels]
        found.append(stages if chip.overlap == 0 else [[job for jobs in stages for job in jobs]])
    return found


def simulate(stages, waits, own_servers=False):
    """Picoseconds until all operations have ended; `waits` lists the operations that each one waits for."""
    env = simpy.Environment()
    servers = defaultdict(lambda: simpy.Resource(env, capacity=1))

    def serve(server, ps):
        with servers[server].request() as turn:
            yield turn
            yield env.timeout(ps)

    def operation(i):
        yield env.all_of([ended[j] for j in waits[i]])
        for jobs in stages[i]:
            yield env.all_of(
                [env.process(serve((i, job.server) if own_servers else job.server, job.ps)) for job in jobs]
            )

    ended = []
    for i in range(len(stages)):
        ended.append(env.process(operation(i)))
    env.run()
    return env.now


def one_by_one(work):
    return [[i - 1] if i else [] for i in range(len(work.operations))]


def after_parents(work):
    return [[edge.producer for edge in op.parents] for op in work.operations]


def busiest_server(stages):
    """Picoseconds that the busiest server needs even if it never waits."""
    load = defaultdict(int)
    for job in (job for operation in stages for jobs in operation for job in jobs):
        load[job.server] += job.ps
    return max(load.values())


def both_latencies(work, chip, placements):
    """Picoseconds by the package, sequential and critical path."""
    with jax.enable_x64(True):
        problem = hw.problem(work, chip, nodes=32)  # one shape for all cases
        padded = np.pad(placements, ((0, 0), (0, 32 - placements.shape[1]), (0, 0)))
        return [
            np.asarray(hw.latency(problem, jnp.asarray(padded), schedule)) * PS
            for schedule in ("sequential", "critical_path")
        ]


@pytest.mark.parametrize("options", [{}, {"external_io": "level1"}], ids=["inside", "external"])
@pytest.mark.parametrize("seed", range(5))
def test_latency_is_what_queues_at_servers_take(reference, seed, options):
    rng = np.random.default_rng(seed)
    work = reference.random_work(rng, int(rng.integers(12, 32)))
    chip = reference.random_chip(rng, levels=2 + seed % 3, **options)
    placements = reference.random_placements(rng, 25, len(work.operations), len(chip.levels))
    sequential, critical = both_latencies(work, chip, placements)
    shorter_than_barrier, longer_than_path = 0, 0
    for m, placement in enumerate(placements):
        stages = stages_of(work, chip, placement)
        barrier = simulate(stages, one_by_one(work))
        free = simulate(stages, after_parents(work))
        path = simulate(stages, after_parents(work), own_servers=True)
        np.testing.assert_allclose(sequential[m], barrier, rtol=1e-9)
        np.testing.assert_allclose(critical[m], path, rtol=1e-9)
        assert max(path, busiest_server(stages)) <= free <= barrier
        shorter_than_barrier += free < barrier
        longer_than_path += free > path
    assert shorter_than_barrier
    assert longer_than_path


@pytest.mark.parametrize("seed", range(4))
def test_without_overlap_compute_and_levels_follow_each_other(reference, seed):
    """Only the two ports of a dual-ported level still work at the same time."""
    rng = np.random.default_rng(100 + seed)
    work = reference.random_work(rng, int(rng.integers(12, 32)))
    chip = reference.random_chip(rng, levels=2 + seed % 3, overlap=0.0)
    overlapping = dataclasses.replace(chip, overlap=1.0)
    placements = reference.random_placements(rng, 25, len(work.operations), len(chip.levels))
    sequential, critical = both_latencies(work, chip, placements)
    for m, placement in enumerate(placements):
        stages = stages_of(work, chip, placement)
        barrier = simulate(stages, one_by_one(work))
        np.testing.assert_allclose(sequential[m], barrier, rtol=1e-9)
        np.testing.assert_allclose(
            critical[m], simulate(stages, after_parents(work), own_servers=True), rtol=1e-9
        )
        assert barrier > simulate(stages_of(work, overlapping, placement), one_by_one(work))


@pytest.mark.parametrize("seed", range(3))
def test_in_a_chain_all_schedules_are_one(reference, seed):
    rng = np.random.default_rng(200 + seed)
    branched = reference.random_work(rng, 20)
    chain = hw.Workload(
        tuple(
            dataclasses.replace(
                op, parents=(hw.Edge(i - 1, branched.operations[i - 1].o_elems),) if i else ()
            )
            for i, op in enumerate(branched.operations)
        )
    )
    chip = reference.random_chip(rng)
    placements = reference.random_placements(rng, 10, 20, 3)
    sequential, critical = both_latencies(chain, chip, placements)
    np.testing.assert_allclose(sequential, critical, rtol=1e-12)
    for m, placement in enumerate(placements):
        free = simulate(stages_of(chain, chip, placement), after_parents(chain))
        np.testing.assert_allclose(sequential[m], free, rtol=1e-9)


def test_a_fork_by_hand():
    """Two branches of 100 and 60 ps of compute, one level of 1 byte/ps that each uses for 50 ps.

    source 10 | a: max(100, 10 + 40), b: max(60, 10 + 40) | sum: 40 + 40 + 10.
    """
    sizes = {"source": (0, 10, ()), "a": (100, 40, (0,)), "b": (60, 40, (0,)), "sum": (0, 10, (1, 2))}
    made = [o for _, o, _ in sizes.values()]
    ops = [
        hw.Operation(
            name=name, kind="other", macs=macs, w_elems=0, w_reads=0, w_id=-1, bias_elems=0, o_elems=out,
            parents=tuple(hw.Edge(p, made[p]) for p in parents), ifm=(1, 1, 1), ofm=(1, 1, 1),
            is_output=name == "sum",
        )
        for name, (macs, out, parents) in sizes.items()
    ]  # fmt: skip
    work = hw.Workload(tuple(ops))
    levels = (hw.Level("dram", 1e12, 1e12), hw.Level("sram", 1e12, 1e12, capacity_bytes=1000))
    chip = hw.Chip("fork", levels, (hw.Rate(8, 8, 2e12),))
    placement = np.zeros((4, 2), np.int32)
    stages = stages_of(work, chip, placement)
    (sequential,), (critical,) = both_latencies(work, chip, placement[None])
    assert simulate(stages, one_by_one(work)) == 10 + 100 + 60 + 90 == pytest.approx(sequential)
    assert simulate(stages, after_parents(work)) == 10 + 160 + 90  # both branches queue for compute
    assert simulate(stages, after_parents(work), own_servers=True) == 10 + 100 + 90 == pytest.approx(critical)
    on_two = placement.copy()
    on_two[2, 1] = 1
    quick_b = hw.Workload((ops[0], ops[1], dataclasses.replace(ops[2], macs=0), ops[3]))
    stages = stages_of(quick_b, chip, on_two)
    assert simulate(stages, after_parents(quick_b)) == 10 + 100 + max(50, 40)  # b hides behind a's compute
    assert simulate(stages, one_by_one(quick_b)) == 10 + 100 + 40 + 50
