"""From a method's probabilities of an image's regions to detections: suppression by class, and a cap."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..fields import check_fields
from .boxes import usable
from .chosen import choose
from .config import DetectorConfig
from .detector import Net, decoded
from .methods.method import DetectionMethod
from .nms import class_nms
from .regions import Regions


@dataclass(frozen=True)
class Scoring:
    """Which regions become detections.

    Raises:
        ValueError: a field out of range; it is named.
    """

    nms: float = 0.3  # IoU, of the boxes of one class; authors
    per_image: int = 100  # K, detections at most, the surest of all classes
    least_score: float = 0.0  # detections have a score above it; authors

    def __post_init__(self):
        check_fields(self)
        if not 0 <= self.nms <= 1:
            raise ValueError(f"nms must be 0 to 1, got {self.nms}")
        if self.per_image < 1:
            raise ValueError(f"per_image must be at least 1, got {self.per_image}")
        if not 0 <= self.least_score < 1:
            raise ValueError(f"least_score must be 0 to below 1, got {self.least_score}")


def scoring_of(config: DetectorConfig) -> Scoring:
    """The part of the config that this is."""
    return Scoring(config.nms, config.per_image, config.least_score)


class Found(NamedTuple):
    """Up to K detections in an image, the surest first; what lies behind an invalid one means nothing."""

    boxes: Float[Array, "*batch K 4"]  # pixels
    scores: Float[Array, "*batch K"]  # probabilities
    labels: Int[Array, "*batch K"]  # int32
    region: Int[Array, "*batch K"]  # int32, which of the regions it is
    background: Float[Array, "*batch K"] | None  # probability that the region is none of the classes
    valid: Bool[Array, "*batch K"]


def suppress(
    log_p: Float[Array, "R C"],
    background: Float[Array, " R"] | None,
    boxes: Float[Array, "R 4"],
    mask: Bool[Array, " R"],
    scoring: Scoring,
) -> Found:
    """Greedy suppression of each class's boxes by its scores, then the surest K of all classes.

    Args:
        log_p: of each class; a region may be detected as several. NaN is no detection.
        background: log-probability, handed on.

    A box without area, as clipping leaves of one outside of the image, is no detection. Of equal scores the
    lower class comes first, then the lower region.
    """
    scores = jnp.exp(log_p)
    there = (mask & usable(boxes))[:, None] & (scores > scoring.least_score)
    most = min(scoring.per_image, len(boxes))
    kept = class_nms(boxes, scores, scoring.nms, most, mask=there)
    of_class = jnp.take_along_axis(scores.T, kept.indices, axis=1).reshape(-1)
    chosen = choose(of_class, kept.valid.reshape(-1), scoring.per_image)
    region = kept.indices.reshape(-1)[chosen.indices]
    label = (chosen.indices // most).astype(jnp.int32)
    none = None if background is None else jnp.exp(background[region])
    return Found(boxes[region], of_class[chosen.indices], label, region, none, chosen.valid)


def region_scores(
    method: DetectionMethod,
    params: Any,
    model: Any,
    net: Net,
    regions: Regions,
    size: tuple[int, int],
) -> tuple[Float[Array, "R C"], Float[Array, " R"] | None, Float[Array, "R 4"]]:
    """Log-probabilities of an image's regions under a method, of the background, and the regions' boxes.

    Args:
        params: of the detector.
        model: of the method's `fit`.
        regions: (R, ...) of the image.
        size: its height and width, to which boxes are cut where the method has a box head of its own.
    """
    features, boxes = jnp.asarray(regions.features), jnp.asarray(regions.boxes)
    log_p, background = method.predict(params, model, features, jnp.asarray(regions.objectness))
    if method.codes is not None:
        boxes = decoded(net, method.codes(params, model, features), jnp.asarray(regions.proposals), *size)
    return log_p, background, boxes


def score_regions(
    method: DetectionMethod,
    params: Any,
    model: Any,
    net: Net,
    regions: Regions,
    size: tuple[int, int],
    scoring: Scoring | None = None,
) -> Found:
    """A method's detections in one image; see `region_scores`.

    Args:
        scoring: None: the detector's.
    """
    log_p, background, boxes = region_scores(method, params, model, net, regions, size)
    return suppress(log_p, background, boxes, jnp.asarray(regions.mask), scoring or scoring_of(net.config))
