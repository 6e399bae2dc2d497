"""Buffers in minimalloc's CSV files: `id,lower,upper,size`, half-open, one buffer a line."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from ..atomic import write_text
from .buffers import Buffer

HEADER = ("id", "lower", "upper", "size")
_MOST_BYTES = 1 << 26  # of a file
_LARGEST = 2**62  # of a number


def read_minimalloc(path: str | os.PathLike[str]) -> tuple[Buffer, ...]:
    """The buffers of a file; a fifth column `offset` fixes those whose cell is not empty.

    Raises:
        ValueError: not such a file, or a line with too few or too many cells, a name that came before, no
            whole numbers, upper not above lower, or a size below 1; with the file and the line.
    """
    place = Path(path)
    if not place.is_file():
        raise ValueError(f"{place}: there is no such file")
    if place.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{place}: has {place.stat().st_size} bytes; {_MOST_BYTES} at most are read")
    try:
        rows = list(csv.reader(io.StringIO(place.read_bytes().decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{place}: is not a CSV file in UTF-8: {error}") from None
    header = tuple(cell.strip() for cell in rows[0]) if rows else ()
    if header not in (HEADER, (*HEADER, "offset")):
        raise ValueError(f"{place}: line 1 must be {','.join(HEADER)}, perhaps with offset, got {header}")
    buffers: dict[str, Buffer] = {}
    for line, row in enumerate(rows[1:], 2):
        if not row:
            continue
        where = f"{place}: line {line}"
        if len(row) != len(header):
            raise ValueError(f"{where}: has {len(row)} cells, not {len(header)}; is the file cut off?")
        name = row[0].strip()
        if name in buffers:
            raise ValueError(f"{where}: id {name!r} came before")
        if not name:
            raise ValueError(f"{where}: id is empty")
        lower, upper, size = (_whole(where, *pair) for pair in zip(header[1:4], row[1:4], strict=True))
        offset = _whole(where, "offset", row[4]) if len(row) == 5 and row[4].strip() else None
        try:
            buffers[name] = Buffer(name, lower, upper, size, offset)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return tuple(buffers.values())


def write_minimalloc(
    path: str | os.PathLike[str], buffers: Sequence[Buffer], offsets: Sequence[int] | None = None
) -> None:
    """Writes the buffers, whole or not at all; with offsets as a fifth column if given, or if any is fixed.

    Raises:
        ValueError: another number of offsets than of buffers.
    """
    if offsets is not None and len(offsets) != len(buffers):
        raise ValueError(f"offsets must be {len(buffers)}, one for each buffer, got {len(offsets)}")
    known = [b.offset for b in buffers] if offsets is None else list(offsets)
    with_offsets = offsets is not None or any(at is not None for at in known)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow((*HEADER, "offset") if with_offsets else HEADER)
    for b, at in zip(buffers, known, strict=True):
        row = (b.name, b.lower, b.upper, b.size)
        table.writerow((*row, "" if at is None else at) if with_offsets else row)
    write_text(path, text.getvalue())


def _whole(where: str, name: str, cell: str) -> int:
    digits = cell.strip()
    if not digits.lstrip("-").isdecimal() or len(digits) > 20 or digits.count("-") > 1:
        raise ValueError(f"{where}: {name} must be a whole number, got {cell[:40]!r}")
    value = int(digits)
    if abs(value) > _LARGEST:
        raise ValueError(f"{where}: {name} must stay below 2^62, got {value}")
    return value
