"""Pictures on disk to the arrays that a search works on."""

import csv
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from nemojax.preprocess import Preprocess, decode
from nemojax.sources import Source

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
LABELS = "labels.csv"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Preprocessed images, with or without labels."""

    images: Float[np.ndarray, "N H W 3"]  # float32
    labels: Int[np.ndarray, " N"] | None  # int32 class indices
    names: tuple[str, ...]  # N file names, relative to where they were read

    def __post_init__(self):
        count = len(self.names)
        if len(self.images) != count or (self.labels is not None and len(self.labels) != count):
            labels = "no" if self.labels is None else len(self.labels)
            raise ValueError(f"images, labels and names differ: {len(self.images)}, {labels} and {count}")

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: Sequence[int] | Int[np.ndarray, " K"]) -> "ImageSet":
        """The images at `index`, in that order."""
        index = np.asarray(index, np.int64)
        labels = None if self.labels is None else self.labels[index]
        return ImageSet(self.images[index], labels, tuple(self.names[i] for i in index))


class Parts(NamedTuple):
    """Three disjoint sets: for ranges, for the objectives of a search, for what is reported."""

    calibration: ImageSet
    search: ImageSet
    report: ImageSet


def load_labelled(
    place: str | os.PathLike[str],
    preprocess: Preprocess | None = None,
    *,
    count: int | None = None,
    classes: int | None = None,
    threads: int | None = None,
) -> ImageSet:
    """Labelled pictures of a folder or zip file, one of two layouts.

    labels.csv with columns file and label (class index; further columns are ignored), in its order; or one
    subfolder per class, in sorted order, the index of a class being its place among the sorted names.

    Args:
        count: take this many, spread evenly over that order, instead of all.
        classes: of the network: labels from here on are refused, and so is another number of class folders.
        threads: decoding threads, by default one per processor up to 8.

    Raises:
        ValueError: one line that names the file, what is wrong with it and what to do.
    """
    with Source(place) as source:
        tables = [name for name in source.names if name.split("/")[-1] == LABELS and name.count("/") <= 1]
        entries = _from_table(source, tables[0]) if len(tables) == 1 else _from_folders(source, classes)
        for name, label in entries:
            if classes is not None and label >= classes:
                raise ValueError(
                    f"{source.place / name}: label {label} is outside 0-{classes - 1}: correct it"
                )
        entries = _spread(entries, count, source)
        names = [name for name, _ in entries]
        images = _load(source, names, preprocess or Preprocess(), threads)
    return ImageSet(images, np.array([label for _, label in entries], np.int32), tuple(names))


def load_images(
    place: str | os.PathLike[str],
    preprocess: Preprocess | None = None,
    *,
    count: int | None = None,
    threads: int | None = None,
) -> ImageSet:
    """Every picture in a folder (and its subfolders) or zip file, sorted by name, without labels.

    Arguments and errors as in `load_labelled`; files without the suffix of a picture are passed over.
    """
    with Source(place) as source:
        names = _spread([name for name in source.names if _is_picture(name)], count, source)
        images = _load(source, names, preprocess or Preprocess(), threads)
    return ImageSet(images, None, tuple(names))


def split(
    key: jax.Array, images: ImageSet, *, calibration: int, search: int, report: int | None = None
) -> Parts:
    """Three disjoint random parts; with labels, each class has its share in every part, to within rounding.

    Member r of the n members of a class stands at (r + u)/n, u random per class, on a common line, and the
    parts are cut from that line. `report=None` takes all that is left.
    """
    total = len(images)
    if report is None:
        report = total - calibration - search
    sizes = {"calibration": calibration, "search": search, "report": report}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1 image, got {size} (of {total} images)")
    wanted = sum(sizes.values())
    if wanted > total:
        raise ValueError(f"calibration, search and report take {wanted} of {total} images: take fewer")
    k_order, k_class = jax.random.split(key)
    order = np.asarray(jax.random.permutation(k_order, total))
    labels = np.zeros(total, np.int64) if images.labels is None else images.labels[order]
    _, group, group_size = np.unique(labels, return_inverse=True, return_counts=True)
    shift = np.asarray(jax.random.uniform(k_class, (len(group_size),)))
    place = np.empty(total)
    for g, n in enumerate(group_size):
        place[group == g] = (np.arange(n) + shift[g]) / n
    order = order[np.argsort(place, kind="stable")]
    first, second, third = np.split(order[:wanted], [calibration, calibration + search])
    return Parts(images.take(first), images.take(second), images.take(third))


def _from_table(source: Source, table: str) -> list[tuple[str, int]]:
    """(file, label) of every row of labels.csv; files are relative to it."""
    where = source.place / table
    root = PurePosixPath(table).parent
    entries: dict[str, int] = {}
    try:
        rows = csv.DictReader(io.StringIO(source.read(table).decode("utf-8-sig"), newline=""), strict=True)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{where}: its first line does not name the columns file and label: add it")
        for row in rows:
            line = f"{where}: line {rows.line_num}"
            file, label = (row["file"] or "").strip(), (row["label"] or "").strip()
            if not (label.isascii() and label.isdigit() and len(label) < 10):
                raise ValueError(f"{line}: label {label!r} is not a class index 0, 1, 2, ...: correct it")
            path = PurePosixPath(file.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{line}: {file!r} leaves the folder: name files inside it")
            name = (root / path).as_posix()
            if name not in source:
                raise ValueError(f"{line}: there is no file {file!r}: correct the line or add the file")
            if name in entries:
                raise ValueError(f"{line}: {file!r} is listed twice: remove one line")
            entries[name] = int(label)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: is not a UTF-8 table ({error}): write it as file,label lines") from None
    return list(entries.items())


def _from_folders(source: Source, classes: int | None) -> list[tuple[str, int]]:
    """(file, class index) of the pictures in class folders."""
    here = f"{source.place}"
    hint = f"give a folder with one subfolder per class, or with {LABELS} (columns file,label)"
    loose = [name for name in source.names if "/" not in name and _is_picture(name)]
    if loose:
        raise ValueError(f"{here}: {loose[0]!r} has no label: {hint}")
    if len(source.folders) < 2:
        raise ValueError(f"{here}: has {len(source.folders)} class folders: {hint}")
    members: dict[str, list[str]] = {folder: [] for folder in source.folders}
    for name in source.names:
        if "/" in name:
            members[name.split("/")[0]].append(name)
    entries = []
    if classes is not None and len(members) != classes:
        raise ValueError(
            f"{here}: has {len(members)} class folders, but the network has {classes} classes, so a folder's "
            f"place among them is no class: add a {LABELS} with the columns file,label"
        )
    for label, (folder, names) in enumerate(members.items()):
        if not names:
            raise ValueError(f"{source.place / folder}: holds no pictures: remove the folder or add some")
        if len({name.split("/")[1] for name in names if name.count("/") > 1}) > 1:
            raise ValueError(f"{source.place / folder}: has several subfolders of its own: {hint}")
        for name in names:
            if not _is_picture(name):
                raise ValueError(f"{source.place / name}: is not a picture by its name: move it out")
            entries.append((name, label))
    return entries


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _spread(entries: list, count: int | None, source: Source) -> list:
    """`count` of the entries, evenly spaced; all for None."""
    total = len(entries)
    if not total:
        raise ValueError(f"{source.place}: holds no pictures ({' '.join(SUFFIXES)}): give another folder")
    if count is None:
        return entries
    if not 1 <= count <= total:
        raise ValueError(f"{source.place}: holds {total} pictures, got count={count}: take 1-{total}")
    return [entries[i * total // count] for i in range(count)]


def _load(source: Source, names: Sequence[str], preprocess: Preprocess, threads: int | None) -> np.ndarray:
    """(N, R, R, 3) float32, in the order of `names`."""
    images = np.empty((len(names), preprocess.resolution, preprocess.resolution, 3), np.float32)

    def load(index: int) -> None:
        data = source.read(names[index])
        try:
            images[index] = preprocess(decode(data))
        except ValueError as error:
            raise ValueError(f"{source.place / names[index]}: {error}") from None

    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(load, range(len(names))):  # in order: the first bad file is the one reported
            pass
    return images
