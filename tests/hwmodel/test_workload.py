"""The workload as an object: what it refuses, its derived columns, its graph and its table."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import Edge, Operation, Workload, trace


def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def branches(p, x):
    """a feeds b and c, the sum of those feeds d; a is an output too."""
    a = jax.nn.relu(conv(x, p["a"]))
    total = conv(a, p["b"]) + conv(a, p["c"])
    return conv(total, p["d"]), a


@pytest.fixture(scope="module")
def work():
    kernel = jax.ShapeDtypeStruct((1, 1, 4, 4), jnp.float32)
    return trace(branches, dict.fromkeys("abcd", kernel), jax.ShapeDtypeStruct((2, 3, 3, 4), jnp.float32))


def changed(work: Workload, index: int, **fields) -> Workload:
    operations = list(work.operations)
    operations[index] = dataclasses.replace(operations[index], **fields)
    return Workload(tuple(operations), work.points, work.program)


@pytest.mark.parametrize(
    ("index", "fields", "message"),
    [
        (1, {"name": "a"}, "operation names must be unique, got 'a' twice"),
        (1, {"macs": -1}, "operation 'b' has a negative count"),
        (2, {"bias_elems": -1}, "operation 'c' has a negative count"),
        (0, {"o_elems": 0}, "operation 'a' has a negative count or an empty output"),
        (1, {"macs": 2**53 + 1}, r"operation 'b' has a count above 2\^53"),
        (1, {"w_id": 2}, "operation 'b' has w_id 2"),
        (1, {"w_id": -2}, "operation 'b' has w_id -2"),
        (2, {"w_id": 1, "w_elems": 15}, "operation 'c' stores 15"),
        (1, {"parents": (Edge(1, 72),)}, "operation 'b' reads 1, which is not before it"),
        (1, {"parents": (Edge(3, 72),)}, "operation 'b' reads 3"),
        (1, {"parents": (Edge(-1, 72),)}, "operation 'b' reads -1"),
        (1, {"parents": (Edge(0, 73),)}, "operation 'b' reads 73 of 72 elements"),
        (1, {"parents": (Edge(0, 0),)}, "operation 'b' reads 0 of 72 elements"),
    ],
)
def test_an_impossible_operation_is_refused(work, index, fields, message):
    with pytest.raises(ValueError, match=message):
        changed(work, index, **fields)


def test_repeated_point_names_are_refused(work):
    with pytest.raises(ValueError, match="point names must be unique, got 'input' twice"):
        Workload(work.operations, (*work.points, work.points[0]), work.program)


def test_reading_a_part_of_a_tensor_is_allowed(work):
    assert changed(work, 1, parents=(Edge(0, 1),)).operations[1].parents == (Edge(0, 1),)


def test_columns(work):
    assert work.column("macs").tolist() == [2 * 9 * 16] * 4
    assert work.column("kernel").tolist() == [[1, 1]] * 4
    assert work.column("is_output").tolist() == [1, 0, 0, 1]
    assert work.column("macs").dtype == np.int64


def test_point_names(work):
    assert work.point_names[:3] == ("input", "a.weight", "a.activation")


def test_death_is_the_last_reader_or_the_end(work):
    # a is read by b and c, but also returned; b by the add inside c; c by d
    assert work.death.tolist() == [3, 2, 3, 3]
    alive = changed(work, 0, is_output=False)
    assert alive.death.tolist() == [2, 2, 3, 3]


def test_live_elements(work):
    assert work.live_elems.tolist() == [72, 144, 216, 216]
    assert changed(work, 0, is_output=False).live_elems.tolist() == [72, 144, 216, 144]


def test_an_output_that_nothing_reads_dies_when_it_is_made(work):
    assert changed(work, 3, is_output=False).death.tolist() == [3, 2, 3, 3]


def test_to_graph(work):
    graph = work.to_graph()
    edges = list(
        zip(graph.senders.tolist(), graph.receivers.tolist(), graph.edges["elems"].tolist(), strict=True)
    )
    assert edges == [(0, 1, 72), (0, 2, 72), (1, 2, 72), (2, 3, 72)]
    assert (graph.n_node.tolist(), graph.n_edge.tolist()) == ([4], [4])
    assert graph.nodes["w_elems"].tolist() == [16] * 4
    assert graph.nodes["o_elems"].tolist() == [72] * 4
    assert graph.senders.dtype == np.int32


def test_to_graph_without_edges():
    one = trace(lambda p, x: conv(x, p), np.ones((1, 1, 4, 4), np.float32), np.ones((1, 3, 3, 4), np.float32))
    graph = one.to_graph()
    assert graph.senders.shape == graph.receivers.shape == graph.edges["elems"].shape == (0,)
    assert graph.n_edge.tolist() == [0]


def test_summary_lists_operations_and_totals(work):
    lines = work.summary().splitlines()
    assert len(lines) == 1 + 4 + 1
    assert lines[0].split() == ["operation", "kind", "output", "MMAC", "weights", "parents"]
    assert lines[1].split() == ["a", "conv", "3x3x4", "0.00", "16", "input"]
    assert lines[3].split() == ["c", "conv", "3x3x4", "0.00", "16", "a,", "b"]
    assert lines[-1] == (
        "4 operations, 4 edges, 64 weights (0.00 MB), 0.0000 GMAC, 0.00 MB of outputs alive at most, "
        "9 quantizable points"
    )
    assert all(line == line.rstrip() for line in lines)


def test_summary_counts_tied_weights_once():
    tied = trace(
        lambda p, x: conv(jax.nn.relu(conv(x, p)), p),
        np.ones((1, 1, 4, 4), np.float32),
        np.ones((1, 3, 3, 4), np.float32),
    )
    assert ", 16 weights (" in tied.summary()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "foo"}, "'fc' has kind 'foo'"),
        ({"macs": float("nan")}, "no whole number"),
        ({"o_elems": 5.5}, "no whole number"),
        ({"w_id": -1}, "stores 10 weight elements without a w_id"),
        ({"macs": 2**60}, r"above 2\^53"),
    ],
)
def test_operations_that_cannot_be_are_refused(change, says):
    plain = {
        "name": "fc", "kind": "dense", "macs": 10, "w_elems": 10, "w_reads": 10, "w_id": 0, "bias_elems": 0,
        "o_elems": 1, "parents": (), "ifm": (1, 1, 10), "ofm": (1, 1, 1),
    }  # fmt: skip
    Workload((Operation(**plain),))
    # built past the type checks that the test run adds, as a user's program would
    operation = object.__new__(Operation)
    for field in dataclasses.fields(Operation):
        default = None if field.default is dataclasses.MISSING else field.default
        object.__setattr__(operation, field.name, (plain | change).get(field.name, default))
    with pytest.raises(ValueError, match=says):
        Workload((operation,))
