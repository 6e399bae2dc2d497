"""Which windows slide over a photograph: their shapes, which support boxes have, and their places."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ..fields import check_fields


@dataclass(frozen=True)
class WindowConfig:
    """Which windows, what is read of them, how they are judged. All ours; shapes, scales, bins and the choice
    of background were made on photographs of BCCD's validation part, the rest was not varied.

    Raises:
        ValueError: a field out of range; it is named.
    """

    shapes: int = 1  # a class at most, of its boxes' widths and heights
    scales: tuple[float, ...] = (0.8, 1.0, 1.25)  # of each shape
    step: float = 0.3  # of a window's sides, from one to the next
    most: int = 8192  # windows; with more, steps are made longer
    bins: tuple[tuple[int, int], ...] = ((1, 3), (2, 3))  # (level of the pyramid, bins along each side)
    background: int = 512  # windows of the support photographs that stand for all else
    apart: float = 0.3  # IoU with every support box, up to which a window is background
    temperature: float = 0.05  # t
    nms: float = 0.3  # as of detectors
    per_image: int = 100
    least_score: float = 0.0

    def __post_init__(self):
        check_fields(self)
        for name in ("shapes", "most", "background", "per_image"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, most in (("step", 1.0), ("temperature", float("inf"))):
            if not 0 < getattr(self, name) <= most:
                raise ValueError(f"{name} must be above 0, and at most {most}, got {getattr(self, name)}")
        if self.most < self.shapes * len(self.scales):
            least = self.shapes * len(self.scales)
            raise ValueError(
                f"most must be at least shapes x scales, {least}, got {self.most}: each has a window"
            )
        if not self.scales or any(not 0 < scale < float("inf") for scale in self.scales):
            raise ValueError(f"scales must be numbers above 0, got {self.scales}")
        if not self.bins or any(level < 0 or count < 1 for level, count in self.bins):
            raise ValueError(f"bins must be (level from 0, bins from 1), got {self.bins}")
        for name in ("apart", "nms"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)}")


def shapes_of(
    boxes: Float[np.ndarray, "S 4"], labels: Int[np.ndarray, " S"], config: WindowConfig
) -> Float[np.ndarray, "n 2"]:
    """Widths and heights of windows: of each class those of its boxes, in order of area, in up to `shapes`
    groups of equally many, as geometric means; times the scales."""
    found = []
    for label in np.unique(labels).tolist():
        sides = np.log(boxes[labels == label, 2:] - boxes[labels == label, :2])
        order = np.argsort(sides.sum(axis=1), kind="stable")
        groups = np.array_split(order, min(config.shapes, len(order)))
        found += [np.exp(sides[group].mean(axis=0)) for group in groups]
    shapes = np.stack(found)[:, None] * np.asarray(config.scales)[None, :, None]
    # Shapes that two classes share are looked at once.
    return np.unique(np.round(shapes.reshape(-1, 2)), axis=0)


def sliding(shapes: Float[np.ndarray, "n 2"], pixels: int, config: WindowConfig) -> Float[np.ndarray, "R 4"]:
    """Windows of these shapes all over a square of `pixels`, up to `most` of them.

    Raises:
        ValueError: more shapes than `most`: each has a window at least.
    """
    if len(shapes) > config.most:
        raise ValueError(
            f"most is {config.most}, and the support boxes have {len(shapes)} shapes of windows: raise "
            "most, or give fewer shapes and scales"
        )
    step = config.step
    while True:
        found = []
        for width, height in np.minimum(shapes, pixels).tolist():
            xs, ys = (
                np.linspace(0, pixels - side, max(1, int((pixels - side) / max(step * side, 2.0)) + 1))
                for side in (width, height)
            )
            x, y = (axis.reshape(-1) for axis in np.meshgrid(xs, ys))
            found.append(np.stack([x, y, x + width, y + height], axis=1))
        windows = np.concatenate(found).astype(np.float32)
        if len(windows) <= config.most:
            return windows
        step *= 1.1
