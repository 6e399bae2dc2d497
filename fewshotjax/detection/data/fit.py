"""Images of any size brought to one, with their boxes: detectors take arrays of one shape."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from fewshotjax.detection.data.boxed import BoxedImages


class Fitted(NamedTuple):
    """Images of one size; a box there divided by its image's scale is the box in the original."""

    images: BoxedImages
    scales: Float[np.ndarray, "N 2"]  # in x and in y, nearly equal


def fitted(images: BoxedImages, height: int, width: int) -> Fitted:
    """Each image resized, bilinear and antialiased, as large as it fits, at the upper left; the rest has its
    mean colour. Its shape changes by less than a pixel of rounding, which the scales tell.

    Raises:
        ValueError: a side under 1; images of different channels.
    """
    if min(height, width) < 1:
        raise ValueError(f"height and width must be at least 1 pixel, got {height} and {width}")
    if len({image.shape[2] for image in images.images}) > 1:
        raise ValueError("images have different channels: read them all as RGB")
    channels = images.images[0].shape[2] if len(images) else 3
    out = np.empty((len(images), height, width, channels), np.uint8)
    scales = np.ones((len(images), 2), np.float32)
    for row, image in enumerate(images.images):
        factor = min(height / image.shape[0], width / image.shape[1])
        new_height, new_width = (max(1, round(factor * side)) for side in image.shape[:2])
        scales[row] = new_width / image.shape[1], new_height / image.shape[0]
        out[row] = np.round(image.mean(axis=(0, 1)))
        resized = image
        if image.shape[:2] != (new_height, new_width):
            picture = Image.fromarray(image if channels > 1 else image[..., 0])
            resized = np.asarray(picture.resize((new_width, new_height), Image.Resampling.BILINEAR))
        out[row, :new_height, :new_width] = resized.reshape(new_height, new_width, channels)
    boxes = images.boxes * np.concatenate([scales, scales], axis=1)[:, None]
    boxes = np.minimum(boxes, np.array([width, height, width, height], np.float32))  # rounding of float32
    moved = BoxedImages(
        out,
        boxes,
        images.shown,
        images.labels,
        images.classes,
        images.files,
        images.difficult,
        images.crowd,
    )
    return Fitted(moved, scales)
