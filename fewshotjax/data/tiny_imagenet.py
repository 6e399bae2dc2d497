"""Tiny ImageNet in parts for few-shot learning: 64x64 photographs, one box each.

base_train, base_test  100 classes to learn from, 300 and 50 images each
novel_val              30 further classes, 120 images each, for every choice (epoch, K, sigma, ...)
novel_test             50 further classes, 120 images each, for the final figure

From root/tiny_imagenet: classes.csv (split,wnid,name) and a zip per part, with JPEG files WNID/FILE and
boxes.csv (file,wnid,xmin,ymin,xmax,ymax).
"""

import csv
import io
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fewshotjax.data.decode import load
from fewshotjax.data.files import File, Files
from fewshotjax.data.labelled import LabelledImages, chosen_classes
from fewshotjax.data.root import data_file

SIDE = 64  # pixels
SET = "tiny_imagenet"
PARTS = {"base_train": "base", "base_test": "base", "novel_val": "val_novel", "novel_test": "test_novel"}
CORNERS = ("xmin", "ymin", "xmax", "ymax")
Root = str | os.PathLike[str] | None


class _Rows(NamedTuple):
    """What is read of a part, in order."""

    names: list[str]  # files of the zip
    labels: np.ndarray  # (N,) int32
    classes: tuple[str, ...]  # "wnid name"


def tiny_imagenet(
    root: Root,
    part: str,
    *,
    pixels: int = SIDE,
    classes: Sequence[str] | None = None,
    threads: int | None = None,
) -> LabelledImages:
    """One part, in the order of class and file; grey photographs as RGB.

    Files of base_train that are also in novel_val or novel_test (byte-identical: 4) are left out.

    Args:
        root: the folder that holds tiny_imagenet; None: FRUGALJAX_DATA.
        part: base_train, base_test, novel_val or novel_test.
        pixels: side of the images, resized bilinear and antialiased where it is not 64.
        classes: wnids, or whole class names, to read, in this order. None: all, as in classes.csv.
        threads: that decode; None: one per processor up to 8.

    Returns:
        (N, pixels, pixels, 3) uint8. A class is named by wnid and name, as "n01443537 goldfish, ...".

    Raises:
        ValueError: another part or class, a missing or damaged file, a class that lacks images; it is named.
    """
    with Files(data_file(root, SET, f"{_checked(part)}.zip")) as files:
        rows = _rows(root, part, files, classes)
        entries = [File(files, name) for name in rows.names]
        images = load(entries, pixels=pixels, side=SIDE, threads=threads)
    return LabelledImages(images, rows.labels, rows.classes, tuple(rows.names))


def tiny_imagenet_boxes(
    root: Root, part: str, *, pixels: int = SIDE, classes: Sequence[str] | None = None
) -> Float[np.ndarray, "N 4"]:
    """x1, y1, x2, y2 of the object of each image that `tiny_imagenet` reads with the same arguments.

    In pixels of the image, with x2 and y2 past the last one: the file's xmax and ymax are inclusive.

    Raises:
        ValueError: as `tiny_imagenet`, or an image without box, with several, or one outside of it.
    """
    with Files(data_file(root, SET, f"{_checked(part)}.zip")) as files:
        rows = _rows(root, part, files, classes)
        where, table = _table(files, "boxes.csv", ("file", "wnid", *CORNERS))
    boxes: dict[str, tuple[int, ...]] = {}
    for line, row in table:
        if row["file"] in boxes:
            raise ValueError(f"{where}: line {line}: {row['file']!r} has a box already: remove one")
        if not row["file"].startswith(f"{row['wnid']}/"):
            raise ValueError(f"{where}: line {line}: {row['file']!r} is not of class {row['wnid']!r}")
        corners = [row[name] for name in CORNERS]
        if not all(corner.isascii() and corner.isdigit() and len(corner) < 4 for corner in corners):
            raise ValueError(f"{where}: line {line}: {','.join(corners)} are not whole pixels")
        x1, y1, x2, y2 = map(int, corners)
        if not (x1 <= x2 < SIDE and y1 <= y2 < SIDE):
            raise ValueError(f"{where}: line {line}: {','.join(corners)} is no box in 0-{SIDE - 1}")
        boxes[row["file"]] = x1, y1, x2 + 1, y2 + 1
    lacking = [name for name in rows.names if name not in boxes]
    if lacking:
        raise ValueError(f"{where}: has no box for {lacking[0]!r}: get it again")
    return np.array([boxes[name] for name in rows.names], np.float32) * np.float32(pixels / SIDE)


def _checked(part: str) -> str:
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    return part


def _rows(root: Root, part: str, files: Files, wanted: Sequence[str] | None) -> _Rows:
    with Files(data_file(root, SET, "classes.csv").parent, ["classes.csv"]) as folder:
        where, table = _table(folder, "classes.csv", ("split", "wnid", "name"))
    known = {row["wnid"]: f"{row['wnid']} {row['name']}" for _, row in table if row["split"] == PARTS[part]}
    if not known:
        raise ValueError(f"{where}: has no classes of split {PARTS[part]!r}: get it again")
    wnids = tuple(known)
    if wanted is not None:
        given = (wanted,) if isinstance(wanted, str) else wanted
        short = [name.split(" ")[0] if name in known.values() else name for name in given]
        wnids = chosen_classes(short, wnids)
    copies = _copies(root, files) if part == "base_train" else frozenset()
    members: dict[str, list[str]] = {wnid: [] for wnid in wnids}
    for name in files.names:
        wnid = name.split("/")[0]
        if "/" in name and wnid not in known:
            raise ValueError(f"{files.place / name}: {wnid} is no {PARTS[part]} class of classes.csv")
        if wnid in members and name not in copies:
            members[wnid].append(name)
    for wnid in wnids:
        if not members[wnid]:
            raise ValueError(f"{files.place}: has no images of {known[wnid]!r}: get it again")
    labels = np.repeat(np.arange(len(wnids), dtype=np.int32), [len(members[wnid]) for wnid in wnids])
    return _Rows([n for wnid in wnids for n in members[wnid]], labels, tuple(known[w] for w in wnids))


def _copies(root: Root, base: Files) -> frozenset[str]:
    """Files of `base` that are in a novel part too: what training has seen is no test."""
    parts = [part for part in PARTS if part.startswith("novel")]
    candidates: dict[tuple[int, int], list[File]] = {}
    copies = set()
    with ExitStack() as stack:
        for part in parts:
            files = stack.enter_context(Files(data_file(root, SET, f"{part}.zip")))
            for name in files.names:
                candidates.setdefault(files.checksum(name), []).append(File(files, name))
        for name in base.names:
            others = candidates.get(base.checksum(name), [])  # by 32 bits: the bytes decide
            if others and base.read(name) in [other.read() for other in others]:
                copies.add(name)
    return frozenset(copies)


def _table(files: Files, name: str, columns: tuple[str, ...]) -> tuple[str, list[tuple[int, dict[str, str]]]]:
    """Where a CSV lies, and its rows with their lines."""
    where = str(files.place / name)
    if name not in files:
        raise ValueError(f"{where}: there is no such file: get it again")
    try:
        reader = csv.DictReader(io.StringIO(files.read(name).decode("utf-8-sig"), newline=""), strict=True)
        if not set(columns) <= set(reader.fieldnames or ()):
            raise ValueError(f"{where}: its first line must name {','.join(columns)}: get it again")
        rows = [(reader.line_num, {column: row[column] or "" for column in columns}) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: is no UTF-8 CSV ({error}): get it again") from None
    return where, rows
