"""Turned, shifted, zoomed and mirrored photographs: boxes are those of the masks, which are moved alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.detection.augmentation import (
    AUTHORS_AUGMENTATION,
    Augmentation,
    draw_warp,
    warp_of,
    warped_boxes,
    warped_image,
)

H, W = 60, 72
BOXES = np.array([[20, 18, 44, 34], [30, 12, 40, 50], [2, 3, 30, 28]], np.float32)
moved = jax.jit(lambda image, warp: warped_image(image, warp))
boxes_of = jax.jit(lambda boxes, warp: warped_boxes(boxes, warp, H, W))


def mask_of(box):
    mask = np.zeros((H, W, 3), np.uint8)
    x1, y1, x2, y2 = box.astype(int)
    mask[y1:y2, x1:x2] = 255
    return mask


@pytest.mark.parametrize("seed", range(8))
def test_a_box_is_that_of_its_mask(seed):
    """As the authors find it: the box around what a filled rectangle becomes."""
    config = Augmentation(rotation=180.0, shift=0.1, zoom=0.3) if seed > 3 else AUTHORS_AUGMENTATION
    warp = draw_warp(jax.random.key(seed), config, H, W)
    found = np.asarray(boxes_of(jnp.asarray(BOXES), warp))
    for box, got in zip(BOXES, found, strict=True):
        # A border of zeros repeats itself: only what is inside of the image comes back.
        y, x = np.nonzero(np.asarray(moved(jnp.asarray(mask_of(box)), warp))[..., 0] > 25)
        wanted = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        np.testing.assert_allclose(got, wanted, atol=1.6)  # corners of a turned box are less than a pixel


def warp(degrees=0.0, shift=(0.0, 0.0), zoom=(1.0, 1.0), height=H, width=W):
    angle = jnp.asarray(np.deg2rad(degrees), jnp.float32)
    return warp_of(angle, jnp.asarray(shift, jnp.float32), jnp.asarray(zoom, jnp.float32), height, width)


def test_quarter_turns_mirrors_and_shifts_are_exact():
    image = np.random.default_rng(0).integers(0, 256, (W, W, 3)).astype(np.uint8)
    turned = np.asarray(warped_image(jnp.asarray(image), warp(90.0, height=W)))
    assert any(np.array_equal(turned, np.rot90(image, k)) for k in (1, 3))
    np.testing.assert_array_equal(moved(jnp.asarray(image[:H]), warp()), image[:H])
    np.testing.assert_array_equal(moved(jnp.asarray(image[:H]), warp(zoom=(-1.0, 1.0))), image[:H, ::-1])
    # A shift of the places that are looked at by (3, 2) moves what is seen the other way.
    shifted = np.asarray(moved(jnp.asarray(image[:H]), warp(shift=(3.0, 2.0))))
    np.testing.assert_array_equal(shifted[:-2, :-3], image[2:H, 3:])
    np.testing.assert_array_equal(shifted[-1, :-3], image[H - 1, 3:])  # the border repeats itself
    np.testing.assert_allclose(
        boxes_of(jnp.asarray(BOXES), warp(shift=(3.0, 2.0)))[0], [17, 16, 41, 32], atol=1e-4
    )
    # Zoom above 1 looks further: things become smaller.
    np.testing.assert_allclose(
        boxes_of(jnp.asarray(BOXES), warp(zoom=(2.0, 1.0)))[0], [28, 18, 40, 34], atol=1e-4
    )
    np.testing.assert_allclose(
        boxes_of(jnp.asarray(BOXES), warp(zoom=(-1.0, 1.0)))[0], [28, 18, 52, 34], atol=1e-4
    )


def test_draws_fill_their_ranges():
    drawn = np.asarray(
        jax.vmap(lambda key: draw_warp(key, AUTHORS_AUGMENTATION, H, W))(
            jax.random.split(jax.random.key(0), 2_000)
        )
    )
    linear = drawn[:, :, :2]
    zoom = np.linalg.norm(linear, axis=1)  # of each axis, its column
    mirrored = np.linalg.det(linear) < 0
    angle = np.rad2deg(np.arctan2(-linear[:, 0, 1], linear[:, 1, 1]))
    middle = linear @ np.array([W / 2, H / 2]) + drawn[:, :, 2] - [W / 2, H / 2]  # the turned shift
    turn = np.deg2rad(angle)
    shift = np.stack(
        [
            np.cos(turn) * middle[:, 0] + np.sin(turn) * middle[:, 1],
            np.cos(turn) * middle[:, 1] - np.sin(turn) * middle[:, 0],
        ],
        axis=1,
    ) / [W, H]
    for values, low, high in ((zoom, 0.9, 1.1), (angle, -30, 30), (shift, -0.1, 0.1)):
        span = high - low
        assert values.min() >= low - 1e-3 * span
        assert values.max() <= high + 1e-3 * span
        assert values.min() < low + 0.02 * span
        assert values.max() > high - 0.02 * span
    assert abs(np.corrcoef(zoom.T)[0, 1]) < 0.1  # axes by themselves
    assert 0.45 < mirrored.mean() < 0.55


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": -1.0}, "rotation must be 0 to 180 degrees, got -1.0"),
        ({"zoom": 1.0}, "zoom must be 0 to below 1, got 1.0"),
        ({"shift": -0.1}, "shift must be 0 to below 1, got -0.1"),
    ],
)
def test_ranges_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
