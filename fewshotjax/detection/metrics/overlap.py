"""Which boxes share an image, and how much they overlap."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from fewshotjax.detection.boxes import Convention


class Pairs(NamedTuple):
    """P pairs of a detection and an object, ordered by detection, then by object."""

    detection: Int[np.ndarray, " P"]
    truth: Int[np.ndarray, " P"]


def pairs(detection: Int[np.ndarray, " D"], truth: Int[np.ndarray, " M"]) -> Pairs:
    """All pairs of equal keys, such as the image of each."""
    order = np.argsort(truth, kind="stable")
    ordered = truth[order]
    first = np.searchsorted(ordered, detection, "left")
    count = np.searchsorted(ordered, detection, "right") - first
    rows = np.repeat(np.arange(len(detection)), count)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    return Pairs(rows, order[np.repeat(first, count) + within])


def table_iou(
    a: Float[np.ndarray, "A 4"], b: Float[np.ndarray, "B 4"], *, crowd: bool = False
) -> Float[np.ndarray, "A B"]:
    """`paired_iou` of every a with every b, on the host; `boxes.pairwise_iou` is for programs.

    Args:
        crowd: every b is one.
    """
    first, second = np.repeat(a, len(b), axis=0), np.tile(b, (len(a), 1))
    return paired_iou(first, second, crowd=np.full(len(first), crowd)).reshape(len(a), len(b))


def on_crowds(
    boxes: Float[np.ndarray, "N 4"], crowds: Float[np.ndarray, "I 4"], inside: float, iou: float
) -> Bool[np.ndarray, " N"]:
    """`assign.on_ignored` on the host."""
    over = (table_iou(boxes, crowds, crowd=True) >= inside) | (table_iou(boxes, crowds) >= iou)
    return np.asarray(over.any(axis=1))


def paired_iou(
    a: Float[np.ndarray, "P 4"],
    b: Float[np.ndarray, "P 4"],
    *,
    convention: Convention = "half_open",
    crowd: Bool[np.ndarray, " P"] | None = None,
) -> Float[np.ndarray, " P"]:
    """|a ∩ b| / |a ∪ b|, row by row; 0 where both are empty.

    Args:
        convention: "inclusive": x2 and y2 are the last pixel inside, so 1 is added to widths and heights.
        crowd: where b is a crowd, |a ∩ b| / |a|, as in COCO.
    """
    one = 1.0 if convention == "inclusive" else 0.0
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    shared = np.prod(np.maximum(high - low + one, 0.0), axis=1)
    of_a, of_b = (np.prod(box[:, 2:] - box[:, :2] + one, axis=1) for box in (a, b))
    whole = of_a + of_b - shared
    if crowd is not None:
        whole = np.where(crowd, of_a, whole)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
