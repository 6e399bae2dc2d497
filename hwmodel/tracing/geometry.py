"""Counts and sizes of single equations: convolution, matrix product, pooling, element-wise.

Multiply-accumulates of a convolution are those of its plain loops: products with padding count, products
with the zeros that a dilation inserts do not.
"""

import math
from typing import NamedTuple

from ..axes import last_ends, last_pair, pair, sizes
from ..workload import Kind
from .program import Equation, Program


class Geometry(NamedTuple):
    """What one equation contributes to its operation; see Operation for the fields."""

    kind: Kind
    macs: int
    ifm: tuple[int, int, int]
    ofm: tuple[int, int, int]
    batch: int
    channel_axis: int  # of the output
    weight_axis: int = -1  # output channels of the weight; -1: no quantizer can stand at the weight
    kernel: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (0, 0)
    pad: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (0, 0)
    groups: int = 0


def convolution(program: Program, eqn: Equation) -> Geometry:
    """MACs = output elements * (input channels / groups) * kernel area.

    A transposed convolution (lhs_dilation above 1) spreads its input, and every input element meets every
    tap, those at the borders whose products are cropped, too:
    MACs = input elements * (output channels / groups) * kernel area.
    It is described by the convolution that it transposes, as ONNX does: stride = lhs_dilation, and
    pad = dilation * (kernel - 1) - padding of the spread input, at each end; below 0 it adds to the output:
    output = stride * (input - 1) + dilation * (kernel - 1) + 1 - low - high.

    Of three spatial axes the first two are counted as one: sizes, kernel and stride are products, padding
    and dilation those of the last two.

    Raises:
        ValueError: lhs_dilation and window_strides are both above 1, which is neither kind.
    """
    p, dims = eqn.params, eqn.params["dimension_numbers"]
    x, w, y = _shapes(program, eqn)
    groups = p["feature_group_count"]
    in_channels, group_channels, out_channels = x[dims.lhs_spec[1]], w[dims.rhs_spec[1]], w[dims.rhs_spec[0]]
    kernel = [w[i] for i in dims.rhs_spec[2:]]
    stride, padding = p["window_strides"], p["padding"]
    if math.prod(p["lhs_dilation"]) == 1:
        macs = math.prod(y) * group_channels * math.prod(kernel)
    elif math.prod(stride) == 1:
        macs = math.prod(x) * (out_channels // groups) * math.prod(kernel)
        reach = [dilation * (k - 1) for dilation, k in zip(p["rhs_dilation"], kernel, strict=True)]
        stride = p["lhs_dilation"]
        padding = [(r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True)]
    else:
        raise ValueError(
            f"{eqn.name!r} at {eqn.where} has lhs_dilation {tuple(p['lhs_dilation'])} and window_strides "
            f"{tuple(stride)}; trace knows one of them above 1: slice the output of a transposed convolution "
            "in the place of window_strides"
        )
    depthwise = groups == in_channels > 1 and group_channels == 1
    return Geometry(
        kind="dwconv" if depthwise else "conv",
        macs=macs,
        ifm=sizes([x[i] for i in dims.lhs_spec[2:]], in_channels),
        ofm=sizes([y[i] for i in dims.out_spec[2:]], out_channels),
        batch=x[dims.lhs_spec[0]],
        channel_axis=dims.out_spec[1],
        weight_axis=dims.rhs_spec[0],
        kernel=pair(kernel),
        stride=pair(stride),
        pad=last_ends(padding),
        dilation=last_pair(p["rhs_dilation"]),
        groups=groups,
    )


def matrix_product(program: Program, eqn: Equation) -> Geometry:
    """MACs = batch * free axes of the left * free axes of the right * contracted axes.

    Rows are the left operand's free axes, columns the right one's. Of activation against weight the
    first axis is the batch, where it is not contracted; of two activations the batch axes are.
    """
    (lhs_c, rhs_c), (lhs_b, rhs_b) = eqn.params["dimension_numbers"]
    x, w, y = _shapes(program, eqn)
    free = [i for i in range(len(w)) if i not in (*rhs_c, *rhs_b)]
    inner, columns = math.prod(x[i] for i in lhs_c), math.prod(w[i] for i in free)
    rows = math.prod(x) // max(inner, 1)
    weighted = program.is_weight(eqn.inputs[1])
    if weighted:
        batch = x[0] if len(x) > 1 and 0 not in lhs_c else 1
    else:
        batch = math.prod(x[i] for i in lhs_b)
    return Geometry(
        kind="dense" if weighted else "matmul",
        macs=rows * inner * columns,
        ifm=(rows // max(batch, 1), 1, inner),
        ofm=(rows // max(batch, 1), 1, columns),
        batch=batch,
        channel_axis=max(len(y) - 1, 0),
        weight_axis=free[-1] if weighted and free else -1,
    )


def window_pooling(program: Program, eqn: Equation) -> Geometry:
    """A windowed max, min or sum: one per input element that a window touches.

    Channels are the last axis, unless the window is 1 along the second axis and wider along the last.
    """
    x, y = program.values[eqn.inputs[0]].shape, program.values[eqn.outputs[0]].shape
    p = eqn.params
    window, strides, padding = p["window_dimensions"], p["window_strides"], p["padding"]
    channel = 1 if len(x) > 2 and window[1] == 1 and window[-1] > 1 else len(x) - 1
    spatial = [axis for axis in range(1, len(x)) if axis != channel]
    return Geometry(
        kind="pool",
        macs=math.prod(y) * math.prod(window),
        ifm=sizes([x[i] for i in spatial], x[channel]),
        ofm=sizes([y[i] for i in spatial], y[channel]),
        batch=x[0],
        channel_axis=channel,
        kernel=pair([window[i] for i in spatial]),
        stride=pair([strides[i] for i in spatial]),
        pad=last_ends([padding[i] for i in spatial]),
    )


def reduction(program: Program, eqn: Equation) -> Geometry:
    """A sum, max, argmax, ... over whole axes: one per input element.

    Channels are the last axis, unless all axes behind the second go and that one stays (NCHW). The batch
    is the first axis, if it stays; every other axis belongs to the image.
    """
    x, y = program.values[eqn.inputs[0]].shape, program.values[eqn.outputs[0]].shape
    gone = set(eqn.params["axes"])
    channels_first = len(x) > 3 and gone == set(range(2, len(x)))
    channel = 1 if channels_first else len(x) - 1
    batched = 0 not in gone and channel != 0
    spatial = [axis for axis in range(len(x)) if axis != channel and not (axis == 0 and batched)]
    kept = [1 if axis in gone else x[axis] for axis in range(len(x))]
    return Geometry(
        kind="pool",
        macs=math.prod(x),
        ifm=sizes([x[i] for i in spatial], x[channel]),
        ofm=sizes([kept[i] for i in spatial], kept[channel]),
        batch=x[0] if batched else 1,
        channel_axis=max(len(y) - 1, 0),
        kernel=pair([x[i] if i in gone else 1 for i in spatial]),
    )


def pointwise(program: Program, eqn: Equation, kind: Kind, per_element: int = 1) -> Geometry:
    """An operation on each element that no producer could take in; what only moves counts 0 per element."""
    shape = program.values[eqn.outputs[0]].shape
    size = sizes(shape[1:-1], shape[-1]) if len(shape) > 1 else (1, 1, math.prod(shape))
    macs, batch = per_element * math.prod(shape), shape[0] if len(shape) > 1 else 1
    return Geometry(kind, macs, size, size, batch, max(len(shape) - 1, 0))


def is_lookup(program: Program, eqn: Equation) -> bool:
    """Whether a gather takes whole rows of a table of real numbers, as an embedding does."""
    shape = program.values[eqn.inputs[0]].shape
    rows = tuple(eqn.params["slice_sizes"]) == (1, *shape[1:])
    return len(shape) > 1 and rows and program.is_real(eqn.inputs[0])


def _shapes(program: Program, eqn: Equation) -> list[tuple[int, ...]]:
    return [program.values[v].shape for v in (*eqn.inputs, eqn.outputs[0])]
