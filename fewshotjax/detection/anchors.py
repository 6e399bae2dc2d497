"""Anchors of a feature pyramid: boxes of a few shapes around the centre of every cell."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..fields import check_fields


@dataclass(frozen=True)
class AnchorConfig:
    """Shapes of anchors; the authors' detector has scale 8 on strides 4 to 64, for images of 800 pixels."""

    strides: tuple[int, ...] = (4, 8, 16, 32)  # pixels per cell of each level, the finest first
    scale: float = 4.0  # side of the square anchor, in strides
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width, at the same area

    def __post_init__(self):
        check_fields(self)
        if not self.strides or any(stride < 1 for stride in self.strides):
            raise ValueError(f"strides must be one or more numbers of at least 1, got {self.strides}")
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale must be above 0, got {self.scale}")
        if not self.ratios or any(not 0 < ratio < float("inf") for ratio in self.ratios):
            raise ValueError(f"ratios must be one or more numbers above 0, got {self.ratios}")


def level_shapes(height: int, width: int, config: AnchorConfig) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each level of an image: ⌈pixels / stride⌉."""
    return tuple((-(-height // stride), -(-width // stride)) for stride in config.strides)


def anchors(height: int, width: int, config: AnchorConfig | None = None) -> Float[Array, "A 4"]:
    """All anchors of an image of height × width pixels, a constant where it is traced.

    In order of level, row, column, ratio, as (H, W, ratios · 4) outputs of the levels flatten. The anchor of
    ratio r around the centre of its cell, ((x + ½)·stride, (y + ½)·stride), is scale·stride/√r wide and
    scale·stride·√r high; it may reach beyond the image. Departs from the authors' code, which rounds sides to
    whole pixels.
    """
    config = config or AnchorConfig()
    root = np.sqrt(np.asarray(config.ratios))
    found = []
    for stride, (rows, columns) in zip(config.strides, level_shapes(height, width, config), strict=True):
        y, x = ((np.arange(count) + 0.5) * stride for count in (rows, columns))
        centre = np.stack(np.meshgrid(x, y), axis=-1)[:, :, None]  # (rows, columns, 1, 2)
        half = config.scale * stride * np.stack([1 / root, root], axis=-1) / 2  # (ratios, 2)
        found.append(np.concatenate([centre - half, centre + half], axis=-1).reshape(-1, 4))
    return jnp.asarray(np.concatenate(found), jnp.float32)
