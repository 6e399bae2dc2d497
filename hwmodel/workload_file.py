"""Workloads as JSON files: written at once or not at all, and checked before anything is believed.

The program and the quantization points of a traced workload are not stored, for a program holds JAX
primitives: trace the function again where they are needed. Operations refer to each other by name, so that
a file can be written by hand, and may stand in any order.
"""

import json
import os
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from .atomic import write_text
from .chip import KINDS
from .json_checks import check_version, parse_json, read_text, short
from .topology import in_execution_order
from .workload import LARGEST, Edge, Operation, Workload

SCHEMA, VERSION = "hwmodel.workload", 1
_MOST_BYTES = 1 << 28  # of a file: no network comes near
_PROGRAM_FIELDS = {"equations", "affine", "affine_value", "weight_point", "weight_axis", "input_point"}
_SIZES = {"ifm": 3, "ofm": 3, "kernel": 2, "stride": 2, "dilation": 2}
_STORED = [f for f in fields(Operation) if f.name not in _PROGRAM_FIELDS | {"w_id", "parents"}]
_REQUIRED = {f.name for f in _STORED if f.default is MISSING} - {"w_reads", "bias_elems"}
_REFERENCES = {"tied_to", "parents"}
_KEYS = {f.name for f in _STORED} | _REFERENCES


def save_workload(path: str | os.PathLike[str], work: Workload) -> None:
    """Writes the operations, not the program and the points, as JSON: beside the file, then in its place."""
    document = {
        "schema": SCHEMA,
        "version": VERSION,
        "name": work.name,
        "operations": [_to_json(work, i) for i in range(len(work.operations))],
    }
    write_text(path, json.dumps(document, indent=1) + "\n")


def load_workload(path: str | os.PathLike[str]) -> Workload:
    """Reads a file of `save_workload`, or one written by hand.

    Raises:
        ValueError: not JSON, another schema or version, a missing, unknown or impossible field, a name that
            nothing has, a cycle; one line with the file, the operation and the field.
    """
    where = Path(path)
    try:
        return _from_json(parse_json(read_text(where, _MOST_BYTES, "workload"), "workload"))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _to_json(work: Workload, index: int) -> dict[str, Any]:
    """Fields at their defaults are left out; an edge that reads everything is a name alone."""
    op = work.operations[index]
    out = {f.name: getattr(op, f.name) for f in _STORED if getattr(op, f.name) != f.default}
    if 0 <= op.w_id < index:
        out["tied_to"] = work.operations[op.w_id].name
    out["parents"] = [
        producer.name if edge.elems == producer.o_elems else {"from": producer.name, "elems": edge.elems}
        for edge, producer in ((edge, work.operations[edge.producer]) for edge in op.parents)
    ]
    return out


def _from_json(document: Any) -> Workload:
    if not isinstance(document, dict):
        raise ValueError(f"must be an object with schema {SCHEMA!r}, got {short(document)}")
    if document.get("schema") != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA!r}, got {short(document.get('schema'))}")
    check_version(document.get("version"), VERSION)
    _only(document, {"schema", "version", "name", "operations"}, "the file")
    name = document.get("name", "network")
    if not isinstance(name, str):
        raise ValueError(f"name must be text, got {short(name)}")
    listed = document.get("operations")
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"operations must be a list with at least one entry, got {short(listed)}")
    index: dict[str, int] = {}
    for i, entry in enumerate(listed):
        own = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(own, str) or not own:
            raise ValueError(f"operations[{i}] must be an object with a name, got {short(entry)}")
        if index.setdefault(own, i) != i:
            raise ValueError(f"operation {own!r} is listed twice")
    made = [entry.get("o_elems") for entry in listed]
    return Workload(
        in_execution_order([_operation(entry, i, index, made) for i, entry in enumerate(listed)]), name=name
    )


def _operation(entry: dict[str, Any], i: int, index: dict[str, int], made: list[Any]) -> Operation:
    where = f"operation {entry['name']!r}"
    _only(entry, _KEYS, where)
    missing = sorted(_REQUIRED - set(entry))
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    known = {key: _field(where, key, value) for key, value in entry.items() if key not in _REFERENCES}
    known.setdefault("w_reads", known["w_elems"])
    known.setdefault("bias_elems", 0)
    tie = i if known["w_elems"] else -1
    if "tied_to" in entry:
        tie = _position(where, "tied_to", entry["tied_to"], index)
    listed = entry.get("parents", [])
    if not isinstance(listed, list):
        raise ValueError(f"{where}: parents must be a list, got {short(listed)}")
    edges = tuple(_edge(where, parent, index, made) for parent in listed)
    return Operation(**known, w_id=tie, parents=edges)


def _edge(where: str, parent: Any, index: dict[str, int], made: list[Any]) -> Edge:
    """A name reads the whole tensor; {"from": name, "elems": count} a part of it."""
    if isinstance(parent, str):
        producer = _position(where, "parents", parent, index)
        return Edge(producer, _whole(f"operation {parent!r}", "o_elems", made[producer]))
    if not isinstance(parent, dict) or set(parent) != {"from", "elems"}:
        raise ValueError(
            f"{where}: each of parents must be a name or an object with from and elems, got {short(parent)}"
        )
    producer = _position(where, "parents", parent["from"], index)
    return Edge(producer, _whole(where, "elems of parents", parent["elems"]))


def _position(where: str, key: str, name: Any, index: dict[str, int]) -> int:
    if not isinstance(name, str) or name not in index:
        raise ValueError(f"{where}: {key} names {short(name)}, which is no operation of the file")
    return index[name]


def _field(where: str, key: str, value: Any) -> Any:
    """The value of one field of Operation, lists as tuples."""
    if key == "name":
        return value
    if key == "kind":
        if value not in KINDS:
            raise ValueError(f"{where}: kind must be one of {', '.join(KINDS)}, got {short(value)}")
        return value
    if key == "is_output":
        if not isinstance(value, bool):
            raise ValueError(f"{where}: is_output must be true or false, got {short(value)}")
        return value
    if key in _SIZES:
        return _wholes(where, key, value, _SIZES[key])
    if key == "pad":
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError(f"{where}: pad must be two pairs, got {short(value)}")
        return tuple(_wholes(where, key, pair, 2, low=-LARGEST) for pair in value)
    return _whole(where, key, value)


def _wholes(where: str, key: str, value: Any, length: int, low: int = 0) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != length:
        raise ValueError(f"{where}: {key} must be a list of {length} numbers, got {short(value)}")
    return tuple(_whole(where, key, item, low) for item in value)


def _whole(where: str, key: str, value: Any, low: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= LARGEST:
        raise ValueError(f"{where}: {key} must be a whole number of [{low}, 2^53], got {short(value)}")
    return value


def _only(entry: dict[str, Any], keys: set[str], where: str) -> None:
    unknown = sorted(set(entry) - keys)
    if unknown:
        raise ValueError(
            f"{where} has the unknown key {short(unknown[0])}; there are {', '.join(sorted(keys))}"
        )
