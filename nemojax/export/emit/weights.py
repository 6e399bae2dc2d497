"""A stored kernel: integers and a DequantizeLinear where it has a grid, float32 where it has none."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..grids import Kernel
from .containers import Container, weight_container
from .graph import Graph
from .notes import Notes

Apart = Literal["", "Add", "Sub"]
Arrange = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Weight:
    """A kernel in the program's layout with what folds into it."""

    name: str  # of its operation
    point: str  # of its quantizer
    kernel: Kernel
    bias: np.ndarray | None  # (channels,); None where nothing is added
    apart: Apart  # a node of its own that adds the bias: see `walk`
    notes: Notes

    def laid(self, graph: Graph, order: Sequence[int], shape: Sequence[int] | None = None) -> str:
        """The name of the kernel with its axes in `order`, merged to `shape`."""
        moved = [self.kernel.values.shape[a] for a in order]
        return self._stored(graph, lambda a: a.transpose(order), moved if shape is None else list(shape))

    def transposed(self, graph: Graph, order: Sequence[int], groups: int) -> str:
        """For ConvTranspose: flipped, and (inputs of all groups, outputs of one, ...)."""

        def arrange(array: np.ndarray) -> np.ndarray:
            array = array.transpose(order)
            outputs, inputs, *window = array.shape
            array = array[(slice(None), slice(None), *(slice(None, None, -1) for _ in window))]
            array = array.reshape(groups, outputs // groups, inputs, *window).swapaxes(1, 2)
            return array.reshape(groups * inputs, outputs // groups, *window)

        outputs, inputs, *window = (self.kernel.values.shape[a] for a in order)
        return self._stored(graph, arrange, [groups * inputs, outputs // groups, *window])

    def _stored(self, graph: Graph, arrange: Arrange, shape: list[int]) -> str:
        """The kernel after `arrange`, merged to `shape`; its scales lie along at most one axis there."""
        called = f"{self.name}.weight"
        values, grid, integers = self.kernel
        if grid is None or integers is None:
            return graph.constant(arrange(values).reshape(shape), called)
        container = weight_container(grid, graph.opset)
        if container.shift == 0 and np.ndim(grid.zero):  # a channel of zeros: 0 stands for them as well
            rest = tuple(a for a in range(integers.ndim) if np.shape(grid.zero)[a] == 1)
            empty = (integers == grid.zero).all(rest, keepdims=True)
            integers, grid = np.where(empty, 0, integers), grid._replace(zero=np.where(empty, 0, grid.zero))
        scale, zero = (arrange(np.broadcast_to(part, values.shape)) for part in (grid.scale, grid.zero))
        axes = [a for a in range(scale.ndim) if _varies(scale, a) or _varies(zero, a)]
        if container.dtype == "float32" or len(axes) > 1:
            reason = container.reason or "its scales vary along two axes of ONNX's layout"
            self.notes.add(self.point, grid.bits, Container("float32", reason))
            return graph.constant(arrange(values).reshape(shape), called)
        self.notes.add(self.point, grid.bits, container)
        stored, axis = shape, 0
        if axes:
            merged = _kept_axis(scale.shape, shape, axes[0])
            stored, axis = (list(scale.shape), axes[0]) if merged is None else (shape, merged)
        line = tuple(slice(None) if a in axes else 0 for a in range(scale.ndim))
        scales, zeros = np.asarray(scale[line], np.float32), np.asarray(zero[line]) + container.shift
        if axes and len(scales) != stored[axis]:  # heads and features are one axis now
            scales, zeros = (np.tile(part, stored[axis] // len(part)) for part in (scales, zeros))
        name = graph.node(
            "DequantizeLinear",
            [
                graph.constant(
                    (arrange(integers).reshape(stored) + container.shift).astype(container.type), called
                ),
                graph.constant(scales, f"{called}.scale"),
                graph.constant(np.asarray(zeros).astype(container.type), f"{called}.zero_point"),
            ],
            note=container.note(self.point, grid.bits),
            axis=axis,
        )
        return name if stored == shape else graph.node("Reshape", [name, graph.ints(shape)])


def _varies(array: np.ndarray, axis: int) -> bool:
    return bool((array != array.take([0], axis)).any())


def _kept_axis(inner: Sequence[int], shape: Sequence[int], axis: int) -> int | None:
    """Where `axis` of `inner` is the fastest part of an axis of `shape`, after a reshape; None elsewhere."""
    behind = math.prod(inner[axis + 1 :])
    for k in range(len(shape)):
        if math.prod(shape[k + 1 :]) == behind and shape[k] % inner[axis] == 0 and shape[k] > 0:
            return k
    return None
