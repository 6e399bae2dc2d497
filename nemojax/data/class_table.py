"""Which class of a network a WordNet number (wnid, n01440764) is: a table of lines, or a csv."""

import csv
import io
import os
import re
from typing import NamedTuple

MAX_TABLE_BYTES = 2**22
WNID = re.compile(r"n\d{8}")
FORMS = "lines 'n01440764 tench' in the order of the classes, or a csv with columns wnid,label"


class WordNetClass(NamedTuple):
    """What a table of classes says about one wnid."""

    label: int
    name: str


class _Row(NamedTuple):
    line: int
    wnid: str
    label: str
    name: str


def class_table(path: str | os.PathLike[str], classes: int | None = None) -> dict[str, WordNetClass]:
    """wnid -> class, from lines "n01440764 tench, Tinca tinca" in the order of the classes, or from a csv.

    The csv has columns wnid and label (class index), perhaps name too, and may hold a part of the classes;
    the lines must be as many as there are classes.

    Args:
        classes: of the network; None: any number.

    Raises:
        ValueError: another kind of file, a wnid or label twice, a label out of range; the line is named.
    """
    text = _read(path)
    lines = text.splitlines()
    as_csv = bool(lines) and "wnid" in [column.strip() for column in lines[0].split(",")]
    found: dict[str, WordNetClass] = {}
    labels: set[int] = set()
    for row in _csv_rows(path, text) if as_csv else _synset_rows(lines):
        line = f"{path}: line {row.line}"
        if not WNID.fullmatch(row.wnid):
            raise ValueError(f"{line}: {row.wnid[:40]!r} is no wnid such as n01440764: write {FORMS}")
        if not (row.label.isascii() and row.label.isdigit() and len(row.label) < 10):
            raise ValueError(f"{line}: label {row.label!r} is not a class index 0, 1, 2, ...: correct it")
        label = int(row.label)
        if classes is not None and label >= classes:
            raise ValueError(f"{line}: label {label} is outside 0-{classes - 1}: correct it")
        if row.wnid in found or label in labels:
            what = row.wnid if row.wnid in found else f"label {label}"
            raise ValueError(f"{line}: {what} was there already: remove one line")
        found[row.wnid] = WordNetClass(label, row.name)
        labels.add(label)
    if not found:
        raise ValueError(f"{path}: is empty: write {FORMS}")
    if not as_csv and classes is not None and len(found) != classes:
        have = f"has {len(found)} lines, but the network {classes} classes"
        raise ValueError(f"{path}: {have}: of a part of them, write a csv with columns wnid,label")
    return found


def _read(path: str | os.PathLike[str]) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TABLE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): give a table of classes") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is no UTF-8 text: write {FORMS}") from None
    if len(data) > MAX_TABLE_BYTES:
        raise ValueError(f"{path}: is over {MAX_TABLE_BYTES // 2**20} MiB: write {FORMS}")
    return text


def _csv_rows(path: str | os.PathLike[str], text: str) -> list[_Row]:
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
        if not {"wnid", "label"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path}: its first line does not name the columns wnid and label: add it")
        return [
            _Row(rows.line_num, *((row.get(name) or "").strip() for name in ("wnid", "label", "name")))
            for row in rows
        ]
    except csv.Error as error:
        raise ValueError(f"{path}: is no table ({error}): write {FORMS}") from None


def _synset_rows(lines: list[str]) -> list[_Row]:
    rows: list[_Row] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            wnid, _, name = line.strip().partition(" ")
            rows.append(_Row(number, wnid, str(len(rows)), name.strip()))
    return rows
