"""Graph policies: from a graph to logits over the choices of every node.

Shared by NEMO (Miret et al. 2022) and EGRL (Khadka et al. 2021).

NEMO lists a block (graph convolution, or Graph U-Net), SELU, graph attention, SELU, a linear layer, SELU.
We read that as hidden layers, and put the linear layer that makes the logits behind them. Widths, heads,
depth and pool ratio are not known; the defaults here are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Float, Int

from hwmodel import check_fields

from .genomes import Genome
from .graph_layers import GraphAttention, GraphConvolution, real_nodes
from .unet import GraphUNet

Block = Literal["gcn", "unet", "gat", "mlp"]
MOST_POOLINGS = 64  # halving, a graph of 10^19 nodes: more is a slip, and each is traced


@dataclass(frozen=True)
class PolicyConfig:
    """Shape of a policy; hashed by value.

    Raises:
        ValueError: an unknown block, a number below 1, heads that do not divide hidden, or a ratio
            outside (0, 1].
    """

    block: Block = "gcn"  # the first layer; "mlp" has no edges at all, and no attention
    hidden: int = 32  # columns of every hidden layer
    heads: int = 4  # of the attention; a divisor of hidden
    depth: int = 3  # poolings of the U-Net
    ratio: float = 0.5  # of nodes that each pooling keeps
    choices: int = 7  # logits of one decision
    decisions: int = 1  # independent softmax heads of a node: NEMO 1, EGRL 2 (memory of weights, of output)
    layer_norm: bool = False  # of the node features, first
    add_self_edges: bool = True  # of graph_layers; False for graphs known to have them, the U-Net always adds

    def __post_init__(self) -> None:
        check_fields(self)
        if self.block not in get_args(Block):
            raise ValueError(f"block must be one of {get_args(Block)}, got {self.block!r}")
        for name in ("hidden", "heads", "depth", "choices", "decisions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.depth > MOST_POOLINGS:
            raise ValueError(f"depth must be at most {MOST_POOLINGS}, got {self.depth}")
        if self.hidden % self.heads:
            raise ValueError(f"heads must divide hidden {self.hidden}, got {self.heads}")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be in (0, 1], got {self.ratio}")


class Policy(NamedTuple):
    """Two pure functions; jit and vmap are the caller's.

    The graph is one `jraph.GraphsTuple` as in `graph_layers`, N nodes with F float32 features. Logits of real
    nodes do not depend on its padding, up to rounding; those of padding nodes are zero.
    """

    init: Callable[[jax.Array, jraph.GraphsTuple], Any]  # key, graph -> params, flax's initial values
    apply: Callable[[Any, jraph.GraphsTuple], jax.Array]  # params, graph -> logits (N, decisions, choices)


class GraphPolicy(nn.Module):
    """Block, SELU, attention, SELU, linear, SELU, linear; `mlp` has linear layers for the first two."""

    config: PolicyConfig

    @nn.compact
    def __call__(self, graph: jraph.GraphsTuple) -> Float[Array, "N decisions choices"]:
        config = self.config
        real = real_nodes(graph)
        nodes = jnp.asarray(graph.nodes)
        if config.layer_norm:
            nodes = nn.LayerNorm(name="norm")(nodes)
        for layer in (self._block(), self._attention()):
            nodes = jax.nn.selu(layer(graph._replace(nodes=nodes)))
        nodes = jax.nn.selu(nn.Dense(config.hidden, name="linear")(nodes))
        logits = nn.Dense(config.decisions * config.choices, name="logits")(nodes)
        logits = jnp.where(real[:, None], logits, 0)
        return logits.reshape(-1, config.decisions, config.choices)

    def _block(self) -> Callable[[jraph.GraphsTuple], jax.Array]:
        config = self.config
        match config.block:
            case "gcn":
                return GraphConvolution(config.hidden, config.add_self_edges, name="block")
            case "gat":
                return GraphAttention(config.hidden, config.heads, config.add_self_edges, name="block")
            case "unet":
                return GraphUNet(config.hidden, config.depth, config.ratio, name="block")
        return self._linear("block")

    def _attention(self) -> Callable[[jraph.GraphsTuple], jax.Array]:
        config = self.config
        if config.block == "mlp":
            return self._linear("attention")
        return GraphAttention(config.hidden, config.heads, config.add_self_edges, name="attention")

    def _linear(self, name: str) -> Callable[[jraph.GraphsTuple], jax.Array]:
        dense = nn.Dense(self.config.hidden, name=name)
        return lambda graph: dense(graph.nodes)


def policy(config: PolicyConfig) -> Policy:
    """The policy of a configuration."""
    module = GraphPolicy(config)

    def apply(params: Any, graph: jraph.GraphsTuple) -> jax.Array:
        logits: Any = module.apply(params, graph)  # flax's type allows for mutable state beside it
        return logits

    return Policy(init=module.init, apply=apply)


def policy_bytes(config: PolicyConfig, nodes: int, edges: int, chunk: int) -> int:
    """Bytes that `chunk` policies on one graph need together, beside their parameters: an estimate.

    Attention has messages and their scores for every edge, about 3.5 rows of `hidden` numbers alive at once;
    the Graph U-Net squares its adjacency, two dense tables of all nodes and a half that the product takes;
    benchmarks/peak_memory.py compares.
    """
    attention = (
        3.5 * (nodes + edges) * config.hidden if config.block != "mlp" else 3.0 * nodes * config.hidden
    )
    squared = 2.5 * nodes**2 if config.block == "unet" else 0
    return int(4 * chunk * max(attention, squared))


def apply_population(
    policy: Policy,
    genome: Genome,
    vectors: Float[Array, "K P"],
    graph: jraph.GraphsTuple,
    *,
    chunk: int = 10,
    live: Int[Array, ""] | int | None = None,
) -> Float[Array, "K N decisions choices"]:
    """Logits of K parameter vectors on one graph, at most `chunk` at a time.

    Args:
        policy, genome: `genome` of the policy's parameters.
        chunk: static; it changes memory and speed, not the result.
        live: the leading members that matter, traced; rows beyond are zero, and chunks beyond are
            skipped. None: all K, and then the result is differentiable in reverse mode.

    Raises:
        ValueError: chunk below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    members = len(vectors)
    chunk = max(1, min(chunk, members))
    chunks = -(-members // chunk)
    padded = jnp.pad(vectors, ((0, chunks * chunk - members), (0, 0)))
    forward = jax.vmap(lambda vector: policy.apply(genome.unravel(vector), graph))
    if live is None:
        logits = jax.lax.map(forward, padded.reshape(chunks, chunk, -1))
        return logits.reshape(-1, *logits.shape[2:])[:members]

    def body(i: jax.Array, logits: jax.Array) -> jax.Array:
        part = forward(jax.lax.dynamic_slice_in_dim(padded, i * chunk, chunk))
        return jax.lax.dynamic_update_slice_in_dim(logits, part, i * chunk, 0)

    shape = jax.eval_shape(forward, padded)
    live = jnp.clip(jnp.asarray(live, jnp.int32), 0, members)
    logits = jax.lax.fori_loop(0, -(-live // chunk), body, jnp.zeros(shape.shape, shape.dtype))[:members]
    return jnp.where((jnp.arange(members) < live)[:, None, None, None], logits, 0)
