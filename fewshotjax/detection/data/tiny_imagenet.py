"""Tiny-ImageNet photographs with their one box each: a low-resolution relative of ImageNet-LOC, not that set.

Second objects in a photograph have no box, so finding one counts as false.
"""

from collections.abc import Sequence

import numpy as np

from fewshotjax.data.tiny_imagenet import SIDE, Root, tiny_imagenet, tiny_imagenet_boxes
from fewshotjax.detection.data.boxed import BoxedImages

MIN_SIDE = 8.0  # pixels of 64


def tiny_imagenet_boxed(
    root: Root,
    part: str,
    *,
    pixels: int = SIDE,
    classes: Sequence[str] | None = None,
    min_side: float = MIN_SIDE,
    threads: int | None = None,
) -> BoxedImages:
    """One part in the order of `tiny_imagenet`: (N, pixels, pixels, 3) uint8, boxes (N, 1, 4).

    Args:
        root, part, pixels, classes, threads: as in `tiny_imagenet`.
        min_side: images whose box has a shorter side, in pixels of the original 64, are left out (ours; 1.6
            to 5.5 % of a part). 0: all are kept.

    Raises:
        ValueError: as `tiny_imagenet` and `tiny_imagenet_boxes`, or a class that is left without images.
    """
    images = tiny_imagenet(root, part, pixels=pixels, classes=classes, threads=threads)
    boxes = tiny_imagenet_boxes(root, part, pixels=pixels, classes=classes)
    sides = (boxes[:, 2:] - boxes[:, :2]) * (SIDE / pixels)
    rows = np.flatnonzero(sides.min(axis=1) >= min_side)
    kept = images.take(rows)
    if not kept.counts().all():
        name = kept.classes[int(np.argmin(kept.counts()))]
        raise ValueError(f"min_side is {min_side}, which leaves no image of {name!r}: lower it")
    labels, shown = kept.labels[:, None], np.ones((len(kept), 1), bool)
    return BoxedImages(kept.images, boxes[rows][:, None], shown, labels, kept.classes, kept.files)
