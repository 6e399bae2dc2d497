"""Graph convolution and attention against their formulas, node by node in NumPy."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from egrljax.graph_layers import GraphAttention, GraphConvolution, real_nodes, with_self_edges

N, F, H = 7, 5, 6
LAYERS = [GraphConvolution(H), GraphAttention(H, 3)]


def graph_of(pairs, n=N, seed=0):
    table = np.array(pairs, np.int32).reshape(-1, 2)
    return jraph.GraphsTuple(
        nodes=np.random.default_rng(seed).normal(size=(n, F)).astype(np.float32),
        edges=None,
        senders=table[:, 0],
        receivers=table[:, 1],
        globals=None,
        n_node=np.array([n], np.int32),
        n_edge=np.array([len(table)], np.int32),
    )


PLAIN = graph_of([(0, 1), (1, 0), (1, 2), (2, 1), (0, 4), (4, 0), (4, 5), (5, 4)])  # node 3, 6 alone
MIXED = graph_of(
    [(0, 1), (0, 1), (2, 1), (2, 2), (4, 4), (4, 4), (5, 6), (6, 0), (3, 3)]
)  # doubles, self-edges


def randomised(layer, graph, seed=0):
    """Parameters away from their initial values, so that biases matter."""
    params = layer.init(jax.random.key(seed), graph)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(
        structure, [x + 0.5 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def edge_list(graph, add):
    """Sender and receiver of every edge that counts."""
    pairs = list(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True))
    if add:
        pairs = [(s, r) for s, r in pairs if s != r] + [(i, i) for i in range(len(graph.nodes))]
    return pairs


@pytest.mark.parametrize("graph", [PLAIN, MIXED], ids=["plain", "mixed"])
@pytest.mark.parametrize("add", [True, False])
def test_convolution_is_the_dense_formula(graph, add):
    layer = GraphConvolution(H, add_self_edges=add)
    params = randomised(layer, graph)
    p = jax.tree.map(np.asarray, params)["params"]
    a = np.zeros((N, N))
    for s, r in edge_list(graph, add):
        a[r, s] += 1
    d_r, d_s = (np.maximum(a.sum(axis), 1) ** -0.5 for axis in (1, 0))
    expected = d_r[:, None] * a * d_s @ graph.nodes @ p["kernel"] + p["bias"]
    np.testing.assert_allclose(layer.apply(params, graph), expected, atol=2e-6)


@pytest.mark.parametrize("graph", [PLAIN, MIXED], ids=["plain", "mixed"])
@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_the_formula_node_by_node(graph, add, heads):
    layer = GraphAttention(H, heads, add_self_edges=add)
    params = randomised(layer, graph, 3)
    p = jax.tree.map(np.asarray, params)["params"]
    w = np.split(p["kernel"], heads, axis=1)
    expected = np.tile(p["bias"], (N, 1))
    for node in range(N):
        senders = [s for s, r in edge_list(graph, add) if r == node]
        for head in range(heads if senders else 0):
            h = graph.nodes @ w[head]
            score = np.array(
                [h[s] @ p["sender"][:, head] + h[node] @ p["receiver"][:, head] for s in senders]
            )
            score = np.where(score > 0, score, 0.2 * score)
            alpha = np.exp(score) / np.exp(score).sum()
            columns = slice(head * H // heads, (head + 1) * H // heads)
            expected[node, columns] += sum(weight * h[s] for weight, s in zip(alpha, senders, strict=True))
    np.testing.assert_allclose(layer.apply(params, graph), expected, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS, ids=["convolution", "attention"])
def test_padding_reaches_no_real_node(layer):
    params = randomised(layer, MIXED)
    alone = layer.apply(params, MIXED)
    for nodes, edges in ((8, 9), (13, 32)):
        padded = jraph.pad_with_graphs(MIXED, nodes, edges, n_graph=2)
        padded.nodes[N:] = 1e6
        np.testing.assert_array_equal(real_nodes(padded), np.arange(nodes) < N)
        np.testing.assert_allclose(jax.jit(layer.apply)(params, padded)[:N], alone, atol=2e-6)


@pytest.mark.parametrize("layer", LAYERS, ids=["convolution", "attention"])
def test_nodes_may_come_in_any_order(layer):
    params = randomised(layer, MIXED)
    order = np.random.default_rng(1).permutation(N)
    place = np.argsort(order).astype(np.int32)
    other = MIXED._replace(
        nodes=MIXED.nodes[order], senders=place[MIXED.senders], receivers=place[MIXED.receivers]
    )
    np.testing.assert_allclose(layer.apply(params, other), layer.apply(params, MIXED)[order], atol=2e-6)


def test_with_self_edges_has_one_for_every_node():
    graph = with_self_edges(MIXED)
    pairs = np.stack([graph.senders, graph.receivers], 1).tolist()
    for node in range(N):
        assert pairs.count([node, node]) == 1
    moved = [pair for pair in pairs if N in pair]
    assert moved == [[N, N]] * 4
    assert graph.nodes.shape == (N + 1, F)
    np.testing.assert_array_equal(graph.nodes[N], 0)
    others = [pair for pair in pairs if pair[0] != pair[1]]
    assert others == [[0, 1], [0, 1], [2, 1], [5, 6], [6, 0]]


@pytest.mark.parametrize("layer", LAYERS, ids=["convolution", "attention"])
def test_every_parameter_has_a_gradient(layer):
    params = randomised(layer, MIXED)
    target = jnp.asarray(np.random.default_rng(2).normal(size=(N, H)), jnp.float32)
    gradient = jax.grad(lambda p: jnp.sum(jnp.tanh(layer.apply(p, MIXED)) * target))(params)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert (np.abs(leaf) > 1e-7).all()


def test_errors_name_the_value():
    for heads in (0, 4):
        with pytest.raises(ValueError, match=f"heads must divide features 6, got heads {heads}"):
            GraphAttention(6, heads)
