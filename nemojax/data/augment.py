"""Training augmentations: pure functions of one picture and its own random numbers.

CropFlip         zero padding, a random crop of the old size, a mirror image half the time, as CIFAR-10 is
                 trained on (He et al. 2016, section 4.2)
ResizedCropFlip  a crop of random area and proportions, resized, mirrored half the time, as ImageNet is
                 trained on (Szegedy et al. 2015, section 6)

`crop_flip` is the first one for a batch in memory, under jit.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, Num, UInt8
from PIL import Image

from hwmodel import check_fields
from nemojax.preprocess import INTERPOLATIONS, Preprocess


@runtime_checkable
class Augment(Protocol):
    """Takes the place of fitting the picture to the network's resolution."""

    def __call__(
        self, rng: np.random.Generator, picture: Image.Image, preprocess: Preprocess
    ) -> UInt8[np.ndarray, "R R 3"]: ...


@dataclass(frozen=True)
class CropFlip:
    """Fits the picture, then shifts it by up to `padding` pixels each way and mirrors it half the time."""

    padding: int = 4  # pixels of zeros on every side

    def __post_init__(self):
        check_fields(self)
        if self.padding < 0:
            raise ValueError(f"padding must not be negative, got {self.padding}")

    def __call__(
        self, rng: np.random.Generator, picture: Image.Image, preprocess: Preprocess
    ) -> UInt8[np.ndarray, "R R 3"]:
        pixels = preprocess.pixels(picture)
        side, pad = preprocess.resolution, self.padding
        top, left = rng.integers(0, 2 * pad, 2, endpoint=True)
        wide = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)))[top : top + side, left : left + side]
        return np.ascontiguousarray(wide[:, ::-1] if rng.random() < 0.5 else wide)


@dataclass(frozen=True)
class ResizedCropFlip:
    """A crop of random area and proportions resized to the resolution, mirrored half the time."""

    area: tuple[float, float] = (0.08, 1.0)  # of the picture's, uniform
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height, log-uniform
    attempts: int = 10  # crops drawn until one fits into the picture; then the largest centred one is taken

    def __post_init__(self):
        check_fields(self)
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area must be two rising shares in (0, 1], got {self.area}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be two rising numbers above 0, got {self.ratio}")
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")

    def __call__(
        self, rng: np.random.Generator, picture: Image.Image, preprocess: Preprocess
    ) -> UInt8[np.ndarray, "R R 3"]:
        box = self.box(rng, picture.width, picture.height)
        side = (preprocess.resolution,) * 2
        pixels = np.asarray(picture.crop(box).resize(side, INTERPOLATIONS[preprocess.interpolation]))
        return np.ascontiguousarray(pixels[:, ::-1] if rng.random() < 0.5 else pixels)

    def box(self, rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
        """left, top, right, bottom of a crop, in pixels."""
        logs = (math.log(self.ratio[0]), math.log(self.ratio[1]))
        for _ in range(self.attempts):
            area = width * height * rng.uniform(*self.area)
            ratio = math.exp(rng.uniform(*logs))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = (int(rng.integers(0, n, endpoint=True)) for n in (width - w, height - h))
                return left, top, left + w, top + h
        w = min(width, max(1, round(height * self.ratio[1])))
        h = min(height, max(1, round(width / self.ratio[0])))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


def crop_flip(
    keys: Key[Array, " N"], images: Num[Array, "N H W C"], padding: int = 4
) -> Num[Array, "N H W C"]:
    """`CropFlip` for images in memory, each with its own key."""

    def one(key: Key[Array, ""], image: Num[Array, "H W C"]) -> Num[Array, "H W C"]:
        k_shift, k_flip = jax.random.split(key)
        top, left = jax.random.randint(k_shift, (2,), 0, 2 * padding + 1)
        wide = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        crop = jax.lax.dynamic_slice(wide, (top, left, 0), image.shape)
        return jnp.where(jax.random.bernoulli(k_flip), crop[:, ::-1], crop)

    return jax.vmap(one)(keys, images)
