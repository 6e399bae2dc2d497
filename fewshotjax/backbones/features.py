"""Features of many images, in batches of one compiled program."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .backbone import Backbone, forward


@dataclass(frozen=True)
class FeaturesChunk:
    """What `on_chunk` is told after every batch."""

    done: int  # images
    total: int
    seconds: float  # of this batch
    note: str = ""


def features(
    backbone: Backbone,
    images: Any,
    *,
    batch: int = 64,
    on_chunk: Callable[[FeaturesChunk], Any] | None = None,
) -> Float[np.ndarray, "N width"]:
    """What `backbone` makes of the images, float32.

    The last batch is filled up, so that there is one compilation whatever N is. Fewer images than a batch
    are filled up to a power of two alone.

    Args:
        images: uint8 (N, H, W, C), or `LabelledImages` (anything with `images` and `files`).
        batch: images at once; does not change the features but for rounding.
        on_chunk: progress, time limits (by raising).

    Raises:
        ValueError: images of another type, size or number of channels; NaN or infinite features, with the
            first such image.
    """
    pixels, names = getattr(images, "images", images), getattr(images, "files", ())
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    backbone.preprocess.check(pixels)
    batch = min(batch, 1 << max(len(pixels) - 1, 0).bit_length())
    found = np.empty((len(pixels), backbone.width), np.float32)
    for start in range(0, len(pixels), batch):
        began = time.monotonic()
        part = np.asarray(pixels[start : start + batch])
        full = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), np.uint8)])
        out = forward(backbone.apply, backbone.preprocess, backbone.variables, jnp.asarray(full))
        found[start : start + batch] = np.asarray(out)[: len(part)]
        wrong = np.flatnonzero(~np.isfinite(found[start : start + batch]).all(axis=1))
        if len(wrong):
            row = start + int(wrong[0])
            where = names[row] if names else f"image {row}"
            raise ValueError(
                f"{backbone.name} gives NaN or infinite features for {where}: check its weights and its "
                "preprocess"
            )
        if on_chunk is not None:
            on_chunk(FeaturesChunk(start + len(part), len(pixels), time.monotonic() - began))
    return found
