"""Labelled pictures by position: on disk, decoded when asked for, or as arrays in memory."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from PIL import Image

from hwmodel import check_fields
from nemojax.data.entries import LABELS, labelled_entries
from nemojax.preprocess import decode
from nemojax.sources import Source

TOGETHER = 256  # small pictures that one thread decodes in one go


class LabelledArrays(NamedTuple):
    """Pictures of one size in memory."""

    images: np.ndarray  # (N, H, W, 3) uint8
    labels: np.ndarray  # (N,) int32 class indices
    classes: tuple[str, ...]  # their names


@runtime_checkable
class Labelled(Protocol):
    """What a pipeline reads: N labelled pictures, each the same whenever it is asked for, from any thread."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Image.Image:
        """RGB; a ValueError names the file."""

    def label(self, index: int) -> int: ...

    def where(self, index: int) -> str:
        """The file, for messages."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Files of a folder or an archive with their classes; decoded when asked for."""

    source: Source
    names: tuple[str, ...]  # N files of the source
    labels: np.ndarray  # (N,) int32 class indices
    classes: tuple[str, ...] = ()  # their names, where they are known

    def __post_init__(self):
        check_fields(self)
        if not isinstance(self.source, Source):
            raise ValueError(f"source must be a Source, got a {type(self.source).__name__}")
        if len(self.names) != len(self.labels):
            raise ValueError(f"names and labels differ: {len(self.names)} and {len(self.labels)}")
        if not self.names:
            raise ValueError(f"{self.source.place}: holds no pictures: give another folder")

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, index: int) -> Image.Image:
        """Raises ValueError: the file is no picture, damaged or too large; it is named."""
        data = self.source.read(self.names[index])
        try:
            return decode(data)
        except ValueError as error:
            raise ValueError(f"{self.where(index)}: {error}") from None

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def where(self, index: int) -> str:
        return str(self.source.place / self.names[index])

    def take(self, index: Sequence[int] | Int[np.ndarray, " K"]) -> "Pictures":
        """The pictures at `index`, in that order."""
        index = np.asarray(index, np.int64)
        names = tuple(self.names[i] for i in index.tolist())
        return Pictures(self.source, names, self.labels[index], self.classes)


@dataclass(frozen=True, eq=False)
class ArrayPictures:
    """Arrays in memory as a pipeline reads them."""

    arrays: LabelledArrays

    def __len__(self) -> int:
        return len(self.arrays.labels)

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(self.arrays.images[index])

    def label(self, index: int) -> int:
        return int(self.arrays.labels[index])

    def where(self, index: int) -> str:
        return f"image {index}"


def pictures(place: str | os.PathLike[str], *, classes: int | None = None) -> Pictures:
    """The labelled pictures of a folder, zip or tar file: with a labels.csv, or one subfolder per class.

    Order, labels and errors as in `load_labelled`, which reads the same layouts into memory.
    """
    return labelled_pictures(Source(place), classes)


def labelled_pictures(source: Source, classes: int | None = None) -> Pictures:
    """`pictures` of a source that is open already."""
    entries = labelled_entries(source, classes)
    by_table = any(name.split("/")[-1] == LABELS and name.count("/") <= 1 for name in source.names)
    labels = np.array([label for _, label in entries], np.int32)
    named = () if by_table else tuple(source.folders)
    return Pictures(source, tuple(name for name, _ in entries), labels, named)


def in_memory(found: Pictures, *, threads: int | None = None) -> LabelledArrays:
    """All pictures as they are, which must have one size.

    Raises:
        ValueError: a picture cannot be read, or has another size than the first; the file is named.
    """
    first = found.picture(0)
    images = np.empty((len(found), first.height, first.width, 3), np.uint8)

    def load(start: int) -> None:
        for i in range(start, min(start + TOGETHER, len(found))):
            picture = found.picture(i)
            if picture.size != first.size:
                size, other = (f"{p.width}x{p.height}" for p in (picture, first))
                raise ValueError(f"{found.where(i)}: is {size}, the first {other}: bring them to one size")
            images[i] = np.asarray(picture)

    parallel(load, range(0, len(found), TOGETHER), threads)
    return LabelledArrays(images, np.asarray(found.labels, np.int32), found.classes)


def parallel(work: Any, items: Sequence[Any], threads: int | None = None) -> None:
    """work(item) for each, in threads; of several errors the first item's is raised."""
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    with ThreadPoolExecutor(threads or default_threads()) as pool:
        for _ in pool.map(work, items):
            pass


def default_threads() -> int:
    """One per processor up to 8."""
    return min(8, os.cpu_count() or 1)
