"""Average precision by the rules of PASCAL VOC (Everingham et al. 2010, 2015)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fewshotjax.detection.boxes import Convention
from fewshotjax.detection.metrics.curve import Curve, Points, average_precision, mean_defined
from fewshotjax.detection.metrics.overlap import paired_iou, pairs
from fewshotjax.detection.metrics.records import Detections, GroundTruth, check_settings, image_weights


@dataclass(frozen=True, eq=False)
class VocAP:
    """AP of each class, and their mean over the classes that have objects."""

    mean_ap: float
    per_class: Mapping[int, float]  # NaN for a class without objects
    curves: Mapping[int, Curve]
    points: Points

    def weighted(self, weights: np.ndarray) -> float:
        """Mean AP with image i counted weights[i] times, for `bootstrap`."""
        every = [index for curve in self.curves.values() for index in (curve.image_index, curve.objects)]
        weights = image_weights(weights, *every)
        return mean_defined([average_precision(c, weights, self.points) for c in self.curves.values()])


def voc_ap(
    detections: Detections,
    truth: GroundTruth,
    *,
    iou: float = 0.5,
    points: Points = "all",
    convention: Convention = "half_open",
) -> VocAP:
    """Per class over all images, then the mean of classes.

    By falling score, equal ones in the order given, a detection is for the object of its image and class that
    it overlaps most (the first of equals). With IoU ≥ `iou` it is true if it is that object's first, else
    false: a duplicate is not given to the next object. On a difficult object it is ignored. `crowd` is not
    known here.

    Args:
        points: "all", the area under the curve (VOC 2010 on), or 11, the mean at recall 0, .1, ..., 1 (2007).
        convention: "inclusive" for corners as in VOC's files, the last pixels inside, which `read_voc` has
            made half-open already.

    Raises:
        ValueError: another iou or points.
    """
    check_settings(iou, convention)
    if points not in ("all", 11):
        raise ValueError(f"points must be 'all' or 11, got {points!r}: 101 are coco_ap's")
    falling = np.argsort(-detections.scores, kind="stable")
    target, hit = voc_match(detections, truth, iou, convention)
    easy = np.append(~np.asarray(truth.difficult), True)  # the last is for detections on no object
    counted = falling[easy[target[falling]]]

    curves = {
        label: Curve(detections.image_index[rows], hit[rows], truth.image_index[objects])
        for label, rows, objects in _by_class(detections, truth, counted)
    }
    weights = image_weights(None, detections.image_index, truth.image_index)
    per_class = {label: average_precision(curve, weights, points) for label, curve in curves.items()}
    return VocAP(mean_defined(list(per_class.values())), per_class, curves, points)


def voc_match(
    detections: Detections, truth: GroundTruth, iou: float, convention: Convention = "half_open"
) -> tuple[Int[np.ndarray, " D"], Bool[np.ndarray, " D"]]:
    """The object that each detection is for, -1 for none, and whether it is that object's first."""
    labels = max((int(one.labels.max()) for one in (detections, truth) if len(one)), default=0) + 1
    pair = pairs(
        detections.image_index * labels + detections.labels, truth.image_index * labels + truth.labels
    )
    overlap = paired_iou(detections.boxes[pair.detection], truth.boxes[pair.truth], convention=convention)
    # Of each detection's pairs, the one of largest overlap; the pairs are in the order of the objects.
    order = np.lexsort((-overlap, pair.detection))
    first = np.ones(len(order), bool)
    first[1:] = pair.detection[order][1:] != pair.detection[order][:-1]
    chosen = order[first]
    chosen = chosen[overlap[chosen] >= iou]
    target = np.full(len(detections), -1)
    target[pair.detection[chosen]] = pair.truth[chosen]
    falling = np.argsort(-detections.scores, kind="stable")
    aimed = falling[target[falling] >= 0]
    hit = np.zeros(len(detections), bool)
    hit[aimed[np.unique(target[aimed], return_index=True)[1]]] = True
    return target, hit


def episode_voc_ap(
    detections: Detections,
    truth: GroundTruth,
    episodes: Int[np.ndarray, " images"],
    *,
    iou: float = 0.5,
    points: Points = "all",
) -> Float[np.ndarray, " E"]:
    """Mean VOC AP within each episode; NaN for one without objects.

    Args:
        episodes: of each image, 0 to E - 1.
    """
    image_weights(episodes, detections.image_index, truth.image_index)  # checks
    labels = max((int(one.labels.max()) for one in (detections, truth) if len(one)), default=0) + 1
    found = Detections(
        detections.image_index,
        episodes[detections.image_index] * labels + detections.labels,
        detections.scores,
        detections.boxes,
    )
    there = GroundTruth(
        truth.image_index,
        episodes[truth.image_index] * labels + truth.labels,
        truth.boxes,
        truth.difficult,
        truth.crowd,
        truth.areas,
    )
    per_class = voc_ap(found, there, iou=iou, points=points).per_class
    lists: list[list[float]] = [[] for _ in range(int(episodes.max()) + 1)]
    for label, ap in per_class.items():
        lists[label // labels].append(ap)
    return np.array([mean_defined(values) for values in lists])


def _by_class(
    detections: Detections, truth: GroundTruth, rows: Int[np.ndarray, " n"]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(label, its rows of `rows` in their order, its objects that are not difficult)."""
    known = np.union1d(detections.labels, truth.labels)
    if not len(known):
        return iter(())
    easy = np.flatnonzero(~np.asarray(truth.difficult))
    sides = []
    for labels, index in ((detections.labels, rows), (truth.labels, easy)):
        order = index[np.argsort(labels[index], kind="stable")]
        sides.append(np.split(order, np.searchsorted(labels[order], known)[1:]))
    return zip(known.tolist(), *sides, strict=True)
