"""Labelled images of one size in memory, and which of them are the same image."""

import difflib
import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from ..fields import check_fields

NAMED = 5  # files that a message lists


class Pictures(NamedTuple):
    """Images without labels, as queries are."""

    images: np.ndarray  # (N, H, W, C) uint8
    files: tuple[str, ...]  # N names


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """N images of one size with their classes, checked at construction.

    Raises:
        ValueError: an array of another shape or dtype, a label outside the classes (JAX would clamp it
            silently), a class named twice, another number of files than images.
    """

    images: np.ndarray  # (N, H, W, C) uint8
    labels: np.ndarray  # (N,) int32, index into classes
    classes: tuple[str, ...]  # names; a class may be without images
    files: tuple[str, ...] = ()  # N names for messages, or none

    def __post_init__(self):
        check_fields(self)
        check_images(self.images)
        if not isinstance(self.labels, np.ndarray) or self.labels.dtype != np.int32 or self.labels.ndim != 1:
            raise ValueError(f"labels must be a (N,) int32 array, got {_kind(self.labels)}: use from_arrays")
        if len(self.labels) != len(self.images):
            raise ValueError(f"labels are {len(self.labels)}, images {len(self.images)}: give one per image")
        for name in ("classes", "files"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(set(self.classes)) != len(self.classes):
            twice = next(name for i, name in enumerate(self.classes) if name in self.classes[:i])
            raise ValueError(f"classes has {twice!r} twice: rename one, or merge them")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(wrong):
            where, label = self.where(int(wrong[0])), self.labels[wrong[0]]
            outside = f"outside the {len(self.classes)} classes"
            raise ValueError(f"labels: {where} has {label}, {outside}: correct it, or name more classes")
        if self.files and len(self.files) != len(self.images):
            raise ValueError(f"files are {len(self.files)}, images {len(self.images)}: give one each or none")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.images.shape[1:]))
        names = ", ".join(self.classes[:NAMED]) + (", ..." if len(self.classes) > NAMED else "")
        return f"LabelledImages({len(self)} images of {size}, {len(self.classes)} classes: {names})"

    def where(self, row: int) -> str:
        """The name of an image, for messages."""
        return self.files[row] if 0 <= row < len(self.files) else f"image {row}"

    def counts(self) -> Int[np.ndarray, " classes"]:
        """Images of each class."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def take(self, rows: Any) -> "LabelledImages":
        """The images of `rows` (indices in any order, a mask of N or a slice), with all classes.

        Raises:
            ValueError: an index is not in 0 to N - 1, or a mask has another length.
        """
        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise ValueError(f"rows is a mask of shape {rows.shape}, not ({len(self)},)")
            rows = np.flatnonzero(rows)
        if rows.size == 0:
            rows = np.zeros(0, np.int64)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise ValueError(f"rows must be indices, a mask or a slice, got {_kind(rows)}")
        wrong = rows[(rows < 0) | (rows >= len(self))]
        if len(wrong):
            raise ValueError(f"rows has {wrong[0]}, outside 0-{len(self) - 1}")
        files = tuple(self.files[i] for i in rows.tolist()) if self.files else ()
        return LabelledImages(self.images[rows], self.labels[rows], self.classes, files)

    def only(self, class_names: Iterable[str]) -> "LabelledImages":
        """The images of these classes, in their old order, relabelled to the order of `class_names`.

        Raises:
            ValueError: a name is no class, or stands there twice.
        """
        names = chosen_classes(class_names, self.classes)
        new = np.full(len(self.classes), -1, np.int32)
        new[[self.classes.index(name) for name in names]] = np.arange(len(names))
        labels = new[self.labels]
        kept = self.take(labels >= 0)
        return LabelledImages(kept.images, labels[labels >= 0], names, kept.files)


def from_arrays(
    images: np.ndarray, labels: Sequence[Any] | np.ndarray, classes: Sequence[str] | None = None
) -> LabelledImages:
    """Images and labels that are in memory already.

    Args:
        images: (N, H, W, C) or grey (N, H, W), uint8.
        labels: N indices into `classes`, or N names; without `classes`, whatever tells classes apart.
        classes: their names. None: the distinct labels in sorted order.

    Raises:
        ValueError: as `LabelledImages`, or labels that are neither whole numbers nor names.
    """
    images = np.asarray(images)
    images = images[..., None] if images.ndim == 3 else images
    given = np.asarray(labels)
    if given.size == 0 and classes is not None:
        given = np.zeros(0, np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iuU":
        raise ValueError(f"labels must be N whole numbers or names, got {_kind(given)}")
    if classes is None:
        distinct, index = np.unique(given, return_inverse=True)
        return LabelledImages(images, index.astype(np.int32), tuple(map(str, distinct.tolist())))
    if given.dtype.kind == "U":
        place = {name: i for i, name in enumerate(classes)}
        strange = [name for name in given.tolist() if name not in place]
        if strange:
            raise ValueError(f"labels has {strange[0]!r}, which is not in classes: add it there")
        given = np.array([place[name] for name in given.tolist()], np.int64)
    clipped = np.clip(given.astype(np.int64), -(2**31), 2**31 - 1)  # what is out of range stays so
    return LabelledImages(images, clipped.astype(np.int32), tuple(classes))


def concatenate(sets: Sequence[LabelledImages]) -> LabelledImages:
    """The images of all sets in turn; classes of one name become one, in the order of first appearance.

    File names are kept where all sets have them.

    Raises:
        ValueError: no sets, or images of different size or channels.
    """
    if not sets:
        raise ValueError("sets is empty: give at least one")
    for i, one in enumerate(sets):
        if one.images.shape[1:] != sets[0].images.shape[1:]:
            shapes = f"{one.images.shape[1:]}, those of the first {sets[0].images.shape[1:]}"
            raise ValueError(f"sets: the images of number {i} are {shapes}: read them with the same pixels")
    classes = tuple(dict.fromkeys(name for one in sets for name in one.classes))
    place = {name: i for i, name in enumerate(classes)}
    labels = [np.array([place[n] for n in one.classes], np.int32)[one.labels] for one in sets if len(one)]
    files = tuple(name for one in sets for name in one.files)
    images = np.concatenate([one.images for one in sets])
    joined = np.concatenate([np.zeros(0, np.int32), *labels])
    return LabelledImages(images, joined, classes, files if len(files) == len(images) else ())


def duplicates(
    a: LabelledImages | Pictures, b: LabelledImages | Pictures | None = None
) -> Int[np.ndarray, "pairs 2"]:
    """Byte-identical images as pairs of rows, in the order of the rows.

    Without `b`, (first, later): each image of `a` that stood there before, after the first one.
    Otherwise (row of a, row of b): each image of `a` that is in `b`, with the first such row of `b`.
    """
    if b is not None and a.images.shape[1:] != b.images.shape[1:]:
        return np.zeros((0, 2), np.int64)
    first: dict[bytes, int] = {}
    pairs = []
    for row, digest in enumerate(_digests(a.images if b is None else b.images)):
        if first.setdefault(digest, row) != row and b is None:
            pairs.append((first[digest], row))
    if b is not None:
        pairs = [(row, first[x]) for row, x in enumerate(_digests(a.images)) if x in first]
    return np.array(pairs, np.int64).reshape(-1, 2)


def check_disjoint(support: LabelledImages | Pictures, query: LabelledImages | Pictures) -> None:
    """Warns (UserWarning) where the same image is in both: its query is answered from memory."""
    pairs = duplicates(support, query)
    if len(pairs):
        names = [f"{_where(support, i)} = {_where(query, j)}" for i, j in pairs[:NAMED].tolist()]
        more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
        warnings.warn(
            f"{len(pairs)} images of the support are also among the queries, where they are no test: "
            f"{', '.join(names)}{more}",
            UserWarning,
            stacklevel=2,
        )


def check_images(images: Any) -> None:
    """Raises ValueError: not (N, H, W, C) uint8 with at least one pixel and channel."""
    if not isinstance(images, np.ndarray) or images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must be a (N, H, W, C) array, got {_kind(images)}")
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, values 0-255, got {images.dtype}: scale and round them")


def chosen_classes(wanted: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    """`wanted` as a tuple.

    Raises:
        ValueError: a name that is not known, or is wanted twice, or none at all.
    """
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    if not names:
        raise ValueError("classes is empty: name at least one")
    for i, name in enumerate(names):
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 3) or list(known[:3])
            raise ValueError(f"classes has {name!r}, which is none of the {len(known)}: such as {near}")
        if name in names[:i]:
            raise ValueError(f"classes has {name!r} twice: name it once")
    return names


def _digests(images: UInt8[np.ndarray, "N H W C"]) -> Iterable[bytes]:
    return (hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images)


def _where(images: LabelledImages | Pictures, row: int) -> str:
    return images.files[row] if images.files else f"image {row}"


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return f"a {type(value).__name__}"
