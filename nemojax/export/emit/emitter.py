"""What a rule sees: its operands as tensors, sizes, and ways to add nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwmodel import Equation, Program

from .graph import Graph, onnx_type
from .shapes import Batch, Constants, Dim, Sizes, Unsupported, known
from .tensors import Tensor, common_order, joint_shape, laid, plain


class Emitter:
    """The graph so far, and the tensor of every value of the program that was met."""

    def __init__(self, graph: Graph, sizes: Sizes, constants: Constants):
        self.graph, self.sizes, self.constants = graph, sizes, constants
        self.env: dict[int, Tensor] = {}
        self.batch_input = ("", 0)  # a graph input and its axis that is the batch

    @property
    def program(self) -> Program:
        return self.sizes.program

    def tensor(self, value: int) -> Tensor:
        if value not in self.env:
            self.env[value] = Tensor.constant(self.constants.array(value))
        return self.env[value]

    def operands(self, eqn: Equation) -> list[Tensor]:
        return [self.tensor(v) for v in eqn.inputs]

    def shape(self, value: int) -> tuple[Dim, ...]:
        return self.sizes.shape(value)

    def number(self, value: int) -> float | None:
        """Of a constant whose elements are all the same; None where it is none."""
        if not self.program.is_weight(value):
            return None
        array = self.tensor(value).array
        if array is None or array.size == 0 or array.dtype.kind not in "fiu":
            return None
        first = array.reshape(-1)[0]
        return float(first) if (array == first).all() else None

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> Any:
        return self.graph.node(op_type, inputs, **attributes)

    def scalar(self, number: Any, dtype: Any) -> str:
        return self.graph.constant(np.asarray(number, dtype))

    def laid(self, x: Tensor, order: Sequence[int]) -> str:
        return laid(self.graph, x, order)

    def plain(self, x: Tensor) -> str:
        return plain(self.graph, x)

    def cast(self, name: str, dtype: Any) -> str:
        return self.node("Cast", [name], to=onnx_type(dtype))

    def elementwise(self, op_type: str, operands: Sequence[Tensor], **attributes: Any) -> Tensor:
        """One node on operands that broadcast against each other."""
        order = common_order(operands)
        names = [laid(self.graph, x, order if x.rank else (), align=True) for x in operands]
        return Tensor(order, joint_shape(operands), self.node(op_type, names, **attributes))

    def whole(self, value: int) -> Tensor:
        """The tensor of `value` with every broadcast done and every axis there."""
        return self.expanded(self.tensor(value), self.shape(value))

    def expanded(self, x: Tensor, shape: Sequence[Dim]) -> Tensor:
        """With the sizes `shape`, which x broadcasts to, and no axis left out."""
        shape = tuple(shape)
        if x.array is not None:
            if not any(isinstance(d, Batch) for d in shape):
                return Tensor.constant(np.broadcast_to(x.array, [known(d) for d in shape]))
            if x.shape == shape:
                return x
        order = x.order if len(x.order) == x.rank else common_order_with_all(x)
        name = laid(self.graph, x, order)
        if x.shape == shape:
            return Tensor(order, shape, name)
        opened = [a for a in order if isinstance(shape[a], Batch) and x.shape[a] == 1]
        if opened:
            sizes = self._open_sizes(shape, order, opened)
        else:  # Expand leaves an axis as it is where 1 is asked for
            sizes = self.graph.ints([1 if shape[a] == x.shape[a] else known(shape[a]) for a in order])
        return Tensor(order, shape, self.node("Expand", [name, sizes]))

    def _open_sizes(self, shape: tuple[Dim, ...], order: Sequence[int], opened: Sequence[int]) -> str:
        name, axis = self.batch_input
        samples = self.node("Shape", [name], start=axis, end=axis + 1)
        parts = []
        for a in order:
            dim = shape[a]
            if a in opened and dim != Batch(1):
                raise Unsupported("a broadcast to an axis merged with the batch: give batch=a number")
            parts.append(samples if a in opened else self.graph.ints([1 if isinstance(dim, Batch) else dim]))
        return self.node("Concat", parts, axis=0) if len(parts) > 1 else parts[0]


def common_order_with_all(x: Tensor) -> tuple[int, ...]:
    """The order of x with the axes that it leaves out, each behind the next smaller one."""
    order = list(x.order)
    for axis in range(x.rank):
        if axis not in order:
            before = [k for k, a in enumerate(order) if a < axis]
            order.insert(max(before) + 1 if before else 0, axis)
    return tuple(order)
