"""An ONNX graph under construction: nodes with readable names, constants stored once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..files import sha256
from .shapes import Unsupported

LARGEST_BYTES = 2**31 - 2**20  # of a protobuf message, less room for the nodes
_TYPES = {
    "float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16", "float64": "DOUBLE", "bool": "BOOL",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "int4": "INT4", "int2": "INT2",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "uint4": "UINT4",
    "uint2": "UINT2",
}  # fmt: skip


def onnx_type(dtype: Any) -> int:
    """ONNX's number of a NumPy type; Unsupported for what it lacks (random keys, say)."""
    from onnx import TensorProto

    if str(dtype) not in _TYPES:
        raise Unsupported(f"ONNX has no type {dtype}")
    return getattr(TensorProto, _TYPES[str(dtype)])


class Graph:
    """Nodes in order, initializers, and the names taken so far."""

    def __init__(self, opset: int):
        self.opset = opset
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.stored: dict[tuple[str, tuple[int, ...], str], str] = {}  # type, shape, digest -> name
        self.bytes = 0
        self.taken: set[str] = set()
        self.scope = "network"  # the operation that nodes belong to

    def unique(self, name: str) -> str:
        found, count = name, 1
        while found in self.taken:
            count += 1
            found = f"{name}_{count}"
        self.taken.add(found)
        return found

    def released(self, name: str) -> str:
        """`name`, free to be taken again."""
        self.taken.discard(name)
        return name

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        *,
        called: str = "",
        outputs: int = 1,
        note: Mapping[str, str] | None = None,
        **attributes: Any,
    ) -> Any:
        """Adds a node; the name of its output, or names of several.

        Args:
            called: a wish for the output's name.
            note: what marks the node: in its documentation, and in its metadata where the opset has them.
        """
        from onnx import helper

        name = self.unique(f"{self.scope}/{op_type}")
        outs = [self.unique(called or f"{name}:out") for _ in range(outputs)]
        node = helper.make_node(op_type, list(inputs), outs, name=name, **attributes)
        if note:
            node.doc_string = "; ".join(f"{key}: {value}" for key, value in note.items())
            if self.opset >= 21:  # IR version 10
                for key, value in note.items():
                    node.metadata_props.add(key=f"frugaljax.{key}", value=value)
        self.nodes.append(node)
        return outs[0] if outputs == 1 else outs

    def constant(self, array: Any, name: str = "") -> str:
        """The name of an initializer with these numbers; equal ones are stored once."""
        from onnx import helper, numpy_helper

        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (str(array.dtype), array.shape, sha256(array.tobytes()))
        if key not in self.stored:
            kind = onnx_type(array.dtype)
            name = self.unique(name or f"{self.scope}/constant")
            if str(array.dtype) in ("int4", "uint4", "int2", "uint2"):
                tensor = helper.make_tensor(name, kind, array.shape, packed(array), raw=True)
            else:
                tensor = numpy_helper.from_array(array, name)
            self.stored[key] = name
            self.initializers.append(tensor)
            self.bytes += len(tensor.raw_data)
            if self.bytes > LARGEST_BYTES:
                raise ValueError("the weights take more than 2 GB, which one ONNX file cannot hold")
        return self.stored[key]

    def ints(self, values: Any) -> str:
        """An int64 vector, as axes, shapes and pads are given."""
        return self.constant(np.array(values, np.int64))


def packed(array: np.ndarray) -> bytes:
    """Sub-byte integers as ONNX lays them: the first one in the lowest bits of each byte."""
    bits = 4 if "4" in str(array.dtype) else 2
    flat = array.reshape(-1).astype(np.int8).view(np.uint8) & (2**bits - 1)
    per = 8 // bits
    flat = np.pad(flat, (0, -len(flat) % per)).reshape(-1, per)
    return np.bitwise_or.reduce(flat << (bits * np.arange(per, dtype=np.uint8)), axis=1).tobytes()
