"""Boxes (x1, y1, x2, y2) in pixels: areas, overlap, codes of one box relative to another.

A box is half-open: from x1 up to x2 it is x2 - x1 wide, and pixel number x reaches from x to x + 1. The
RepMet authors' code has inclusive pixels, x2 - x1 + 1 wide: the convention "inclusive".

Boxes are taken as they come: NaN is refused where data enters, by `check_boxes`, and nowhere else.
"""

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

Convention = Literal["half_open", "inclusive"]
Stds = tuple[float, float, float, float]
AUTHORS_STDS: Stds = (0.1, 0.1, 0.2, 0.2)  # of the box head's targets
_LARGEST_LOG = math.log(1000 / 16)  # of a decoded side over its anchor's: exp() of more might overflow


def sides(
    boxes: Float[Array, "*batch 4"], convention: Convention = "half_open"
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Widths and heights; below 0 where the corners are the wrong way round.

    Raises:
        ValueError: another convention.
    """
    unit = _unit(convention)
    return boxes[..., 2] - boxes[..., 0] + unit, boxes[..., 3] - boxes[..., 1] + unit


def areas(boxes: Float[Array, "*batch 4"], convention: Convention = "half_open") -> Float[Array, "*batch"]:
    """Square pixels; 0 where the corners are the wrong way round."""
    width, height = sides(boxes, convention)
    return jnp.maximum(width, 0.0) * jnp.maximum(height, 0.0)


def pairwise_iou(
    a: Float[Array, "A 4"], b: Float[Array, "B 4"], convention: Convention = "half_open"
) -> Float[Array, "A B"]:
    """area(a_i ∩ b_j) / area(a_i ∪ b_j), with 0 where the union is empty, as of padding."""
    both = _shared(a, b, convention)
    union = areas(a, convention)[:, None] + areas(b, convention)[None, :] - both
    return both / jnp.where(union > 0, union, 1.0)


def pairwise_ioa(
    a: Float[Array, "A 4"], b: Float[Array, "B 4"], convention: Convention = "half_open"
) -> Float[Array, "A B"]:
    """area(a_i ∩ b_j) / area(a_i), with 0 where a_i is empty: how much of a region lies on a crowd."""
    own = areas(a, convention)[:, None]
    return _shared(a, b, convention) / jnp.where(own > 0, own, 1.0)


def encode(
    boxes: Float[Array, "N 4"],
    anchors: Float[Array, "N 4"],
    stds: Stds = (1.0, 1.0, 1.0, 1.0),
    convention: Convention = "half_open",
) -> Float[Array, "N 4"]:
    """((x - x_a) / w_a, (y - y_a) / h_a, log w / w_a, log h / h_a) / stds, of centres and sides (Girshick et
    al. 2014, Eqs. 6 to 9).

    A side that is not above 0, as padding has, counts as 1, so that codes and gradients stay finite.
    """
    (x, y, w, h), (x_a, y_a, w_a, h_a) = (_centred(each, convention) for each in (boxes, anchors))
    w, h, w_a, h_a = (jnp.where(side > 0, side, 1.0) for side in (w, h, w_a, h_a))
    codes = ((x - x_a) / w_a, (y - y_a) / h_a, jnp.log(w / w_a), jnp.log(h / h_a))
    return jnp.stack([code / std for code, std in zip(codes, stds, strict=True)], axis=-1)


def decode(
    codes: Float[Array, "N 4"],
    anchors: Float[Array, "N 4"],
    stds: Stds = (1.0, 1.0, 1.0, 1.0),
    convention: Convention = "half_open",
    largest_log: float = _LARGEST_LOG,
) -> Float[Array, "N 4"]:
    """The boxes whose codes these are: `decode(encode(boxes, anchors), anchors)` gives boxes.

    Args:
        largest_log: log w / w_a and log h / h_a above it count as it, or exp() of an untrained network's
            codes might overflow. The authors' code has no such limit.
    """
    x_a, y_a, w_a, h_a = _centred(anchors, convention)
    dx, dy, dw, dh = (codes[..., i] * std for i, std in enumerate(stds))
    half_w, half_h = (
        (side * jnp.exp(jnp.minimum(log, largest_log)) - _unit(convention)) / 2
        for side, log in ((w_a, dw), (h_a, dh))
    )
    x, y = x_a + dx * w_a, y_a + dy * h_a
    return jnp.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=-1)


def clip(
    boxes: Float[Array, "*batch 4"],
    height: int | float | Float[Array, ""],
    width: int | float | Float[Array, ""],
    convention: Convention = "half_open",
) -> Float[Array, "*batch 4"]:
    """Cut to the image: 0 to width and height, or to their last pixels where those are inclusive."""
    unit = _unit(convention)
    limits = jnp.stack([jnp.asarray(size, boxes.dtype) - unit for size in (width, height, width, height)])
    return jnp.clip(boxes, 0.0, jnp.broadcast_to(limits, boxes.shape))


def usable(
    boxes: Float[Array, "*batch 4"], least: int | float = 0.0, convention: Convention = "half_open"
) -> Bool[Array, "*batch"]:
    """Finite, and both sides above 0 and not below `least` pixels."""
    width, height = sides(boxes, convention)
    shorter = jnp.minimum(width, height)
    return jnp.all(jnp.isfinite(boxes), axis=-1) & (shorter > 0) & (shorter >= least)


def inside(
    boxes: Float[Array, "*batch 4"], height: int | float, width: int | float, border: int | float = 0.0
) -> Bool[Array, "*batch"]:
    """Which half-open boxes reach beyond the image by no more than `border` pixels."""
    low = jnp.all(boxes[..., :2] >= -border, axis=-1)
    return low & (boxes[..., 2] <= width + border) & (boxes[..., 3] <= height + border)


def check_boxes(
    boxes: Shaped[np.ndarray, "*shape"],
    height: int | float | None = None,
    width: int | float | None = None,
    name: str = "boxes",
) -> None:
    """For half-open boxes where they enter, on the host.

    Args:
        height, width: of the image in pixels; None: boxes may lie anywhere.
        name: of the file or argument, for the messages.

    Raises:
        ValueError: not (N, 4), NaN or infinite, x1 ≥ x2 or y1 ≥ y2, or outside the image, with the first row
            that is wrong.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} must have the shape (N, 4) of x1, y1, x2, y2, got {boxes.shape}")
    if not np.issubdtype(boxes.dtype, np.number) or np.issubdtype(boxes.dtype, np.complexfloating):
        raise ValueError(f"{name} must be numbers, got {boxes.dtype}")
    x1, y1, x2, y2 = boxes.T
    _refuse(name, boxes, ~np.isfinite(boxes).all(axis=1), "must be finite")
    _refuse(
        name,
        boxes,
        (x1 >= x2) | (y1 >= y2),
        "must have x1 < x2 and y1 < y2 (x2, y2: past the last pixel)",
    )
    if width is not None:
        _refuse(name, boxes, (x1 < 0) | (x2 > width), f"must lie within the image's width of {width}")
    if height is not None:
        _refuse(name, boxes, (y1 < 0) | (y2 > height), f"must lie within the image's height of {height}")


def _refuse(name: str, boxes: Shaped[np.ndarray, "N 4"], wrong: Bool[np.ndarray, " N"], message: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{name} {message}, got {boxes[row].tolist()} in row {row}")


def _shared(a: Float[Array, "A 4"], b: Float[Array, "B 4"], convention: Convention) -> Float[Array, "A B"]:
    # One coordinate at a time: rows of numbers, which compilers turn into vectors.
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.T[:, :, None], b.T[:, None, :]
    unit = _unit(convention)
    width = jnp.maximum(jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1) + unit, 0.0)
    height = jnp.maximum(jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1) + unit, 0.0)
    return width * height


def _centred(boxes: Array, convention: Convention) -> tuple[Array, Array, Array, Array]:
    width, height = sides(boxes, convention)
    # In both conventions: the authors' x1 + (w - 1) / 2 is (x1 + x2) / 2.
    return (boxes[..., 0] + boxes[..., 2]) / 2, (boxes[..., 1] + boxes[..., 3]) / 2, width, height


def _unit(convention: Convention) -> float:
    if convention not in ("half_open", "inclusive"):
        raise ValueError(f"convention must be half_open or inclusive, got {convention!r}")
    return 1.0 if convention == "inclusive" else 0.0
