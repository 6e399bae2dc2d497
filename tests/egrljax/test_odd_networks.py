"""EGRL itself, not the solver before it, on networks and chips that are unlike the usual ones."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw

from .small import brute_force, small_chip, small_work, tiny

pytestmark = pytest.mark.long


def five_levels():
    chip = small_chip((3000, 900))
    more = (hw.Level("tcm", 1e12, 1e12, 400), hw.Level("regs", 1e13, 1e13, 200))
    return replace(chip, levels=(*chip.levels, *more))


def two_levels():
    return small_chip((900,))


def two_networks():
    """Two chains that share nothing."""
    first, second = small_work(3, 2).operations, small_work(4, 2).operations
    moved = [
        replace(
            op,
            name=f"other_{op.name}",
            parents=tuple(edge._replace(producer=edge.producer + len(first)) for edge in op.parents),
            w_id=op.w_id if op.w_id < 0 else op.w_id + len(first),
        )
        for op in second
    ]
    return hw.Workload((*first, *moved), name="two networks")


def without_weights():
    work = small_work(5, 4)
    return replace(
        work, operations=tuple(replace(op, w_elems=0, bias_elems=0, w_id=-1) for op in work.operations)
    )


@pytest.mark.parametrize(
    ("work", "chip"),
    [
        (small_work(2, 1), small_chip()),
        (small_work(20, 4), two_levels()),
        (small_work(20, 3), five_levels()),
        (two_networks(), small_chip()),
        (without_weights(), small_chip()),
    ],
    ids=["one node", "two levels", "five levels", "disconnected", "no weights"],
)
def test_the_search_finds_the_best_of_all_maps(work, chip):
    config = tiny(levels=len(chip.levels), budget=300, start_std=1.0)
    found = egrl.place(jax.random.key(0), work, chip, engine="egrl", config=config, solver_s=0.0)
    assert found.engine == "egrl"
    least = brute_force(egrl.environment(work, chip))
    assert least * (1 - 1e-6) <= found.latency_s <= least * 1.05
    assert bool(hw.rectify(hw.problem(work, chip), found.placement).valid)


def test_what_has_no_bytes_has_no_place():
    """A weightless operation's weights are no tensor: they never vary, and no file names them."""
    work = without_weights()
    env = egrl.environment(work, small_chip())
    assert (np.asarray(env.allowed)[:, 0].sum(-1) == 1).all()
    assert all(t.column == 1 for t in hw.tensors(work))
