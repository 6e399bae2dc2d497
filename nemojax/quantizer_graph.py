"""The graph of a network's quantizers, on which the graph policies of NEMO choose bit-widths.

A node is one quantizer, in execution order, and nodes are joined in that order (Miret et al. 2022: the
"sequential graph"). The paper's list of node features is not known: the one here is reconstructed from its
description, a one-hot type and a few general sizes of the layer.
"""

from typing import Literal, get_args

import jax
import jraph
import numpy as np
from jaxtyping import Float

from hwmodel import Operation, Workload

GraphEdges = Literal["chain", "dataflow", "shuffled"]
Arcs = list[tuple[int, int]]  # (sender, receiver)

_WEIGHT_TYPES = {"conv": "conv", "dwconv": "depthwise", "dense": "fc"}  # of the operation; else "other"
_TYPES = (
    *("weight_conv", "weight_depthwise", "weight_fc", "weight_other"),
    *("input", "linear", "activation", "sum", "pool"),
)
_SIZES = ("parameters", "macs", "elements", "kernel_area", "stride", "in_channels", "out_channels")
QUANTIZER_FEATURES = (*_TYPES, *_SIZES)  # columns of `quantizer_features`, the same for every network
_WAVES = (1, 2, 4, 8)  # periods along the chain, of `chain_graph`
CHAIN_FEATURES = ("position", *(f"{wave}_{k}" for k in _WAVES for wave in ("sin", "cos")))


def quantizer_graph(
    workload: Workload,
    edges: GraphEdges = "chain",
    key: jax.Array | None = None,
    *,
    reverse: bool = True,
    position: bool = False,
) -> jraph.GraphsTuple:
    """Quantizers as nodes with `quantizer_features`; NumPy arrays, no edge features.

    Args:
        workload: traced, with n points.
        edges: "chain" joins each quantizer with the next (paper); "dataflow" joins a weight and the input of
            its operation with the operation's output, through operations without a quantizer; "shuffled" is
            the chain in a random order, to see whether the order matters.
        key: for "shuffled" alone.
        reverse: every edge in the other direction, too. Ours, as is one self-loop at each node, which graph
            convolutions and attention need.
        position: one more column, the node's place along the chain in 0-1.

    Raises:
        ValueError: a workload without points, unknown edges, or "shuffled" without a key.
    """
    if edges not in get_args(GraphEdges):
        raise ValueError(f"edges must be one of {', '.join(get_args(GraphEdges))}, got {edges!r}")
    if (key is None) == (edges == "shuffled"):
        raise ValueError(f'key is for edges="shuffled", which needs one; got edges={edges!r}, key={key}')
    nodes = quantizer_features(workload, position=position)
    if edges == "dataflow":
        return _graph(nodes, _dataflow(workload), reverse)
    arcs = _chain(len(nodes))
    if key is not None:
        place = np.asarray(jax.random.permutation(key, len(nodes)))
        arcs = [(int(place[i]), int(place[j])) for i, j in arcs]
    return _graph(nodes, arcs, reverse)


def chain_graph(n: int, *, reverse: bool = True) -> jraph.GraphsTuple:
    """A chain of n nodes that know their place alone (`CHAIN_FEATURES`), for spaces without a network.

    The columns are the place t in 0-1 and sin(2π k t), cos(2π k t) for k = 1, 2, 4, 8.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    place = _position(n)
    waves = [f(2 * np.pi * k * place) for k in _WAVES for f in (np.sin, np.cos)]
    return _graph(np.stack([place, *waves], axis=1).astype(np.float32), _chain(n), reverse)


def quantizer_features(workload: Workload, *, position: bool = False) -> Float[np.ndarray, "n F"]:
    """One row per point, columns `QUANTIZER_FEATURES`, float32 in 0-1; reconstructed, see the module.

    The type is one-hot. Sizes are log(1 + size), scaled so that the smallest of the network is 0 and the
    largest 1; a column that is the same everywhere is 0. Those of a weight are of the operation that reads it
    (the first one, but the MACs of all). An activation has no parameters, the MACs of the operations that it
    feeds, and the kernel, stride and channels of the operation that makes it (1, 1 and its own for an input).

    Raises:
        ValueError: a workload without points.
    """
    if not workload.points:
        raise ValueError(f"workload {workload.name!r} has no quantizable points: trace the network")
    kinds, sizes = [], []
    for i, point in enumerate(workload.points):
        readers = [op for op in workload.operations if op.weight_point == i]
        if point.is_weight:
            kinds.append(f"weight_{_WEIGHT_TYPES.get(readers[0].kind, 'other')}")
            parameters = point.elems
            made: Operation | None = readers[0]
        else:
            kinds.append(point.source)
            readers = [op for op in workload.operations if op.input_point == i and op.weight_point >= 0]
            parameters = 0
            made = workload.operations[point.operation] if point.operation >= 0 else None
        macs = sum(op.macs for op in readers)
        sizes.append(
            (parameters, macs, point.elems, *_geometry(workload, made, point.value, point.channel_axis))
        )
    logs = np.log1p(np.array(sizes, np.float64))
    low, span = logs.min(axis=0), np.ptp(logs, axis=0)
    scaled = (logs - low) / np.where(span > 0, span, 1.0)
    types = np.array([[kind == t for t in _TYPES] for kind in kinds])
    columns = [types, scaled, *([_position(len(kinds))[:, None]] if position else [])]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _geometry(workload: Workload, op: Operation | None, value: int, axis: int) -> tuple[int, int, int, int]:
    """Kernel area, stride, channels in and out; of a graph input those of a kernel 1x1 without effect."""
    if op is None:
        channels = workload.program.values[value].shape[axis]
        return 1, 1, channels, channels
    kernel, stride = max(op.kernel[0] * op.kernel[1], 1), max(*op.stride, 1)  # (0, 0) of matrix products
    return kernel, stride, op.ifm[2], op.ofm[2]


def _position(n: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, n) if n > 1 else np.zeros(1)


def _chain(n: int) -> Arcs:
    return [(i, i + 1) for i in range(n - 1)]


def _dataflow(workload: Workload) -> Arcs:
    """(i, j) where the tensor of point j is computed from that of point i with no other point between.

    A weight whose operation no point follows (the last layer) is joined with what feeds the operation, or
    no message would reach it.
    """
    program = workload.program
    weight_of = {op.equations[0]: op.weight_point for op in workload.operations if op.weight_point >= 0}
    point_at = {p.value: i for i, p in enumerate(workload.points) if not p.is_weight}
    carried = {value: {point_at[value]} for value in program.inputs if value in point_at}
    arcs: set[tuple[int, int]] = set()
    fed: dict[int, set[int]] = {}  # weight -> points that its operations read
    for i, equation in enumerate(program.equations):
        reads = set().union(*(carried.get(value, set()) for value in equation.inputs))
        if i in weight_of:
            fed.setdefault(weight_of[i], set()).update(reads)
            reads.add(weight_of[i])
        for value in equation.outputs:
            if value in point_at:
                arcs |= {(source, point_at[value]) for source in reads}
                carried[value] = {point_at[value]}
            else:
                carried[value] = reads
    followed = {source for source, _ in arcs}
    arcs |= {(source, w) for w, sources in fed.items() if w not in followed for source in sources}
    return sorted(arcs)


def _graph(nodes: np.ndarray, arcs: Arcs, reverse: bool) -> jraph.GraphsTuple:
    """`arcs`, then the same reversed, then a self-loop at each node."""
    n = len(nodes)
    table = np.array(arcs, np.int32).reshape(-1, 2)
    parts = [
        table,
        *([table[:, ::-1]] if reverse else []),
        np.repeat(np.arange(n, dtype=np.int32), 2).reshape(n, 2),
    ]
    joined = np.concatenate(parts)
    return jraph.GraphsTuple(
        nodes=nodes,
        edges=None,
        senders=joined[:, 0].copy(),
        receivers=joined[:, 1].copy(),
        globals=None,
        n_node=np.array([n], np.int32),
        n_edge=np.array([len(joined)], np.int32),
    )
