"""What a detector found and what is there: flat arrays, checked once, for every metric."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ...fields import check_fields

_HALF_OPEN = "boxes are x1, y1, x2, y2 with x2 and y2 past the last pixel"


@dataclass(frozen=True, eq=False)
class Detections:
    """D found boxes. In episodes, each query of each episode is an image with a number of its own.

    Raises:
        ValueError: arrays that do not fit each other, a negative index, a number that is not finite, a box
            with x1 > x2 or y1 > y2.
    """

    image_index: np.ndarray  # (D,) int64, which image
    labels: np.ndarray  # (D,) int64, which class
    scores: np.ndarray  # (D,) float64, the higher the surer
    boxes: np.ndarray  # (D, 4) float64 pixels: x1, y1, x2, y2, half-open

    def __post_init__(self):
        check_fields(self)
        for name, kind in (("image_index", np.int64), ("labels", np.int64), ("scores", np.float64)):
            object.__setattr__(self, name, _column(name, getattr(self, name), kind, len(self.image_index)))
        object.__setattr__(self, "boxes", _boxes(self.boxes, len(self.image_index)))

    def __len__(self) -> int:
        return len(self.image_index)

    def take(self, rows: Any) -> "Detections":
        """Those of `rows`: indices, a mask or a slice."""
        return Detections(self.image_index[rows], self.labels[rows], self.scores[rows], self.boxes[rows])


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """M true boxes.

    `difficult` boxes are VOC's: neither finding nor missing one counts. `crowd` boxes are COCO's: regions of
    many objects, of which any number of detections may be inside. Each metric says what it does with them.

    Raises:
        ValueError: as `Detections`, or an area that is negative.
    """

    image_index: np.ndarray  # (M,) int64
    labels: np.ndarray  # (M,) int64
    boxes: np.ndarray  # (M, 4) float64 pixels, half-open
    difficult: np.ndarray | None = None  # (M,) bool; None: none is
    crowd: np.ndarray | None = None  # (M,) bool; None: none is
    areas: np.ndarray | None = None  # (M,) float64 pixels², COCO's sizes; None: of the boxes

    def __post_init__(self):
        check_fields(self)
        count = len(self.image_index)
        for name in ("image_index", "labels"):
            object.__setattr__(self, name, _column(name, getattr(self, name), np.int64, count))
        object.__setattr__(self, "boxes", _boxes(self.boxes, count))
        for name in ("difficult", "crowd"):
            given = np.zeros(count, bool) if getattr(self, name) is None else getattr(self, name)
            object.__setattr__(self, name, _column(name, given, np.bool_, count))
        given = areas(self.boxes) if self.areas is None else self.areas
        sizes = _column("areas", given, np.float64, count)
        object.__setattr__(self, "areas", sizes)
        if count and sizes.min() < 0:
            row = int(np.argmin(sizes))
            raise ValueError(f"areas: object {row} has {sizes[row]}: give pixels², or None")

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def left_out(self) -> np.ndarray:
        """(M,) bool: `difficult` or `crowd`, which a figure that knows one of the two takes for that one."""
        return np.asarray(self.difficult) | np.asarray(self.crowd)

    def take(self, rows: Any) -> "GroundTruth":
        """Those of `rows`: indices, a mask or a slice."""
        names = ("image_index", "labels", "boxes", "difficult", "crowd", "areas")
        return GroundTruth(*(getattr(self, name)[rows] for name in names))


def areas(boxes: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, " N"]:
    """Width times height, pixels²."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def no_detections() -> Detections:
    """An empty set."""
    none = np.zeros(0, np.int64)
    return Detections(none, none, np.zeros(0), np.zeros((0, 4)))


def image_weights(weights: np.ndarray | None, *index: np.ndarray) -> Float[np.ndarray, " images"]:
    """How often each image counts, as float64; None: once each.

    Raises:
        ValueError: an image of `index` has no weight.
    """
    highest = max((int(one.max()) for one in index if len(one)), default=-1)
    if weights is None:
        return np.ones(highest + 1)
    if highest >= len(weights):
        raise ValueError(f"weights are {len(weights)}, but there is an image {highest}: give one per image")
    return weights.astype(np.float64)


def _column(name: str, given: Any, kind: Any, count: int) -> np.ndarray:
    array = np.asarray(given)
    wanted: dict[Any, tuple[str, str]] = {
        np.int64: ("iu", "whole numbers"),
        np.float64: ("fiu", "numbers"),
        np.bool_: ("b", "bools"),
    }
    kinds, words = wanted[kind]
    if array.ndim != 1 or len(array) != count:
        raise ValueError(f"{name} must be ({count},), one per box, got shape {array.shape}")
    if count and array.dtype.kind not in kinds:
        raise ValueError(f"{name} must be {words}, got {array.dtype}")
    array = array.astype(kind)
    if kind is np.int64 and count and array.min() < 0:
        raise ValueError(f"{name}: box {int(np.argmin(array))} has {array.min()}: count from 0")
    if kind is np.float64 and not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array)))
        raise ValueError(f"{name}: box {row} has {array[row]}: leave it out")
    return array


def _boxes(given: Any, count: int) -> Float[np.ndarray, "N 4"]:
    array = np.asarray(given)
    array = array.reshape(0, 4) if array.size == 0 and count == 0 else array
    if array.shape != (count, 4) or array.dtype.kind not in "fiu":
        raise ValueError(f"boxes must be ({count}, 4) numbers, got {array.dtype} of shape {array.shape}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array).all(axis=1)))
        raise ValueError(f"boxes: box {row} is {array[row].tolist()}: leave it out")
    wrong = np.flatnonzero((array[:, 2:] < array[:, :2]).any(axis=1))
    if len(wrong):
        raise ValueError(f"boxes: box {wrong[0]} is {array[wrong[0]].tolist()}: {_HALF_OPEN}")
    return array


def check_settings(iou: float, convention: str = "half_open") -> None:
    """Raises ValueError: an IoU that is not over 0 and up to 1, another convention."""
    if not 0 < iou <= 1:
        raise ValueError(f"iou must be over 0 and at most 1, got {iou}: 0.5 is usual")
    if convention not in ("half_open", "inclusive"):
        raise ValueError(f"convention must be half_open or inclusive, got {convention!r}")
