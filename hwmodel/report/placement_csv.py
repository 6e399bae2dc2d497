"""A placement as a table that people can edit: the levels of each operation's weights and output by name."""

import csv
import os
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ..chip import Chip
from ..workload import Workload

COLUMNS = ("operation", "weight_level", "output_level")
_MOST_BYTES = 1 << 28  # of a file


def read_placement_csv(
    path: str | os.PathLike[str], workload: Workload, chip: Chip
) -> Int[np.ndarray, "n 2"]:
    """The placement of a .csv file with the columns operation, weight_level and output_level, among others.

    The file that `Explanation.to_csv` writes is one. Rows may stand in any order; an empty weight_level is
    for operations without weights.

    Raises:
        ValueError: no such file, no such columns, an operation that is missing, unknown or listed twice, a
            level that the chip does not have.
    """
    place = Path(path)
    try:
        return _placement(place, workload, chip)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _placement(place: Path, workload: Workload, chip: Chip) -> np.ndarray:
    rows = _rows(place)
    index = {op.name: i for i, op in enumerate(workload.operations)}
    placement = np.full((len(index), 2), -1, np.int32)
    for number, row in enumerate(rows, start=2):
        name = row["operation"]
        if name not in index:
            raise ValueError(f"line {number}: {name!r} is no operation of workload {workload.name!r}")
        i = index[name]
        if placement[i, 1] >= 0:
            raise ValueError(f"line {number}: operation {name!r} is listed twice")
        for column, key in enumerate(COLUMNS[1:]):
            level = row[key]
            if key == "weight_level" and not level:
                level = chip.level_names[0]
            if level not in chip.level_names:
                raise ValueError(f"line {number}: {key} must be one of {chip.level_names}, got {level!r}")
            placement[i, column] = chip.level_index(level)
    missing = [name for name, i in index.items() if placement[i, 1] < 0]
    if missing:
        raise ValueError(f"lacks {len(missing)} operations of workload {workload.name!r}, as {missing[0]!r}")
    return placement


def _rows(place: Path) -> list[dict[str, str]]:
    if not place.is_file():
        raise ValueError("no such file")
    if place.stat().st_size > _MOST_BYTES:
        raise ValueError(f"has {place.stat().st_size} bytes; {_MOST_BYTES} at most are read")
    try:
        table = csv.DictReader(place.read_text(encoding="utf-8").splitlines())
        rows = list(table)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    except csv.Error as error:
        raise ValueError(f"is not CSV: {error}") from None
    lacking = [column for column in COLUMNS if column not in (table.fieldnames or ())]
    if lacking:
        raise ValueError(f"lacks the column {lacking[0]}; a placement has {', '.join(COLUMNS)}")
    short = next((n for n, row in enumerate(rows, start=2) if any(row[c] is None for c in COLUMNS)), None)
    if short is not None:
        raise ValueError(f"line {short} has too few cells")
    return rows
