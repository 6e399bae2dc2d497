"""Execution order: against a plain retelling, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from hwmodel import Edge
from hwmodel.random_graphs import random_workload
from hwmodel.topology import execution_order, in_execution_order


def shuffled(work, seed):
    """The same operations in another order, references renumbered; and where each one went."""
    order = np.random.default_rng(seed).permutation(len(work.operations))
    place = {int(old): new for new, old in enumerate(order)}
    moved = []
    for old in order:
        op = work.operations[old]
        moved.append(
            dataclasses.replace(
                op,
                parents=tuple(Edge(place[e.producer], e.elems) for e in op.parents),
                w_id=place[op.w_id] if op.w_id >= 0 else -1,
            )
        )
    return moved


def by_name(operations):
    return {
        op.name: (
            dataclasses.replace(op, parents=(), w_id=-1),
            [(operations[e.producer].name, e.elems) for e in op.parents],
        )
        for op in operations
    }


def ties(operations):
    groups = {}
    for op in operations:
        if op.w_id >= 0:
            groups.setdefault(op.w_id, set()).add(op.name)
    return sorted(map(sorted, groups.values()))


@pytest.mark.parametrize("seed", range(10))
def test_a_shuffled_graph_comes_back_sorted_with_all_its_edges(seed):
    work = random_workload(seed, 30, 0.5, tied_probability=0.4, partial_probability=0.3)
    given = shuffled(work, seed)
    found = in_execution_order(given)
    assert by_name(found) == by_name(given) == by_name(work.operations)
    assert ties(found) == ties(work.operations)
    for i, op in enumerate(found):
        assert all(edge.producer < i for edge in op.parents)
        assert op.w_id <= i


@pytest.mark.parametrize("seed", range(10))
def test_of_several_ready_operations_the_first_given_runs_first(seed):
    rng = np.random.default_rng(seed)
    rank = rng.permutation(25)
    parents = [[int(j) for j in range(25) if rank[j] < rank[i] and rng.random() < 0.1] for i in range(25)]
    done = []
    while len(done) < 25:  # O(n^2) retelling: the lowest index whose parents have all run
        done.append(min(i for i in range(25) if i not in done and set(parents[i]) <= set(done)))
    assert execution_order(parents) == done


def test_an_ordered_graph_is_left_alone():
    work = random_workload(3, 40, 0.4, tied_probability=0.5)
    assert in_execution_order(work.operations) == work.operations


def test_the_first_to_run_owns_tied_weights():
    work = random_workload(0, 2, 0.0, weighted_probability=1.0, tied_probability=1.0)
    first, second = work.operations
    assert (first.w_id, second.w_id) == (0, 0)
    # given last first: the second operation is at position 0, and both are tied to it
    swapped = [
        dataclasses.replace(second, w_id=0, parents=(Edge(1, second.parents[0].elems),)),
        dataclasses.replace(first, w_id=0),
    ]
    found = in_execution_order(swapped)
    assert [op.name for op in found] == [first.name, second.name]
    assert [op.w_id for op in found] == [0, 0]


def test_a_cycle_is_named():
    work = random_workload(1, 6, 0.0)
    ops = list(work.operations)
    ops[1] = dataclasses.replace(ops[1], parents=(Edge(3, ops[3].o_elems),))
    with pytest.raises(
        ValueError, match="cycle: 'operation1' -> 'operation2' -> 'operation3' -> 'operation1'"
    ):
        in_execution_order(ops)


def test_a_self_loop_is_named():
    op = random_workload(1, 1).operations[0]
    with pytest.raises(ValueError, match="cycle: 'operation0' -> 'operation0'"):
        in_execution_order([dataclasses.replace(op, parents=(Edge(0, 1),))])


def test_a_long_cycle_is_shortened():
    ops = list(random_workload(1, 100, 0.0).operations)
    ops[0] = dataclasses.replace(ops[0], parents=(Edge(99, 1),))
    with pytest.raises(ValueError, match="89 more") as caught:
        in_execution_order(ops)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("producer", [-1, 2])
def test_a_dangling_parent_is_refused(producer):
    ops = list(random_workload(1, 2, 0.0).operations)
    ops[1] = dataclasses.replace(ops[1], parents=(Edge(producer, 1),))
    with pytest.raises(ValueError, match=f"'operation1' has parent {producer}, but there are 2 operations"):
        in_execution_order(ops)


@pytest.mark.parametrize("tie", [-2, 2])
def test_a_dangling_tie_is_refused(tie):
    ops = list(random_workload(1, 2, 0.0).operations)
    ops[1] = dataclasses.replace(ops[1], w_id=tie)
    with pytest.raises(ValueError, match=f"'operation1' has w_id {tie}"):
        in_execution_order(ops)


def test_a_tie_to_an_operation_without_weights_is_refused():
    ops = list(random_workload(1, 2, 0.0, weighted_probability=0.0).operations)
    ops[1] = dataclasses.replace(ops[1], w_id=0)
    with pytest.raises(ValueError, match="'operation1' is tied to 'operation0', which has no weights"):
        in_execution_order(ops)
