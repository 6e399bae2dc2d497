"""Allocations as files: JSON to keep and read back, CSV for other programs."""

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import write_text
from ..bits import INT8, Bits
from ..chip import Chip
from ..json_checks import check_version, parse_json, read_text
from ..tensors import tensors
from ..workload import Workload
from .allocation import Address, Allocation, Demotion, LevelUse
from .buffers import Buffer
from .levels import copies, free_bytes, taken
from .pack import Status
from .validate import faults

SCHEMA, VERSION = "hwmodel.placement", 1
_MOST_BYTES = 1 << 28  # of a file


def save_placement(path: str | os.PathLike[str], allocation: Allocation) -> None:
    """Writes an allocation, whole or not at all: all of it as .json, its table of tensors as .csv.

    Raises:
        ValueError: another ending.
        OSError: the folder is missing, or cannot be written to.
    """
    suffix = Path(path).suffix
    if suffix == ".json":
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "workload": allocation.workload,
            "chip": allocation.chip,
            "levels": [asdict(use) for use in allocation.levels],
            "tensors": [asdict(address) for address in allocation.addresses],
            "demoted": [asdict(demotion) for demotion in allocation.demoted],
        }
        write_text(path, json.dumps(document, indent=1) + "\n")
    elif suffix == ".csv":
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(f.name for f in fields(Address))
        for address in allocation.addresses:
            table.writerow(asdict(address).values())
        write_text(path, text.getvalue())
    else:
        raise ValueError(f"{path}: an allocation is saved as .json or .csv, not {suffix!r}")


def load_placement(
    path: str | os.PathLike[str], workload: Workload, chip: Chip, bits: Bits = INT8
) -> Allocation:
    """Reads a .json file of `save_placement` and checks it all against a workload and a chip.

    Raises:
        ValueError: not such a file, or one of other tensors, bytes, lifetimes or levels; addresses that
            overlap, are not aligned or lie above a level's capacity.
    """
    place = Path(path)
    try:
        document = _document(place)
        found = Allocation(
            workload=workload.name,
            chip=chip.name,
            addresses=tuple(_row(Address, row) for row in document["tensors"]),
            levels=tuple(_row(LevelUse, row) for row in document["levels"]),
            demoted=tuple(_row(Demotion, row) for row in document["demoted"]),
            placement=np.zeros((len(workload.operations), 2), np.int64),
        )
        _check(found, workload, chip, bits)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    return found


def _document(place: Path) -> Mapping[str, Any]:
    if not place.is_file():
        raise ValueError("there is no such file")
    document = parse_json(read_text(place, _MOST_BYTES, "placement"), "placement")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"is not a placement: schema must be {SCHEMA!r}")
    check_version(document.get("version"), VERSION)
    for key in ("tensors", "levels", "demoted"):
        if not isinstance(document.get(key), list):
            raise ValueError(f"{key} must be a list, got {type(document.get(key)).__name__}")
    return document


_TYPES: Mapping[Any, tuple[type, ...]] = {
    str: (str,),
    int: (int,),
    bool: (bool,),
    float: (float, int),
    int | None: (int, type(None)),
    Status: (str,),
}


def _row(cls: type, row: Any) -> Any:
    """One dataclass from one object with exactly its keys, of its types."""
    names = [f.name for f in fields(cls)]
    if not isinstance(row, dict) or sorted(row) != sorted(names):
        raise ValueError(f"each {cls.__name__} must be an object with {', '.join(names)}, got {row!r:.80}")
    for f in fields(cls):
        value = row[f.name]
        wrong = not isinstance(value, _TYPES[f.type])
        if wrong or (isinstance(value, bool) and f.type is not bool):
            raise ValueError(f"{f.name} of {row['name']!r:.40} must be of type {f.type}, got {value!r:.40}")
    return cls(**row)


def _check(found: Allocation, workload: Workload, chip: Chip, bits: Bits) -> None:
    """Fills in the placement; ValueError where the file disagrees with the workload or the chip."""
    expected = {t.name: t for t in tensors(workload, bits, chip.count_bias)}
    names = [a.name for a in found.addresses]
    if sorted(names) != sorted(expected):
        odd = sorted(set(names) ^ set(expected)) or ["a tensor that is listed twice"]
        raise ValueError(
            f"lists {len(names)} tensors and workload {workload.name!r} has {len(expected)}; they differ in "
            f"{', '.join(odd[:5])}"
        )
    if tuple(use.name for use in found.levels) != chip.level_names:
        raise ValueError(
            f"has levels {tuple(u.name for u in found.levels)}, and chip {chip.name!r} has {chip.level_names}"
        )
    for a in found.addresses:
        t = expected[a.name]
        own = {"bytes": t.bytes, "copies": copies(chip, t), "birth": t.birth, "death": t.death}
        for field, value in own.items():
            if getattr(a, field) != value:
                raise ValueError(
                    f"tensor {a.name!r} has {field} {getattr(a, field)}, and {value} in workload "
                    f"{workload.name!r} at these bit-widths"
                )
        found.placement[t.operation, t.column] = chip.level_index(a.level)
    for k, use in enumerate(found.levels):
        here = [a for a in found.addresses if a.level == use.name]
        rooms = [taken(chip, k, expected[a.name]) if a.copies > 1 else a.bytes for a in here]
        buffers = [Buffer(a.name, a.birth, a.death + 1, r) for a, r in zip(here, rooms, strict=True)]
        wrong = faults(buffers, [a.offset for a in here], free_bytes(chip, k), chip.levels[k].align_bytes)
        if wrong:
            raise ValueError(f"level {use.name!r}: {'; '.join(wrong[:3])}")
