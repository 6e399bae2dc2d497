"""Convolutions and matrix products, on activations alone or with a stored weight and its folded bias."""

from collections.abc import Sequence

import numpy as np

from hwmodel import Equation

from .emitter import Emitter
from .layout import padded
from .shapes import Batch, Dim, Unsupported, known, product
from .tensors import Tensor, reshaped
from .weights import Weight


def convolution(em: Emitter, eqn: Equation, weight: Weight | None = None) -> Tensor:
    """Conv or ConvTranspose; any order of axes, any padding, groups and dilation."""
    p, dims = eqn.params, eqn.params["dimension_numbers"]
    if p["batch_group_count"] != 1:
        raise Unsupported("groups of the batch")
    if set(p["lhs_dilation"]) != {1}:
        return _transposed_convolution(em, eqn, weight)
    x = em.laid(em.whole(eqn.inputs[0]), dims.lhs_spec)
    lows, highs = ([ends[k] for ends in p["padding"]] for k in (0, 1))
    if min(*lows, *highs) < 0:
        x = padded(em, x, [(0, 0), (0, 0), *p["padding"]])
        lows, highs = [0] * len(lows), [0] * len(highs)
    inputs = [x, _kernel(em, eqn, weight)]
    if weight is not None and weight.bias is not None and not weight.apart:
        inputs.append(em.graph.constant(weight.bias, f"{weight.name}.bias"))
    kernel = em.program.values[eqn.inputs[1]].shape
    name = em.node(
        "Conv",
        inputs,
        kernel_shape=[kernel[a] for a in dims.rhs_spec[2:]],
        strides=list(p["window_strides"]),
        pads=[*lows, *highs],
        dilations=list(p["rhs_dilation"]),
        group=p["feature_group_count"],
    )
    y = Tensor(tuple(dims.out_spec), em.shape(eqn.outputs[0]), name)
    return y if weight is None or not weight.apart else _biased(em, y, weight, dims.out_spec[1])


def _biased(em: Emitter, y: Tensor, weight: Weight, axis: int) -> Tensor:
    """y + bias by a node of its own; as y - (-bias) where it must not be fused with the convolution."""
    channels = y.shape[axis]
    bias = np.zeros(known(channels), np.float32) if weight.bias is None else weight.bias
    if weight.apart == "Sub":
        return em.elementwise("Sub", [y, _along(-bias, axis, y.rank)])
    return em.elementwise("Add", [y, _along(bias, axis, y.rank)]) if bias.any() else y


def _kernel(em: Emitter, eqn: Equation, weight: Weight | None) -> str:
    order = eqn.params["dimension_numbers"].rhs_spec
    return em.laid(em.whole(eqn.inputs[1]), order) if weight is None else weight.laid(em.graph, order)


def _transposed_convolution(em: Emitter, eqn: Equation, weight: Weight | None) -> Tensor:
    """y[s·i + d·t - p] += x[i]·w[t]: a convolution of the spread input with the flipped kernel.

    ONNX crops p = d·(k - 1) - padding at each end; where that is below 0, the output is padded behind it.
    """
    p, dims = eqn.params, eqn.params["dimension_numbers"]
    if set(p["window_strides"]) != {1}:
        raise Unsupported("a convolution that spreads its input and strides")
    if weight is None:
        raise Unsupported("a transposed convolution by an activation")
    kernel = em.program.values[eqn.inputs[1]].shape
    crops = [
        tuple(d * (kernel[a] - 1) - end for end in ends)
        for a, d, ends in zip(dims.rhs_spec[2:], p["rhs_dilation"], p["padding"], strict=True)
    ]
    name = em.node(
        "ConvTranspose",
        [
            em.laid(em.whole(eqn.inputs[0]), dims.lhs_spec),
            weight.transposed(em.graph, dims.rhs_spec, p["feature_group_count"]),
        ],
        kernel_shape=[kernel[a] for a in dims.rhs_spec[2:]],
        strides=list(p["lhs_dilation"]),
        pads=[max(low, 0) for low, _ in crops] + [max(high, 0) for _, high in crops],
        dilations=list(p["rhs_dilation"]),
        group=p["feature_group_count"],
    )
    if min(min(ends) for ends in crops) < 0:
        name = padded(em, name, [(0, 0), (0, 0), *((max(-a, 0), max(-b, 0)) for a, b in crops)])
    y = Tensor(tuple(dims.out_spec), em.shape(eqn.outputs[0]), name)
    return _biased(em, y, weight, dims.out_spec[1])


def matrix_product(em: Emitter, eqn: Equation, weight: Weight | None = None) -> Tensor:
    """MatMul or Gemm of any dot_general: axes are laid as (batch, free, contracted) and merged."""
    (lhs_c, rhs_c), (lhs_b, rhs_b) = eqn.params["dimension_numbers"]
    x = em.whole(eqn.inputs[0])
    right_shape = em.shape(eqn.inputs[1])
    lhs_free = [a for a in range(x.rank) if a not in (*lhs_c, *lhs_b)]
    rhs_free = [a for a in range(len(right_shape)) if a not in (*rhs_c, *rhs_b)]
    rows = sorted(lhs_free, key=x.axis) if not lhs_b else lhs_free  # as they lie, where each stays an axis
    left = em.laid(x, [*lhs_b, *rows, *lhs_c])
    batch: list[Dim] = [x.shape[a] for a in lhs_b]
    inner = product([x.shape[a] for a in lhs_c])
    row_dims: list[Dim] = [x.shape[a] for a in rows]
    if isinstance(inner, Batch):
        raise Unsupported("a sum over the batch")
    before = [*batch, *row_dims, *(x.shape[a] for a in lhs_c)]
    merged = [product(row_dims)] if lhs_b or not rows else row_dims
    left = reshaped(em.graph, left, before, [*batch, *merged, inner])
    columns = product([right_shape[a] for a in rhs_free])
    right_order = [*rhs_b, *rhs_c, *rhs_free]
    target = [*(right_shape[a] for a in rhs_b), inner, columns]
    bias = None if weight is None else weight.bias
    if weight is not None and bias is not None and len(merged) == 1 and not batch and len(rhs_free) == 1:
        # As PyTorch writes it: (outputs, inputs). A bias of two axes is one that runtimes leave in float.
        right = weight.laid(em.graph, [*rhs_free, *rhs_c], [known(columns), known(inner)])
        added = em.graph.constant(bias[None] if weight.apart else bias, f"{weight.name}.bias")
        name = em.node("Gemm", [left, right, added], transB=1)
        bias = None
    elif weight is not None:
        right = weight.laid(em.graph, right_order, [known(d) for d in target])
        name = em.node("MatMul", [left, right])
    else:
        right_operand = em.whole(eqn.inputs[1])
        right = em.laid(right_operand, right_order)
        right = reshaped(em.graph, right, [right_shape[a] for a in right_order], target)
        name = em.node("MatMul", [left, right])
    outer = [right_shape[a] for a in rhs_free]
    name = reshaped(em.graph, name, [*batch, *merged, columns], [*batch, *row_dims, *outer])
    count = len(lhs_b)
    place = {a: count + k for k, a in enumerate(lhs_free)}
    last = count + len(lhs_free)
    order = (*range(count), *(place[a] for a in rows), *range(last, last + len(rhs_free)))
    y = Tensor(order, em.shape(eqn.outputs[0]), name)
    wanted = em.program.values[eqn.outputs[0]].dtype
    if wanted != em.program.values[eqn.inputs[0]].dtype:
        y = Tensor(y.order, y.shape, em.cast(y.name, wanted))
    return y if bias is None else em.elementwise("Add", [y, _along(bias, y.rank - 1, y.rank)])


def _along(bias: np.ndarray, axis: int, rank: int) -> Tensor:
    shape: Sequence[int] = [-1 if a == axis else 1 for a in range(rank)]
    return Tensor.constant(bias.reshape(shape))
