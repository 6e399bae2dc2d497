"""Augmentations: crops found again in the picture, all of them drawn, their distribution."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from nemojax import data
from nemojax.preprocess import Preprocess

AS_IS = Preprocess(8, fit="as_is")


def picture(height: int = 8, width: int = 8) -> np.ndarray:
    """Every pixel another, none of them zero."""
    codes = np.arange(1, height * width + 1)
    return (
        np.stack([codes // 200 + 1, codes % 200 + 1, np.full(codes.shape, 7)], -1)
        .reshape(height, width, 3)
        .astype(np.uint8)
    )


def shifted(pixels: np.ndarray, top: int, left: int, flip: bool, pad: int) -> np.ndarray:
    """Written out pixel by pixel."""
    height, width, _ = pixels.shape
    out = np.zeros_like(pixels)
    for y in range(height):
        for x in range(width):
            sy, sx = y + top - pad, (width - 1 - x if flip else x) + left - pad
            if 0 <= sy < height and 0 <= sx < width:
                out[y, x] = pixels[sy, sx]
    return out


def which(found: np.ndarray, pad: int) -> tuple[int, int, bool]:
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            for flip in (False, True):
                if np.array_equal(found, shifted(picture(), top, left, flip, pad)):
                    return top, left, flip
    raise AssertionError("no crop of the padded picture")


def numpy_crops(count: int, pad: int) -> list[np.ndarray]:
    augment = data.CropFlip(pad)
    return [augment(np.random.default_rng([0, i]), Image.fromarray(picture()), AS_IS) for i in range(count)]


def jax_crops(count: int, pad: int) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), count)
    images = jnp.broadcast_to(picture(), (count, 8, 8, 3))
    return np.asarray(jax.jit(data.crop_flip, static_argnums=2)(keys, images, pad))


@pytest.mark.parametrize("crops", [numpy_crops, jax_crops])
def test_crops_and_mirror_images(crops):
    draws = [which(found, 1) for found in crops(360, 1)]
    assert len(set(draws)) == 18  # nine places, mirrored or not
    counts = np.array([draws.count(draw) for draw in sorted(set(draws))])
    assert ((counts - 20) ** 2 / 20).sum() < 40.8  # chi square, 17 degrees of freedom, p = 0.001


@pytest.mark.parametrize("crops", [numpy_crops, jax_crops])
def test_without_padding_only_mirrored(crops):
    found = crops(40, 0)
    flipped = [np.array_equal(one, picture()[:, ::-1]) for one in found]
    assert all(flip or np.array_equal(one, picture()) for one, flip in zip(found, flipped, strict=True))
    assert 5 < sum(flipped) < 35


def test_each_key_decides_its_own_image():
    keys = jax.random.split(jax.random.key(1), 6)
    images = jax.random.uniform(keys[0], (6, 8, 8, 1))
    run = jax.jit(data.crop_flip)
    whole, some = np.asarray(run(keys, images)), np.asarray(run(keys[3:5], images[3:5]))
    np.testing.assert_array_equal(some, whole[3:5])
    assert whole.dtype == np.float32


@pytest.mark.parametrize(("width", "height"), [(500, 375), (64, 64), (300, 900)])
def test_boxes_have_their_area_and_proportions(width, height):
    augment = data.ResizedCropFlip(area=(0.2, 0.6))
    boxes = np.array([augment.box(np.random.default_rng([1, i]), width, height) for i in range(400)])
    left, top, right, bottom = boxes.T
    assert min(left.min(), top.min()) >= 0
    assert right.max() <= width
    assert bottom.max() <= height
    w, h = right - left, bottom - top
    slack = 1 / np.minimum(w, h)  # of rounding to whole pixels
    area, ratio = w * h / (width * height), w / h
    for value, least, most in ((area, 0.2, 0.6), (ratio, 3 / 4, 4 / 3)):
        assert (value > least * (1 - 2 * slack)).all()
        assert (value < most * (1 + 2 * slack)).all()
    if width < 600 and height < 600:  # hardly any draw was rejected: uniform, and symmetric in the logarithm
        assert abs(area.mean() - 0.4) < 0.03
        assert abs(np.log(ratio).mean()) < 0.05
        assert len(set(left.tolist())) > 15


def test_where_no_crop_fits_the_largest_central_one():
    augment = data.ResizedCropFlip(area=(1.0, 1.0))
    assert augment.box(np.random.default_rng(0), 400, 100) == (133, 0, 266, 100)
    assert augment.box(np.random.default_rng(0), 100, 400) == (0, 133, 100, 266)


def test_a_resized_crop_is_what_pillow_makes_of_its_box():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    augment, small = data.ResizedCropFlip(), Preprocess(16, interpolation="bilinear")
    flips = set()
    for i in range(8):
        box = augment.box(np.random.default_rng(i), 80, 60)
        want = np.asarray(photo.crop(box).resize((16, 16), Image.Resampling.BILINEAR))
        found = augment(np.random.default_rng(i), photo, small)
        flips.add(np.array_equal(found, want[:, ::-1]))
        assert np.array_equal(found, want) or np.array_equal(found, want[:, ::-1])
        np.testing.assert_array_equal(augment(np.random.default_rng(i), photo, small), found)
    assert flips == {False, True}
    whole = data.ResizedCropFlip(area=(1.0, 1.0), ratio=(4 / 3, 4 / 3)).box(np.random.default_rng(0), 80, 60)
    assert whole == (0, 0, 80, 60)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.CropFlip(-1), "padding must not be negative, got -1"),
        (lambda: data.ResizedCropFlip(area=(0.0, 1.0)), r"area must be two rising shares in \(0, 1\]"),
        (lambda: data.ResizedCropFlip(area=(0.5, 0.4)), "area must be two rising shares"),
        (lambda: data.ResizedCropFlip(ratio=(2.0, 1.0)), "ratio must be two rising numbers above 0"),
        (lambda: data.ResizedCropFlip(attempts=0), "attempts must be at least 1, got 0"),
    ],
)
def test_wrong_fields_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_ratios_are_log_uniform():
    augment = data.ResizedCropFlip(area=(0.1, 0.1), ratio=(1 / 2, 2.0))
    boxes = [augment.box(np.random.default_rng([2, i]), 1000, 1000) for i in range(600)]
    logs = np.sort([math.log2((r - l) / (b - t)) for l, t, r, b in boxes])  # noqa: E741
    uniform = (np.arange(600) + 0.5) / 600 * 2 - 1
    assert np.abs(logs - uniform).max() < 0.16  # Kolmogorov and Smirnov at p = 0.001: 2 * 1.95 / sqrt(600)
