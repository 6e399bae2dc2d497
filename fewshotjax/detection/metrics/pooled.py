"""The few-shot detection AP of RepMet's authors (Karlinsky et al. 2019), rule for rule.

Not comparable with VOC's or COCO's AP: here a second detection of a found object costs nothing.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from fewshotjax.detection.boxes import Convention
from fewshotjax.detection.metrics.curve import Curve, average_precision
from fewshotjax.detection.metrics.overlap import paired_iou, pairs
from fewshotjax.detection.metrics.records import Detections, GroundTruth, check_settings, image_weights


@dataclass(frozen=True, eq=False)
class PooledAP:
    """One number for all classes, images and episodes, and the decisions that it comes from."""

    ap: float
    recall: float
    objects: int
    true_positives: int
    wrong_class: int  # false positives on objects of another class
    background: int  # false positives on no object
    curve: Curve

    def weighted(self, weights: np.ndarray) -> float:
        """AP with image i counted weights[i] times, for `bootstrap`."""
        weights = image_weights(weights, self.curve.image_index, self.curve.objects)
        return average_precision(self.curve, weights)


def without_left_out(
    detections: Detections, truth: GroundTruth, iou: float = 0.5
) -> tuple[Detections, GroundTruth]:
    """Without difficult and crowd objects, which the authors' metric does not know, and without what lies on
    them and on no other object: inside of a crowd, or with an IoU of `iou` and more.
    """
    return detections.take(~on_left_out(detections, truth, iou)), truth.take(~truth.left_out)


def on_left_out(detections: Detections, truth: GroundTruth, iou: float = 0.5) -> Bool[np.ndarray, " D"]:
    """Which lie on a difficult or crowd object, of whatever class, and on no other one."""
    left_out = truth.left_out
    pair = pairs(detections.image_index, truth.image_index)
    a, b = detections.boxes[pair.detection], truth.boxes[pair.truth]
    lies = paired_iou(a, b, crowd=np.asarray(truth.crowd)[pair.truth]) >= iou
    found = np.zeros(len(detections), bool)
    found[pair.detection[lies & left_out[pair.truth]]] = True
    found[pair.detection[lies & ~left_out[pair.truth]]] = False
    return found


def repmet_pooled_ap(
    detections: Detections, truth: GroundTruth, *, iou: float = 0.5, convention: Convention = "half_open"
) -> PooledAP:
    """One precision-recall curve over everything, all-point interpolated; NaN without objects.

    Of the detections of a class in an image:

      - each object of the class gives one true positive, with the score of its surest detection of IoU ≥
        `iou`. One detection may serve two objects. Its other detections are ignored, not false;
      - each object of another class gives one false positive a class: with the score of the surest detection
        that overlaps it so, of those that hit no object of their own class;
      - each detection under `iou` with every object is a false positive.

    Scores must be over 0; others are as if not made. Equal scores stand in the order of image, class and
    this list (the authors leave it to an unstable sort). `difficult` and `crowd` are not known here.

    Args:
        truth: the objects of the episode's classes alone. A query image in two classes' lists counts twice:
            give it twice, as two images.
        convention: "inclusive" for corners as in the authors' files, the last pixels inside: they add 1 to
            widths and heights. Half-open boxes of the same objects give the same figure without it.

    Departs from the authors' code: an image without objects, on which that fails, counts its detections as
    false positives.
    """
    check_settings(iou, convention)
    detections = detections.take(detections.scores > 0)
    pair = pairs(detections.image_index, truth.image_index)
    overlap = paired_iou(detections.boxes[pair.detection], truth.boxes[pair.truth], convention=convention)
    on, at = (index[overlap >= iou] for index in pair)
    same = detections.labels[on] == truth.labels[at]

    best = np.zeros(len(truth))
    np.maximum.at(best, at[same], detections.scores[on[same]])
    found = np.flatnonzero(best > 0)

    right, some = np.zeros(len(detections), bool), np.zeros(len(detections), bool)
    right[on[same]] = True
    some[on] = True
    wrong = ~same & ~right[on]
    wrong_on, wrong_at = on[wrong], at[wrong]
    # The surest first, then one of each object and class.
    order = np.lexsort((-detections.scores[wrong_on], detections.labels[wrong_on], wrong_at))
    keys = np.stack([wrong_at, detections.labels[wrong_on]], axis=1)[order]
    fresh = np.ones(len(keys), bool)
    fresh[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    wrong_on = wrong_on[order][fresh]
    empty = np.flatnonzero(~some)

    false = np.concatenate([wrong_on, empty])
    score = np.concatenate([best[found], detections.scores[false]])
    image = np.concatenate([truth.image_index[found], detections.image_index[false]])
    label = np.concatenate([truth.labels[found], detections.labels[false]])
    kind = np.repeat(np.arange(3), [len(found), len(wrong_on), len(empty)])
    order = np.lexsort((kind, label, image, -score))
    curve = Curve(image[order], kind[order] == 0, truth.image_index)
    return PooledAP(
        average_precision(curve, image_weights(None, curve.image_index, curve.objects)),
        len(found) / len(truth) if len(truth) else float("nan"),
        len(truth),
        len(found),
        len(wrong_on),
        len(empty),
        curve,
    )
