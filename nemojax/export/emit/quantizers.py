"""A quantizer behind a tensor: QuantizeLinear and DequantizeLinear, or the same numbers in floating point.

QuantizeLinear rounds to nearest, ties to even, and saturates to its type, so with our scale and zero point it
gives our integers where the type has b bits. In a wider type the tensor is first clipped to the ends of the
narrower grid, s·(q_min - z) and s·(q_max - z), which round to q_min and q_max.
"""

from typing import Any

import numpy as np

from ..grids import PointGrid
from .containers import activation_container
from .emitter import Emitter
from .graph import Graph, onnx_type
from .notes import Notes
from .tensors import Tensor

_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "MaxPool", "Flatten", "Expand")


def quantized(
    em: Emitter, x: Tensor, point: str, grid: PointGrid, notes: Notes, *, small: bool = True
) -> Tensor:
    """x on the grid of a point; `small`: whether a 4-bit type will do."""
    container = activation_container(grid, em.graph.opset, small)
    note = container.note(point, grid.bits)
    notes.add(point, grid.bits, container)
    name = x.name if x.array is None else em.graph.constant(x.array)
    low, high = grid.q_min - grid.zero, grid.q_max - grid.zero
    scale = em.scalar(grid.scale, np.float32)
    if container.dtype == "float32":
        whole = em.node("Round", [em.node("Div", [name, scale], note=note)], note=note)
        ends = (em.scalar(end, np.float32) for end in (low, high))
        clipped = em.node("Clip", [whole, *ends], note=note)
        return Tensor(x.order, x.shape, em.node("Mul", [clipped, scale], called=point, note=note))
    if container.reason:
        ends = (em.scalar(grid.scale * np.float32(end), np.float32) for end in (low, high))
        name = em.node("Clip", [name, *ends], note=note)
    if container.dtype.endswith("int4"):
        _without_clip(em, name)
    zero = em.scalar(grid.zero + container.shift, container.type)
    q = em.node("QuantizeLinear", [name, scale, zero], called=f"{point}.quantized", note=note)
    return Tensor(x.order, x.shape, em.node("DequantizeLinear", [q, scale, zero], called=point, note=note))


def _without_clip(em: Emitter, name: str) -> None:
    """Max and Min in the place of the Relu or Clip that makes `name`.

    onnxruntime (1.32, say) drops those in front of a QuantizeLinear that saturates at the same places. With a
    4-bit type it fails to load behind a Clip, and drops a Relu that it should keep.
    """
    node = next((node for node in em.graph.nodes if name in node.output), None)
    if node is None or node.op_type not in ("Relu", "Clip"):
        return
    em.graph.nodes.remove(node)
    free = em.graph.released(name)
    if node.op_type == "Relu":
        em.node("Max", [node.input[0], em.scalar(0, np.float32)], called=free)
    else:
        x, low, high = node.input
        em.node("Min", [em.node("Max", [x, low]), high], called=free)


def guard_moves(graph: Graph) -> None:
    """A second quantizer behind what only moves the elements of a signed int8 tensor; same numbers.

    onnxruntime (1.32 on x86) moves such quantizers past Reshape, Transpose, MaxPool, ... and turns them into
    unsigned ones, and then fails to load unless another one stands behind.
    """
    signed = {t.name for t in graph.initializers if t.data_type == onnx_type("int8") and not t.dims}
    made = {out: node for node in graph.nodes for out in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    old, graph.nodes = graph.nodes, []
    for node in old:
        graph.nodes.append(node)
        before = made.get(node.input[0]) if node.input and node.op_type in _MOVES else None
        if before is None or before.op_type != "DequantizeLinear" or before.input[2] not in signed:
            continue
        (name,) = node.output
        behind = readers.get(name, [])
        if not behind or all(reader.op_type == "QuantizeLinear" for reader in behind):
            continue
        scale, zero = before.input[1:3]
        q = graph.node("QuantizeLinear", [name, scale, zero])
        again = graph.node("DequantizeLinear", [q, scale, zero])
        made[again] = graph.nodes[-1]
        for reader in behind:
            for k, given in enumerate(reader.input):
                if given == name:
                    reader.input[k] = again
        readers[again] = behind
