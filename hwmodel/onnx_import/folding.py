"""Values of small constants that a file computes: shapes, and the arithmetic that exporters do on them.

Shape inference knows some of it, but not all that PyTorch writes (Div, Mod, Cast, Where on shapes). Only
arrays of up to SMALL elements are computed, by NumPy, and by operators of this list alone.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from .model import Node, Shape

SMALL = 1024  # elements
_TYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64}


def fold_constants(
    nodes: Sequence[Node],
    constants: Collection[str],
    shapes: Mapping[str, Shape],
    known: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Further constants, from shapes and from constants that are known already."""
    found = dict(known)
    for node in nodes:
        out = node.outputs[0]
        if out not in constants or out in found or len(node.outputs) > 1:
            continue
        value = _value(node, found, shapes)
        if value is not None and value.size <= SMALL:
            found[out] = value
    return {name: value for name, value in found.items() if name not in known}


def _value(node: Node, known: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> np.ndarray | None:
    if node.op in ("Shape", "Size"):
        return _measure(node, shapes.get(node.reads(0)))
    if node.op not in _OPERATORS or not all(v in known for v in node.inputs if v):
        return None
    try:
        with np.errstate(all="ignore"):
            return np.asarray(_OPERATORS[node.op](node, [known[v] for v in node.inputs if v]))
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError):
        return None  # not an error yet: perhaps nobody needs the value


def _measure(node: Node, shape: Shape | None) -> np.ndarray | None:
    if shape is None or max(shape, default=0) >= 2**31:
        return None
    if node.op == "Size":
        return np.asarray(math.prod(shape), np.int64) if math.prod(shape) < 2**63 else None
    return np.asarray(shape[node.whole("start", 0) : node.whole("end", len(shape))], np.int64)


Value = np.ndarray | np.generic  # arithmetic on arrays without axes gives the latter
_Operator = Callable[[Node, list[np.ndarray]], Value]


def _slice(node: Node, x: list[np.ndarray]) -> Value:
    """Bounds are attributes (before version 10 of the operator) or inputs."""
    data, starts, ends, *rest = (
        x if len(x) > 2 else [x[0], *(node.attributes[key] for key in ("starts", "ends"))]
    )
    axes = rest[0] if rest else node.attributes.get("axes", range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    index = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[int(axis)] = slice(int(start), int(end), int(step))
    return data[tuple(index)]


def _axes(node: Node, x: list[np.ndarray]) -> tuple[int, ...] | None:
    axes = x[1] if len(x) > 1 else node.attributes.get("axes")
    return None if axes is None else tuple(int(axis) for axis in np.reshape(axes, -1))


def _unsqueeze(node: Node, x: list[np.ndarray]) -> Value:
    return np.expand_dims(x[0], _axes(node, x) or ())


def _squeeze(node: Node, x: list[np.ndarray]) -> Value:
    return np.squeeze(x[0], _axes(node, x))


def _reduced(reduce: Callable[..., Value]) -> _Operator:
    def run(node: Node, x: list[np.ndarray]) -> Value:
        return reduce(x[0], axis=_axes(node, x), keepdims=bool(node.attributes.get("keepdims", 1)))

    return run


def _div(_: Node, x: list[np.ndarray]) -> Value:
    if x[0].dtype.kind not in "iu":
        return x[0] / x[1]
    return np.sign(x[0]) * np.sign(x[1]) * (np.abs(x[0]) // np.abs(x[1]))  # rounds towards 0


def _mod(node: Node, x: list[np.ndarray]) -> Value:
    return (np.fmod if node.attributes.get("fmod", 0) else np.mod)(x[0], x[1])


def _filled(node: Node, x: list[np.ndarray]) -> Value:
    if math.prod(map(int, x[0])) > SMALL or "value" in node.attributes:
        raise ValueError
    return np.zeros(tuple(map(int, x[0])), np.float32)


def _range(_: Node, x: list[np.ndarray]) -> Value:
    start, limit, delta = (value.item() for value in x)
    if abs(limit - start) > SMALL * abs(delta):
        raise ValueError
    return np.arange(start, limit, delta, dtype=x[0].dtype)


def _reshape(_: Node, x: list[np.ndarray]) -> Value:
    return x[0].reshape([x[0].shape[i] if n == 0 else int(n) for i, n in enumerate(x[1])])


def _expand(_: Node, x: list[np.ndarray]) -> Value:
    shape = np.broadcast_shapes(x[0].shape, tuple(map(int, x[1])))
    if math.prod(shape) > SMALL:
        raise ValueError
    return np.broadcast_to(x[0], shape)


_OPERATORS: dict[str, _Operator] = {
    "Identity": lambda _, x: x[0],
    "Cast": lambda node, x: x[0].astype(_TYPES[node.attributes["to"]]),
    "Gather": lambda node, x: np.take(x[0], x[1], axis=node.attributes.get("axis", 0)),
    "Concat": lambda node, x: np.concatenate(x, axis=node.attributes["axis"]),
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Expand": _expand,
    "ConstantOfShape": _filled,
    "Range": _range,
    "Add": lambda _, x: x[0] + x[1],
    "Sub": lambda _, x: x[0] - x[1],
    "Mul": lambda _, x: x[0] * x[1],
    "Div": _div,
    "Mod": _mod,
    "Min": lambda _, x: np.minimum.reduce(np.broadcast_arrays(*x)),
    "Max": lambda _, x: np.maximum.reduce(np.broadcast_arrays(*x)),
    "Neg": lambda _, x: -x[0],
    "Abs": lambda _, x: np.abs(x[0]),
    "Sqrt": lambda _, x: np.sqrt(x[0]),
    "Floor": lambda _, x: np.floor(x[0]),
    "Ceil": lambda _, x: np.ceil(x[0]),
    "Equal": lambda _, x: x[0] == x[1],
    "Less": lambda _, x: x[0] < x[1],
    "Greater": lambda _, x: x[0] > x[1],
    "Not": lambda _, x: ~x[0],
    "And": lambda _, x: x[0] & x[1],
    "Or": lambda _, x: x[0] | x[1],
    "Where": lambda _, x: np.where(x[0], x[1], x[2]),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "ReduceMin": _reduced(np.min),
    "ReduceMax": _reduced(np.max),
}
