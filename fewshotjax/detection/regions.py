"""What of an image does not depend on the classes that are looked for, of many images by one program.

An episode on a detector that is not tuned needs no image: it scores these features under new representatives.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from .detector import Detector, Net, box_codes, decoded, feature_maps, pool, propose, rpn, trunk

# Of the images of a chunk, where none is given; ours. A GPU is idle on few, and has the memory for more.
PIXELS_AT_ONCE = {"cpu": 16 * 64 * 64, "gpu": 16 * 320 * 320}


class Regions(NamedTuple):
    """Of N images: up to R regions each, by descending objectness; unused ones are 0."""

    boxes: Float[np.ndarray | Array, "N R 4"]  # of the box head, cut to the image
    proposals: Float[np.ndarray | Array, "N R 4"]  # that the features were pooled from
    features: Float[np.ndarray | Array, "N R F"]  # of the trunk
    objectness: Float[np.ndarray | Array, "N R"]  # probability
    mask: Bool[np.ndarray | Array, "N R"]  # which exist


@dataclass(frozen=True)
class RegionsChunk:
    """What `on_chunk` is told after every chunk."""

    done: int  # images
    total: int
    seconds: float  # of this chunk
    note: str = ""


OnChunk = Callable[[RegionsChunk], Any]


def regions_of(params: Any, net: Net, images: UInt8[Array, "N H W C"]) -> Regions:
    """The regions of a batch of images: a pure function, to be compiled with what follows."""
    return regions_on(params, net, feature_maps(params, net, images), *images.shape[1:3])


def regions_on(
    params: Any, net: Net, maps: tuple[Float[Array, "N _ _ C"], ...], height: int, width: int
) -> Regions:
    """The regions of images of height x width pixels, by their maps."""
    scored = rpn(params, net, maps)
    found = propose(net, scored, height, width)
    features = region_features(params, net, maps, found.boxes)

    def boxes_of(features: Array, proposals: Array) -> Array:
        return decoded(net, box_codes(params, net, features), proposals, height, width)

    boxes = jax.vmap(boxes_of)(features, found.boxes)
    boxes, features = (jnp.where(found.mask[..., None], each, 0.0) for each in (boxes, features))
    # Where a map is NaN no proposal is left, which must not look like an image that shows nothing.
    finite = jnp.isfinite(scored.logits).all(axis=1)[:, None]
    return Regions(boxes, found.boxes, features, jnp.where(finite, found.scores, jnp.nan), found.mask)


def region_features(
    params: Any, net: Net, maps: tuple[Float[Array, "N _ _ C"], ...], boxes: Float[Array, "N R 4"]
) -> Float[Array, "N R F"]:
    """The trunk's features of each image's boxes."""
    pooled = jax.vmap(partial(pool, params, net))(maps, boxes)
    return trunk(params, net, pooled.reshape(-1, *pooled.shape[2:])).reshape(*boxes.shape[:2], -1)


def find_regions(
    detector: Detector,
    images: UInt8[np.ndarray, "N H W C"],
    *,
    chunk: int | None = None,
    on_chunk: OnChunk | None = None,
) -> Regions:
    """Proposals with features, boxes and objectness of many images of one size, on the host.

    The last chunk is filled up, so that there is one compilation for each size of image.

    Args:
        chunk: images at once, which changes results by rounding alone; None: as many as have
            `PIXELS_AT_ONCE` of the device. Fewer images than that are filled up to a power of two alone.
        on_chunk: progress, time limits (by raising).

    Raises:
        ValueError: images of another type or number of channels; NaN or infinite features, with the first
            such image.
    """
    found = _chunks(detector, images, (), _regions, chunk, on_chunk)
    if found is None:
        shape, count = (0, detector.net.config.proposals), detector.net.config.hidden[-1]
        boxes, features = (np.zeros((*shape, n), np.float32) for n in (4, count))
        return Regions(boxes, boxes, features, np.zeros(shape, np.float32), np.zeros(shape, bool))
    return found


def find_regions_and_boxes(
    detector: Detector,
    images: UInt8[np.ndarray, "N H W C"],
    boxes: Float[np.ndarray, "N G 4"],
    shown: Bool[np.ndarray, "N G"],
    *,
    chunk: int | None = None,
    on_chunk: OnChunk | None = None,
) -> tuple[Regions, Float[np.ndarray, "N G F"]]:
    """`find_regions` and `box_features` of the same images, whose maps are computed once.

    Raises:
        ValueError: as of these two.
    """
    if not len(images) or not boxes.shape[1]:
        found = find_regions(detector, images, chunk=chunk, on_chunk=on_chunk)
        return found, box_features(detector, images, boxes, shown)
    return _chunks(detector, images, _checked(images, boxes, shown), _both, chunk, on_chunk)


def box_features(
    detector: Detector,
    images: UInt8[np.ndarray, "N H W C"],
    boxes: Float[np.ndarray, "N G 4"],
    shown: Bool[np.ndarray, "N G"],
    *,
    chunk: int | None = None,
    on_chunk: OnChunk | None = None,
) -> Float[np.ndarray, "N G F"]:
    """The trunk's features of given boxes, such as true ones; 0 where `shown` says that there is none.

    Args:
        boxes: half-open pixels of the images.
        chunk, on_chunk: as of `find_regions`.

    Raises:
        ValueError: as of `find_regions`; boxes or shown for another number of images or boxes.
    """
    given = _checked(images, boxes, shown)
    found = _chunks(detector, images, given, _given, chunk, on_chunk) if boxes.shape[1] else None
    return np.zeros((*shown.shape, detector.net.config.hidden[-1]), np.float32) if found is None else found


def chunk_of(height: int, width: int) -> int:
    """How many images of a size have `PIXELS_AT_ONCE` of the default device, one at least."""
    device = "cpu" if jax.default_backend() == "cpu" else "gpu"
    return max(1, PIXELS_AT_ONCE[device] // max(height * width, 1))


def _checked(images: np.ndarray, boxes: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if boxes.shape[:2] != shown.shape or len(boxes) != len(images):
        raise ValueError(
            f"boxes and shown must be (N, G, 4) and (N, G) for {len(images)} images, got {boxes.shape} and "
            f"{shown.shape}"
        )
    return boxes.astype(np.float32), shown


@partial(jax.jit, static_argnums=(1,))
def _both(
    params: Any,
    net: Net,
    images: UInt8[Array, "N H W C"],
    boxes: Float[Array, "N G 4"],
    shown: Bool[Array, "N G"],
) -> tuple[Regions, Float[Array, "N G F"]]:
    maps = feature_maps(params, net, images)
    own = jnp.where(shown[..., None], region_features(params, net, maps, boxes), 0.0)
    return regions_on(params, net, maps, *images.shape[1:3]), own


@partial(jax.jit, static_argnums=(1,))
def _regions(params: Any, net: Net, images: UInt8[Array, "N H W C"]) -> Regions:
    return regions_of(params, net, images)


@partial(jax.jit, static_argnums=(1,))
def _given(
    params: Any,
    net: Net,
    images: UInt8[Array, "N H W C"],
    boxes: Float[Array, "N G 4"],
    shown: Bool[Array, "N G"],
) -> Float[Array, "N G F"]:
    maps = feature_maps(params, net, images)
    return jnp.where(shown[..., None], region_features(params, net, maps, boxes), 0.0)


def _chunks(
    detector: Detector,
    images: np.ndarray,
    given: tuple[np.ndarray, ...],
    program: Callable[..., Any],
    chunk: int | None,
    on_chunk: OnChunk | None,
) -> Any:
    """What `program` makes of the images and what is given with them, chunk by chunk; None of no images."""
    channels = detector.net.preprocess.channels
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] != channels:
        raise ValueError(
            f"images are {images.dtype} of shape {images.shape}: give uint8 (N, H, W, {channels})"
        )
    total = len(images)
    if chunk is None:
        chunk = min(chunk_of(*images.shape[1:3]), 1 << max(total - 1, 0).bit_length())
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    parts: list[Any] = []
    for start in range(0, total, chunk):
        began = time.monotonic()
        inputs = [_filled(np.asarray(one[start : start + chunk]), chunk) for one in (images, *given)]
        found = jax.device_get(program(detector.params, detector.net, *inputs))
        count = min(chunk, total - start)
        parts.append(jax.tree.map(lambda leaf, count=count: leaf[:count], found))
        _check_finite(detector, parts[-1], start)
        if on_chunk is not None:
            on_chunk(RegionsChunk(start + count, total, time.monotonic() - began))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts) if parts else None


def _filled(part: np.ndarray, chunk: int) -> Array:
    return jnp.asarray(np.concatenate([part, np.zeros((chunk - len(part), *part.shape[1:]), part.dtype)]))


def _check_finite(detector: Detector, found: Any, start: int) -> None:
    finite = [np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in jax.tree.leaves(found)]
    wrong = np.flatnonzero(~np.logical_and.reduce(finite))
    if len(wrong):
        raise ValueError(
            f"the detector on {detector.name} gives NaN or infinite features for image "
            f"{start + int(wrong[0])}: check its weights and its preprocess"
        )
