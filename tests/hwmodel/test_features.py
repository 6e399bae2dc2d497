"""Features against a plain retelling, and graphs whose padding changes nothing."""

import math

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from hwmodel import Bits, Chip, Level, Rate, zoo
from hwmodel.buckets import edge_bucket, edge_mask, node_bucket, node_mask, policy_graph
from hwmodel.chip import KINDS
from hwmodel.features import FEATURES, feature_names, features
from hwmodel.random_graphs import random_workload

CHIP = Chip(
    "three",
    (
        Level("dram", 1e9, 5e8),
        Level("llc", 4e9, 4e9, capacity_bytes=1 << 20),
        Level("sram", 32e9, 16e9, capacity_bytes=1 << 16, reserved_bytes=1 << 15),
    ),
    (Rate(8, 8, 1e12),),
)


def plain_row(work, i):
    """The 19 features of operation i, unscaled, in the paper's order."""
    op, left = work.operations[i], work.operations[i + 1 :]
    stored = {o.w_id: o.w_elems for o in left if o.w_id > i}
    return [
        KINDS.index(op.kind), op.w_elems, *op.ifm, *op.ofm, math.prod(op.ifm), math.prod(op.ofm),
        len(left), sum(stored.values()), op.groups, *op.kernel, max(op.stride),
        max(max(side) for side in op.pad), max(op.dilation), op.batch,
    ]  # fmt: skip


SCALE = [11, 2**24, 2**10, 2**10, 2**12, 2**10, 2**10, 2**12, 2**24, 2**24, 2**10, 2**28, 2**10,
         16, 16, 8, 8, 8, 256]  # fmt: skip


def workloads():
    return [
        zoo.mobilenet_v2(),
        zoo.efficientnet_lite0(batch=4),
        zoo.bert_base(granularity="fine"),
        random_workload(0, 30, 0.5, tied_probability=0.5),
    ]


@pytest.mark.parametrize("work", workloads(), ids=lambda work: work.name)
def test_the_19_features(work):
    found = features(work)
    assert found.dtype == np.float32
    assert found.shape == (len(work.operations), 19)
    for i in range(len(work.operations)):
        row = plain_row(work, i)
        expected = [row[0] / 11] + [
            math.log(1 + v) / math.log(1 + c) for v, c in zip(row[1:], SCALE[1:], strict=True)
        ]
        np.testing.assert_allclose(found[i], expected, rtol=1e-6)


def test_an_operation_has_the_same_features_in_every_network():
    one, other = features(zoo.resnet50()), features(zoo.resnet101())
    constant = [FEATURES.index(name) for name in FEATURES if not name.endswith("left")]
    np.testing.assert_array_equal(one[:10, constant], other[:10, constant])
    assert one.min() >= 0
    assert one.max() <= 1.05


def test_one_column_per_kind():
    work = zoo.resnet50()
    found, names = features(work, "onehot"), feature_names("onehot")
    assert found.shape == (57, len(KINDS) + 18) == (57, len(names))
    assert [names[j] for j in found[:, : len(KINDS)].argmax(1)] == [f"is_{op.kind}" for op in work.operations]
    np.testing.assert_array_equal(found[:, : len(KINDS)].sum(1), 1)
    np.testing.assert_array_equal(found[:, len(KINDS) :], features(work)[:, 1:])


def test_plus_describes_placement_and_chip():
    work = random_workload(3, 20, 0.6, tied_probability=0.3, output_probability=0.2)
    bits = Bits(weights=4, outputs=16)
    found, names = features(work, "plus", CHIP, bits), feature_names("plus", CHIP)
    assert found.shape == (20, len(names))
    column = dict(zip(names, found.T, strict=True))
    for i, op in enumerate(work.operations):
        weight = math.ceil(op.w_elems / 2) if op.w_id == i else 0
        output = 2 * op.o_elems
        readers = sum(i in {e.producer for e in other.parents} for other in work.operations)
        expected = {
            "weight_bytes": math.log1p(weight) / math.log1p(2**26),
            "output_bytes": math.log1p(output) / math.log1p(2**26),
            "lifetime": math.log1p(work.death[i] - i) / math.log1p(2**10),
            "readers": math.log1p(readers) / math.log1p(2**6),
            "llc.weight_share": math.log2(1 + weight / 2**20),
            "sram.output_share": math.log2(1 + output / 2**15),
            "llc.read_speed": 2 / 10,
            "llc.write_speed": 3 / 10,
            "sram.read_speed": 5 / 10,
            "sram.write_speed": 5 / 10,
        }
        for name, value in expected.items():
            assert column[name][i] == pytest.approx(value, rel=1e-5), (name, i)


@pytest.mark.parametrize("kind", ["paper20", "Plus"])
def test_an_unknown_kind(kind):
    with pytest.raises((ValueError, TypeError), match="kind"):
        features(zoo.resnet50(), kind)


def test_plus_needs_a_chip():
    with pytest.raises(ValueError, match="give chip="):
        features(zoo.resnet50(), "plus")


@pytest.mark.parametrize(
    ("nodes", "bucket"),
    [
        (1, 32),
        (31, 32),
        (32, 64),
        (57, 64),
        (108, 128),
        (376, 384),
        (384, 512),
        (512, 1024),
        (1023, 1024),
        (1024, 2048),
    ],
)
def test_node_buckets_leave_room_for_padding(nodes, bucket):
    assert node_bucket(nodes) == bucket


@pytest.mark.parametrize(("edges", "bucket"), [(0, 1), (1, 1), (3, 4), (4, 4), (5, 8), (1025, 2048)])
def test_edge_buckets(edges, bucket):
    assert edge_bucket(edges) == bucket


def test_edges_run_both_ways_and_to_the_node_itself():
    work = random_workload(1, 12, 0.5, partial_probability=0.5)
    graph = policy_graph(work, padded=False)
    found = sorted(
        zip(graph.senders.tolist(), graph.receivers.tolist(), *graph.edges.T.tolist(), strict=True)
    )
    expected = []
    for i, op in enumerate(work.operations):
        for edge in op.parents:
            expected += [(edge.producer, i, edge.elems, 1, 0, 0), (i, edge.producer, edge.elems, 0, 1, 0)]
        expected.append((i, i, op.o_elems, 0, 0, 1))
    expected = sorted((s, r, math.log1p(n) / math.log1p(2**24), *way) for s, r, n, *way in expected)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    np.testing.assert_allclose([row[2:] for row in found], [row[2:] for row in expected], rtol=1e-6)


def test_masks_and_padding():
    work = zoo.resnet50()
    graph = policy_graph(work)
    assert (graph.nodes.shape, graph.edges.shape) == ((64, 19), (256, 4))
    assert node_mask(graph).tolist() == [True] * 57 + [False] * 7
    edges = 2 * sum(len(op.parents) for op in work.operations) + 57
    assert edge_mask(graph).tolist() == [True] * edges + [False] * (256 - edges)
    assert (graph.senders[edges:] >= 57).all()
    assert (graph.receivers[edges:] >= 57).all()
    np.testing.assert_array_equal(graph.nodes[57:], 0)


def two_convolutions(graph, weights):
    """Two graph convolutions: what a policy is made of. (jraph divides floats by integer degrees.)"""
    with jax.numpy_dtype_promotion("standard"):
        for w in weights:
            convolution = jraph.GraphConvolution(lambda x, w=w: x @ w, symmetric_normalization=True)
            graph = graph._replace(nodes=jax.nn.relu(convolution(graph).nodes))
    return graph.nodes


@pytest.mark.parametrize("work", workloads(), ids=lambda work: work.name)
def test_padding_changes_no_result(work):
    k1, k2 = jax.random.split(jax.random.key(0))
    weights = jax.random.normal(k1, (19, 16)), jax.random.normal(k2, (16, 8))
    n, run = len(work.operations), jax.jit(two_convolutions)
    graph = policy_graph(work)
    padded = run(graph, weights)
    plain = run(policy_graph(work, padded=False), weights)
    np.testing.assert_allclose(padded[:n], plain, rtol=1e-5, atol=1e-6)
    assert np.abs(plain).max() > 0.1
    # and what stands in the padding does not matter
    rubbish = np.where(np.asarray(node_mask(graph))[:, None], graph.nodes, np.float32(7))
    np.testing.assert_array_equal(run(graph._replace(nodes=rubbish), weights)[:n], padded[:n])


def test_networks_of_one_bucket_share_a_program():
    traces = 0

    @jax.jit
    def total(graph):
        nonlocal traces
        traces += 1
        mask = node_mask(graph)[:, None]
        return jnp.sum(jnp.where(mask, graph.nodes, 0))

    for seed, n in enumerate((40, 50, 60)):
        work = random_workload(seed, n, 0.2)
        assert total(policy_graph(work)) == pytest.approx(features(work).sum(), rel=1e-5)
    assert traces == 1
