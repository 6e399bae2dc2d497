"""Support photographs turned, shifted, zoomed and mirrored at random, their boxes along with them.

Read in the RepMet authors' released code (github.com/jshtok/RepMet, few_shot_benchmark.py), whose
fine-tuning can augment with Keras' ImageDataGenerator: rotation by up to 30°, shifts of up to a tenth of the
sides, zoom by up to a tenth, each axis by itself, mirrored or not. A box becomes the one around its turned
rectangle, cut to the image. What comes in from beyond the image repeats its border.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from ..fields import check_fields
from .boxes import clip, usable
from .detector import Net, feature_maps
from .regions import region_features, regions_on
from .support import SupportBoxes


@dataclass(frozen=True)
class Augmentation:
    """Ranges, drawn from uniformly.

    Raises:
        ValueError: a field out of range; it is named.
    """

    rotation: float = 30.0  # degrees, either way; authors
    shift: float = 0.1  # of the sides, either way; authors
    zoom: float = 0.1  # sides are divided by 1 - zoom to 1 + zoom, width and height apart; authors
    mirror: bool = True  # half of them, left to right; authors

    def __post_init__(self):
        check_fields(self)
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation must be 0 to 180 degrees, got {self.rotation}")
        for name in ("shift", "zoom"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be 0 to below 1, got {getattr(self, name)}")


AUTHORS_AUGMENTATION = Augmentation()  # their --use_aug 1; 2 is the mirror alone, 3 half of the rest


def draw_warp(key: PRNGKeyArray, config: Augmentation, height: int, width: int) -> Float[Array, "2 3"]:
    """A random map from places in the augmented image to places in the photograph, (x, y) in pixels.

    p' = c + R(θ)·(Z·M·(p - c) + t): M mirrors, Z is diag(z_x, z_y), t the shift, R the rotation, c the
    middle. Keras' order; its middle is half a pixel elsewhere.
    """
    k_turn, k_shift, k_zoom, k_mirror = jax.random.split(key, 4)
    angle = jnp.deg2rad(config.rotation * jax.random.uniform(k_turn, (), minval=-1.0))
    sides = jnp.asarray([width, height], jnp.float32)
    shift = config.shift * sides * jax.random.uniform(k_shift, (2,), minval=-1.0)
    zoom = 1 + config.zoom * jax.random.uniform(k_zoom, (2,), minval=-1.0)
    turned = jax.random.bernoulli(k_mirror) & config.mirror
    zoom *= jnp.where(turned, jnp.asarray([-1.0, 1.0]), jnp.asarray([1.0, 1.0]))
    return warp_of(angle, shift, zoom, height, width)


def warp_of(
    angle: Float[Array, ""], shift: Float[Array, " 2"], zoom: Float[Array, " 2"], height: int, width: int
) -> Float[Array, "2 3"]:
    """The map of `draw_warp` with these numbers; a zoom below 0 mirrors."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.stack([jnp.stack([cosine, -sine]), jnp.stack([sine, cosine])])
    linear = turn * zoom[None]
    middle = jnp.asarray([width / 2, height / 2], jnp.float32)
    return jnp.concatenate([linear, (middle + turn @ shift - linear @ middle)[:, None]], axis=1)


def warped_image(image: UInt8[Array, "H W C"], warp: Float[Array, "2 3"]) -> UInt8[Array, "H W C"]:
    """The photograph at the places that its pixels' middles are mapped to, bilinear."""
    height, width, channels = image.shape
    middles = np.meshgrid(np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5)
    places = warp[:, :2] @ jnp.asarray(np.stack(middles).reshape(2, -1)) + warp[:, 2:] - 0.5
    x = jnp.clip(places[0], 0.0, width - 1.0)
    y = jnp.clip(places[1], 0.0, height - 1.0)
    left, top = (jnp.floor(one).astype(jnp.int32) for one in (x, y))
    right, low = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    of_x, of_y = (x - left.astype(x.dtype))[:, None], (y - top.astype(y.dtype))[:, None]
    flat = image.reshape(-1, channels).astype(jnp.float32)
    upper = flat[top * width + left] * (1 - of_x) + flat[top * width + right] * of_x
    lower = flat[low * width + left] * (1 - of_x) + flat[low * width + right] * of_x
    found = jnp.round(upper * (1 - of_y) + lower * of_y)
    return jnp.clip(found, 0, 255).astype(jnp.uint8).reshape(height, width, channels)


def warped_boxes(
    boxes: Float[Array, "N 4"], warp: Float[Array, "2 3"], height: int, width: int
) -> Float[Array, "N 4"]:
    """The boxes around what the photograph's boxes become, cut to the image."""
    inverse = jnp.linalg.inv(warp[:, :2])
    x1, y1, x2, y2 = boxes.T
    corners = jnp.stack([jnp.stack([x1, x2, x1, x2]), jnp.stack([y1, y1, y2, y2])])  # (2, 4, N)
    moved = jnp.einsum("ij,jcn->icn", inverse, corners - warp[:, 2:, None])
    found = jnp.concatenate([jnp.min(moved, axis=1), jnp.max(moved, axis=1)]).T
    return clip(found, height, width)


def augmented(
    key: PRNGKeyArray,
    params: Any,
    net: Net,
    shown: SupportBoxes,
    ways: int,
    config: Augmentation,
    views: int,
) -> SupportBoxes:
    """The support boxes `views` times, one behind the other, in photographs that were augmented anew.

    Boxes in one photograph move together. Regions and features are those of the detector in the new images.
    A box of which less than `least_side` pixels are left is padding there.

    Raises:
        ValueError: no images.
    """
    if shown.images is None:
        raise ValueError("augmentation is of photographs, but there are no images: give them")
    height, width = shown.images.shape[1:3]
    # Of each box the first one in its photograph, whose warp it has.
    first = jnp.argmax(shown.photograph[:, None] == shown.photograph[None], axis=1)

    def view(key: Array) -> SupportBoxes:
        keys = jax.random.split(key, len(first))
        warps = jax.vmap(lambda key: draw_warp(key, config, height, width))(keys)[first]
        images = jax.vmap(warped_image)(shown.images, warps)
        boxes = _moved(shown.boxes[:, None], warps, height, width)[:, 0]
        there = usable(boxes, max(net.config.least_side, 1.0))
        maps = feature_maps(params, net, images)
        own = region_features(params, net, maps, boxes[:, None])[:, 0]
        ignored = None if shown.ignored is None else _moved(shown.ignored, warps, height, width)
        return shown._replace(
            features=own,
            boxes=jnp.where(there[:, None], boxes, shown.boxes),
            labels=jnp.where(there, shown.labels, ways),
            regions=regions_on(params, net, maps, height, width),
            images=images,
            ignored=ignored,
        )

    found: Any = jax.lax.map(view, jax.random.split(key, views))
    apart = jnp.max(shown.photograph) + 1
    number = found.photograph + (jnp.arange(views) * apart)[:, None].astype(found.photograph.dtype)
    merged = found._replace(photograph=number, classes=None)
    rows: SupportBoxes = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), merged)
    return rows._replace(classes=shown.classes)


def _moved(
    boxes: Float[Array, "B I 4"], warps: Float[Array, "B 2 3"], height: int, width: int
) -> Float[Array, "B I 4"]:
    """Padding stays 0."""
    found = jax.vmap(lambda some, warp: warped_boxes(some, warp, height, width))(boxes, warps)
    there: Bool[Array, "B I"] = jnp.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
    return jnp.where(there[..., None], found, 0.0)
