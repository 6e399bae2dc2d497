"""Tensors whose axes may lie in another order than the program's: transpositions wait until they are needed.

JAX's convolutions run channels last, ONNX's channels first. A tensor here is a name in the graph with the
order that its axes lie in there; `transpose`, `broadcast_in_dim` and the like only relabel it. Axes of one
element may be absent, and a pending broadcast is an axis of one element where the program has more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .graph import Graph
from .shapes import Batch, Dim, Unsupported, known

Shape = tuple[Dim, ...]


@dataclass(frozen=True, eq=False)
class Tensor:
    """Axis k in the graph is axis order[k] of the program; what `order` lacks has one element."""

    order: tuple[int, ...]
    shape: Shape  # by axis of the program, as it lies in the graph: 1 where a broadcast is pending
    name: str = ""
    array: np.ndarray | None = None  # of a constant, in the program's order of axes

    @classmethod
    def constant(cls, array: np.ndarray) -> "Tensor":
        return cls(tuple(range(array.ndim)), array.shape, array=array)

    @property
    def rank(self) -> int:
        return len(self.shape)

    def wide(self, order: Sequence[int]) -> list[int]:
        """The axes in `order` that have more than one element."""
        return [axis for axis in order if self.shape[axis] != 1]

    def axis(self, axis: int) -> int:
        """Where an axis of the program lies in the graph."""
        return self.order.index(axis)


def laid(graph: Graph, x: Tensor, order: Sequence[int], *, align: bool = False) -> str:
    """The name of `x` with its axes in `order`, all of them there.

    Args:
        align: leading axes of one element may be left out, for an operator that broadcasts.
    """
    order = tuple(order)
    if x.array is not None:
        return graph.constant(_arranged(x, order, align))
    if align:
        while order and order[0] not in x.order and x.shape[order[0]] == 1:
            order = order[1:]
    if order == x.order:
        return x.name
    if x.wide(x.order) == x.wide(order):
        extra = [k for k, axis in enumerate(order) if axis not in x.order]
        if tuple(axis for axis in order if axis in x.order) == x.order:
            return graph.node("Unsqueeze", [x.name, graph.ints(extra)])
        return reshaped(graph, x.name, [x.shape[a] for a in x.order], [x.shape[a] for a in order])
    present = [axis for axis in order if axis in x.order]
    left_out = [axis for axis in x.order if axis not in order]  # of one element: put first, then dropped
    name = graph.node("Transpose", [x.name], perm=[x.axis(a) for a in (*left_out, *present)])
    if left_out:
        name = graph.node("Squeeze", [name, graph.ints(list(range(len(left_out))))])
    extra = [k for k, axis in enumerate(order) if axis not in x.order]
    return graph.node("Unsqueeze", [name, graph.ints(extra)]) if extra else name


def plain(graph: Graph, x: Tensor) -> str:
    """With the program's own order of axes."""
    return laid(graph, x, range(x.rank))


def _arranged(x: Tensor, order: tuple[int, ...], align: bool) -> np.ndarray:
    array = x.array
    assert array is not None
    if array.ndim == 0:
        return array if align else array.reshape((1,) * len(order))
    left_out = [axis for axis in range(array.ndim) if axis not in order]  # of one element
    array = array.transpose([*left_out, *order]).reshape([array.shape[axis] for axis in order])
    while align and array.ndim and array.shape[0] == 1:
        array = array.reshape(array.shape[1:])
    return array


def reshaped(graph: Graph, name: str, source: Sequence[Dim], target: Sequence[Dim]) -> str:
    """A Reshape from sizes to sizes; nothing where they are the same."""
    if tuple(source) == tuple(target):
        return name
    sizes: list[int] = []
    for k, dim in enumerate(target):
        if not isinstance(dim, Batch):
            sizes.append(dim)
        elif k < len(source) and source[k] == dim:
            sizes.append(0)  # copied from the input
        else:
            sizes.append(-1)
    if sizes.count(-1) > 1:
        raise Unsupported("a reshape spreads the batch over two axes: give batch=a number")
    if 0 in [d for d in target if not isinstance(d, Batch)]:
        raise Unsupported("an axis has no element")
    if sizes.count(-1) == 0 and sizes.count(0) == 1:
        sizes[sizes.index(0)] = -1  # -1 says the same, and runtimes infer it more easily
    return graph.node("Reshape", [name, graph.ints(sizes)])


def relabelled(x: Tensor, axes: Sequence[int], rank: int) -> Tensor:
    """Axis a becomes axis axes[a] of `rank`; the others have one element. No node."""
    shape: list[Dim] = [1] * rank
    for a, axis in enumerate(axes):
        shape[axis] = x.shape[a]
    if x.array is None:
        return replace(x, order=tuple(axes[a] for a in x.order), shape=tuple(shape))
    by_axis = np.argsort(axes)
    array = x.array.transpose(by_axis).reshape([known(d) for d in shape])
    return Tensor.constant(array)


def dropped(graph: Graph, x: Tensor, axes: Sequence[int]) -> Tensor:
    """Without the axes, which have one element."""
    kept = [a for a in range(x.rank) if a not in axes]
    place = {axis: k for k, axis in enumerate(kept)}
    shape = tuple(x.shape[a] for a in kept)
    if x.array is not None:
        return Tensor.constant(x.array.reshape([n for a, n in enumerate(x.array.shape) if a not in axes]))
    there = [x.axis(a) for a in axes if a in x.order]
    name = graph.node("Squeeze", [x.name, graph.ints(sorted(there))]) if there else x.name
    return Tensor(tuple(place[a] for a in x.order if a in place), shape, name)


def common_order(operands: Sequence[Tensor]) -> tuple[int, ...]:
    """An order that all operands of an element-wise operator can lie in with few transpositions."""
    moving = [x for x in operands if x.array is None and x.rank] or [x for x in operands if x.rank]
    if not moving:
        return ()
    main = max(moving, key=lambda x: (len(x.wide(x.order)), len(x.order)))
    order = list(main.order)
    for axis in range(main.rank):
        wanted = any(axis in x.order and (x.shape[axis] != 1) for x in operands if x.rank)
        if axis not in order and wanted:
            before = [k for k, a in enumerate(order) if a < axis]
            order.insert(max(before) + 1 if before else 0, axis)
    return tuple(order)


def joint_shape(operands: Sequence[Tensor]) -> Shape:
    """Sizes of what an element-wise operator gives, pending broadcasts still pending."""
    ranked = [x for x in operands if x.rank]
    if not ranked:
        return ()
    shape: list[Dim] = []
    for dims in zip(*(x.shape for x in ranked), strict=True):
        shape.append(next((d for d in dims if d != 1), 1))
    return tuple(shape)
