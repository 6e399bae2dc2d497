"""Workloads as graphs of a few fixed sizes, so that one compiled policy serves many networks."""

import jraph
import numpy as np
from jaxtyping import Array, Bool

from .bits import INT8, Bits
from .chip import Chip
from .features import FeatureKind, features
from .lifetimes import power_of_two
from .workload import Workload

_NODES = (32, 64, 128, 256, 384, 512)  # then powers of two
_ELEMS = 2**24  # of a tensor, where its edge feature is 1


def node_bucket(nodes: int) -> int:
    """The smallest bucket with room for `nodes` and one padding node."""
    return next((size for size in _NODES if size > nodes), power_of_two(nodes + 1, 1024))


def edge_bucket(edges: int) -> int:
    """The smallest power of two that holds `edges`."""
    return power_of_two(edges, 1)


def policy_graph(
    workload: Workload,
    kind: FeatureKind = "paper19",
    chip: Chip | None = None,
    bits: Bits = INT8,
    *,
    padded: bool = True,
    nodes: int | None = None,
) -> jraph.GraphsTuple:
    """Operations as nodes with `features`; every tensor read as two edges, and every node with itself.

    Edge features are (E, 4): log size of the tensor read, and whether the edge runs forward, backward, or
    from a node to itself. Arrays are NumPy float32 and int32.

    Args:
        workload: with n operations and e edges.
        kind, chip, bits: of `features`.
        padded: to `node_bucket(n)` nodes and `edge_bucket(2 e + n)` edges. Padding edges join padding
            nodes only, so that they reach no real node; `node_mask` and `edge_mask` tell them apart.
        nodes: pads as for that many operations of two parents each, so that workloads of one chip's levels
            have graphs of one shape.

    Raises:
        ValueError: of `features`; fewer nodes than operations.
    """
    rows = features(workload, kind, chip, bits)
    n = len(workload.operations)
    read = [(e.producer, i, e.elems) for i, op in enumerate(workload.operations) for e in op.parents]
    table = np.array(read, np.int64).reshape(-1, 3)
    producer, reader, own = table[:, 0], table[:, 1], np.arange(n)
    made = workload.column("o_elems")
    size = np.log1p(np.concatenate([table[:, 2], table[:, 2], made])) / np.log1p(_ELEMS)
    direction = np.repeat(np.eye(3), [len(table), len(table), n], axis=0)
    graph = jraph.GraphsTuple(
        nodes=rows,
        edges=np.concatenate([size[:, None], direction], 1).astype(np.float32),
        senders=np.concatenate([producer, reader, own]).astype(np.int32),
        receivers=np.concatenate([reader, producer, own]).astype(np.int32),
        globals=None,
        n_node=np.array([n], np.int32),
        n_edge=np.array([2 * len(table) + n], np.int32),
    )
    if not padded:
        return graph
    if nodes is not None and nodes < n:
        raise ValueError(f"nodes must be at least {n}, the number of operations, got {nodes}")
    room = max(2 * len(table) + n, 5 * (nodes or 0))
    return jraph.pad_with_graphs(graph, node_bucket(nodes or n), edge_bucket(room), n_graph=2)


def node_mask(graph: jraph.GraphsTuple) -> Bool[Array, " N"]:
    """Whether each node of a padded graph is an operation; works inside jit."""
    return jraph.get_node_padding_mask(graph)


def edge_mask(graph: jraph.GraphsTuple) -> Bool[Array, " E"]:
    """Whether each edge of a padded graph is one of the workload; works inside jit."""
    return jraph.get_edge_padding_mask(graph)
