"""Counts and sizes of single ONNX nodes, by the conventions of geometry.py; channels stand first here."""

import math

from ..axes import last_ends, last_pair, pair, sizes
from ..tracing.geometry import Geometry
from ..workload import Kind
from .model import Model, Node, Shape
from .operators import CONVOLUTIONS, PRODUCTS


def convolution(model: Model, node: Node) -> Geometry:
    """MACs = output elements * (input channels / groups) * kernel area.

    Transposed, with a stride above 1: input elements * (output channels / groups) * kernel area, and the
    padding is what the output is cropped by, less output_padding. With stride 1 it is a plain convolution
    of a padded input, and counts as `trace` sees it.
    """
    data, weight, _ = CONVOLUTIONS[node.op]
    x, w, y = _shapes(model, node, data, weight)
    rank, groups, backward = len(x) - 2, node.whole("group", 1), node.op == "ConvTranspose"
    if rank not in (1, 2, 3) or len(w) != len(x):
        raise ValueError(f"{node.where}: convolutions have 1 to 3 spatial axes, got {x} and a kernel of {w}")
    if groups < 1 or x[1] % groups or (w[0] if backward else w[1] * groups) != x[1]:
        raise ValueError(f"{node.where}: {groups} groups do not fit {x[1]} channels and a kernel of {w}")
    kernel = w[2:]
    strides = _list(node, "strides", rank, 1)
    dilations = _list(node, "dilations", rank, 1)
    padding = (_cropping if backward else _padding)(node, x[2:], y[2:], kernel, strides, dilations)
    spread = backward and math.prod(strides) > 1
    if backward and not spread:
        reach = [dilation * (k - 1) for dilation, k in zip(dilations, kernel, strict=True)]
        padding = [(r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True)]
    products = math.prod(x) * w[1] if spread else math.prod(y) * (x[1] // groups)
    return Geometry(
        kind="dwconv" if groups == x[1] > 1 else "conv",
        macs=products * math.prod(kernel),
        ifm=_sizes(x, 1),
        ofm=_sizes(y, 1),
        batch=x[0],
        channel_axis=1,
        kernel=pair(kernel),
        stride=pair(strides),
        pad=last_ends(padding),
        dilation=last_pair(dilations),
        groups=groups,
    )


def product(model: Model, node: Node) -> Geometry:
    """MACs = output elements * contracted elements, of activation and weight or of two activations.

    Rows come from the activation, columns from the weight; the first axis of the output is the batch. Of two
    activations all axes but the last two are.
    """
    first, second, _ = PRODUCTS[node.op]
    a, b, y = _shapes(model, node, first, second)
    if not a or not b or not y:
        raise ValueError(f"{node.where}: a product needs vectors or matrices, got {a} and {b}")
    inner = a[0] if node.op == "Gemm" and node.whole("transA", 0) else a[-1]
    swapped = node.reads(first) in model.constants  # weight @ activation
    weighted = swapped or node.reads(second) in model.constants
    if swapped:
        columns = y[-2] if len(y) > 1 and len(b) > 1 else y[-1]
    else:
        columns = y[-1] if len(b) > 1 else 1
    rows = math.prod(y) // max(columns, 1)
    if weighted:
        batch = y[0] if len(y) > (2 if swapped else 1) else 1
    else:
        batch = math.prod(y[:-2])
    return Geometry(
        kind="dense" if weighted else "matmul",
        macs=math.prod(y) * inner,
        ifm=(rows // max(batch, 1), 1, inner),
        ofm=(rows // max(batch, 1), 1, columns),
        batch=batch,
        channel_axis=max(len(y) - (2 if swapped and len(y) > 1 else 1), 0),
    )


def einsum(model: Model, node: Node) -> Geometry:
    """A product of two operands in Einstein's notation: MACs = the product of all index sizes."""
    equation = node.text("equation", "").replace(" ", "")
    terms, arrow, out = equation.partition("->")
    names = terms.split(",")
    if len(names) != 2 or len(node.inputs) != 2 or not arrow or "." in equation:
        raise ValueError(
            f"{node.where}: from_onnx knows products of two with all indices named, got {equation!r}"
        )
    size: dict[str, int] = {}
    for letters, value in zip(names, node.inputs, strict=True):
        shape = model.shape(value, node)
        if len(letters) != len(shape):
            raise ValueError(f"{node.where}: {letters!r} does not fit the shape {shape}")
        size |= dict(zip(letters, shape, strict=True))
    fixed = [value in model.constants for value in node.inputs]
    data, other = names if not fixed[0] else names[::-1]
    weighted = any(fixed)
    batched = [c for c in out if c in data and (c == out[0] if weighted else c in other)]
    inner = math.prod(size[c] for c in set(data) & set(other) - set(out))
    batch = math.prod(size[c] for c in batched)
    rows = math.prod(size[c] for c in set(data) - set(other) if c not in batched)
    columns = math.prod(size[c] for c in set(other) - set(data))
    return Geometry(
        kind="dense" if weighted else "matmul",
        macs=math.prod(size.values()),
        ifm=(rows, 1, inner),
        ofm=(rows, 1, columns),
        batch=batch,
        channel_axis=max(len(out) - 1, 0),
    )


def pooling(model: Model, node: Node) -> Geometry:
    """One per input element that a window touches; a window over everything is a mean or maximum of all."""
    x, y = (model.shape(v, node) for v in (node.inputs[0], node.outputs[0]))
    rank = len(x) - 2
    if rank < 1:
        raise ValueError(f"{node.where}: pooling needs spatial axes, got {x}")
    kernel = _list(node, "kernel_shape", rank, 0) if "kernel_shape" in node.attributes else x[2:]
    strides = _list(node, "strides", rank, 1)
    pad = last_ends(_padding(node, x[2:], y[2:], kernel, strides, _list(node, "dilations", rank, 1)))
    if kernel == x[2:] and math.prod(y[2:]) == 1 and pad == ((0, 0), (0, 0)):
        return Geometry("pool", math.prod(x), _sizes(x, 1), _sizes(y, 1), x[0], 1, kernel=pair(kernel))
    return Geometry(
        kind="pool",
        macs=math.prod(y) * math.prod(kernel),
        ifm=_sizes(x, 1),
        ofm=_sizes(y, 1),
        batch=x[0],
        channel_axis=1,
        kernel=pair(kernel),
        stride=pair(strides),
        pad=pad,
    )


def reduction(model: Model, node: Node, channel: int) -> Geometry:
    """A sum, mean, maximum, ... over whole axes: one per input element."""
    x, y = (model.shape(v, node) for v in (node.inputs[0], node.outputs[0]))
    gone = reduced_axes(model, node)
    kept = tuple(1 if axis in gone else n for axis, n in enumerate(x))
    spatial = [x[axis] if axis in gone else 1 for axis in range(1, len(x)) if axis != channel]
    return Geometry(
        "pool",
        math.prod(x),
        _sizes(x, channel),
        _sizes(kept, channel),
        kept[0] if len(x) > 1 else 1,
        max(len(y) - 1, 0) if len(y) != len(x) else channel,
        kernel=pair(spatial),
    )


def reduced_axes(model: Model, node: Node) -> set[int]:
    """The axes that a reduction sums over; all of them where none is stated."""
    rank = len(model.shape(node.inputs[0], node))
    if node.op in ("ArgMax", "ArgMin"):
        axes = [node.whole("axis", 0)]
    elif (stated := node.wholes("axes")) is not None:
        axes = list(stated)
    elif node.reads(1):
        if node.reads(1) not in model.small:
            raise ValueError(f"{node.where}: its axes are not a constant of the file")
        axes = [int(axis) for axis in model.small[node.reads(1)].reshape(-1)]
    else:
        axes = [] if node.whole("noop_with_empty_axes", 0) else list(range(rank))
    return {axis % max(rank, 1) for axis in axes}


def moving(model: Model, node: Node, kind: Kind, channel: int, per_element: int = 0) -> Geometry:
    """What moves elements (no MACs), or mixes them; both sizes are the output's."""
    y = model.shape(node.outputs[0], node)
    size = _sizes(y, channel)
    elems = sum(model.elems(v, node) for v in node.outputs if v and model.uses(v))
    return Geometry(kind, per_element * elems, size, size, y[0] if len(y) > 1 else 1, channel)


def pointwise(shape: Shape, kind: Kind, channel: int) -> Geometry:
    """An operation on each element: one MAC each."""
    size = _sizes(shape, channel)
    return Geometry(kind, math.prod(shape), size, size, shape[0] if len(shape) > 1 else 1, channel)


def channel_axis(shape: Shape) -> int:
    """Of a value that nothing else is known about: 1 for images (N, C, H, W), else the last."""
    return 1 if len(shape) > 3 else max(len(shape) - 1, 0)


def _shapes(model: Model, node: Node, first: int, second: int) -> tuple[Shape, Shape, Shape]:
    if not node.reads(first) or not node.reads(second):
        raise ValueError(f"{node.where} lacks an operand")
    a, b, y = (model.shape(v, node) for v in (node.reads(first), node.reads(second), node.outputs[0]))
    return a, b, y


def _padding(
    node: Node, x: Shape, y: Shape, kernel: Shape, strides: Shape, dilations: Shape
) -> list[tuple[int, int]]:
    """(low, high) of each spatial axis."""
    needed = [
        max((y[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 - x[i], 0) for i in range(len(x))
    ]
    return _halves(node, needed) if _is_same(node) else _stated(node, len(x))


def _cropping(
    node: Node, x: Shape, y: Shape, kernel: Shape, strides: Shape, dilations: Shape
) -> list[tuple[int, int]]:
    """(low, high) of each spatial axis of a transposed convolution: what its whole output is larger by.

    output_padding, elements that no tap need reach, is taken off the high end.
    """
    rank = len(x)
    more = _list(node, "output_padding", rank, 0)
    if "output_shape" in node.attributes or _is_same(node):
        whole = [(x[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 for i in range(rank)]
        total = [whole[i] + more[i] - y[i] for i in range(rank)]
        halves = _halves(node, total)
        ends = [(0, t) if t < 0 else both for t, both in zip(total, halves, strict=True)]
    else:
        ends = _stated(node, rank)
    return [(low, high - extra) for (low, high), extra in zip(ends, more, strict=True)]


def _is_same(node: Node) -> bool:
    return node.text("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")


def _stated(node: Node, rank: int) -> list[tuple[int, int]]:
    pads = _list(node, "pads", 2 * rank, 0)
    return [*zip(pads[:rank], pads[rank:], strict=True)]


def _halves(node: Node, total: list[int]) -> list[tuple[int, int]]:
    """Padding as even as it can be; an odd one is larger at the end only where SAME_UPPER says so."""
    if node.text("auto_pad", "NOTSET") == "SAME_UPPER":
        return [(t // 2, t - t // 2) for t in total]
    return [(t - t // 2, t // 2) for t in total]


def _list(node: Node, name: str, length: int, default: int) -> Shape:
    found = node.wholes(name)
    values = (default,) * length if found is None else found
    if len(values) != length:
        raise ValueError(f"{node.where}: {name} must be {length} whole numbers, got {values}")
    return values


def _sizes(shape: Shape, channel: int) -> tuple[int, int, int]:
    """(x, y, channels) of one sample; the first axis is the batch, unless it is the only one."""
    if len(shape) < 2:
        return 1, 1, math.prod(shape)
    channel = min(max(channel, 1), len(shape) - 1)
    return sizes([n for axis, n in enumerate(shape) if axis not in (0, channel)], shape[channel])
