"""Features of regions: which level of a pyramid a box looks at, and ROI align (He et al. 2017)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .boxes import Convention, areas
from .sampling import FeatureMaps, Levels, Lowering, Taps, as_maps, average, levels_of


def roi_levels(
    boxes: Float[Array, "R 4"],
    count: int,
    canonical: float = 64.0,
    convention: Convention = "half_open",
) -> Int[Array, " R"]:
    """⌊2 + log2(√(w·h) / canonical)⌋, cut to 0, the finest, to count - 1 (Lin et al. 2017, Eq. 1).

    Args:
        canonical: pixels of the side of a box on level 2; 224 in the authors' code, for images of 800 pixels.

    By comparing areas, so that a side of exactly canonical · 2^n meets no rounding; level 0 of padding.
    """
    steps = jnp.asarray([(canonical * 2.0 ** (level - 2)) ** 2 for level in range(1, count)], jnp.float32)
    reached = areas(boxes, convention)[:, None] >= steps[None]
    return jnp.sum(reached, axis=1, dtype=jnp.int32)


def roi_align(
    features: FeatureMaps,
    boxes: Float[Array, "R 4"],
    size: int = 7,
    *,
    scales: float | tuple[float, ...] = 1.0,
    levels: Int[Array, " R"] | None = None,
    sampling_ratio: int = 2,
    aligned: bool = True,
    lowering: Lowering = "gather",
) -> Float[Array, "R size size C"]:
    """The mean of sampling_ratio² bilinear samples in each of size × size bins of every box.

    Args:
        features: (H, W, C), or a pyramid of such maps.
        boxes: half-open, in pixels. They have no gradient, as in torchvision.
        scales: cells per pixel of each map, 1 / stride.
        levels: of the pyramid, for each box (`roi_levels`).
        sampling_ratio: samples along each axis of a bin, static; torchvision's -1, as many as fit a box, has
            no fixed shape.
        aligned: pixel number x has its centre at x + ½, as half-open boxes have it. False is the first
            version, half a cell away, with boxes at least 1 cell wide and high.
        lowering: "gather" is the faster one on a CPU; the gradient of "matmul" is the same in every run on a
            GPU, too.

    Samples more than one cell outside the map count as 0; those nearer take the border's value.

    Raises:
        ValueError: size or sampling_ratio below 1, or scales or levels that do not fit the maps.
    """
    for name, value in (("size", size), ("sampling_ratio", sampling_ratio)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    boxes = jax.lax.stop_gradient(boxes)
    maps = as_maps(features)
    at = levels_of(maps, scales, levels, len(boxes))
    ys, xs = (_taps(boxes, at, axis, size, sampling_ratio, aligned) for axis in (1, 0))
    return average(maps, at, Taps(*(t[:, :, None] for t in ys)), Taps(*(t[:, None] for t in xs)), lowering)


def _taps(boxes: Array, at: Levels, axis: int, size: int, samples: int, aligned: bool) -> tuple[Array, Array]:
    """Positions and weights (R, size, samples) along x (axis 0) or y (axis 1)."""
    length = (at.height if axis else at.width)[:, None, None]
    shift = 0.5 if aligned else 0.0
    start, end = (boxes[:, corner] * at.scale - shift for corner in (axis, axis + 2))
    extent = end - start if aligned else jnp.maximum(end - start, 1.0)
    steps = (jnp.arange(size * samples, dtype=jnp.float32) + 0.5) / (size * samples)
    position = (start[:, None] + extent[:, None] * steps[None]).reshape(-1, size, samples)
    counted = (position >= -1.0) & (position <= length)
    return jnp.clip(position, 0.0, length - 1.0), counted.astype(jnp.float32) / samples
