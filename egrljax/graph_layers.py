"""Graph convolution (Kipf & Welling 2017) and attention (Veličković et al. 2018), flax modules over jraph.

A graph here is a `jraph.GraphsTuple` that holds ONE graph, padded or not: the first `n_node[0]` nodes
and the first `n_edge[0]` edges are real, whatever follows was added by `jraph.pad_with_graphs`, whose
edges join padding nodes only. So nothing a layer does with padding reaches a real node, and the rows
of padding nodes hold numbers of no meaning. Nodes are (N, F) float32; edge features are not looked at.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Bool, Float

_LEAKY_SLOPE = 0.2  # Veličković et al. 2018


def real_nodes(graph: jraph.GraphsTuple) -> Bool[Array, " N"]:
    """Whether each node belongs to the graph, rather than to its padding; works inside jit."""
    return jnp.arange(graph.nodes.shape[0]) < jnp.asarray(graph.n_node)[0]


def with_self_edges(graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
    """The graph with exactly one edge from every node to itself; works inside jit.

    Edges that already join a node to itself would count twice. They are moved to one more node, of
    zeros, that is appended for them. So nodes go from N to N + 1 and edges from E to E + N; drop the last
    row of what a layer returns. Edge features are dropped, and `n_node` and `n_edge` keep the old counts.
    """
    n = graph.nodes.shape[0]
    senders, receivers = jnp.asarray(graph.senders), jnp.asarray(graph.receivers)
    own = jnp.arange(n, dtype=senders.dtype)
    there = senders == receivers
    return graph._replace(
        nodes=jnp.pad(jnp.asarray(graph.nodes), ((0, 1), (0, 0))),
        edges=None,
        senders=jnp.concatenate([jnp.where(there, n, senders), own]),
        receivers=jnp.concatenate([jnp.where(there, n, receivers), own]),
    )


def _edges(graph: jraph.GraphsTuple, add_self_edges: bool) -> jraph.GraphsTuple:
    graph = graph._replace(nodes=jnp.asarray(graph.nodes))
    return with_self_edges(graph) if add_self_edges else graph._replace(edges=None)


class GraphConvolution(nn.Module):
    """D_r^-1/2 Â D_s^-1/2 X W + b, with Â[r, s] the number of edges from s to r (Kipf & Welling 2017, Eq. 2).

    D_r and D_s are the degrees by receiver and by sender, equal where every edge has its reverse, as the
    paper has it. The bias is added last and there is no activation.

    Attributes:
        features: columns of the output.
        add_self_edges: the paper's Â = A + I, an existing self-edge not counted twice. Without it Â holds
            the graph's own edges: equal, and cheaper, where they include every node's with itself, as those
            of `hwmodel.policy_graph` do. A node without any edge to it then comes out as the bias.
    """

    features: int
    add_self_edges: bool = True

    @nn.compact
    def __call__(self, graph: jraph.GraphsTuple) -> Float[Array, "N features"]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (graph.nodes.shape[1], self.features))
        convolve = jraph.GraphConvolution(lambda x: x @ kernel)
        with jax.numpy_dtype_promotion("standard"):  # jraph divides by integer degrees
            nodes = convolve(_edges(graph, self.add_self_edges)).nodes
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return nodes[: graph.nodes.shape[0]] + bias[None]


class GraphAttention(nn.Module):
    """Each head: Σ_s α_rs W x_s with α_r = softmax_s LeakyReLU(a_sᵀ W x_s + a_rᵀ W x_r), plus a bias.

    Veličković et al. 2018, Eqs. 1 to 5: s runs over the senders of edges to r, one summand an edge; the
    heads' results are concatenated; LeakyReLU has slope 0.2. There is no activation and no dropout.

    Attributes:
        features: columns of the output, `heads` groups of equal width.
        heads: a divisor of `features`.
        add_self_edges: as in `GraphConvolution`; the paper attends to the node itself too.

    Raises:
        ValueError: heads do not divide features.
    """

    features: int
    heads: int
    add_self_edges: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads < 1 or self.features % self.heads:
            raise ValueError(f"heads must divide features {self.features}, got heads {self.heads}")

    @nn.compact
    def __call__(self, graph: jraph.GraphsTuple) -> Float[Array, "N features"]:
        width = self.features // self.heads
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (graph.nodes.shape[1], self.features))
        # One column a head, so that a head is one output unit, as in a kernel.
        init = nn.initializers.glorot_uniform()
        sender = self.param("sender", init, (width, self.heads))
        receiver = self.param("receiver", init, (width, self.heads))

        def logits(sent: jax.Array, received: jax.Array, edges: None) -> jax.Array:
            score = jnp.einsum("ehf,fh->eh", sent, sender) + jnp.einsum("ehf,fh->eh", received, receiver)
            return jax.nn.leaky_relu(score, _LEAKY_SLOPE)[..., None]

        attend = jraph.GAT(
            attention_query_fn=lambda x: (x @ kernel).reshape(-1, self.heads, width),
            attention_logit_fn=logits,
            node_update_fn=lambda x: x.reshape(-1, self.features),
        )
        nodes = attend(_edges(graph, self.add_self_edges)).nodes
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return nodes[: graph.nodes.shape[0]] + bias[None]
