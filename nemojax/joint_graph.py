"""One graph of a network's quantizers and operations, on which a policy chooses bit-widths and memories.

Nodes 0 to n - 1 are the points, joined in execution order as in NEMO (quantizer_graph.py); the N after them
are the operations, joined by the tensors that they read, as in EGRL. An operation is joined with the points
of its weights, of what feeds it and of what it makes. All edges run both ways, and every node has a loop.
Features of points and of operations stand in columns of their own, zero for the others.
"""

import jraph
import numpy as np

import hwmodel as hw

from .chip_bits import stored_points
from .quantizer_graph import QUANTIZER_FEATURES, GraphEdges, quantizer_graph


def joint_graph(workload: hw.Workload, chip: hw.Chip, edges: GraphEdges = "chain") -> jraph.GraphsTuple:
    """n points and N operations as nodes; NumPy arrays, no edge features.

    Args:
        edges: among the points, "chain" or "dataflow" of `quantizer_graph`.

    Raises:
        ValueError: a workload without points, "shuffled" edges.
    """
    if edges == "shuffled":
        raise ValueError("edges must be 'chain' or 'dataflow' where memories are chosen, too, got 'shuffled'")
    among = quantizer_graph(workload, edges)
    points, count = len(workload.points), len(workload.operations)
    own = hw.features(workload, "plus", chip, hw.INT8)
    width = len(QUANTIZER_FEATURES)
    nodes = np.zeros((points + count, width + own.shape[1]), np.float32)
    nodes[:points, :width], nodes[points:, width:] = among.nodes, own
    stored = stored_points(workload)
    arcs = set()
    for i, op in enumerate(workload.operations):
        arcs |= {(edge.producer + points, i + points) for edge in op.parents}
        arcs |= {(p, i + points) for p in (op.weight_point, op.input_point) if p >= 0}
        arcs |= {(i + points, int(p)) for p in stored.outputs[i : i + 1] if p >= 0}
    both = arcs | {(j, i) for i, j in arcs}
    table = np.array(sorted(both), np.int32).reshape(-1, 2)
    loops = np.arange(points, points + count, dtype=np.int32)  # points have theirs from `quantizer_graph`
    senders = np.concatenate([among.senders, table[:, 0], loops]).astype(np.int32)
    receivers = np.concatenate([among.receivers, table[:, 1], loops]).astype(np.int32)
    return jraph.GraphsTuple(
        nodes=nodes,
        edges=None,
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=np.array([points + count], np.int32),
        n_edge=np.array([len(senders)], np.int32),
    )
