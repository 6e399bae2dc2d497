"""Images with boxes: the data type of detection."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewshotjax.data.labelled import chosen_classes
from fewshotjax.detection.metrics.records import GroundTruth
from fewshotjax.fields import check_fields

NAMED = 5  # classes that a repr lists


@dataclass(frozen=True, eq=False)
class BoxedImages:
    """N images, each with up to G boxes of classes, checked at construction.

    Where `shown` is False a box is padding: its numbers must be 0, its label 0.

    Raises:
        ValueError: arrays that do not fit each other, a label outside the classes, a box without a side, or
            one that is not inside its image; the image is named.
    """

    images: np.ndarray | tuple[np.ndarray, ...]  # (N, H, W, C) uint8, or N arrays (H, W, C)
    boxes: np.ndarray  # (N, G, 4) float32 pixels: x1, y1, x2, y2, half-open
    shown: np.ndarray  # (N, G) bool
    labels: np.ndarray  # (N, G) int32, index into classes
    classes: tuple[str, ...]
    files: tuple[str, ...] = ()  # N names for messages, or none
    difficult: np.ndarray | None = None  # (N, G) bool, see GroundTruth; None: none is
    crowd: np.ndarray | None = None  # (N, G) bool

    def __post_init__(self):
        check_fields(self)
        for name in ("classes", "files"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _check_images(self.images)
        count = len(self.images)
        if self.boxes.ndim != 3 or self.boxes.shape[2] != 4 or self.boxes.dtype != np.float32:
            raise ValueError(f"boxes must be (N, G, 4) float32, got {self.boxes.dtype} of {self.boxes.shape}")
        for name, kind in (("shown", bool), ("labels", np.int32), ("difficult", bool), ("crowd", bool)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.zeros(self.boxes.shape[:2], bool))
            array = getattr(self, name)
            if array.shape != self.boxes.shape[:2] or array.dtype != kind:
                wanted = f"{self.boxes.shape[:2]} {np.dtype(kind)}"
                raise ValueError(f"{name} must be {wanted}, got {array.dtype} of {array.shape}")
        if len(self.boxes) != count:
            raise ValueError(f"boxes are of {len(self.boxes)} images, images are {count}: give one row each")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes has a name twice: rename one, or merge them")
        if self.files and len(self.files) != count:
            raise ValueError(f"files are {len(self.files)}, images {count}: give one each or none")
        self._check_boxes()

    def _check_boxes(self) -> None:
        outside = self.shown & ((self.labels < 0) | (self.labels >= len(self.classes)))
        if outside.any():
            row, slot = np.argwhere(outside)[0]
            have = f"box {slot} has label {self.labels[row, slot]}"
            raise ValueError(f"labels: {self.where(row)}: {have}, outside the {len(self.classes)} classes")
        padding = ~self.shown
        if self.boxes[padding].any() or self.labels[padding].any():
            row = np.argwhere(padding & ((self.boxes != 0).any(axis=2) | (self.labels != 0)))[0, 0]
            raise ValueError(f"boxes: {self.where(row)}: a box that is not shown must be 0, and its label")
        height, width = self.sizes[:, 0, None], self.sizes[:, 1, None]
        x1, y1, x2, y2 = (self.boxes[..., i] for i in range(4))
        fine = (x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= width) & (y2 <= height)
        wrong = np.argwhere(self.shown & ~fine)  # NaN compares false
        if len(wrong):
            row, slot = wrong[0]
            size = f"{self.sizes[row, 1]}x{self.sizes[row, 0]}"
            box = self.boxes[row, slot].tolist()
            raise ValueError(f"boxes: {self.where(row)}: {box} is no box in {size}: correct or drop it")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:NAMED]) + (", ..." if len(self.classes) > NAMED else "")
        have = f"{len(self)} images, {int(np.sum(self.shown))} boxes, {len(self.classes)} classes"
        return f"BoxedImages({have}: {names})"

    @property
    def sizes(self) -> np.ndarray:
        """(N, 2) int64, height and width."""
        if isinstance(self.images, np.ndarray):
            return np.broadcast_to(np.array(self.images.shape[1:3]), (len(self), 2))
        return np.array([image.shape[:2] for image in self.images], np.int64).reshape(-1, 2)

    @property
    def to_ignore(self) -> np.ndarray:
        """(N, G) bool: crowds and difficult boxes, which are neither examples nor background."""
        return self.shown & (np.asarray(self.crowd) | np.asarray(self.difficult))

    def ignored_boxes(self) -> np.ndarray | None:
        """(N, G, 4), those of `to_ignore`, 0 elsewhere; None where there are none at all."""
        ignored = self.to_ignore
        return np.where(ignored[..., None], self.boxes, np.float32(0)) if ignored.any() else None

    def where(self, row: int) -> str:
        """The name of an image, for messages."""
        return self.files[row] if self.files else f"image {row}"

    def counts(self) -> np.ndarray:
        """(classes,) boxes of each class."""
        return np.bincount(self.labels[self.shown], minlength=len(self.classes))

    def take(self, rows: Sequence[int] | np.ndarray) -> "BoxedImages":
        """The images of `rows`: indices or a mask of N."""
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        if isinstance(self.images, np.ndarray):
            pictures: Any = self.images[index]
        else:
            pictures = tuple(self.images[i] for i in index)
        files = tuple(self.files[i] for i in index) if self.files else ()
        difficult, crowd = (np.asarray(one)[index] for one in (self.difficult, self.crowd))
        arrays = (self.boxes[index], self.shown[index], self.labels[index])
        return BoxedImages(pictures, *arrays, self.classes, files, difficult, crowd)

    def only(self, class_names: Iterable[str]) -> "BoxedImages":
        """The images that show these classes, with their boxes alone, labelled in the order of `class_names`.

        Raises:
            ValueError: a name is no class, or stands there twice.
        """
        names = chosen_classes(class_names, self.classes)
        new = np.full(len(self.classes) or 1, -1, np.int32)
        new[[self.classes.index(name) for name in names]] = np.arange(len(names))
        shown = self.shown & (new[self.labels] >= 0)
        kept = BoxedImages(
            self.images,
            np.where(shown[..., None], self.boxes, np.float32(0)),
            shown,
            np.where(shown, new[self.labels], np.int32(0)),
            names,
            self.files,
            np.asarray(self.difficult) & shown,
            np.asarray(self.crowd) & shown,
        )
        return kept.take(shown.any(axis=1))

    def truth(self) -> GroundTruth:
        """The boxes in a row, image by image, for metrics."""
        image, slot = np.nonzero(self.shown)
        flags = (np.asarray(getattr(self, name))[image, slot] for name in ("difficult", "crowd"))
        return GroundTruth(image, self.labels[image, slot], self.boxes[image, slot], *flags)


def boxed(
    images: np.ndarray | Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    labels: Sequence[Sequence[int] | np.ndarray],
    classes: Sequence[str],
    files: Sequence[str] = (),
) -> BoxedImages:
    """Images with lists of boxes of any length, padded to the longest (at least 1).

    Args:
        images: N arrays (H, W, C) uint8, or one (N, H, W, C).
        boxes: N arrays (g, 4), x1, y1, x2, y2, half-open.
        labels: N lists of g.

    Raises:
        ValueError: as BoxedImages; lists of different length.
    """
    lengths = [len(one) for one in boxes]
    if len(labels) != len(lengths) or [len(one) for one in labels] != lengths:
        raise ValueError("labels do not fit boxes: give as many for each image")
    shape = (len(lengths), max([1, *lengths]))
    padded, label = np.zeros((*shape, 4), np.float32), np.zeros(shape, np.int32)
    for row, (some, of_some) in enumerate(zip(boxes, labels, strict=True)):
        padded[row, : len(some)] = np.asarray(some, np.float32).reshape(-1, 4)
        label[row, : len(some)] = of_some
    shown = np.arange(shape[1]) < np.array(lengths, np.int64)[:, None]
    pictures = images if isinstance(images, np.ndarray) else tuple(images)
    return BoxedImages(pictures, padded, shown, label, tuple(classes), tuple(files))


def _check_images(images: Any) -> None:
    several = images if isinstance(images, tuple) else (images,)
    rank = 3 if isinstance(images, tuple) else 4
    for image in several:
        if not isinstance(image, np.ndarray) or image.ndim != rank or 0 in image.shape[rank - 3 :]:
            raise ValueError("images must be one (N, H, W, C) array, or a tuple of (H, W, C) arrays")
        if image.dtype != np.uint8:
            raise ValueError(f"images must be uint8, values 0-255, got {image.dtype}: scale and round them")
