"""From the pixels of an image to the numbers that a backbone takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ..fields import check_fields


@dataclass(frozen=True)
class Preprocess:
    """(x - mean) / scale of uint8 images of pixels x pixels x channels; hashable.

    The defaults of `mean` and `scale` are ours: photographs get about mean 0 and variance 1. With mean 0.0
    and scale 1.0 a backbone is given the raw values, 0.0-255.0.
    """

    pixels: int  # of each side
    channels: int = 3
    mean: float | tuple[float, ...] = 127.5  # of pixel values 0-255; one number, or one a channel
    scale: float | tuple[float, ...] = 64.0  # likewise

    def __post_init__(self):
        check_fields(self)
        for name in ("pixels", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("mean", "scale"):
            object.__setattr__(self, name, self._numbers(name, getattr(self, name)))
        if not np.min(np.asarray(self.scale)) > 0:
            raise ValueError(f"scale must be above 0, got {self.scale}")

    def normalize(self, images: UInt8[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        """float32, under jit or outside."""
        mean, scale = (
            jnp.broadcast_to(jnp.asarray(value, jnp.float32), (1, 1, 1, self.channels))
            for value in (self.mean, self.scale)
        )
        return (images.astype(jnp.float32) - mean) / scale

    def check(self, images: Any) -> None:
        """Raises ValueError: not uint8 (N, pixels, pixels, channels)."""
        shape: Any = getattr(images, "shape", ())
        dtype = getattr(images, "dtype", type(images).__name__)
        if len(shape) != 4 or dtype != jnp.uint8:
            raise ValueError(f"images are {dtype} of shape {shape}: give uint8 (N, H, W, C)")
        if shape[1:3] != (self.pixels, self.pixels):
            raise ValueError(
                f"images are {shape[1]}x{shape[2]}, the backbone takes {self.pixels}x{self.pixels} pixels: "
                f"read them with pixels={self.pixels}"
            )
        if shape[3] != self.channels:
            raise ValueError(
                f"images have {shape[3]} channels, the backbone takes {self.channels}: "
                f"read them with channels={self.channels}"
            )

    def _numbers(self, name: str, value: float | Sequence[float]) -> float | tuple[float, ...]:
        found = np.atleast_1d(np.asarray(value, np.float64))
        if found.shape not in ((1,), (self.channels,)) or not np.isfinite(found).all():
            raise ValueError(f"{name} must be one number or {self.channels}, one a channel, got {value}")
        return float(found[0]) if np.ndim(value) == 0 else tuple(found.tolist())


def raw(pixels: int, channels: int = 3) -> Preprocess:
    """Values as they are, 0.0-255.0."""
    return Preprocess(pixels, channels, 0.0, 1.0)


def sample(preprocess: Preprocess) -> jax.ShapeDtypeStruct:
    """The shape of one normalised image."""
    side = preprocess.pixels
    return jax.ShapeDtypeStruct((1, side, side, preprocess.channels), jnp.float32)
