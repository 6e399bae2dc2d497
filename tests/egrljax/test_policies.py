"""Policies: their layers in order, padding, node order, gradients, and whole populations."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from egrljax.genomes import genome
from egrljax.graph_layers import GraphAttention, GraphConvolution
from egrljax.policies import PolicyConfig, apply_population, policy
from egrljax.unet import GraphUNet
from hwmodel import policy_graph, random_workload

BLOCKS = ("gcn", "unet", "gat", "mlp")
SMALL = PolicyConfig(hidden=8, heads=2, depth=2, choices=3, decisions=2)
WORKLOAD = random_workload(0, 13)
GRAPH = policy_graph(WORKLOAD, padded=False)
PADDED = policy_graph(WORKLOAD)
N = len(WORKLOAD.operations)


def randomised(net, graph, seed=0):
    params = jax.jit(net.init)(jax.random.key(seed), graph)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(
        structure, [x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))


def of(block, **changes):
    return policy(dataclasses.replace(SMALL, block=block, **changes))


@pytest.mark.parametrize("block", BLOCKS)
def test_layers_stand_in_the_papers_order(block):
    net = of(block)
    params = randomised(net, GRAPH)
    p = jax.tree.map(np.asarray, params)["params"]

    def linear(name, x):
        return x @ p[name]["kernel"] + p[name]["bias"]

    def layer(module, name, x):
        graph = GRAPH._replace(nodes=np.asarray(x, np.float32))
        return np.asarray(jax.jit(module.apply)({"params": params["params"][name]}, graph))

    first = {"gcn": GraphConvolution(8), "unet": GraphUNet(8, 2, 0.5), "gat": GraphAttention(8, 2)}
    x = GRAPH.nodes
    if block == "mlp":
        x = selu(linear("attention", selu(linear("block", x))))
    else:
        x = selu(layer(GraphAttention(8, 2), "attention", selu(layer(first[block], "block", x))))
    expected = linear("logits", selu(linear("linear", x))).reshape(N, 2, 3)
    np.testing.assert_allclose(jax.jit(net.apply)(params, GRAPH), expected, rtol=1e-4, atol=1e-5)
    assert sorted(p) == ["attention", "block", "linear", "logits"]


@pytest.mark.parametrize("block", BLOCKS)
def test_padding_changes_nothing_and_its_logits_are_zero(block):
    net = of(block, layer_norm=True)
    params = randomised(net, PADDED)
    forward = jax.jit(net.apply)
    alone, padded = forward(params, GRAPH), forward(params, PADDED)
    assert padded.shape == (32, 2, 3)
    np.testing.assert_allclose(padded[:N], alone, rtol=1e-4, atol=2e-5)
    np.testing.assert_array_equal(padded[N:], 0)
    assert float(jnp.abs(alone).max()) > 0.1


@pytest.mark.parametrize("block", BLOCKS)
def test_nodes_may_come_in_any_order(block):
    net = of(block)
    params = randomised(net, GRAPH)
    order = np.random.default_rng(1).permutation(N)
    place = np.argsort(order).astype(np.int32)
    other = GRAPH._replace(
        nodes=GRAPH.nodes[order], senders=place[GRAPH.senders], receivers=place[GRAPH.receivers]
    )
    forward = jax.jit(net.apply)
    np.testing.assert_allclose(forward(params, other), forward(params, GRAPH)[order], atol=5e-5)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_parameter_has_a_gradient(block):
    """Of its tensor, that is: a single entry may meet only features that are zero on this graph."""
    net = of(block, layer_norm=True)
    params = randomised(net, PADDED)
    target = jnp.asarray(np.random.default_rng(2).normal(size=(32, 2, 3)), jnp.float32)
    loss = jax.jit(jax.grad(lambda p: jnp.sum(jnp.tanh(net.apply(p, PADDED)) * target)))
    for leaf in jax.tree.leaves(loss(params)):
        assert np.isfinite(leaf).all()
        assert (np.abs(leaf) > 1e-8).mean() > 0.5


@pytest.mark.parametrize("block", BLOCKS)
def test_only_the_mlp_sees_no_edges(block):
    net = of(block)
    params = randomised(net, GRAPH)
    lonely = GRAPH._replace(senders=GRAPH.senders[:0], receivers=GRAPH.receivers[:0])
    forward = jax.jit(net.apply)
    same = np.allclose(forward(params, lonely), forward(params, GRAPH), atol=1e-4)
    assert same == (block == "mlp")


@pytest.mark.parametrize("block", ["gcn", "gat", "unet"])
def test_self_edges_need_not_be_added_to_a_workloads_graph(block):
    adds, trusts = of(block), of(block, add_self_edges=False)
    params = randomised(adds, PADDED)
    expected = jax.jit(adds.apply)(params, PADDED)
    np.testing.assert_allclose(jax.jit(trusts.apply)(params, PADDED), expected, atol=2e-5)


@pytest.mark.parametrize(("block", "chunk"), [("gcn", 1), ("gcn", 3), ("gcn", 50), ("unet", 3)])
def test_a_population_is_a_loop_over_its_members(block, chunk):
    net = of(block)
    params = randomised(net, PADDED)
    g = genome(params)
    vectors = g.ravel(params)[None] + 0.3 * jax.random.normal(jax.random.key(1), (7, g.size))
    one = jax.jit(net.apply)
    loop = np.stack([one(g.unravel(vector), PADDED) for vector in vectors])
    together = jax.jit(partial(apply_population, net, g, chunk=chunk))
    np.testing.assert_allclose(together(vectors, PADDED), loop, rtol=1e-4, atol=2e-5)
    for live in (0, 1, 5, 7):
        out = np.asarray(together(vectors, PADDED, live=jnp.int32(live)))
        np.testing.assert_allclose(out[:live], loop[:live], rtol=1e-4, atol=2e-5)
        np.testing.assert_array_equal(out[live:], 0)
        assert out.shape == (7, 32, 2, 3)


def test_live_is_traced_and_graphs_of_a_bucket_share_a_trace():
    net, traces = of("gcn"), 0
    g = genome(jax.eval_shape(net.init, jax.random.key(0), PADDED))

    @jax.jit
    def forward(vectors, graph, live):
        nonlocal traces
        traces += 1
        return apply_population(net, g, vectors, graph, chunk=2, live=live)

    vectors = jax.random.normal(jax.random.key(1), (5, g.size))
    other = policy_graph(random_workload(1, 13))
    assert other.senders.shape == PADDED.senders.shape  # the same buckets
    for graph, live in ((PADDED, 1), (PADDED, 4), (other, 3)):
        assert bool(jnp.isfinite(forward(vectors, graph, live)).all())
    assert traces == 1


def test_dead_members_are_not_computed():
    """NaN parameters beyond the last chunk that is needed reach nothing."""
    net = of("mlp")
    g = genome(jax.eval_shape(net.init, jax.random.key(0), PADDED))
    vectors = jnp.zeros((6, g.size)).at[3:].set(jnp.nan)
    assert bool(jnp.isfinite(apply_population(net, g, vectors, PADDED, chunk=2, live=3)).all())
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        apply_population(net, g, vectors, PADDED, chunk=0)


def test_paddings_of_jraph_are_understood_as_those_of_hwmodel():
    net = of("unet")
    params = randomised(net, GRAPH)
    padded = jraph.pad_with_graphs(GRAPH, N + 1, len(GRAPH.senders) + 9, n_graph=4)
    forward = jax.jit(net.apply)
    np.testing.assert_allclose(forward(params, padded)[:N], forward(params, GRAPH), rtol=1e-4, atol=2e-5)


def test_equal_configurations_hash_alike():
    assert hash(PolicyConfig(hidden=16)) == hash(PolicyConfig(hidden=16))
    assert PolicyConfig() == PolicyConfig(block="gcn", hidden=32, heads=4, depth=3, ratio=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": "gin"}, "block"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"heads": 5}, "heads must divide hidden 32, got 5"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"ratio": 0.0}, r"ratio must be in \(0, 1\], got 0.0"),
        ({"ratio": 1.1}, r"ratio must be in \(0, 1\], got 1.1"),
        ({"choices": 0}, "choices must be at least 1, got 0"),
        ({"decisions": 0}, "decisions must be at least 1, got 0"),
    ],
)
def test_errors_name_the_field_and_the_value(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PolicyConfig(**changes)
