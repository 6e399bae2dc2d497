"""Photographs as a detector sees them, once for all episodes: their regions, and features of true boxes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ..fields import check_fields
from ..files import digest_of
from .data.boxed import BoxedImages
from .data.floors import centred
from .detector import Detector
from .regions import OnChunk, Regions, RegionsChunk, box_features, find_regions_and_boxes
from .roi import roi_align


@dataclass(frozen=True, eq=False)
class DetectionPool:
    """N photographs of one size, each with up to R regions and G true boxes.

    Raises:
        ValueError: arrays that do not fit the photographs, photographs of several sizes.
    """

    detector: Detector
    photographs: BoxedImages
    regions: Regions  # NumPy, (N, R, ...)
    features: np.ndarray  # (N, G, F) float32, of the true boxes

    def __post_init__(self):
        check_fields(self)
        if not isinstance(self.photographs.images, np.ndarray):
            raise ValueError("photographs must be of one size: bring them to it with `fitted`")
        count, boxes = self.photographs.boxes.shape[:2]
        if len(self.regions.mask) != count or self.features.shape[:2] != (count, boxes):
            raise ValueError(
                f"regions are of {len(self.regions.mask)} images, features of {self.features.shape[:2]} "
                f"boxes: the photographs are {count} with {boxes} boxes each"
            )
        if self.regions.features.shape[2] != self.features.shape[2]:
            raise ValueError(
                f"features of boxes have width {self.features.shape[2]}, those of regions "
                f"{self.regions.features.shape[2]}: take both from one network"
            )

    def __len__(self) -> int:
        return len(self.photographs)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the photographs, pixels."""
        return self.photographs.images.shape[1], self.photographs.images.shape[2]  # type: ignore[union-attr]

    @cached_property
    def told(self) -> dict[str, str]:
        """What tells it from others: the detector's name, digests of its weights, of the photographs with
        their boxes, and of what is seen of them: regions and features of true boxes."""
        found, seen = self.photographs, self.regions
        return {
            "detector": self.detector.name,
            "weights": digest_of(jax.tree.leaves(self.detector.params)),
            "photographs": digest_of([found.images, found.boxes, found.labels, found.shown]),
            "view": digest_of([seen.boxes, seen.mask, self.features]),
        }

    def take(self, rows: Any) -> "DetectionPool":
        """The photographs of `rows`: indices or a mask of N."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        regions = Regions(*(np.asarray(leaf)[rows] for leaf in self.regions))
        return DetectionPool(self.detector, self.photographs.take(rows), regions, self.features[rows])


def detection_pool(
    detector: Detector,
    photographs: BoxedImages,
    *,
    chunk: int | None = None,
    on_chunk: OnChunk | None = None,
) -> DetectionPool:
    """The detector's regions of all photographs, and its features of their true boxes.

    Args:
        chunk, on_chunk: as of `find_regions`.
    """
    images = _pixels(photographs)
    regions, features = find_regions_and_boxes(
        detector, images, photographs.boxes, photographs.shown, chunk=chunk, on_chunk=on_chunk
    )
    return DetectionPool(detector, photographs, regions, features)


def floor_pool(
    pool: DetectionPool, box: Literal["whole", "centred"] = "whole", *, chunk: int | None = None
) -> DetectionPool:
    """One region a photograph, the same in all: the whole of it, or a centred box of 3/4 of its sides.

    With `class_mean` it is the floor of a detector that knows nothing of where things are.
    """
    if box not in ("whole", "centred"):
        raise ValueError(f"box must be whole or centred, got {box!r}")
    height, width = pool.size
    one = np.array([0, 0, width, height], np.float32)
    one = one if box == "whole" else centred(one)
    boxes = np.broadcast_to(one, (len(pool), 1, 4)).copy()
    regions = given_regions(pool.detector, _pixels(pool.photographs), boxes, chunk=chunk)
    return DetectionPool(pool.detector, pool.photographs, regions, pool.features)


def given_regions(
    detector: Detector,
    images: UInt8[np.ndarray, "N H W C"],
    boxes: Float[np.ndarray, "N R 4"],
    *,
    chunk: int | None = None,
) -> Regions:
    """Given boxes as regions of objectness 1; those without a side do not exist."""
    mask = np.all(boxes[..., 2:] > boxes[..., :2], axis=2)
    objectness: Any = mask.astype(np.float32)
    features = box_features(detector, images, boxes, np.asarray(mask), chunk=chunk)
    return Regions(boxes, boxes, features, objectness, np.asarray(mask))


def external_pool(
    pool: DetectionPool,
    embed: Callable[[Any], Any],
    pixels: int,
    *,
    chunk: int = 8,
    on_chunk: OnChunk | None = None,
) -> DetectionPool:
    """The same regions with another network's features of what they show, cropped and resized.

    Crops are of the boxes, not of the proposals: what is detected is what is looked at. Each is stretched to
    a square. To be used with `external`, `class_mean(net, embed=False)` or `nearest(net, embed=False)`.

    Args:
        embed: uint8 images (M, pixels, pixels, C) -> features (M, F), such as a `Backbone`.
        pixels: of each side, as the network takes them.
        chunk: photographs at once.
        on_chunk: progress, told a `RegionsChunk`.
    """
    if chunk < 1 or pixels < 1:
        raise ValueError(f"chunk and pixels must be at least 1, got {chunk} and {pixels}")
    images, photographs, total = _pixels(pool.photographs), pool.photographs, len(pool)
    boxes = np.concatenate([pool.regions.boxes, photographs.boxes], axis=1)
    there = np.concatenate([pool.regions.mask, photographs.shown], axis=1)
    count = pool.regions.boxes.shape[1]
    # Filled in place: at full size these are most of the memory.
    of_regions, of_boxes = np.zeros((total, count, 0), np.float32), np.zeros((total, 0, 0), np.float32)
    for start in range(0, total, chunk):
        rows = np.minimum(np.arange(start, start + chunk), total - 1)  # the last chunk is filled up
        crops = _crops(jnp.asarray(images[rows]), jnp.asarray(boxes[rows]), pixels)
        found = np.asarray(embed(crops), np.float32).reshape(chunk, boxes.shape[1], -1)
        if not np.isfinite(found).all():
            raise ValueError("embed gives NaN or infinite features: check its weights and preprocess")
        if start == 0:
            of_regions = np.zeros((total, count, found.shape[2]), np.float32)
            of_boxes = np.zeros((total, boxes.shape[1] - count, found.shape[2]), np.float32)
        own, some = slice(start, start + chunk), min(chunk, total - start)
        found = np.where(there[rows][..., None], found, np.float32(0))[:some]
        of_regions[own], of_boxes[own] = found[:, :count], found[:, count:]
        if on_chunk is not None:
            on_chunk(RegionsChunk(min(start + chunk, total), total, 0.0, "crops"))
    regions = pool.regions._replace(features=of_regions)
    return DetectionPool(pool.detector, photographs, regions, of_boxes)


@partial(jax.jit, static_argnums=(2,))
def _crops(
    images: UInt8[Array, "n H W C"], boxes: Float[Array, "n R 4"], pixels: int
) -> UInt8[Array, "M pixels pixels C"]:
    found = jax.vmap(lambda image, some: roi_align(image, some, pixels))(images.astype(jnp.float32), boxes)
    return jnp.clip(jnp.round(found), 0, 255).astype(jnp.uint8).reshape(-1, pixels, pixels, images.shape[3])


def _pixels(photographs: BoxedImages) -> UInt8[np.ndarray, "N H W C"]:
    if not isinstance(photographs.images, np.ndarray):
        raise ValueError("photographs must be of one size: bring them to it with `fitted`")
    return photographs.images
