"""Bits by operation, as JSON: what a person or a compiler reads, and a search reads back.

Where `save_bits` lists quantizers, this lists operations in execution order, each with its kind, its
multiply-accumulates, and the bits of its weight, of the tensor that feeds it and of what it makes.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from hwmodel import Operation, Workload

from ..chosen import chosen_bits
from ..configuration import Configuration
from ..front_io import Document, write_json
from ..quantized import QuantizedNetwork
from ..quantizers import FULL_BITS

SCHEMA = "frugaljax.nemo.operation_bits/1"
_FIELDS = ("network", "inputs", "operations", "costs", "held_out", "settings")
_OPERATION = ("kind", "macs", "weight_bits", "input_bits", "output_bits")


def save_operation_bits(path: str | os.PathLike[str], network: QuantizedNetwork, bits: Any) -> None:
    """Writes schemas/operation_bits.schema.json.

    Args:
        bits: a `Configuration`, whose costs and settings are kept, a mapping of point to bit-width, or (n,)
            bit-widths.

    Raises:
        ValueError: bits of another network; a folder that cannot be written to.
    """
    chosen = chosen_bits(network, bits)
    work = network.workload
    known = bits if isinstance(bits, Configuration) else None
    fields = {
        "network": network.name,
        "inputs": _outputs(work, -1, chosen),
        "operations": {op.name: _row(work, i, op, chosen) for i, op in enumerate(work.operations)},
        "costs": dict(known.costs) if known else {},
        "held_out": dict(known.held_out) if known else {},
        "settings": dict(known.settings) if known else {},
    }
    write_json(path, SCHEMA, fields)


def load_operation_bits(path: str | os.PathLike[str], network: QuantizedNetwork) -> Configuration:
    """The configuration of a file of `save_operation_bits`.

    Raises:
        ValueError: the file is missing or damaged; operations are missing, unknown, or another network's;
            bits contradict each other, such as an operation's input_bits and the bits of what it reads. Each
            names the operation.
    """
    document = Document.read(path, SCHEMA, _FIELDS, "save_operation_bits")
    work = network.workload
    operations = document.mapping("operations")
    _check_names(document, operations, [op.name for op in work.operations])
    found: dict[int, tuple[int, str]] = {}  # point -> (bits, where it stands)
    _take_outputs(document, "inputs", document.mapping("inputs"), _points(work, -1), found)
    for i, op in enumerate(work.operations):
        row = operations[op.name]
        where = f"operations[{op.name!r}]"
        _check_row(document, where, row, op)
        _take_outputs(document, f"{where}.output_bits", row["output_bits"], _points(work, i), found)
        for field, point in (("weight_bits", op.weight_point), ("input_bits", op.input_point)):
            _take(document, f"{where}.{field}", row[field], point, found)
    chosen = np.array([found[i][0] for i in range(len(work.points))], np.int64)
    try:
        return Configuration(
            chosen, work.point_names, document.numbers("costs"), document.numbers("held_out"),
            document.mapping("settings"),
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{path}: {error}: write it again with save_operation_bits") from None


def _row(work: Workload, index: int, op: Operation, bits: np.ndarray) -> dict[str, Any]:
    return {
        "kind": op.kind,
        "macs": int(op.macs),
        "weight_bits": int(bits[op.weight_point]) if op.weight_point >= 0 else None,
        "input_bits": int(bits[op.input_point]) if op.input_point >= 0 else None,
        "output_bits": _outputs(work, index, bits),
    }


def _points(work: Workload, operation: int) -> dict[str, int]:
    """Quantizers at what an operation makes (-1: at the network's inputs): name -> point."""
    return {
        point.name: i
        for i, point in enumerate(work.points)
        if point.operation == operation and not point.is_weight
    }


def _outputs(work: Workload, operation: int, bits: np.ndarray) -> dict[str, int]:
    return {name: int(bits[i]) for name, i in _points(work, operation).items()}


def _check_names(document: Document, given: Mapping[str, Any], wanted: list[str]) -> None:
    for names, what in (
        ([name for name in wanted if name not in given], "lacks operation {} of this network"),
        ([name for name in given if name not in wanted], "holds operation {}, which this network lacks"),
    ):
        if names:
            which = repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            raise ValueError(f"{document.path}: it {what.format(which)}: use a file of the same network")


def _check_row(document: Document, where: str, row: Any, op: Operation) -> None:
    if not isinstance(row, dict) or set(row) != set(_OPERATION):
        document.fail(f"{where} must have the fields {', '.join(_OPERATION)}")
    for field, wanted in (("kind", op.kind), ("macs", op.macs)):
        if row[field] != wanted:
            raise ValueError(
                f"{document.path}: {where}.{field} is {row[field]!r}, this network's is {wanted!r}: use "
                "a file of the same network at the same size of inputs"
            )
    if not isinstance(row["output_bits"], dict):
        document.fail(f"{where}.output_bits is no object")


def _take_outputs(
    document: Document,
    where: str,
    given: Mapping[str, Any],
    points: dict[str, int],
    found: dict[int, tuple[int, str]],
) -> None:
    for name in (*points, *given):
        if (name in points) != (name in given):
            what = "lacks quantizer" if name in points else "holds an unknown quantizer"
            document.fail(f"{where} {what} {name!r}")
        _take(document, f"{where}[{name!r}]", given[name], points[name], found)


def _take(document: Document, where: str, bits: Any, point: int, found: dict[int, tuple[int, str]]) -> None:
    """Bits of a point, which must be the same wherever they stand; null where there is no quantizer."""
    if point < 0:
        if bits is not None:
            document.fail(f"{where} is {bits!r}, but there is no quantizer: write null")
        return
    if type(bits) is not int:
        document.fail(f"{where} is {bits!r}, not a whole number of bits")
    if abs(bits) > 2**31:  # what NumPy could not hold; other wrong numbers `Configuration` names
        document.fail(f"{where} is too many bits: write 2-16 or {FULL_BITS}")
    before = found.setdefault(point, (bits, where))
    if before[0] != bits:
        raise ValueError(
            f"{document.path}: {where} is {bits}, but {before[1]} says {before[0]} of the same tensor: give "
            "both the same bits"
        )
