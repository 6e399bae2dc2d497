"""Pictures on disk to the arrays that a search works on."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from hwmodel import check_fields
from nemojax.data.entries import SUFFIXES, is_picture, labelled_entries
from nemojax.preprocess import Preprocess, decode
from nemojax.sources import Source


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Preprocessed images, with or without labels."""

    images: Float[np.ndarray, "N H W 3"]  # float32
    labels: Int[np.ndarray, " N"] | None  # int32 class indices
    names: tuple[str, ...]  # N file names, relative to where they were read

    def __post_init__(self):
        check_fields(self)
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
        entries = _spread(labelled_entries(source, classes), count, source)
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
        names = _spread([name for name in source.names if is_picture(name)], count, source)
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
