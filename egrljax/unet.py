"""Graph U-Net (Gao & Ji 2019): graph convolutions between poolings that keep the highest-scored nodes.

Pooling needs A², so the adjacency is a dense N x N matrix of zeros and ones here, A[r, s] = 1 where an edge
runs from s to r, with ones on the diagonal of real nodes. Padding nodes hold zeros in every row and column.
"""

from math import ceil
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Bool, Float, Int

from .graph_layers import real_nodes


class Dense(NamedTuple):
    """One graph of at most N nodes, of which the real ones come first."""

    nodes: Float[Array, "N F"]  # padding rows are zero
    adjacency: Float[Array, "N N"]  # 0 or 1; padding rows and columns are zero
    num_real: Int[Array, ""]

    @property
    def real(self) -> Bool[Array, " N"]:
        return jnp.arange(self.nodes.shape[0]) < self.num_real


def dense_graph(graph: jraph.GraphsTuple) -> Dense:
    """The graph with a dense adjacency: every real node gets a self-edge; edges that repeat count once."""
    real = real_nodes(graph)
    n = len(real)
    edges = jnp.eye(n).at[jnp.asarray(graph.receivers), jnp.asarray(graph.senders)].set(1.0)
    nodes = jnp.where(real[:, None], jnp.asarray(graph.nodes), 0)
    return Dense(nodes, edges * _both(real), jnp.asarray(graph.n_node)[0].astype(jnp.int32))


def normalised(adjacency: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """D_r^-1/2 A D_s^-1/2 with the row and column sums of A; rows and columns of zeros stay so."""

    def scale(degree: jax.Array) -> jax.Array:
        return jax.lax.rsqrt(jnp.maximum(degree, 1))

    return scale(adjacency.sum(1))[:, None] * adjacency * scale(adjacency.sum(0))[None, :]


def kept(nodes: int, ratio: float) -> int:
    """How many of so many nodes pooling keeps: ⌈ratio · nodes⌉."""
    return ceil(ratio * nodes)


def pool(graph: Dense, score: Float[Array, " N"], ratio: float) -> tuple[Dense, Int[Array, " k"]]:
    """gPool (Gao & Ji 2019, Eq. 2) for given scores s: the ⌈ratio · num_real⌉ best nodes, and which they are.

    X' = X[idx] · sigmoid(s[idx]); A' = (A²)[idx, idx], made binary [ours]: two kept nodes are joined where
    a path of at most two edges joined them. Nothing is normalised before `Convolution` does so.
    Equal scores: the lower index first.

    Args:
        ratio: static, in (0, 1]. The result has k = ⌈ratio · N⌉ rows; those beyond
            ⌈ratio · num_real⌉ are padding.

    Returns:
        The smaller graph, and the row of `graph` that each of its rows was; padding rows name other rows.
    """
    n = graph.nodes.shape[0]
    keep = jnp.asarray([kept(i, ratio) for i in range(n + 1)], jnp.int32)[graph.num_real]
    _, idx = jax.lax.top_k(jnp.where(graph.real, score, -jnp.inf), kept(n, ratio))
    real = jnp.arange(len(idx)) < keep
    nodes = graph.nodes[idx] * jax.nn.sigmoid(score[idx])[:, None]
    reach = graph.adjacency[idx, :] @ graph.adjacency[:, idx]
    adjacency = (reach > 0).astype(reach.dtype) * _both(real)
    return Dense(jnp.where(real[:, None], nodes, 0), adjacency, keep), idx


def unpool(nodes: Float[Array, "k F"], idx: Int[Array, " k"], size: int) -> Float[Array, "N F"]:
    """gUnpool (Gao & Ji 2019, Eq. 3): row i of `nodes` becomes row idx[i] of `size`, the others are zero.

    The rows of `nodes` that are padding must be zero, as `pool` leaves them.
    """
    return jnp.zeros((size, nodes.shape[1]), nodes.dtype).at[idx].set(nodes, unique_indices=True)


class Convolution(nn.Module):
    """D_r^-1/2 A D_s^-1/2 X W + b on a `Dense` graph; padding rows are zero, and there is no activation."""

    features: int

    @nn.compact
    def __call__(self, graph: Dense) -> Float[Array, "N features"]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (graph.nodes.shape[1], self.features))
        nodes = normalised(graph.adjacency) @ (graph.nodes @ kernel)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return jnp.where(graph.real[:, None], nodes + bias[None], 0)


class Score(nn.Module):
    """s = X p / ‖p‖ with a column p of parameters (Gao & Ji 2019, Eq. 2)."""

    @nn.compact
    def __call__(self, nodes: Float[Array, "N F"]) -> Float[Array, " N"]:
        p = self.param("projection", nn.initializers.lecun_normal(), (nodes.shape[1], 1))[:, 0]
        return nodes @ p * jax.lax.rsqrt(jnp.maximum(jnp.sum(p**2), 1e-12))


class GraphUNet(nn.Module):
    """A convolution, `depth` times pool and convolve, then `depth` times unpool, add the skip and convolve.

    Gao & Ji 2019, section 3.4, with sum as the skip. SELU stands between convolutions, as elsewhere in these
    policies [ours]; none after the last.

    Attributes:
        features: columns of the output and of every level.
        depth: poolings; 0 leaves one convolution.
        ratio: of nodes that each pooling keeps, in (0, 1]; 1 keeps all.

    Raises:
        ValueError: a negative depth, or a ratio outside (0, 1].
    """

    features: int
    depth: int = 3
    ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 0:
            raise ValueError(f"depth must not be negative, got {self.depth}")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be in (0, 1], got {self.ratio}")

    @nn.compact
    def __call__(self, graph: jraph.GraphsTuple) -> Float[Array, "N features"]:
        level = dense_graph(graph)
        nodes = Convolution(self.features, name="down_0")(level)
        levels, places = [], []
        for i in range(1, self.depth + 1):
            level = level._replace(nodes=jax.nn.selu(nodes))
            levels.append(level)
            level, idx = pool(level, Score(name=f"pool_{i}")(level.nodes), self.ratio)
            places.append(idx)
            nodes = Convolution(self.features, name=f"down_{i}")(level)
        for i in range(self.depth, 0, -1):
            skip, idx = levels[i - 1], places[i - 1]
            raised = unpool(jax.nn.selu(nodes), idx, skip.nodes.shape[0])
            nodes = Convolution(self.features, name=f"up_{i}")(skip._replace(nodes=raised + skip.nodes))
        return nodes


def _both(real: Bool[Array, " N"]) -> Float[Array, "N N"]:
    return (real[:, None] & real[None, :]).astype(jnp.float32)
