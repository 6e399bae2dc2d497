"""Execution order: Kahn's algorithm (1962) with a fixed tie-break, and the cycle if there is none."""

import heapq
from collections.abc import Sequence
from dataclasses import replace

from .workload import Edge, Operation


def in_execution_order(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """The operations so that producers come before their readers; of several ready ones the first given.

    Parents and `w_id` are renumbered; of operations with tied weights the first one to run owns them.
    Operations that are in execution order already come back as they are. What refers to operations from
    outside, such as the points of a traced workload, is not renumbered.

    Args:
        operations: in any order, parents and `w_id` as positions in this sequence.

    Raises:
        ValueError: a parent or `w_id` that is no position, or a cycle, with the names of its operations.
    """
    count = len(operations)
    for op in operations:
        for what, index, low in (*(("parent", e.producer, 0) for e in op.parents), ("w_id", op.w_id, -1)):
            if not low <= index < count:
                raise ValueError(
                    f"operation {op.name!r} has {what} {index}, but there are {count} operations"
                )
        if op.w_id >= 0 and operations[op.w_id].w_id != op.w_id:
            owner_name = operations[op.w_id].name
            raise ValueError(
                f"operation {op.name!r} is tied to {owner_name!r}, which has no weights of its own"
            )
    parents = [[edge.producer for edge in op.parents] for op in operations]
    order = execution_order(parents)
    if len(order) < count:
        names = [operations[i].name for i in find_cycle(parents, order)]
        raise ValueError(f"operations form a cycle: {arrows(names)}; cut one of these edges")
    step = {old: new for new, old in enumerate(order)}
    owner: dict[int, int] = {}
    out: list[Operation] = []
    for new, old in enumerate(order):
        op = operations[old]
        tie = op.w_id if op.w_id < 0 else owner.setdefault(op.w_id, new)
        edges = tuple(Edge(step[edge.producer], edge.elems) for edge in op.parents)
        out.append(replace(op, parents=edges, w_id=tie))
    return tuple(out)


def execution_order(parents: Sequence[Sequence[int]]) -> list[int]:
    """Positions in execution order, lowest ready position first; those on or behind a cycle are left out."""
    waits = [len(set(own)) for own in parents]
    readers: list[list[int]] = [[] for _ in parents]
    for i, own in enumerate(parents):
        for producer in set(own):
            readers[producer].append(i)
    ready = [i for i, count in enumerate(waits) if count == 0]  # ascending, and so a heap
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for reader in readers[i]:
            waits[reader] -= 1
            if waits[reader] == 0:
                heapq.heappush(ready, reader)
    return order


def find_cycle(parents: Sequence[Sequence[int]], order: Sequence[int]) -> list[int]:
    """A cycle among what `order` left out, from producer to reader, its first position at both ends.

    Walks back from one that waits, always to one that waits, too, until one comes twice.
    """
    left = set(range(len(parents))) - set(order)
    path = [min(left)]
    while True:
        before = next(producer for producer in parents[path[-1]] if producer in left)
        if before in path:
            loop = path[path.index(before) :][::-1]
            first = loop.index(min(loop))
            return [*loop[first:], *loop[: first + 1]]
        path.append(before)


def arrows(names: Sequence[str]) -> str:
    """Names of a cycle for a message; of a long one, both ends."""
    shown = [repr(name) for name in names]
    return " -> ".join(
        shown if len(shown) <= 12 else [*shown[:6], f"... {len(shown) - 12} more ...", *shown[-6:]]
    )
