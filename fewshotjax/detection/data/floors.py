"""What a detector that sees nothing but the edges of the photograph already reaches.

At IoU .5 the whole photograph passes for the box of half of Tiny-ImageNet, so AP there tests classification
more than localisation: these shares belong beside every figure.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fewshotjax.detection.data.boxed import BoxedImages
from fewshotjax.detection.data.scenes import Scenes
from fewshotjax.detection.metrics.overlap import paired_iou

CENTRED = 0.75  # side of the centred box, 48 of 64 pixels


class Floors(NamedTuple):
    """Shares of the boxes at each IoU."""

    whole: dict[float, float]  # the whole photograph as the box
    centred: dict[float, float]  # a centred box of 3/4 of its sides


def floors(images: BoxedImages | Scenes, ious: Sequence[float] = (0.5, 0.75)) -> Floors:
    """Of every shown box: of scenes with the rectangle that its photograph fills, else with the image's.

    Raises:
        ValueError: there are no boxes.
    """
    if isinstance(images, Scenes):
        boxed, frames = images
    else:
        boxed, frames = images, np.zeros(images.boxes.shape, np.float32)
        frames[..., 2:] = boxed.sizes[:, None, ::-1]
    if not boxed.shown.any():
        raise ValueError("images show no boxes: there is nothing to find")
    boxes, frame = (array[boxed.shown].astype(np.float64) for array in (boxed.boxes, frames))
    overlaps = (paired_iou(boxes, frame), paired_iou(boxes, centred(frame)))
    return Floors(*({iou: float((overlap >= iou).mean()) for iou in ious} for overlap in overlaps))


def centred(frames: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 4"]:
    """The boxes of 3/4 of the sides in the middle of rectangles."""
    margin = (1 - CENTRED) / 2 * (frames[..., 2:] - frames[..., :2])
    return np.concatenate([frames[..., :2] + margin, frames[..., 2:] - margin], axis=-1)
