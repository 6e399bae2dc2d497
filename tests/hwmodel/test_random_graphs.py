"""The random-graph generator: deterministic, within its ranges, and varied where asked."""

import numpy as np
import pytest

from hwmodel.random_graphs import random_workload


def test_the_same_seed_gives_the_same_workload():
    options = {"tied_probability": 0.2, "partial_probability": 0.2, "output_probability": 0.2}
    one, two = (random_workload(5, 50, 0.4, **options) for _ in range(2))
    assert one.operations == two.operations
    assert one.operations != random_workload(6, 50, 0.4, **options).operations


def test_a_generator_is_advanced():
    rng = np.random.default_rng(0)
    assert random_workload(rng, 10).operations != random_workload(rng, 10).operations


@pytest.mark.parametrize("seed", range(5))
def test_sizes_lie_in_their_ranges(seed):
    work = random_workload(seed, 60, 0.5, weight_elems=(3, 9), output_elems=(2, 5), macs=(0, 4))
    assert {op.o_elems for op in work.operations} == {2, 3, 4, 5}
    assert {op.macs for op in work.operations} == {0, 1, 2, 3, 4}
    assert {op.w_elems for op in work.operations} <= {0, *range(3, 10)}


def test_probabilities_at_their_ends():
    chain = random_workload(0, 30, 0.0, weighted_probability=1.0)
    assert [len(op.parents) for op in chain.operations] == [0] + 29 * [1]
    assert [op.w_id for op in chain.operations] == list(range(30))
    skips = random_workload(
        0, 30, 1.0, tied_probability=1.0, weighted_probability=1.0, output_probability=1.0
    )
    assert [len(op.parents) for op in skips.operations] == [0, 1] + 28 * [2]
    assert {op.w_id for op in skips.operations} == {0}
    assert all(op.is_output for op in skips.operations)
    assert all(e.elems == skips.operations[e.producer].o_elems for op in skips.operations for e in op.parents)
    bare = random_workload(0, 30, weighted_probability=0.0)
    assert bare.column("w_elems").sum() == 0
    assert [op.is_output for op in bare.operations] == 29 * [False] + [True]


def test_partial_reads():
    work = random_workload(0, 30, 0.5, partial_probability=1.0, output_elems=(1000, 2000))
    shares = [e.elems / work.operations[e.producer].o_elems for op in work.operations for e in op.parents]
    assert min(shares) < 0.5 < max(shares)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": 0}, "operations must be at least 1, got 0"),
        ({"skip_probability": 1.5}, "skip_probability must lie in"),
        ({"tied_probability": -0.1}, "tied_probability must lie in"),
        ({"weight_elems": (0, 4)}, "weight_elems must be a range"),
        ({"output_elems": (5, 4)}, "output_elems must be a range"),
        ({"macs": (0, 2**60)}, "macs must be a range"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        random_workload(0, **options)
