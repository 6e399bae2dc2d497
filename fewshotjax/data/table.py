"""Tables as users have them: a CSV of files and labels, or of features and labels."""

import csv
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fewshotjax.data.decode import load
from fewshotjax.data.files import File, Files, leaves
from fewshotjax.data.labelled import LabelledImages, chosen_classes


class LabelledFeatures(NamedTuple):
    """What a backbone said about N images, with their classes."""

    features: np.ndarray  # (N, F) float32
    labels: np.ndarray  # (N,) int32, index into classes
    classes: tuple[str, ...]  # names


def csv_table(
    path: str | os.PathLike[str],
    files: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    pixels: int | None = None,
    channels: int = 3,
    classes: Sequence[str] | None = None,
    threads: int | None = None,
) -> LabelledImages:
    """The pictures that a CSV with the columns file, label and perhaps split lists, in its order.

    Args:
        files: folder, zip or tar file that the column file is relative to; None: the folder of the CSV.
        split: the value in the column split of the rows to read, such as "train"; None: all rows.
        pixels, channels, threads: as in `folder`.
        classes: the labels to read, in this order. None: those of the rows read, sorted (numbers by value),
            so that another split may have others: name them where the order has to be the same.

    Raises:
        ValueError: a missing column, a file that is listed twice, missing or outside of the folder, an empty
            label, no such split; the line is named. And as in `folder`.
    """
    rows = list(_picture_rows(path, split))
    names = _classes(path, (label for _, _, label in rows), classes)
    rows = [row for row in rows if row[2] in names]
    for line, file, _ in rows:
        if leaves(file):
            raise ValueError(f"{path}: line {line}: {file!r} leaves the folder: name files inside it")
    inside = [posixpath.normpath(file.replace("\\", "/")) for _, file, _ in rows]
    with Files(Path(path).absolute().parent if files is None else files, inside) as source:
        wanted: dict[str, int] = {}
        for name, (line, file, label) in zip(inside, rows, strict=True):
            if name not in source:
                where = f"there is no {file!r} in {source.place}"
                raise ValueError(f"{path}: line {line}: {where}: correct the line or add the file")
            if name in wanted:
                raise ValueError(f"{path}: line {line}: {file!r} was listed before: remove one line")
            wanted[name] = names.index(label)
        entries = [File(source, name) for name in wanted]
        images = load(entries, pixels=pixels, channels=channels, threads=threads)
    return LabelledImages(images, np.array(list(wanted.values()), np.int32), names, tuple(wanted))


def feature_table(path: str | os.PathLike[str]) -> LabelledFeatures:
    """A CSV with the column label (names) and one column per feature; classes sorted, numbers by value.

    Raises:
        ValueError: no column label or no other, another number of cells than columns, a cell that is no
            finite float32 number; the line is named.
    """
    labels, features = [], []
    table = _lines(path)
    _, header = next(table, (0, [""]))
    if "label" not in header or len(header) < 2:
        raise ValueError(f"{path}: its first line must name label and the features, such as label,f0,f1")
    place = header.index("label")
    for line, cells in table:
        if len(cells) != len(header):
            have = f"has {len(cells)} cells, the first line {len(header)}"
            raise ValueError(f"{path}: line {line}: {have}: correct it")
        labels.append(cells.pop(place))
        if not labels[-1]:
            raise ValueError(f"{path}: line {line}: has no label: write one")
        features.append(_numbers(f"{path}: line {line}", cells, header[:place] + header[place + 1 :]))
    names = _classes(path, labels, None)
    index = {name: i for i, name in enumerate(names)}
    return LabelledFeatures(np.stack(features), np.array([index[label] for label in labels], np.int32), names)


def _picture_rows(path: str | os.PathLike[str], split: str | None) -> Iterator[tuple[int, str, str]]:
    """(line, file, label) of the rows of the split."""
    table = _lines(path)
    _, header = next(table, (0, [""]))
    needed = ("file", "label") if split is None else ("file", "label", "split")
    for name in needed:
        if name not in header:
            separator = ": separate the columns by commas, not ';'" if ";" in header[0] else ": add it"
            raise ValueError(f"{path}: its first line does not name the column {name}{separator}")
    found, seen = False, set()
    for line, cells in table:
        if len(cells) != len(header):
            have = f"has {len(cells)} cells, the first line {len(header)}"
            raise ValueError(f"{path}: line {line}: {have}: correct it")
        row = dict(zip(header, cells, strict=True))
        if not row["file"] or not row["label"]:
            empty = "file" if not row["file"] else "label"
            raise ValueError(f"{path}: line {line}: has no {empty}: write one, or remove the line")
        seen.add(row.get("split", ""))
        if split is None or row["split"] == split:
            found = True
            yield line, row["file"], row["label"]
    if not found and split is not None:
        raise ValueError(
            f"{path}: has no rows of split {split!r}: it has {', '.join(sorted(seen)) or 'none'}"
        )


def _numbers(where: str, cells: list[str], columns: list[str]) -> Float[np.ndarray, " F"]:
    try:
        exact = np.array(cells, np.float64)
    except ValueError:
        exact = np.array([_number(cell) for cell in cells])
    with np.errstate(over="ignore"):
        row = exact.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(row))
    if len(wrong):
        what = f"{columns[wrong[0]]} is {cells[wrong[0]]!r}"
        raise ValueError(f"{where}: {what}, no finite number: correct it or remove the line")
    return row


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """(line, cells without outer spaces) of the lines that are not empty."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): give a CSV file") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no UTF-8 CSV ({error}): save it as one") from None


def _classes(
    path: str | os.PathLike[str], labels: Iterable[str], wanted: Sequence[str] | None
) -> tuple[str, ...]:
    known = set(labels)
    if not known:
        raise ValueError(f"{path}: has no rows below its first line: add some")
    numbers = all(label.isascii() and label.isdigit() for label in known)
    in_order = sorted(known, key=int) if numbers else sorted(known)
    return tuple(in_order) if wanted is None else chosen_classes(wanted, in_order)
