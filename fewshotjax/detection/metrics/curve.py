"""Average precision of decisions in the order of their scores.

A curve is kept with the image of each decision, so that it can be read again with images counted zero, one or
several times: that is a bootstrap resample, without matching anything anew.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Points = Literal["all", 11, 101]


class Curve(NamedTuple):
    """n decisions by falling score. What a metric ignores is not among them."""

    image_index: Int[np.ndarray, " n"]
    hit: Bool[np.ndarray, " n"]  # true positive, else false positive
    objects: Int[np.ndarray, " M"]  # the image of each object to be found


def average_precision(curve: Curve, weights: Float[np.ndarray, " images"], points: Points = "all") -> float:
    """Area under the envelope max_{r' ≥ r} precision(r') over recall; NaN without objects.

    all: the whole area (VOC 2010 on). 11: mean at recall 0, .1, ..., 1 (VOC 2007). 101: at 0, .01, ..., 1
    (COCO). An image of weight w counts as w copies of it.
    """
    total = weights[curve.objects].sum()
    if total == 0:
        return float("nan")
    hits = np.flatnonzero(curve.hit)
    if not len(hits):
        return 0.0
    gained = weights[curve.image_index[hits]]
    found = np.cumsum(gained)
    made = np.cumsum(weights[curve.image_index])[hits]
    # Between two hits precision only falls, so its maximum to the right is always at a hit.
    precision = np.divide(found, made, out=np.zeros_like(found), where=made > 0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if points == "all":
        return float((gained * envelope).sum() / total)
    if points == 11:
        # In whole numbers: 3/10 is reached by 3 of 10, whatever the rounding of .1 times 3.
        at = np.searchsorted(10 * found, np.arange(11) * total, "left")
    else:
        at = np.searchsorted(found / total, np.linspace(0, 1, 101), "left")
    return float(np.append(envelope, 0.0)[at].mean())


def recall(curve: Curve, weights: Float[np.ndarray, " images"]) -> float:
    """Share of the objects that were found; NaN without objects."""
    total = weights[curve.objects].sum()
    return float(weights[curve.image_index[curve.hit]].sum() / total) if total else float("nan")


def mean_defined(values: list[float]) -> float:
    """Mean of those that are not NaN; NaN if none is."""
    defined = [value for value in values if value == value]
    return float(np.mean(defined)) if defined else float("nan")
