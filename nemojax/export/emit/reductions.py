"""Reductions over whole axes and over windows."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hwmodel import Equation

from .emitter import Emitter
from .graph import onnx_type
from .shapes import Unsupported, ints
from .tensors import Tensor, dropped

Rule = Callable[[Emitter, Equation], Tensor]


def _reduction(op_type: str) -> Rule:
    return lambda em, eqn: reduced(em, op_type, eqn.inputs[0], ints(eqn.params["axes"]))


def reduced(em: Emitter, op_type: str, value: int, axes: Sequence[int]) -> Tensor:
    """A reduction of `value` over axes, which go."""
    shape = em.shape(value)
    x = em.tensor(value)
    if any(x.shape[a] != shape[a] for a in axes):
        x = em.whole(value)
    there = [a for a in axes if a in x.order]
    kept = [a for a in range(x.rank) if a not in axes]
    if not there:
        return dropped(em.graph, x, axes)
    name = em.node(op_type, [x.name, em.graph.ints(sorted(x.axis(a) for a in there))], keepdims=0)
    order = tuple(kept.index(a) for a in x.order if a not in axes)
    return Tensor(order, tuple(x.shape[a] for a in kept), name)


def _masks(op_type: str) -> Rule:
    """All or any of booleans, by way of whole numbers."""

    def rule(em: Emitter, eqn: Equation) -> Tensor:
        if em.program.values[eqn.inputs[0]].dtype != bool:
            raise Unsupported("only of masks")
        whole = em.elementwise("Cast", [em.whole(eqn.inputs[0])], to=onnx_type(np.dtype(np.int32)))
        axes = ints(eqn.params["axes"])
        kept = [a for a in range(whole.rank) if a not in axes]
        name = em.node(op_type, [whole.name, em.graph.ints([whole.axis(a) for a in axes])], keepdims=0)
        order = tuple(kept.index(a) for a in whole.order if a not in axes)
        small = Tensor(order, tuple(whole.shape[a] for a in kept), name)
        return em.elementwise("Cast", [small], to=onnx_type(np.dtype(bool)))

    return rule


def _arg(op_type: str) -> Rule:
    def rule(em: Emitter, eqn: Equation) -> Tensor:
        (axis,) = ints(eqn.params["axes"])
        x = em.whole(eqn.inputs[0])
        kept = [a for a in range(x.rank) if a != axis]
        name = em.node(op_type, [x.name], axis=x.axis(axis), keepdims=0)
        order = tuple(kept.index(a) for a in x.order if a != axis)
        found = Tensor(order, tuple(x.shape[a] for a in kept), name)
        return em.elementwise("Cast", [found], to=onnx_type(np.dtype(eqn.params["index_dtype"])))

    return rule


def _cumsum(em: Emitter, eqn: Equation) -> Tensor:
    x = em.whole(eqn.inputs[0])
    axis = em.scalar(x.axis(eqn.params["axis"]), np.int64)
    name = em.node("CumSum", [x.name, axis], reverse=int(eqn.params["reverse"]))
    return Tensor(x.order, x.shape, name)


def pooled(em: Emitter, eqn: Equation, x: Tensor, op_type: str, **attributes: Any) -> Tensor:
    """MaxPool or AveragePool of a windowed reduction; channels first, as ONNX wants it."""
    p = eqn.params
    window, strides, padding = p["window_dimensions"], p["window_strides"], p["padding"]
    if set(p["base_dilation"]) != {1}:
        raise Unsupported("a window over a spread operand")
    slides = [a for a in range(x.rank) if (window[a], strides[a], *padding[a]) != (1, 1, 0, 0)]
    if not slides:
        return x
    order = _channels_first(x, slides)
    if order is None:
        raise Unsupported("a window that slides over the batch or all channels")
    spatial = order[2:]
    dilations = [p["window_dilation"][a] for a in spatial]
    if set(dilations) != {1}:
        if op_type == "AveragePool" and em.graph.opset < 19:
            raise Unsupported("an average over a dilated window, which ONNX has from opset 19 on")
        attributes = {**attributes, "dilations": dilations}
    name = em.node(
        op_type,
        [em.laid(x, order)],
        kernel_shape=[window[a] for a in spatial],
        strides=[strides[a] for a in spatial],
        pads=[padding[a][0] for a in spatial] + [padding[a][1] for a in spatial],
        **attributes,
    )
    return Tensor(order, em.shape(eqn.outputs[0]), name)


def _channels_first(x: Tensor, slides: Sequence[int]) -> tuple[int, ...] | None:
    """An order with two axes that no window slides over in front: the present one, if it does."""
    if x.rank >= 3 and not set(x.order[:2]) & set(slides):
        return x.order
    rest = [a for a in range(x.rank) if a not in slides]
    if len(rest) < 2:
        return None
    front = (rest[0], rest[-1])
    return (*front, *(a for a in range(x.rank) if a not in front))


def _max_window(em: Emitter, eqn: Equation) -> Tensor:
    return pooled(em, eqn, em.whole(eqn.inputs[0]), "MaxPool")


def _min_window(em: Emitter, eqn: Equation) -> Tensor:
    negative = em.elementwise("Neg", [em.whole(eqn.inputs[0])])
    return em.elementwise("Neg", [pooled(em, eqn, negative, "MaxPool")])


def _sum_window(em: Emitter, eqn: Equation) -> Tensor:
    """The mean with zeros counted, times the number of elements."""
    mean = pooled(em, eqn, em.whole(eqn.inputs[0]), "AveragePool", count_include_pad=1)
    area = np.asarray(math.prod(eqn.params["window_dimensions"]), em.program.values[eqn.outputs[0]].dtype)
    return em.elementwise("Mul", [mean, Tensor.constant(area)])


REDUCTIONS: dict[str, Rule] = {
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_and": _masks("ReduceMin"),
    "reduce_or": _masks("ReduceMax"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "cumsum": _cumsum,
    "reduce_window_max": _max_window,
    "reduce_window_min": _min_window,
    "reduce_window_sum": _sum_window,
}
