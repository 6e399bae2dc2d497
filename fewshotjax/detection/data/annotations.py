"""What an annotation file says, before any picture is read, and the pictures that go with it."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from fewshotjax.data.decode import decode
from fewshotjax.data.files import Files, leaves
from fewshotjax.detection.data.boxed import BoxedImages
from fewshotjax.detection.metrics.records import GroundTruth
from fewshotjax.fields import check_fields

Faulty = Literal["refuse", "repair"]


@dataclass(frozen=True, eq=False)
class Annotations:
    """N images' names and sizes, and all their boxes.

    Raises:
        ValueError: fields that do not fit each other, a box of an image or class that is not there.
    """

    files: tuple[str, ...]  # N names
    sizes: np.ndarray  # (N, 2) int64 pixels, height and width
    classes: tuple[str, ...]
    truth: GroundTruth  # boxes inside their images
    image_ids: tuple[int, ...]  # N, a COCO file's own numbers
    category_ids: tuple[int, ...]  # one a class

    def __post_init__(self):
        check_fields(self)
        for name in ("files", "classes", "image_ids", "category_ids"):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if len(set(value)) != len(value):
                twice = next(one for i, one in enumerate(value) if one in value[:i])
                raise ValueError(f"{name} has {twice!r} twice: name each once")
        if self.sizes.shape != (len(self.files), 2) or len(self.image_ids) != len(self.files):
            raise ValueError(
                f"files are {len(self.files)}, image_ids {len(self.image_ids)}, sizes {self.sizes.shape}"
            )
        if len(self.category_ids) != len(self.classes):
            raise ValueError(f"category_ids are {len(self.category_ids)}, classes {len(self.classes)}")
        for name, count in (("image_index", len(self.files)), ("labels", len(self.classes))):
            column = getattr(self.truth, name)
            if len(column) and column.max() >= count:
                raise ValueError(f"truth.{name} has {column.max()}, but there are {count}")

    def __len__(self) -> int:
        return len(self.files)

    def only(self, rows: Sequence[int] | np.ndarray) -> "Annotations":
        """The images of `rows`, in that order, with their boxes."""
        index = np.asarray(rows, np.int64)
        place = np.full(len(self), -1)
        place[index] = np.arange(len(index))
        kept = np.flatnonzero(place[self.truth.image_index] >= 0)
        kept = kept[np.argsort(place[self.truth.image_index[kept]], kind="stable")]
        old = self.truth.take(kept)
        truth = GroundTruth(
            place[old.image_index], old.labels, old.boxes, old.difficult, old.crowd, old.areas
        )
        files, image_ids = (tuple(one[i] for i in index.tolist()) for one in (self.files, self.image_ids))
        return Annotations(files, self.sizes[index], self.classes, truth, image_ids, self.category_ids)


def repaired(
    boxes: np.ndarray, sizes: np.ndarray, names: Sequence[str], faulty: Faulty, *, least: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes inside their images, and which of them are left.

    Args:
        boxes: (M, 4); sizes: (M, 2), height and width of each one's image; names: M, for messages.
        faulty: "refuse" boxes that are not inside their image or that have a side of `least` pixels or less;
            "repair": cut them off at the border, drop those left too small, and warn (UserWarning).
        least: pixels; a degenerate box has none.

    Raises:
        ValueError: such a box, where it is refused; numbers that are not finite; another `faulty`.
    """
    if faulty not in ("refuse", "repair"):
        raise ValueError(f"faulty must be 'refuse' or 'repair', got {faulty!r}")
    bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if len(bad):
        raise ValueError(f"{names[bad[0]]}: box {boxes[bad[0]].tolist()} is not finite: correct it")
    limits = np.concatenate([sizes[:, ::-1], sizes[:, ::-1]], axis=1)
    inside = np.clip(boxes, 0, limits)
    kept = ((inside[:, 2:] - inside[:, :2]) > least).all(axis=1)
    wrong = np.flatnonzero((inside != boxes).any(axis=1) | ~kept)
    if len(wrong):
        height, width = sizes[wrong[0]]
        first = f"{names[wrong[0]]}: box {boxes[wrong[0]].tolist()} of {width}x{height}"
        if faulty == "refuse":
            hint = "is outside of it or has no side: correct it, or set faulty='repair'"
            raise ValueError(f"{first} {hint} ({len(wrong)} such)")
        dropped = int((~kept).sum())
        cut = f"{len(wrong) - dropped} boxes were cut off at the border"
        warnings.warn(f"{cut} and {dropped} dropped, the first {first}", UserWarning, stacklevel=3)
    return inside[kept], kept


def read_images(
    annotations: Annotations,
    place: str | os.PathLike[str],
    *,
    prefix: str = "",
    longest: int | None = None,
    threads: int | None = None,
) -> BoxedImages:
    """The pictures of a folder, zip or tar file with their boxes: one array where all are of one size.

    Photographs stand upright (EXIF), and boxes are taken to be of the upright one; grey ones become RGB,
    transparency is laid on white.

    Args:
        place: holds the annotations' files, below `prefix` ("JPEGImages/", say).
        longest: pixels of the longer side of what is kept: larger pictures are made smaller as they are read,
            and their boxes with them, so that memory does not grow with the camera. None: as they are.
        threads: that decode; None: one per processor up to 8.

    Raises:
        ValueError: a file that is missing, damaged, no picture, or of another size than annotated.
    """
    if longest is not None and longest < 1:
        raise ValueError(f"longest must be at least 1 pixel, or None, got {longest}")
    kept = annotations if longest is None else _within(annotations, longest)
    names = [f"{prefix}{name}" for name in annotations.files]
    for name in names:
        if leaves(name):
            raise ValueError(f"{place}: file {name!r} leaves the folder: correct the annotations")
    with Files(place, names if os.path.isdir(place) else None) as files:
        for name in names:
            if name not in files:
                raise ValueError(f"{files.place / name}: there is no such file: put it there")

        def one(row: int) -> np.ndarray:
            try:
                picture = decode(files.read(names[row]))
            except ValueError as error:
                raise ValueError(f"{files.place / names[row]}: {error}") from None
            height, width = annotations.sizes[row].tolist()
            if picture.size != (width, height):
                have = f"is {picture.width}x{picture.height} (upright), its annotation says {width}x{height}"
                raise ValueError(f"{files.place / names[row]}: {have}: its boxes would be elsewhere")
            small = kept.sizes[row].tolist()
            if small != [height, width]:
                picture = picture.resize((small[1], small[0]), Image.Resampling.BILINEAR)
            return np.asarray(picture)

        with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
            images = tuple(pool.map(one, range(len(names))))
    same = len({image.shape for image in images}) == 1
    return with_images(kept, np.stack(images) if same else images)


def _within(annotations: Annotations, longest: int) -> Annotations:
    """Of pictures whose longer side is `longest` pixels at most."""
    factors = np.minimum(1.0, longest / annotations.sizes.max(axis=1))
    sizes = np.maximum(1, np.round(annotations.sizes * factors[:, None])).astype(np.int64)
    truth = annotations.truth
    y, x = (sizes / annotations.sizes)[truth.image_index].T
    boxes = truth.boxes * np.stack([x, y, x, y], axis=1)
    areas = np.asarray(truth.areas) * x * y
    moved = GroundTruth(truth.image_index, truth.labels, boxes, truth.difficult, truth.crowd, areas)
    return replace(annotations, sizes=sizes, truth=moved)


def with_images(annotations: Annotations, images: np.ndarray | tuple[np.ndarray, ...]) -> BoxedImages:
    """Annotations and their pictures, in the same order, as one."""
    truth = annotations.truth
    order = np.argsort(truth.image_index, kind="stable")
    image = truth.image_index[order]
    slot = np.arange(len(image)) - np.searchsorted(image, image, "left")
    shape = (len(annotations), int(slot.max(initial=0)) + 1)
    boxes, labels = np.zeros((*shape, 4), np.float32), np.zeros(shape, np.int32)
    shown, difficult, crowd = (np.zeros(shape, bool) for _ in range(3))
    shown[image, slot] = True
    boxes[image, slot], labels[image, slot] = truth.boxes[order], truth.labels[order]
    difficult[image, slot] = np.asarray(truth.difficult)[order]
    crowd[image, slot] = np.asarray(truth.crowd)[order]
    return BoxedImages(images, boxes, shown, labels, annotations.classes, annotations.files, difficult, crowd)
