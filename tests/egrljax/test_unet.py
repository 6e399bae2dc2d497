"""The Graph U-Net against a plain NumPy retelling on the unpadded graph."""

from math import ceil

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from egrljax.unet import Dense, GraphUNet, dense_graph, normalised, pool, unpool

F, H = 4, 3


def random_graph(seed, n=11):
    """A chain with shortcuts, both directions, some self-edges and a double edge."""
    rng = np.random.default_rng(seed)
    pairs = [(i, i + 1) for i in range(n - 1)] + [tuple(rng.integers(0, n, 2)) for _ in range(5)]
    pairs = np.array(pairs + [(b, a) for a, b in pairs] + [(0, 1)], np.int32)
    return jraph.GraphsTuple(
        nodes=rng.normal(size=(n, F)).astype(np.float32),
        edges=None,
        senders=pairs[:, 0],
        receivers=pairs[:, 1],
        globals=None,
        n_node=np.array([n], np.int32),
        n_edge=np.array([len(pairs)], np.int32),
    )


def randomised(net, graph, seed):
    params = jax.jit(net.init)(jax.random.key(seed), graph)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(
        structure, [x + 0.5 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))


def numpy_adjacency(graph):
    a = np.eye(len(graph.nodes))
    for s, r in zip(graph.senders, graph.receivers, strict=True):
        a[r, s] = 1
    return a


def numpy_convolution(a, x, p):
    return np.diag(a.sum(1) ** -0.5) @ a @ np.diag(a.sum(0) ** -0.5) @ x @ p["kernel"] + p["bias"]


def numpy_pool(a, x, s, ratio):
    """Kept nodes in order of falling score; joined where some node is a neighbour of both."""
    k = ceil(ratio * len(x))
    idx = sorted(range(len(x)), key=lambda i: (-s[i], i))[:k]
    joined = [[any(a[i, m] and a[m, j] for m in range(len(x))) for j in idx] for i in idx]
    gate = 1 / (1 + np.exp(-s[idx]))
    return np.array(joined, float), x[idx] * gate[:, None], idx


def numpy_unet(graph, p, depth, ratio):
    a, x = numpy_adjacency(graph), graph.nodes.astype(float)
    x = numpy_convolution(a, x, p["down_0"])
    passed = []
    for i in range(1, depth + 1):
        x = selu(x)
        score = x @ p[f"pool_{i}"]["projection"][:, 0] / np.linalg.norm(p[f"pool_{i}"]["projection"])
        smaller, y, idx = numpy_pool(a, x, score, ratio)
        passed.append((a, x, idx))
        a, x = smaller, numpy_convolution(smaller, y, p[f"down_{i}"])
    for i in range(depth, 0, -1):
        a, skip, idx = passed[i - 1]
        total = skip.copy()
        for row, place in zip(selu(x), idx, strict=True):
            total[place] += row
        x = numpy_convolution(a, total, p[f"up_{i}"])
    return x


@pytest.mark.parametrize(("depth", "ratio"), [(0, 0.5), (1, 0.5), (2, 0.5), (3, 0.5), (2, 0.3), (2, 1.0)])
def test_the_whole_net_is_the_retelling(depth, ratio):
    for seed in range(3):
        graph = random_graph(seed)
        net = GraphUNet(H, depth, ratio)
        params = randomised(net, graph, seed)
        expected = numpy_unet(graph, jax.tree.map(np.asarray, params)["params"], depth, ratio)
        np.testing.assert_allclose(jax.jit(net.apply)(params, graph), expected, rtol=1e-4, atol=1e-5)


def test_dense_graph_has_self_edges_and_no_doubles():
    graph = random_graph(0)
    padded = jraph.pad_with_graphs(graph, 16, 64, n_graph=2)
    padded.nodes[11:] = 7.0
    dense = dense_graph(padded)
    np.testing.assert_array_equal(dense.adjacency[:11, :11], numpy_adjacency(graph))
    assert float(dense.adjacency.sum()) == numpy_adjacency(graph).sum()
    np.testing.assert_array_equal(dense.nodes[11:], 0)
    assert int(dense.num_real) == 11
    directed = graph._replace(senders=np.array([3], np.int32), receivers=np.array([8], np.int32))
    assert float(dense_graph(directed).adjacency[8, 3]) == 1  # row: receiver
    assert float(dense_graph(directed).adjacency[3, 8]) == 0


def test_normalised_rows_of_zeros_stay_zero():
    a = jnp.array([[1.0, 1, 0], [0, 1, 0], [0, 0, 0]])
    half = 2**-0.5
    np.testing.assert_allclose(normalised(a), [[half, 0.5, 0], [0, half, 0], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.77, 1.0])
def test_pool_of_a_padded_graph_is_the_retelling(ratio):
    """Integer scores, so with many ties."""
    for seed in range(4):
        graph = random_graph(seed)
        rng = np.random.default_rng(seed)
        score = rng.integers(-2, 3, 16).astype(np.float32)
        padded = dense_graph(jraph.pad_with_graphs(graph, 16, 64, n_graph=2))
        smaller, idx = jax.jit(pool, static_argnames="ratio")(padded, score, ratio=ratio)
        a, x, kept = numpy_pool(numpy_adjacency(graph), graph.nodes, score[:11], ratio)
        k = len(kept)
        assert int(smaller.num_real) == k == ceil(ratio * 11)
        assert smaller.nodes.shape == (ceil(ratio * 16), F)
        assert np.asarray(idx)[:k].tolist() == kept
        assert len(set(np.asarray(idx).tolist())) == len(idx)
        np.testing.assert_allclose(smaller.nodes[:k], x, rtol=1e-6)
        np.testing.assert_array_equal(smaller.adjacency[:k, :k], a)
        assert float(smaller.adjacency.sum()) == a.sum()
        np.testing.assert_array_equal(smaller.nodes[k:], 0)


def test_ratio_one_keeps_all_nodes_and_unpool_puts_them_back():
    graph = dense_graph(random_graph(1))
    score = jnp.asarray(np.random.default_rng(0).normal(size=11), jnp.float32)
    same, idx = pool(graph, score, 1.0)
    assert int(same.num_real) == 11
    np.testing.assert_allclose(
        unpool(same.nodes, idx, 11), graph.nodes * jax.nn.sigmoid(score)[:, None], rtol=1e-6
    )


def test_unpool_leaves_the_dropped_rows_zero():
    nodes = jnp.array([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
    out = unpool(nodes, jnp.array([4, 1, 2]), 6)
    np.testing.assert_array_equal(out, [[0, 0], [3, 4], [0, 0], [0, 0], [1, 2], [0, 0]])


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_padding_changes_nothing(ratio):
    for seed in range(2):
        graph = random_graph(seed)
        net = GraphUNet(H, 3, ratio)
        params = randomised(net, graph, seed)
        forward = jax.jit(net.apply)
        alone = forward(params, graph)
        for nodes, edges in ((12, 40), (32, 64)):
            padded = jraph.pad_with_graphs(graph, nodes, edges, n_graph=2)
            padded.nodes[11:] = 1e6
            np.testing.assert_allclose(forward(params, padded)[:11], alone, rtol=1e-5, atol=1e-5)


def test_nodes_may_come_in_any_order():
    for seed in range(3):
        graph = random_graph(seed)
        net = GraphUNet(H, 3)
        params = randomised(net, graph, seed)
        order = np.random.default_rng(seed + 9).permutation(11)
        place = np.argsort(order).astype(np.int32)
        other = graph._replace(
            nodes=graph.nodes[order], senders=place[graph.senders], receivers=place[graph.receivers]
        )
        forward = jax.jit(net.apply)
        np.testing.assert_allclose(forward(params, other), forward(params, graph)[order], atol=2e-5)


def test_every_parameter_has_a_gradient():
    graph = jraph.pad_with_graphs(random_graph(0), 16, 64, n_graph=2)
    net = GraphUNet(H, 2)
    params = randomised(net, graph, 0)
    target = jnp.asarray(np.random.default_rng(2).normal(size=(16, H)), jnp.float32)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.tanh(net.apply(p, graph)) * target)))(params)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert (np.abs(leaf) > 1e-8).all()


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="depth must not be negative, got -1"):
        GraphUNet(H, -1)
    for ratio in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"ratio must be in \(0, 1\], got {ratio}"):
            GraphUNet(H, 2, ratio)


def test_an_empty_level_is_not_possible():
    """Even the smallest ratio keeps one node."""
    smaller, _ = pool(Dense(jnp.ones((5, 2)), jnp.eye(5), jnp.int32(1)), jnp.zeros(5), 0.01)
    assert int(smaller.num_real) == 1
