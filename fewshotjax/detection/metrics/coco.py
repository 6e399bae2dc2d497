"""The twelve numbers of COCO (Lin et al. 2014; the rules are those of pycocotools' COCOeval on boxes).

Our own, because an interval over episodes reads the same matches a thousand times with other weights, which
pycocotools cannot; the tests hold it to pycocotools.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fewshotjax.detection.metrics.coco_match import IOUS, MOST, SIZES, Matches, coco_match
from fewshotjax.detection.metrics.curve import Curve, average_precision, mean_defined, recall
from fewshotjax.detection.metrics.records import Detections, GroundTruth, image_weights

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True, eq=False)
class CocoAP:
    """The twelve numbers, NaN where COCO prints -1 (no objects of the size), and AP of each class."""

    numbers: Mapping[str, float]  # by NAMES
    per_class: Mapping[int, float]  # AP over IoU .50:.95
    curves: Mapping[int, tuple[Curve, ...]]  # of each class, by IoU .50, .55, ..., all sizes

    def __getitem__(self, name: str) -> float:
        return self.numbers[name]

    def weighted(self, weights: np.ndarray, name: str = "AP") -> float:
        """AP, AP50 or AP75 with image i counted weights[i] times, for `bootstrap`.

        Raises:
            ValueError: another name.
        """
        rows = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
        if name not in rows:
            raise ValueError(f"name must be one of {', '.join(rows)}, got {name!r}")
        curves = [curve for of_class in self.curves.values() for curve in of_class[rows[name]]]
        every = [index for curve in curves for index in (curve.image_index, curve.objects)]
        weights = image_weights(weights, *every)
        return mean_defined([average_precision(curve, weights, 101) for curve in curves])


def coco_ap(detections: Detections, truth: GroundTruth) -> CocoAP:
    """Precision at 101 recalls and final recall, averaged over IoU .50:.05:.95 and classes with objects.

    Of an image and class, the 100 surest detections are looked at (1 and 10 for AR1 and AR10). Detections
    matched to a crowd or to an object of another size are ignored, and unmatched ones of another size. Sizes:
    by `areas`, small up to 32², medium 32² to 96², large from 96² pixels. `difficult` is not known here:
    give such boxes as crowds or leave them out.
    """
    matches = coco_match(detections, truth)
    weights = image_weights(None, detections.image_index, truth.image_index)
    # (size, most detections): a list by class of its curves by IoU
    tables = {
        (size, most): _curves(detections, truth, matches, s, most)
        for s, size in enumerate(SIZES)
        for most in ((1, 10, MOST) if size == "all" else (MOST,))
    }
    whole = tables["all", MOST]
    aps = {
        size: {
            label: [average_precision(curve, weights, 101) for curve in curves]
            for label, curves in tables[size, MOST].items()
        }
        for size in SIZES
    }
    recalls = {
        key: mean_defined([recall(curve, weights) for curves in table.values() for curve in curves])
        for key, table in tables.items()
    }

    def mean(size: str, rows: slice = slice(None)) -> float:
        return mean_defined([ap for values in aps[size].values() for ap in values[rows]])

    found = (
        *(mean("all"), mean("all", slice(0, 1)), mean("all", slice(5, 6))),
        *(mean(size) for size in ("small", "medium", "large")),
        *(recalls["all", most] for most in (1, 10, MOST)),
        *(recalls[size, MOST] for size in ("small", "medium", "large")),
    )
    per_class = {label: mean_defined(values) for label, values in aps["all"].items()}
    return CocoAP(dict(zip(NAMES, found, strict=True)), per_class, whole)


def _curves(
    detections: Detections, truth: GroundTruth, matches: Matches, size: int, most: int
) -> dict[int, tuple[Curve, ...]]:
    labels = detections.labels[matches.rows]
    curves = {}
    for label in np.union1d(labels, truth.labels).tolist():
        start, stop = np.searchsorted(labels, [label, label + 1])
        within = np.arange(start, stop)[matches.rank[start:stop] < most]
        image = detections.image_index[matches.rows[within]]
        row = matches.candidate[within]
        objects = truth.image_index[(truth.labels == label) & matches.counted[:, size]]
        shape = (len(row), len(IOUS))
        matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
        matched[row >= 0] = matches.matched[row[row >= 0], size]
        ignored[row >= 0] = matches.ignored[row[row >= 0], size]
        ignored |= ~matched & matches.outside[within, size, None]
        curves[label] = tuple(
            Curve(image[~ignored[:, t]], matched[~ignored[:, t], t], objects) for t in range(len(IOUS))
        )
    return curves
