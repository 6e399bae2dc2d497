"""The workload graph: what a network computes, stores and moves, operation by operation.

Every cost, placement and quantization reads this one object. A node is one operation with one output
tensor; nodes stand in execution order. Points are the tensors that a quantizer can stand at.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import jraph
import numpy as np

from .fields import check_fields
from .tracing.program import NO_PROGRAM, Program

LARGEST = 2**53  # of all counts: beyond it float64, and so a solver, no longer holds every whole number

Kind = Literal[
    "conv", "dwconv", "dense", "matmul", "pool", "norm", "act", "add", "softmax", "gather", "layout", "other"
]  # fmt: skip


class Edge(NamedTuple):
    """One tensor read: `elems` elements of the output of operation `producer`."""

    producer: int
    elems: int


class Affine(NamedTuple):
    """One step y -> y (op) c, or c (op) y where `reversed`, with c constant along all but the channels."""

    op: Literal["add", "sub", "mul", "div"]
    value: int  # of Program.values: a scalar, or one element a channel
    reversed: bool


@dataclass(frozen=True)
class Operation:
    """One node. Counts are for one call at the traced batch; sizes are (x, y) or (x, y, channels)."""

    name: str
    kind: Kind
    macs: int  # multiply-accumulates; for pooling, input elements touched
    w_elems: int  # stored weight elements
    w_reads: int  # weight elements read per inference
    w_id: int  # operations with tied weights share it; -1: no weights
    bias_elems: int  # parameters without a quantizer: one per channel for a folded bias or batch norm
    o_elems: int
    parents: tuple[Edge, ...]
    ifm: tuple[int, int, int]
    ofm: tuple[int, int, int]
    kernel: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (0, 0)
    pad: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (0, 0)
    groups: int = 0
    batch: int = 1
    ext_in: int = 0  # elements read from graph inputs
    is_output: bool = False
    equations: tuple[int, ...] = ()  # of Program.equations, the first one gives the kind
    affine: tuple[Affine, ...] = ()  # bias and batch norm, foldable into the weights
    affine_value: int = -1  # value after the affine steps (= the first equation's output without any)
    weight_point: int = -1  # of Workload.points; -1: none
    weight_axis: int = -1  # output channels of the weight; tied weights may differ in it
    input_point: int = -1  # the quantizer that feeds the operation; -1: none


PointSource = Literal["weight", "input", "linear", "activation", "sum", "pool"]


@dataclass(frozen=True)
class Point:
    """A tensor that a quantizer can stand at, in execution order; its name is stable across traces."""

    name: str
    source: PointSource
    operation: int  # that owns the weight or makes the activation; -1: a graph input
    value: int  # of Program.values
    elems: int
    channel_axis: int  # of the tensor: output channels of a weight, features of an activation

    @property
    def is_weight(self) -> bool:
        return self.source == "weight"


@dataclass(frozen=True, eq=False)
class Workload:
    """A network as operations in execution order; a traced one has its program and points, too."""

    operations: tuple[Operation, ...]
    points: tuple[Point, ...] = ()
    program: Program = NO_PROGRAM
    name: str = "network"

    def __post_init__(self):
        check_fields(self)
        self.validate()

    def __repr__(self) -> str:
        return f"Workload({self.name!r}, {len(self.operations)} operations, {len(self.points)} points)"

    def validate(self) -> None:
        """Raises ValueError for what cannot be: repeated names, impossible counts, dangling edges, edges that
        read more than there is, weights tied to an operation that does not own them.
        """
        for what, names in (
            ("operation", [o.name for o in self.operations]),
            ("point", [p.name for p in self.points]),
        ):
            if len(set(names)) != len(names):
                twice = next(n for n, count in Counter(names).items() if count > 1)
                raise ValueError(f"{what} names must be unique, got {twice!r} twice")
        for i, op in enumerate(self.operations):
            sizes = (op.macs, op.w_elems, op.w_reads, op.bias_elems, op.o_elems, op.ext_in)
            if op.kind not in get_args(Kind):
                raise ValueError(f"operation {op.name!r} has kind {op.kind!r}; there are {get_args(Kind)}")
            if not all(isinstance(size, int | np.integer) for size in sizes):
                raise ValueError(f"operation {op.name!r} has a count that is no whole number: {sizes}")
            if min(sizes) < 0 or op.o_elems == 0:
                raise ValueError(f"operation {op.name!r} has a negative count or an empty output: {sizes}")
            if max(sizes) > LARGEST:
                raise ValueError(f"operation {op.name!r} has a count above 2^53: {sizes}")
            self._validate_tie(i, op)
            for edge in op.parents:
                if not 0 <= edge.producer < i:
                    raise ValueError(f"operation {op.name!r} reads {edge.producer}, which is not before it")
                made = self.operations[edge.producer].o_elems
                if not 0 < edge.elems <= made:
                    raise ValueError(f"operation {op.name!r} reads {edge.elems} of {made} elements")
        for field in ("macs", "w_elems", "w_reads", "o_elems"):
            total = sum(getattr(op, field) for op in self.operations)
            if total > LARGEST:
                raise ValueError(f"workload {self.name!r} has {total} {field} in total, more than 2^53")

    def _validate_tie(self, i: int, op: Operation) -> None:
        if op.w_id == -1 and op.w_elems:
            raise ValueError(
                f"operation {op.name!r} stores {op.w_elems} weight elements without a w_id; give its own "
                f"position, {i}, or that of the operation it shares them with"
            )
        if op.w_id == -1:
            return
        owner = self.operations[op.w_id] if 0 <= op.w_id <= i else None
        if owner is None or owner.w_id != op.w_id:
            raise ValueError(
                f"operation {op.name!r} has w_id {op.w_id}; give -1 or the first operation with its weights"
            )
        if owner.w_elems != op.w_elems:
            raise ValueError(
                f"operation {op.name!r} stores {op.w_elems} weight elements, but is tied to {owner.name!r}, "
                f"which stores {owner.w_elems}"
            )

    def column(self, field: str) -> np.ndarray:
        """(n,) or (n, k) int64: one field of all operations, say `column("macs")`."""
        return np.array([getattr(op, field) for op in self.operations], np.int64)

    @cached_property
    def point_names(self) -> tuple[str, ...]:
        return tuple(point.name for point in self.points)

    @cached_property
    def death(self) -> np.ndarray:
        """(n,) int64: the last step that reads each output, inclusive; the last step for graph outputs."""
        last = np.arange(len(self.operations))
        for step, op in enumerate(self.operations):
            for edge in op.parents:
                last[edge.producer] = step
        return np.where(self.column("is_output") == 1, len(self.operations) - 1, last)

    @cached_property
    def live_elems(self) -> np.ndarray:
        """(n,) int64: elements of all outputs alive at each step."""
        made = self.column("o_elems")
        change = np.append(made, 0)
        np.subtract.at(change, self.death + 1, made)
        return np.cumsum(change)[:-1]

    def to_graph(self) -> jraph.GraphsTuple:
        """Operations as nodes (macs, w_elems, o_elems as int64 columns), tensors read as edges (elems)."""
        edges = [(e.producer, i, e.elems) for i, op in enumerate(self.operations) for e in op.parents]
        table = np.array(edges, np.int64).reshape(-1, 3)
        return jraph.GraphsTuple(
            nodes={field: self.column(field) for field in ("macs", "w_elems", "o_elems")},
            edges={"elems": table[:, 2]},
            senders=table[:, 0].astype(np.int32),
            receivers=table[:, 1].astype(np.int32),
            globals=None,
            n_node=np.array([len(self.operations)], np.int32),
            n_edge=np.array([len(edges)], np.int32),
        )

    def summary(self) -> str:
        """A table of the operations and the totals, as text; MB are 10^6 bytes at 8 bits an element."""
        rows = [("operation", "kind", "output", "MMAC", "weights", "parents")]
        for op in self.operations:
            parents = ", ".join(self.operations[e.producer].name for e in op.parents) or "input"
            shape = "x".join(map(str, op.ofm))
            rows.append((op.name, op.kind, shape, f"{op.macs / 1e6:.2f}", f"{op.w_elems:,}", parents))
        stored = sum(op.w_elems for i, op in enumerate(self.operations) if op.w_id == i)
        total = (
            f"{len(self.operations)} operations, {sum(len(o.parents) for o in self.operations)} edges, "
            f"{stored:,} weights ({stored / 1e6:.2f} MB), {self.column('macs').sum() / 1e9:.4f} GMAC, "
            f"{max(self.live_elems, default=0) / 1e6:.2f} MB of outputs alive at most, "
            f"{len(self.points)} quantizable points"
        )
        return _align(rows) + "\n" + total


def _align(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
