"""Shapes of all values of an ONNX graph: inputs fixed by the caller, others by the package's inference."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .folding import fold_constants
from .model import Node, Shape


class Known(NamedTuple):
    """What is known before shapes are."""

    constants: frozenset[str]  # values that depend on no activation
    values: Mapping[str, np.ndarray]  # of small stored constants


def fix_shapes(graph: Any, inputs: Sequence[Any], batch: int | None, shapes: Mapping[str, Shape]) -> None:
    """Writes numbers where the inputs' shapes are open; what was said of other shapes is then forgotten."""
    names = [i.name for i in inputs]
    for name in shapes:
        if name not in names:
            raise ValueError(f"shapes names {name!r}, which is no input; there are {', '.join(names)}")
    symbols: dict[str, int] = {}
    used = bool(shapes)
    for i in inputs:
        dims = i.type.tensor_type.shape.dim
        given = shapes.get(i.name)
        if not i.type.HasField("tensor_type") or (given is None and not i.type.tensor_type.HasField("shape")):
            raise ValueError(
                f"input {i.name!r} is no tensor of known rank; give shapes={{{i.name!r}: (...)}}"
            )
        if given is not None:
            _write_shape(i, given, symbols)
        elif batch is not None and dims and not _is_fixed(dims[0]):
            _write_dim(i.name, dims[0], batch, symbols)
            used = True
    if batch is not None and not any(
        i.type.tensor_type.shape.dim[:1] and i.type.tensor_type.shape.dim[0].dim_value == batch
        for i in inputs
    ):
        raise ValueError(f"batch is {batch}, but no input has an open leading dimension")
    for i in inputs:
        dims = i.type.tensor_type.shape.dim
        for dim in dims:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]
        shown = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)
        if not all(_is_fixed(d) for d in dims):
            raise ValueError(
                f"input {i.name!r} has the dynamic shape {shown}; give batch=... (--batch) for an open "
                f"leading dimension, or shapes={{{i.name!r}: (...)}}"
            )
    if used:
        del graph.value_info[:]
        for out in graph.output:
            out.type.tensor_type.ClearField("shape")
    fixed = {i.name: i.type for i in inputs}
    for out in graph.output:
        if out.name in fixed:  # what it says of itself would count, not what was fixed
            out.type.CopyFrom(fixed[out.name])


def _is_fixed(dim: Any) -> bool:
    return dim.HasField("dim_value") and dim.dim_value > 0


def _write_dim(name: str, dim: Any, value: int, symbols: dict[str, int]) -> None:
    if dim.dim_param and symbols.setdefault(dim.dim_param, value) != value:
        raise ValueError(
            f"input {name!r}: dimension {dim.dim_param!r} is {value} here, {symbols[dim.dim_param]} elsewhere"
        )
    dim.dim_value = value


def _write_shape(info: Any, given: Shape, symbols: dict[str, int]) -> None:
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        for _ in given:
            tensor.shape.dim.add()
    dims = tensor.shape.dim
    fits = len(dims) == len(given) and all(
        not _is_fixed(d) or d.dim_value == n for d, n in zip(dims, given, strict=True)
    )
    if not fits:
        stated = tuple(d.dim_value or d.dim_param or "?" for d in dims)
        raise ValueError(f"shapes gives {given} for input {info.name!r}, but the file says {stated}")
    for dim, n in zip(dims, given, strict=True):
        _write_dim(info.name, dim, n, symbols)


def inferred_shapes(
    proto: Any, nodes: Sequence[Node], graph: Known, operators: Collection[str], guess: bool, onnx: Any
) -> tuple[dict[str, Shape], dict[str, np.ndarray]]:
    """Shapes of all values, and values of small constants; each helps to find more of the other.

    Args:
        proto: the model; what is found is written into it.
        nodes: its nodes, in execution order.
        graph: what is constant, and the constants that are stored.
        operators: that from_onnx knows.
        guess: whether others get the shape of their first activation.
        onnx: the package.
    """
    values = dict(graph.values)
    while True:
        found = _shapes(_infer(proto, False, onnx).graph)
        missing = [n for n in nodes if n.outputs[0] not in graph.constants and n.outputs[0] not in found]
        if not missing:
            break
        new = fold_constants(nodes, graph.constants, found, values)
        values |= new
        _write_constants(proto.graph, new, onnx)
        guessed = 0
        for node in missing if guess else ():
            first = [v for v in node.inputs if v in found and v not in graph.constants]
            if node.op not in operators and first:
                shape, kind = found[first[0]], onnx.TensorProto.FLOAT
                proto.graph.value_info.append(
                    onnx.helper.make_tensor_value_info(node.outputs[0], kind, shape)
                )
                guessed += 1
        if not new and not guessed:
            _explain(proto, missing[0], operators, onnx)
            break
    return found, values | fold_constants(nodes, graph.constants, found, values)


def _write_constants(graph: Any, values: Mapping[str, np.ndarray], onnx: Any) -> None:
    """Stored constants in the place of the nodes that compute them."""
    kept = [_copy(node, onnx.NodeProto) for node in graph.node if node.output[0] not in values]
    del graph.node[:]
    graph.node.extend(kept)
    for name, value in values.items():
        tensor = onnx.numpy_helper.from_array(np.array(value, order="C"), name)
        graph.initializer.append(tensor)
        graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, value.shape))


def _copy(proto: Any, kind: Any) -> Any:
    out = kind()
    out.CopyFrom(proto)
    return out


def _explain(proto: Any, node: Node, operators: Collection[str], onnx: Any) -> None:
    """Raises what strict inference has to say of the first shape that stays unknown."""
    if node.op not in operators:
        return  # named later
    try:
        _infer(proto, True, onnx)
    except ValueError as error:
        raise ValueError(f"{node.where}: its output has no shape; {error}") from None


def _infer(proto: Any, strict: bool, onnx: Any) -> Any:
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True, strict_mode=strict)
    except Exception as error:  # of the C++ side, whose kinds are not documented
        raise ValueError(f"shape inference fails: {first_line(error)}") from None


def _shapes(graph: Any) -> dict[str, Shape]:
    """Shapes in numbers, of inputs, stored constants and inferred values."""
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        tensor = info.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            found[info.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return found


def first_line(error: Exception) -> str:
    """The first line of a message, cut to a readable length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 300 else f"{lines[0][:297]}..."
