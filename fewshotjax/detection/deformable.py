"""Deformable pooling of regions (Dai et al. 2017) as the RepMet authors' detector has it, with group size 1.

Written from a description of their framework's operator. It differs from ROI align in three things: corners
are rounded to whole pixels, inclusive ones; a bin's samples start at its corner instead of lying around its
centre; and samples outside the map are left out of the mean. With offsets of 0 it is therefore no ROI align.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .sampling import FeatureMaps, Levels, Lowering, Taps, as_maps, average, levels_of

_LEAST_EXTENT = 0.1  # cells, of a region's sides


def deformable_roi_pool(
    features: FeatureMaps,
    boxes: Float[Array, "R 4"],
    offsets: Float[Array, "R size size 2"] | None = None,
    size: int = 7,
    *,
    scales: float | tuple[float, ...] = 1.0,
    levels: Int[Array, " R"] | None = None,
    samples: int = 4,
    gamma: float = 0.1,
    lowering: Lowering = "gather",
) -> Float[Array, "R size size C"]:
    """The mean of samples² bilinear samples in each of size × size bins, moved by the offsets.

    Args:
        features: (H, W, C), or a pyramid of such maps.
        boxes: inclusive pixels, as the authors have them (x2 is the last one); they have no gradient.
        offsets: of each row and column of bins, to the right [..., 0] and down [..., 1], in γ times the
            region's width and height; None: all 0.
        scales: cells per pixel of each map, 1 / stride.
        levels: of the pyramid, for each box.
        gamma: γ.

    Along x, with the scale s: the region reaches from round(x1)·s - ½ to (round(x2) + 1)·s - ½ and is at
    least 0.1 wide; bin j starts at j/size of it, plus γ·offset times its width, and sample i lies i/samples
    of a bin further. Samples outside -½ to W - ½ are left out, a bin without any is 0; the others are
    cut to 0 to W - 1. Halves are rounded away from 0.

    Raises:
        ValueError: size or samples below 1, offsets of another size, or scales or levels that do not fit.
    """
    for name, value in (("size", size), ("samples", samples)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if offsets is not None and offsets.shape[1:] != (size, size, 2):
        raise ValueError(f"offsets must have the shape (R, {size}, {size}, 2), got {offsets.shape}")
    boxes = jax.lax.stop_gradient(boxes)
    maps = as_maps(features)
    at = levels_of(maps, scales, levels, len(boxes))
    move = None if offsets is None else offsets.astype(jnp.float32) * gamma
    ys, xs = (_taps(boxes, at, axis, size, samples, move) for axis in (1, 0))
    return average(maps, at, ys, xs, lowering)


def two_pass_pool(
    features: FeatureMaps,
    boxes: Float[Array, "R 4"],
    offset_layer: Callable[[Float[Array, "R size size C"]], Float[Array, "R size size 2"]],
    size: int = 7,
    **options: Any,
) -> Float[Array, "R size size C"]:
    """Pools without offsets, reads the offsets off that, and pools again with them.

    Args:
        offset_layer: such as `partial(pooling_offsets, params, levels=levels)`.
        options: of `deformable_roi_pool`.
    """
    first = deformable_roi_pool(features, boxes, None, size, **options)
    return deformable_roi_pool(features, boxes, offset_layer(first), size, **options)


def init_pooling_offsets(channels: int, size: int = 7, levels: int = 1) -> dict[str, Array]:
    """A dense layer for each level of the pyramid, all 0: training starts with undeformed regions.

    The authors train it at 0.01 of the others' learning rate.
    """
    return {
        "kernel": jnp.zeros((levels, size * size * channels, size * size * 2), jnp.float32),
        "bias": jnp.zeros((levels, size * size * 2), jnp.float32),
    }


def pooling_offsets(
    params: dict[str, Array],
    pooled: Float[Array, "R size size C"],
    levels: Int[Array, " R"] | None = None,
) -> Float[Array, "R size size 2"]:
    """The offsets of the second pass from what the first one pooled, by the layer of each region's level."""
    regions, size = pooled.shape[:2]
    flat = pooled.reshape(regions, -1)
    every = jnp.einsum("rf,lfo->rlo", flat, params["kernel"].astype(flat.dtype))
    every += params["bias"].astype(flat.dtype)[None]
    index = jnp.zeros(regions, jnp.int32) if levels is None else levels
    own = jnp.take_along_axis(every, index[:, None, None], axis=1)[:, 0]
    return own.reshape(regions, size, size, 2)


def _taps(boxes: Array, at: Levels, axis: int, size: int, samples: int, move: Array | None) -> Taps:
    """Along x (axis 0) or y (axis 1): (R, 1, size, samples) or (R, size, 1, samples) where nothing moves."""
    length = (at.height if axis else at.width)[:, None, None, None]
    start = _round(boxes[:, axis]) * at.scale - 0.5
    end = (_round(boxes[:, axis + 2]) + 1.0) * at.scale - 0.5
    extent = jnp.maximum(end - start, _LEAST_EXTENT)[:, None, None, None]
    bins = jnp.arange(size, dtype=jnp.float32) / size
    bins = bins[None, :, None, None] if axis else bins[None, None, :, None]
    inner = jnp.arange(samples, dtype=jnp.float32)[None, None, None, :] / (size * samples)
    place = bins + inner if move is None else bins + inner + move[..., axis, None]
    position = start[:, None, None, None] + extent * place
    counted = ((position >= -0.5) & (position <= length - 0.5)).astype(jnp.float32)
    weight = counted / jnp.maximum(jnp.sum(counted, axis=-1, keepdims=True), 1.0)
    return Taps(jnp.clip(position, 0.0, length - 1.0), weight)


def _round(x: Array) -> Array:
    """To whole numbers, halves away from 0, where `jnp.round` goes to the even one."""
    return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)
