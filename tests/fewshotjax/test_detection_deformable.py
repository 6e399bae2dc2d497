"""Deformable pooling of regions against a loop in float64, and its offsets' gradients."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.detection import (
    deformable_roi_pool,
    init_pooling_offsets,
    pooling_offsets,
    roi_align,
    two_pass_pool,
)

WAYS = ("gather", "matmul")


def away(x):
    return math.copysign(math.floor(abs(x) + 0.5), x)


def looped(image, boxes, offsets, size, scale, samples=4, gamma=0.1):
    height, width, channels = image.shape
    image, out = image.astype(np.float64), np.zeros((len(boxes), size, size, channels))
    for r, (x1, y1, x2, y2) in enumerate(boxes.astype(np.float64)):
        left, top = away(x1) * scale - 0.5, away(y1) * scale - 0.5
        w = max((away(x2) + 1) * scale - 0.5 - left, 0.1)
        h = max((away(y2) + 1) * scale - 0.5 - top, 0.1)
        for i in range(size):
            for j in range(size):
                dx, dy = (0, 0) if offsets is None else offsets[r, i, j]
                kept = []
                for k in range(samples):
                    for m in range(samples):
                        x = left + j * w / size + dx * gamma * w + m * w / size / samples
                        y = top + i * h / size + dy * gamma * h + k * h / size / samples
                        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
                            continue
                        x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
                        x0, y0, x1_, y1_ = math.floor(x), math.floor(y), math.ceil(x), math.ceil(y)
                        u, v = x - x0, y - y0
                        kept.append(
                            (1 - v) * ((1 - u) * image[y0, x0] + u * image[y0, x1_])
                            + v * ((1 - u) * image[y1_, x0] + u * image[y1_, x1_])
                        )
                if kept:
                    out[r, i, j] = np.mean(kept, axis=0)
    return out


def case(seed=0, regions=5):
    """A map of 8 x 9 cells of 4 pixels; boxes reach beyond it, one lies far outside, the last is padding."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(8, 9, 3)).astype(np.float32)
    low = rng.uniform(-8, 20, (regions, 2))
    boxes = np.concatenate([low, low + rng.uniform(2, 25, (regions, 2))], axis=1).astype(np.float32)
    boxes[0] = [100, 100, 140, 120]
    boxes[-1] = 0
    return image, boxes, rng.normal(size=(regions, 3, 3, 2)).astype(np.float32)


@partial(jax.jit, static_argnames="way")
def pool(image, boxes, offsets, way):
    return deformable_roi_pool(image, boxes, offsets, 3, scales=0.23, lowering=way)


@pytest.mark.parametrize("way", WAYS)
def test_bins_are_those_of_a_loop_with_offsets_and_without(way):
    """The scale is no power of two, or samples would lie on the very edge, where rounding decides."""
    image, boxes, offsets = case()
    for given in (offsets, None):
        found = pool(*map(jnp.asarray, (image, boxes)), None if given is None else jnp.asarray(given), way)
        np.testing.assert_allclose(found, looped(image, boxes, given, 3, 0.23), atol=2e-5)
        assert (np.asarray(found[0]) == 0).all()
        assert np.abs(found[1]).max() > 0.1


def test_samples_start_at_the_corner_of_their_bin():
    """Pixels 2 to 5 in two bins of 2 with 4 samples: the first bin reads 1.5, 2, 2.5, 3, mean 2.25."""

    @jax.jit
    def read(offset):
        ramp = jnp.broadcast_to(jnp.arange(8.0)[None, :, None], (8, 8, 1))
        box, offsets = jnp.array([[2.0, 2.0, 5.0, 5.0]]), jnp.full((1, 2, 2, 2), offset)
        aligned = roi_align(ramp, box + jnp.array([[0.0, 0.0, 1.0, 1.0]]), 2, sampling_ratio=4)
        return [found[0, 0, :, 0] for found in (deformable_roi_pool(ramp, box, offsets, 2), aligned)]

    still, aligned = read(0.0)
    np.testing.assert_allclose(still, [2.25, 4.25], rtol=1e-6)
    # ROI align of the very same pixels reads them around the bins' centres.
    np.testing.assert_allclose(aligned, [2.5, 4.5], rtol=1e-6)
    # An offset of 1 moves a bin by a tenth of the region, 0.4 cells.
    np.testing.assert_allclose(read(1.0)[0], [2.65, 4.65], rtol=1e-6)


def test_halves_are_rounded_away_from_zero():
    image, boxes, _ = case()
    for row, pair in enumerate(([2.5, 3.5, 10.5, 9.5, 3, 4, 11, 10], [-2.5, -0.5, 6.49, 7.2, -3, -1, 6, 7])):
        boxes[2 * row : 2 * row + 2] = np.reshape(pair, (2, 4))
    found = pool(jnp.asarray(image), jnp.asarray(boxes), None, "matmul")
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_offsets_are_those_of_differences(way):
    image, boxes, offsets = case(1, 3)
    boxes = np.array([[5, 6, 17, 20], [9, 3, 22, 13], [0, 0, 0, 0]], np.float32)
    weight = np.random.default_rng(2).normal(size=(3, 3, 3, 3))

    def total(image, offsets):
        found = deformable_roi_pool(image, jnp.asarray(boxes), offsets, 3, scales=0.23, lowering=way)
        return jnp.sum(found * jnp.asarray(weight, jnp.float32))

    slopes = jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(image), jnp.asarray(offsets))
    assert all(np.isfinite(slope).all() for slope in slopes)
    for place in ((0, 1, 1, 0), (0, 2, 0, 1), (1, 0, 2, 0), (1, 1, 0, 1)):
        step = np.zeros_like(offsets, np.float64)
        step[place] = 1e-5
        up, down = (looped(image, boxes, offsets + s * step, 3, 0.23) for s in (1, -1))
        assert float(slopes[1][place]) == pytest.approx(float(((up - down) * weight).sum() / 2e-5), abs=2e-3)
    # Linear in the map.
    inner = float(jnp.vdot(slopes[0], jnp.asarray(image)))
    assert inner == pytest.approx(float((looped(image, boxes, offsets, 3, 0.23) * weight).sum()), rel=1e-4)


def test_two_passes_read_the_offsets_off_the_first():
    rng = np.random.default_rng(3)
    maps = tuple(jnp.asarray(rng.normal(size=(s, s, 2)).astype(np.float32)) for s in (8, 4))
    _, boxes, _ = case(3)
    levels = np.array([0, 1, 1, 0, 1], np.int32)
    at = {"scales": (0.23, 0.115), "levels": jnp.asarray(levels)}

    @jax.jit
    def both(params):
        layer = partial(pooling_offsets, params, levels=at["levels"])
        first = deformable_roi_pool(maps, jnp.asarray(boxes), None, 3, lowering="matmul", **at)
        return first, layer(first), two_pass_pool(maps, jnp.asarray(boxes), layer, 3, lowering="matmul", **at)

    zeros = init_pooling_offsets(2, 3, 2)
    first, _, found = both(zeros)
    np.testing.assert_allclose(found, first, atol=1e-6)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape).astype(np.float32)), zeros)
    first, offsets, found = (np.asarray(part) for part in both(params))
    flat = first.reshape(5, -1)
    for r, level in enumerate(levels):
        own = flat[r] @ np.asarray(params["kernel"][level]) + np.asarray(params["bias"][level])
        np.testing.assert_allclose(offsets[r].ravel(), own, rtol=1e-4, atol=1e-5)
        one = slice(r, r + 1)
        expected = looped(np.asarray(maps[level]), boxes[one], offsets[one], 3, at["scales"][level])
        np.testing.assert_allclose(found[r], expected[0], atol=1e-4)


def test_images_at_once_are_the_same_as_one_by_one_in_one_trace():
    traces = []

    @jax.jit
    @jax.vmap
    def run(image, boxes, offsets):
        traces.append(1)
        return deformable_roi_pool(image, boxes, offsets, 3, scales=0.23)

    cases = [case(4), case(5)]
    found = run(*(jnp.asarray(np.stack(parts)) for parts in zip(*cases, strict=True)))
    run(*(jnp.asarray(np.stack(parts)) for parts in zip(*cases[::-1], strict=True)))
    for one, (image, boxes, offsets) in zip(found, cases, strict=True):
        np.testing.assert_allclose(one, looped(image, boxes, offsets, 3, 0.23), atol=2e-5)
    assert len(traces) == 1


def test_what_does_not_fit_is_refused(as_users_have_it):
    image, boxes, _ = case()
    with pytest.raises(ValueError, match=r"offsets must have the shape \(R, 7, 7, 2\), got \(5, 3, 3, 2\)"):
        deformable_roi_pool(jnp.asarray(image), jnp.asarray(boxes), jnp.zeros((5, 3, 3, 2)))
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        deformable_roi_pool(jnp.asarray(image), jnp.asarray(boxes), samples=0)
