"""export_onnx: a quantized network as an ONNX file with QuantizeLinear and DequantizeLinear.

The equations of the traced function become nodes, with batch norms folded into the weights as in the search.
Convolutions are laid channels first with few transpositions; weights are stored as integers.
"""

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..chosen import chosen_or_full
from ..front_table import text_table
from ..quantized import QuantizedNetwork
from ..quantizers import FULL_BITS
from .emit.graph import onnx_type
from .emit.notes import Placed as Placed
from .emit.shapes import Batch, Dim
from .emit.walk import Emitted, Port, emit
from .files import write_file
from .provenance import provenance

LOWEST_OPSET = 18  # reductions take their axes as an input
DEFAULT_OPSET = 21  # int4, int16


@dataclass(frozen=True)
class OnnxReport:
    """What `export_onnx` wrote."""

    path: str
    opset: int
    bytes: int  # of the file
    quantizers: tuple[Placed, ...]  # in the order of the graph
    unquantized: tuple[str, ...]  # points at 32 bits
    inputs: tuple[str, ...]
    nodes: dict[str, int]  # operator -> how many

    @property
    def native(self) -> tuple[Placed, ...]:
        """Quantizers whose bit-width ONNX has a type for."""
        return tuple(q for q in self.quantizers if q.native)

    @property
    def fake(self) -> tuple[Placed, ...]:
        """Quantizers in a wider type or in floating point, and why; their nodes are marked."""
        return tuple(q for q in self.quantizers if not q.native)

    def table(self) -> str:
        """A line a quantizer, as text."""
        rows = [("quantizer", "bits", "type", "marked because")]
        rows += [(q.point, str(q.bits), q.dtype, q.reason or "-") for q in self.quantizers]
        summary = (
            f"{self.path}: opset {self.opset}, {self.bytes:,} bytes, {len(self.native)} native quantizers, "
            f"{len(self.fake)} marked, {len(self.unquantized)} points at {FULL_BITS} bits"
        )
        return "\n".join([summary, *text_table(rows)])


def export_onnx(
    path: str | os.PathLike[str],
    network: QuantizedNetwork,
    bits: Any = None,
    *,
    batch: int | str | None = None,
    opset: int = DEFAULT_OPSET,
    quantized: bool = True,
) -> OnnxReport:
    """Writes any traced network as an ONNX file, checked by onnx.checker before it is there.

    Widths that are no ONNX type are marked in the nodes' `doc_string` and `metadata_props`, with the same
    numbers: see `emit.containers`. Inputs and output have the shapes of the traced function, channels last
    where it has them so.

    onnxruntime's own fusions run parts of such a file in integers: levels may differ by one, and products of
    integer weights with activations of more than 8 bits are computed with 8. On x86 CPUs without VNNI these
    kernels saturate, too, which shows in the logits. With the session's entry `session.disable_quant_qdq` set
    to "1" it computes the file as it stands.

    Args:
        network: of `quantize`; its kernels may have been trained or reconstructed since.
        bits: a `Configuration`, a mapping of point to bit-width, (n,) bit-widths; None: 32 everywhere.
        batch: a number, or the name of an open dimension; None: open, named "N".
        opset: 18 or later; 21 has int4 and int16, 25 int2 too.
        quantized: False writes the folded network in full precision; `bits` are then only kept as metadata.

    Raises:
        ImportError: the package onnx is missing.
        ValueError: bits of another network; equations without an ONNX form, all of them with their places in
            the source; an opset that there is not; a graph over 2 GB, or one that onnx.checker refuses; a
            folder that cannot be written to.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError("export_onnx needs the package onnx: pip install 'frugaljax[onnx]'") from error
    newest = onnx.defs.onnx_opset_version()
    if not LOWEST_OPSET <= opset <= newest:
        raise ValueError(f"opset must be {LOWEST_OPSET} to {newest} (this onnx's newest), got {opset}")
    wanted: int | str = "N" if batch is None else batch
    if isinstance(wanted, str) and not wanted.isidentifier():
        raise ValueError(f"batch must be a number or a name such as 'N', got {wanted!r}")
    if isinstance(wanted, int) and wanted < 1:
        raise ValueError(f"batch must be at least 1, got {wanted}")
    chosen = chosen_or_full(network, bits)
    names = network.workload.point_names
    used = chosen if quantized else np.full_like(chosen, FULL_BITS)
    emitted = emit(network, used, opset, wanted)
    model = _model(emitted, network, dict(zip(names, chosen.tolist(), strict=True)), opset, wanted)
    data = model.SerializeToString()
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"network {network.name!r} has no valid ONNX graph of opset {opset} ({reason}): try a newer opset"
        ) from error
    write_file(path, data)
    counts: dict[str, int] = {}
    for node in emitted.graph.nodes:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return OnnxReport(
        path=os.fspath(path),
        opset=opset,
        bytes=len(data),
        quantizers=tuple(emitted.notes.placed.values()),
        unquantized=tuple(name for name, b in zip(names, used, strict=True) if b == FULL_BITS),
        inputs=tuple(port.name for port in emitted.inputs),
        nodes=counts,
    )


def _model(
    emitted: Emitted, network: QuantizedNetwork, bits: dict[str, int], opset: int, batch: int | str
) -> Any:
    from onnx import helper

    graph = helper.make_graph(
        emitted.graph.nodes,
        network.name,
        [_info(port, batch) for port in emitted.inputs],
        [_info(emitted.output, batch)],
        emitted.graph.initializers,
    )
    facts = provenance(network)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="frugaljax",
        producer_version=facts["frugaljax"],
    )
    helper.set_model_props(model, {**facts, "bits": json.dumps(bits)})
    return model


def _info(port: Port, batch: int | str) -> Any:
    from onnx import helper

    def size(dim: Dim) -> int | str | None:
        if not isinstance(dim, Batch):
            return dim
        return batch if dim.per == 1 and isinstance(batch, str) else None

    return helper.make_tensor_value_info(port.name, onnx_type(port.dtype), [size(d) for d in port.shape])
