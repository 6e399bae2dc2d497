"""Counts and sizes of single equations: convolution, matrix product, pooling."""

import math
from typing import Any, NamedTuple

from .program import Equation, Program
from .workload import Kind


class Geometry(NamedTuple):
    """What one equation contributes to its operation; see Operation for the fields."""

    kind: Kind
    macs: int
    ifm: tuple[int, int, int]
    ofm: tuple[int, int, int]
    batch: int
    channel_axis: int  # of the output
    weight_axis: int = -1  # output channels of the weight
    kernel: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (0, 0)
    pad: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (0, 0)
    groups: int = 0


def convolution(program: Program, eqn: Equation) -> Geometry:
    """MACs = output elements * (input channels / groups) * kernel area."""
    p, dims = eqn.params, eqn.params["dimension_numbers"]
    x, w, y = (program.values[v].shape for v in (*eqn.inputs, eqn.outputs[0]))
    if len(x) not in (3, 4):
        raise ValueError(f"convolution over {len(x) - 2} dimensions at {eqn.where}; trace knows 1 and 2")
    if p["batch_group_count"] != 1 or set(p["lhs_dilation"]) != {1}:
        raise ValueError(
            f"conv_general_dilated at {eqn.where} has batch_group_count or lhs_dilation (a transposed "
            "convolution), which trace does not know"
        )
    groups = p["feature_group_count"]
    in_channels, group_channels, out_channels = x[dims.lhs_spec[1]], w[dims.rhs_spec[1]], w[dims.rhs_spec[0]]
    kernel = [w[i] for i in dims.rhs_spec[2:]]
    depthwise = groups == in_channels > 1 and group_channels == 1
    return Geometry(
        kind="dwconv" if depthwise else "conv",
        macs=math.prod(y) * group_channels * math.prod(kernel),
        ifm=_sizes([x[i] for i in dims.lhs_spec[2:]], in_channels),
        ofm=_sizes([y[i] for i in dims.out_spec[2:]], out_channels),
        batch=x[dims.lhs_spec[0]],
        channel_axis=dims.out_spec[1],
        weight_axis=dims.rhs_spec[0],
        kernel=_pair(kernel),
        stride=_pair(p["window_strides"]),
        pad=_pair(p["padding"], fill=(0, 0)),
        dilation=_pair(p["rhs_dilation"]),
        groups=groups,
    )


def matrix_product(program: Program, eqn: Equation) -> Geometry:
    """activation (..., k) @ weight (k, m) or (m, k): MACs = rows * k * m."""
    (lhs_c, rhs_c), (lhs_b, _) = eqn.params["dimension_numbers"]
    x, w, y = (program.values[v].shape for v in (*eqn.inputs, eqn.outputs[0]))
    if lhs_b or tuple(lhs_c) != (len(x) - 1,) or len(rhs_c) != 1 or len(w) != 2:
        raise ValueError(
            f"dot_general of {x} and {w} at {eqn.where}: trace knows the last axis against a matrix"
        )
    rows, columns = math.prod(x[:-1]), y[-1]
    return Geometry(
        kind="dense",
        macs=rows * x[-1] * columns,
        ifm=(rows // x[0] if len(x) > 1 else 1, 1, x[-1]),
        ofm=(rows // x[0] if len(x) > 1 else 1, 1, columns),
        batch=x[0] if len(x) > 1 else 1,
        channel_axis=len(y) - 1,
        weight_axis=1 - rhs_c[0],
    )


def pooling(program: Program, eqn: Equation) -> Geometry:
    """Windowed max or sum, or a sum over all of x, y; counted as one per input element touched."""
    x, y = program.values[eqn.inputs[0]].shape, program.values[eqn.outputs[0]].shape
    if eqn.name == "reduce_sum":
        axes = tuple(eqn.params["axes"])
        if len(x) != 4 or axes != (1, 2):
            raise ValueError(
                f"reduce_sum over axes {axes} of {x} at {eqn.where}: trace knows sums over x and y of NHWC"
            )
        return Geometry(
            "pool", math.prod(x), _sizes(x[1:3], x[3]), (1, 1, x[3]), x[0], len(y) - 1, kernel=(x[1], x[2])
        )
    p = eqn.params
    if len(x) != 4 or p["window_dimensions"][0] != 1 or p["window_dimensions"][3] != 1:
        raise ValueError(f"{eqn.name} of {x} at {eqn.where}: trace knows windows over x and y of NHWC")
    return Geometry(
        kind="pool",
        macs=math.prod(y) * math.prod(p["window_dimensions"]),
        ifm=_sizes(x[1:3], x[3]),
        ofm=_sizes(y[1:3], y[3]),
        batch=x[0],
        channel_axis=3,
        kernel=_pair(p["window_dimensions"][1:3]),
        stride=_pair(p["window_strides"][1:3]),
        pad=_pair(p["padding"][1:3]),
    )


def pointwise(program: Program, eqn: Equation, kind: Kind) -> Geometry:
    """An element-wise operation that no producer could take in: one per element."""
    shape = program.values[eqn.outputs[0]].shape
    sizes = _sizes(shape[1:-1], shape[-1]) if len(shape) > 1 else (1, 1, math.prod(shape))
    return Geometry(
        kind, math.prod(shape), sizes, sizes, shape[0] if len(shape) > 1 else 1, max(len(shape) - 1, 0)
    )


def _pair(values: Any, fill: Any = 1) -> Any:
    values = tuple(tuple(v) if isinstance(v, list | tuple) else int(v) for v in values)
    return values if len(values) == 2 else (*values, fill)


def _sizes(spatial: Any, channels: int) -> tuple[int, int, int]:
    x, y = (*spatial, 1, 1)[:2]
    return int(x), int(y), int(channels)
