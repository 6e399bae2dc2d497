"""Graphs of quantizers: edges and features of small networks by hand, and the published network's size."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import trace, zoo
from nemojax.networks.efficientnet_lite import Config, EfficientNetLite
from nemojax.quantizer_graph import (
    CHAIN_FEATURES,
    QUANTIZER_FEATURES,
    chain_graph,
    quantizer_features,
    quantizer_graph,
)


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def conv(x, w, stride=1, groups=1):
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def residual(p, x):
    """A stem, a depthwise and a linear convolution around which the stem skips, a mean, a classifier."""
    x = jax.nn.relu6(conv(x, p["stem"], 2) + p["bias"][None, None, None])
    y = conv(jax.nn.relu6(conv(x, p["dw"], groups=8)), p["pw"])
    return jnp.mean(x + y, (1, 2)) @ p["fc"]


PARAMS = {
    "stem": shaped(3, 3, 3, 8),
    "bias": shaped(8),
    "dw": shaped(3, 3, 1, 8),
    "pw": shaped(1, 1, 8, 8),
    "fc": shaped(8, 5),
}
RESIDUAL = trace(residual, PARAMS, shaped(1, 16, 16, 3))
INPUT, STEM_W, STEM, DW_W, DW, PW_W, PW, SUM, POOL, FC_W = range(10)


def arcs(graph):
    return list(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True))


def own(n):
    return [(i, i) for i in range(n)]


def check_arrays(graph, n):
    assert graph.nodes.shape[0] == n
    assert graph.nodes.dtype == np.float32
    assert graph.senders.dtype == graph.receivers.dtype == np.int32
    assert graph.n_node.tolist() == [n]
    assert graph.n_edge.tolist() == [len(graph.senders)]
    assert graph.edges is None


def test_points_are_as_the_tests_below_take_them():
    assert RESIDUAL.point_names == (
        "input", "stem.weight", "stem.activation", "dw.weight", "dw.activation", "pw.weight", "pw.linear",
        "pw.sum", "pool.pool", "fc.weight",
    )  # fmt: skip


def test_chain():
    graph = quantizer_graph(RESIDUAL)
    check_arrays(graph, 10)
    forward = [(i, i + 1) for i in range(9)]
    assert arcs(graph) == forward + [(j, i) for i, j in forward] + own(10)
    assert arcs(quantizer_graph(RESIDUAL, reverse=False)) == forward + own(10)
    np.testing.assert_array_equal(graph.nodes, quantizer_features(RESIDUAL))


FLOW = [
    *((INPUT, STEM), (STEM_W, STEM), (STEM, DW), (DW_W, DW), (DW, PW), (PW_W, PW), (PW, SUM), (STEM, SUM)),
    *((SUM, POOL), (POOL, FC_W)),  # no quantizer follows the classifier, so its weight hears of its input
]


def test_dataflow():
    graph = quantizer_graph(RESIDUAL, "dataflow")
    check_arrays(graph, 10)
    assert sorted(arcs(graph)) == sorted([*FLOW, *[(j, i) for i, j in FLOW], *own(10)])
    assert sorted(arcs(quantizer_graph(RESIDUAL, "dataflow", reverse=False))) == sorted([*FLOW, *own(10)])


def test_dataflow_passes_through_operations_without_a_quantizer():
    work = trace(residual, PARAMS, shaped(1, 16, 16, 3), quantize_pooled_input=False)
    assert "pool.pool" not in work.point_names
    flow = [(i, j) for i, j in arcs(quantizer_graph(work, "dataflow", reverse=False)) if i != j]
    assert sorted(flow) == sorted([*FLOW[:-2], (SUM, FC_W - 1)])


def tied(p, x):
    """One weight, read twice."""
    return conv(jax.nn.relu(conv(jax.nn.relu(conv(x, p["w"])), p["w"])), p["last"])


def test_a_weight_with_two_readers():
    work = trace(tied, {"w": shaped(3, 3, 4, 4), "last": shaped(1, 1, 4, 2)}, shaped(1, 8, 8, 4))
    assert work.point_names == ("input", "w.weight", "w.activation", "w_2.activation", "last.weight")
    flow = [(i, j) for i, j in arcs(quantizer_graph(work, "dataflow", reverse=False)) if i != j]
    assert sorted(flow) == [(0, 2), (1, 2), (1, 3), (2, 3), (3, 4)]
    macs = 8 * 8 * 3 * 3 * 4 * 4
    column = quantizer_features(work)[:, QUANTIZER_FEATURES.index("macs")]
    logs = np.log1p([macs, 2 * macs, macs, 8 * 8 * 4 * 2, 8 * 8 * 4 * 2])
    np.testing.assert_allclose(column, (logs - logs.min()) / np.ptp(logs), rtol=1e-6)


def test_two_inputs_each_go_where_they_are_read():
    def fn(p, x, y):
        return (jax.nn.relu(x @ p["a"]) + jax.nn.relu(y.reshape(1, 6) @ p["b"])) @ p["c"]

    params = {"a": shaped(4, 5), "b": shaped(6, 5), "c": shaped(5, 2)}
    work = trace(fn, params, shaped(1, 4), shaped(1, 2, 3))
    flow = [(i, j) for i, j in arcs(quantizer_graph(work, "dataflow", reverse=False)) if i != j]
    named = {(work.point_names[i], work.point_names[j]) for i, j in flow}
    assert {("input", "a.activation"), ("input_2", "b.activation"), ("a.weight", "a.activation")} <= named
    assert not {("input", "b.activation"), ("input_2", "a.activation")} & named


def test_shuffled_is_a_chain_of_other_places():
    graph = quantizer_graph(RESIDUAL, "shuffled", jax.random.key(3))
    chain = quantizer_graph(RESIDUAL)
    assert len(graph.senders) == len(chain.senders)
    assert arcs(graph) != arcs(chain)
    np.testing.assert_array_equal(graph.nodes, chain.nodes)
    forward = arcs(graph)[:9]
    path = [forward[0][0], *(j for _, j in forward)]
    assert sorted(path) == list(range(10))  # one path that visits every node
    assert list(itertools.pairwise(path)) == forward
    assert arcs(graph)[9:] == [(j, i) for i, j in forward] + own(10)
    again = quantizer_graph(RESIDUAL, "shuffled", jax.random.key(3))
    np.testing.assert_array_equal(graph.senders, again.senders)


def three_layers(p, x):
    x = jax.nn.relu(conv(x, p["a"], 2))
    x = jax.nn.relu(conv(x, p["b"], groups=4))
    return x.reshape(1, -1) @ p["c"]


def test_features_of_three_layers_by_hand():
    params = {"a": shaped(3, 3, 2, 4), "b": shaped(3, 3, 1, 4), "c": shaped(64, 10)}
    work = trace(three_layers, params, shaped(1, 8, 8, 2))
    macs_a, macs_b, macs_c = 4 * 4 * 4 * 9 * 2, 4 * 4 * 4 * 9, 64 * 10
    expected = {  # name: (type, parameters, MACs, elements, kernel area, stride, channels in, out)
        "input": ("input", 0, macs_a, 128, 1, 1, 2, 2),
        "a.weight": ("weight_conv", 72, macs_a, 72, 9, 2, 2, 4),
        "a.activation": ("activation", 0, macs_b, 64, 9, 2, 2, 4),
        "b.weight": ("weight_depthwise", 36, macs_b, 36, 9, 1, 4, 4),
        "b.activation": ("activation", 0, macs_c, 64, 9, 1, 4, 4),
        "c.weight": ("weight_fc", 640, macs_c, 640, 1, 1, 64, 10),
    }
    assert work.point_names == tuple(expected)
    found = quantizer_features(work)
    assert found.shape == (6, len(QUANTIZER_FEATURES))
    for row, (kind, *_) in zip(found, expected.values(), strict=True):
        assert [n for n, x in zip(QUANTIZER_FEATURES[:9], row[:9], strict=True) if x] == [kind]
        assert row[:9].sum() == 1
    sizes = np.log(1 + np.array([values[1:] for values in expected.values()], float))
    scaled = (sizes - sizes.min(0)) / (sizes.max(0) - sizes.min(0))
    np.testing.assert_allclose(found[:, 9:], scaled, atol=1e-6)


def test_constant_columns_are_zero():
    work = trace(lambda p, x: x @ p["w"], {"w": shaped(4, 3)}, shaped(1, 4))
    found = quantizer_features(work)
    stride = QUANTIZER_FEATURES.index("stride")
    np.testing.assert_array_equal(found[:, stride], 0)
    assert np.isfinite(found).all()
    assert found[:, 9:].min() == 0
    assert found[:, 9:].max() == 1


def test_position_is_one_more_column():
    plain, placed = (quantizer_graph(RESIDUAL, position=position).nodes for position in (False, True))
    np.testing.assert_array_equal(placed[:, :-1], plain)
    np.testing.assert_allclose(placed[:, -1], np.arange(10) / 9, rtol=1e-6)


def test_efficientnet_lite0_has_110_quantizers():
    net = EfficientNetLite(Config())
    image = shaped(1, 224, 224, 3)
    params = jax.eval_shape(net.init, jax.random.key(0), image)
    work = trace(net.apply, params, image)
    for edges in ("chain", "dataflow"):
        graph = quantizer_graph(work, edges)
        check_arrays(graph, 110)
        heard = {j for i, j in arcs(graph) if i != j}
        assert heard == set(range(110))  # every node has a neighbour
    assert graph.nodes.shape == (110, len(QUANTIZER_FEATURES))
    counts = dict(zip(QUANTIZER_FEATURES[:9], graph.nodes[:, :9].sum(0).astype(int).tolist(), strict=True))
    assert counts == {
        "weight_conv": 33,
        "weight_depthwise": 16,
        "weight_fc": 1,
        "weight_other": 0,
        "input": 1,
        "activation": 33,
        "linear": 16,
        "sum": 9,
        "pool": 1,
    }


def test_chain_graph_knows_places_alone():
    graph = chain_graph(5)
    check_arrays(graph, 5)
    assert arcs(graph)[:4] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert len(arcs(graph)) == 4 + 4 + 5
    assert len(arcs(chain_graph(5, reverse=False))) == 4 + 5
    t = np.arange(5) / 4
    expected = [t] + [f(2 * np.pi * k * t) for k in (1, 2, 4, 8) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(graph.nodes, np.stack(expected, 1), atol=1e-6)
    assert len(CHAIN_FEATURES) == graph.nodes.shape[1] == chain_graph(1).nodes.shape[1]
    assert arcs(chain_graph(1)) == [(0, 0)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chain_graph(0), "n must be at least 1, got 0"),
        (lambda: quantizer_graph(RESIDUAL, "shuffled"), "key is for edges"),
        (lambda: quantizer_graph(RESIDUAL, "chain", jax.random.key(0)), "key is for edges"),
        (
            lambda: quantizer_features(dataclasses.replace(RESIDUAL, points=(), operations=())),
            "trace the network",
        ),
        (lambda: quantizer_graph(zoo.resnet50()), "has no quantizable points: trace the network"),
    ],
)
def test_impossible_graphs_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
