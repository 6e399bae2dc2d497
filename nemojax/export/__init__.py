"""Files that other tools take: ONNX, packed weights, Qwix rules, StableHLO, bits by operation."""

from .jax_file import export_jax as export_jax, load_jax as load_jax
from .onnx_file import OnnxReport as OnnxReport, export_onnx as export_onnx
from .operation_bits import (
    load_operation_bits as load_operation_bits,
    save_operation_bits as save_operation_bits,
)
from .packed import (
    Packed as Packed,
    load_packed as load_packed,
    packed_bits as packed_bits,
    save_packed as save_packed,
)
from .qwix_rules import (
    QwixRule as QwixRule,
    load_qwix_rules as load_qwix_rules,
    qwix_rules as qwix_rules,
    read_qwix_rules as read_qwix_rules,
    save_qwix_rules as save_qwix_rules,
)
