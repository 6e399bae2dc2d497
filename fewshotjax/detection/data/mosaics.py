"""Scenes of several photographs, each with its box: 1x1, 2x2 or 3x3 in a grid.

A photograph may be cropped (its box stays whole), shrunk and placed at random in its cell; the rest of the
cell has the photograph's mean colour. The box is moved with it, exactly.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ...fields import check_fields


@dataclass(frozen=True)
class MosaicConfig:
    """How a scene is put together.

    Raises:
        ValueError: a field out of range; it is named.
    """

    grid: int = 2  # photographs a side: 1 (single), 2 (mosaic2) or 3 (mosaic3)
    jitter: bool = True  # shrink each and place it at random in its cell
    # At random, at whole pixels, with the whole box. It takes background away: the photograph's rectangle
    # passes for the box more often (Tiny-ImageNet's novel test classes: 69 % at IoU .5, without it 50 %).
    crop: bool = True
    least_scale: float = 0.6  # of jitter, up to 1

    def __post_init__(self):
        check_fields(self)
        if not 1 <= self.grid <= 8:
            raise ValueError(f"grid must be 1-8 photographs a side, got {self.grid}: 2 or 3 are usual")
        if not 0.1 <= self.least_scale <= 1:
            raise ValueError(f"least_scale must be 0.1-1, got {self.least_scale}: 0.6 is ours")


class Mosaic(NamedTuple):
    """A scene of T = grid² photographs with sides of S pixels, row by row."""

    image: UInt8[np.ndarray, "gS gS 3"]
    boxes: Float[np.ndarray, "T 4"]  # pixels of the scene, half-open
    frames: Float[np.ndarray, "T 4"]  # the rectangles that the photographs fill


def mosaic(
    rng: np.random.Generator,
    images: UInt8[np.ndarray, "T S S 3"],
    boxes: Float[np.ndarray, "T 4"],
    config: MosaicConfig,
) -> Mosaic:
    """A function of the generator's state and the photographs alone.

    Args:
        images, boxes: of T = grid² photographs; boxes half-open, inside them.

    Raises:
        ValueError: another number of photographs, a box that is not inside its photograph.
    """
    count, side = len(images), images.shape[1]
    if count != config.grid**2:
        raise ValueError(f"images are {count}, a scene of grid {config.grid} takes {config.grid**2}")
    if (boxes[:, :2] < 0).any() or (boxes[:, 2:] > side).any() or (boxes[:, 2:] <= boxes[:, :2]).any():
        raise ValueError(f"boxes must be inside photographs of {side}x{side}, got {boxes.tolist()}")
    # All numbers at once, so that a scene with jitter or crop off uses the same ones.
    draws = rng.random((count, 7))
    scene = np.empty((config.grid * side, config.grid * side, images.shape[3]), np.uint8)
    moved, frames = np.empty((count, 4), np.float32), np.empty((count, 4), np.float32)
    for i in range(count):
        corner = np.array([i % config.grid, i // config.grid]) * side
        left, top, right, bottom = (0, 0, side, side)
        if config.crop:
            left, top, right, bottom = _cropped(draws[i, :4], boxes[i], side)
        patch = images[i, top:bottom, left:right]
        scale = config.least_scale + draws[i, 4] * (1 - config.least_scale) if config.jitter else 1.0
        width, height = (max(1, round(scale * length)) for length in (right - left, bottom - top))
        room = np.array([side - width, side - height])
        if config.jitter:
            offset = np.floor(draws[i, 5:] * (room + 1)).astype(int)
        else:
            offset = np.array([left, top])  # where it stood
        cell = scene[corner[1] : corner[1] + side, corner[0] : corner[0] + side]
        cell[:] = np.round(patch.mean(axis=(0, 1)))
        cell[offset[1] : offset[1] + height, offset[0] : offset[0] + width] = _resized(patch, width, height)
        # The scale that the rounded size really has, in x and in y.
        factor = np.array([width / (right - left), height / (bottom - top)])
        start = corner + offset
        box = (boxes[i].reshape(2, 2) - (left, top)) * factor + start
        stop = start + np.array([width, height])
        moved[i] = np.clip(box, start, stop).reshape(4)
        frames[i] = [*start, *stop]
    return Mosaic(scene, moved, frames)


def _cropped(
    draws: Float[np.ndarray, " 4"], box: Float[np.ndarray, " 4"], side: int
) -> tuple[int, int, int, int]:
    """Whole pixels; each edge uniform between the photograph's and the box's."""
    low, high = np.floor(box[:2]), np.ceil(box[2:])
    start = np.floor(draws[:2] * (low + 1))
    stop = high + np.floor(draws[2:] * (side - high + 1))
    return int(start[0]), int(start[1]), int(stop[0]), int(stop[1])


def _resized(patch: UInt8[np.ndarray, "h w C"], width: int, height: int) -> UInt8[np.ndarray, "H W C"]:
    """Bilinear and antialiased."""
    if patch.shape[:2] == (height, width):
        return patch
    image = Image.fromarray(np.ascontiguousarray(patch))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
