"""Reads an ONNX file without its weights: nodes, shapes, and what is constant.

The file is data from elsewhere. Nothing in it is run, no file that it names is opened (weights stored beside
it stay there), and no array of a size that it claims is allocated.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..topology import arrows, execution_order, find_cycle
from .folding import SMALL
from .model import Model, Node, Shape
from .shapes import Known, first_line, fix_shapes, inferred_shapes

_MOST_BYTES = 1 << 31  # of a protobuf message
_MEASURES = {"Shape", "Size"}  # constants, though they read activations
_CONTROL = {"If", "Loop", "Scan", "SequenceMap"}


def read_model(
    path: Path,
    batch: int | None,
    shapes: Mapping[str, Shape],
    operators: Collection[str],
    guess: bool = False,
) -> Model:
    """Parses the file, fixes the inputs' shapes, infers all others, and drops what no output needs.

    Args:
        path: the file.
        batch: for leading dimensions of inputs that the file leaves open.
        shapes: of inputs, by name.
        operators: that are known.
        guess: whether the outputs of others have the shape of their first activation.
    """
    import onnx
    from onnx import inliner

    proto = _parse(path, onnx)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    graph = proto.graph
    _check_names(graph)
    stored = _without_data(graph, onnx)
    inputs = [i for i in graph.input if i.name not in stored]
    fix_shapes(graph, inputs, batch, shapes)
    nodes = _sorted_nodes(graph, stored, {i.name for i in inputs}, onnx)
    constants = _constants(nodes, stored)
    stated = stored | {node.outputs[0]: _stated(node, onnx) for node in nodes if node.op == "Constant"}
    known = Known(constants, {name: value for name, value in stated.items() if value is not None})
    found, small = inferred_shapes(proto, nodes, known, operators, guess, onnx)
    outputs = tuple(o.name for o in graph.output)
    for name in outputs:
        if name in constants:
            raise ValueError(f"output {name!r} depends on no input")
    nodes = _needed(nodes, outputs, {i.name for i in inputs})
    consumers: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        for value in filter(None, node.inputs):
            consumers.setdefault(value, []).append(i)
    return Model(
        name=graph.name or path.stem,
        nodes=tuple(nodes),
        shapes=found,
        inputs=tuple(i.name for i in inputs),
        outputs=outputs,
        constants=constants,
        small=small,
        consumers={value: tuple(readers) for value, readers in consumers.items()},
        producer={out: i for i, node in enumerate(nodes) for out in node.outputs if out},
    )


def _parse(path: Path, onnx: Any) -> Any:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    size = path.stat().st_size
    if size >= _MOST_BYTES:
        raise ValueError(f"has {size} bytes; ONNX files stay below 2 GiB and keep larger weights beside them")
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError:
        raise ValueError("is not an ONNX file, or a truncated one") from None
    if not proto.ir_version or not proto.opset_import or not proto.graph.node or not proto.graph.output:
        raise ValueError("is not an ONNX model: it lacks versions, nodes or outputs; is it cut off?")
    return proto


def _check_names(graph: Any) -> None:
    """Text of one line; protobuf hands out bytes where it is no UTF-8."""
    names = [x.name for part in (graph.input, graph.output, graph.initializer) for x in part]
    names += [x.values.name for x in graph.sparse_initializer]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
    for name in (graph.name, *names):
        if not isinstance(name, str) or not name.isprintable():
            raise ValueError(f"the name {name!r} is not text of one line; is the file damaged?")


def _without_data(graph: Any, onnx: Any) -> dict[str, np.ndarray | None]:
    """Stored constants by name, with their values where they are small.

    All others lose their data, for only their shape matters. All become inputs of the graph: before its
    version 4 the format asks for that.
    """
    stored: dict[str, np.ndarray | None] = {}
    kept, declared = [], []
    for tensor in graph.initializer:
        stored[tensor.name] = _array(tensor, onnx)
        declared.append((tensor.name, tensor.data_type, tuple(tensor.dims)))
        if stored[tensor.name] is not None:
            kept.append(onnx.TensorProto())
            kept[-1].CopyFrom(tensor)
    for sparse in graph.sparse_initializer:
        stored[sparse.values.name] = None
        declared.append((sparse.values.name, sparse.values.data_type, tuple(sparse.dims)))
    inputs = [onnx.helper.make_tensor_value_info(*entry) for entry in declared]
    free = [i for i in graph.input if i.name not in stored]
    inputs = [*(_copy(i, onnx) for i in free), *inputs]
    for field, content in (("initializer", kept), ("sparse_initializer", []), ("input", inputs)):
        del getattr(graph, field)[:]
        getattr(graph, field).extend(content)
    return stored


def _copy(info: Any, onnx: Any) -> Any:
    out = onnx.ValueInfoProto()
    out.CopyFrom(info)
    return out


def _array(tensor: Any, onnx: Any) -> np.ndarray | None:
    """The value of a small tensor; None for one that is large or stored in another file."""
    dims = tuple(tensor.dims)
    if any(n < 0 for n in dims):
        raise ValueError(f"constant {tensor.name!r} has the impossible shape {dims}")
    if math.prod(dims) > SMALL or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"constant {tensor.name!r} of shape {dims} cannot be read: {first_line(error)}"
        ) from None


def _stated(node: Node, onnx: Any) -> np.ndarray | None:
    """The value of a Constant node, if it is small."""
    for key in ("value_int", "value_float", "value_ints", "value_floats"):
        if key in node.attributes:
            return np.asarray(node.attributes[key])
    tensor = node.attributes.get("value")
    return _array(tensor, onnx) if isinstance(tensor, onnx.TensorProto) else None


def _node(proto: Any, index: int, onnx: Any) -> Node:
    name = proto.name or next((o for o in proto.output if o), f"{proto.op_type}_{index}")
    where = f"node {name!r} ({proto.op_type})"
    if proto.op_type in _CONTROL:
        raise ValueError(f"{where} is control flow, which from_onnx does not unroll")
    if not any(proto.output):
        raise ValueError(f"{where} has no output")
    attributes = {}
    for a in proto.attribute:
        try:
            attributes[a.name] = onnx.helper.get_attribute_value(a)
        except ValueError as error:
            raise ValueError(f"{where}: attribute {a.name!r} cannot be read: {first_line(error)}") from None
    return Node(name, proto.op_type, proto.domain, tuple(proto.input), tuple(proto.output), attributes)


def _sorted_nodes(graph: Any, stored: Collection[str], inputs: Collection[str], onnx: Any) -> list[Node]:
    """Producers before readers, else as the file has them; the graph is brought into that order, too."""
    nodes = [_node(n, i, onnx) for i, n in enumerate(graph.node)]
    producer: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for out in filter(None, node.outputs):
            if out in producer or out in stored or out in inputs:
                raise ValueError(f"{node.where} makes {out!r}, which something else makes, too")
            producer[out] = i
    parents = []
    for node in nodes:
        for value in filter(None, node.inputs):
            if value not in producer and value not in stored and value not in inputs:
                raise ValueError(f"{node.where} reads {value!r}, which nothing makes; is the file cut off?")
        parents.append([producer[v] for v in node.inputs if v in producer])
    order = execution_order(parents)
    if len(order) < len(nodes):
        names = [nodes[i].name for i in find_cycle(parents, order)]
        raise ValueError(f"the nodes form a cycle: {arrows(names)}")
    protos = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
    del graph.node[:]
    graph.node.extend(protos)
    return [nodes[i] for i in order]


def _constants(nodes: Sequence[Node], stored: Collection[str]) -> frozenset[str]:
    constants = set(stored)
    for node in nodes:
        if node.op in _MEASURES or all(v in constants for v in node.inputs if v):
            constants.update(filter(None, node.outputs))
    return frozenset(constants)


def _needed(nodes: Sequence[Node], outputs: Sequence[str], inputs: Collection[str]) -> list[Node]:
    """Nodes that compute what some output needs; to know a shape, nothing needs to be computed.

    An output that is an input needs none.
    """
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if node.op not in _MEASURES and needed.intersection(node.outputs):
            kept.append(node)
            needed.update(v for v in node.inputs if v)
    made = {out for node in kept for out in node.outputs}
    for name in outputs:
        if name not in made and name not in inputs:
            raise ValueError(f"output {name!r} is made by no node")
    return kept[::-1]
