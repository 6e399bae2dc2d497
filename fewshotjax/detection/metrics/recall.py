"""How many objects are found at all, whatever class they are given."""

from collections.abc import Sequence

import numpy as np

from fewshotjax.detection.metrics.overlap import paired_iou, pairs
from fewshotjax.detection.metrics.records import Detections, GroundTruth, check_settings


def class_agnostic_recall(
    detections: Detections,
    truth: GroundTruth,
    ious: Sequence[float] = (0.5, 0.75),
    *,
    most: int | None = 100,
) -> dict[float, float]:
    """Share of the objects that some of their image's `most` surest detections overlaps with IoU ≥ each.

    One detection may cover several objects. Difficult and crowd boxes are no objects here. NaN without any.

    Args:
        most: detections of an image, of all classes together; of equal scores the first. None: all.

    Raises:
        ValueError: an iou that is not over 0 and up to 1, most under 1.
    """
    for iou in ious:
        check_settings(iou)
    if most is not None and most < 1:
        raise ValueError(f"most must be at least 1 or None, got {most}")
    truth = truth.take(~(np.asarray(truth.difficult) | np.asarray(truth.crowd)))
    if not len(truth):
        return {iou: float("nan") for iou in ious}
    if most is not None:
        order = np.lexsort((-detections.scores, detections.image_index))
        image = detections.image_index[order]
        place = np.arange(len(image)) - np.searchsorted(image, image, "left")
        detections = detections.take(order[place < most])
    pair = pairs(detections.image_index, truth.image_index)
    overlap = paired_iou(detections.boxes[pair.detection], truth.boxes[pair.truth])
    best = np.zeros(len(truth))
    np.maximum.at(best, pair.truth, overlap)
    return {iou: float((best >= iou).mean()) for iou in ious}
