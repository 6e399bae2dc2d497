"""ROI align and the level of a box, against loops in float64 and worked numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.detection import roi_align, roi_levels

WAYS = ("gather", "matmul")


def bilinear(image, y, x):
    """torchvision's rule: 0 from more than a cell outside on, the border's value nearer."""
    height, width, _ = image.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(image.shape[2])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = y - y0, x - x0
    top = (1 - dx) * image[y0, x0] + dx * image[y0, x1]
    return (1 - dy) * top + dy * ((1 - dx) * image[y1, x0] + dx * image[y1, x1])


def looped(image, boxes, size, scale, ratio, aligned):
    image, out = image.astype(np.float64), np.zeros((len(boxes), size, size, image.shape[2]))
    for r, box in enumerate(boxes.astype(np.float64)):
        x1, y1, x2, y2 = box * scale - (0.5 if aligned else 0)
        w, h = x2 - x1, y2 - y1
        if not aligned:
            w, h = max(w, 1), max(h, 1)
        for i in range(size):
            for j in range(size):
                for k in range(ratio):
                    for m in range(ratio):
                        y = y1 + h / size * (i + (k + 0.5) / ratio)
                        x = x1 + w / size * (j + (m + 0.5) / ratio)
                        out[r, i, j] += bilinear(image, y, x) / ratio**2
    return out


def case(seed=0, regions=6):
    """A map of 9 x 7 cells of 4 pixels; boxes reach beyond it, one lies far outside, the last is padding."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(9, 7, 3)).astype(np.float32)
    low = rng.uniform(-10, 24, (regions, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.5, 30, (regions, 2))], axis=1).astype(np.float32)
    boxes[0] = [100, 100, 140, 120]
    boxes[-1] = 0
    return image, boxes


@partial(jax.jit, static_argnames=("ratio", "aligned", "way"))
def align(image, boxes, ratio=2, aligned=True, way="gather"):
    return roi_align(image, boxes, 3, scales=0.25, sampling_ratio=ratio, aligned=aligned, lowering=way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("aligned", "ratio"), [(True, 2), (False, 2), (True, 1), (False, 3)])
def test_bins_are_those_of_a_loop(way, aligned, ratio):
    image, boxes = case()
    found = align(jnp.asarray(image), jnp.asarray(boxes), ratio, aligned, way)
    np.testing.assert_allclose(found, looped(image, boxes, 3, 0.25, ratio, aligned), atol=2e-5)


def test_a_ramp_is_read_at_the_centres_of_bins():
    """Pixel x has its centre at x + 1/2: a box from 5 to 23 in three bins has centres at 8, 14 and 20."""
    _, boxes = case()
    boxes[2] = [5, 4, 23, 30]
    ramp = jnp.broadcast_to(4 * (jnp.arange(7.0)[None, :, None] + 0.5), (9, 7, 3))
    found = align(ramp, jnp.asarray(boxes))
    np.testing.assert_allclose(found[2, :, :, 0], [[8, 14, 20]] * 3, rtol=1e-6)


def a_pyramid():
    rng = np.random.default_rng(1)
    return tuple(jnp.asarray(rng.normal(size=(s, s + 1, 3)).astype(np.float32)) for s in (8, 4, 2))


SCALES = (0.25, 0.125, 0.0625)


@pytest.mark.parametrize("way", WAYS)
def test_a_pyramid_is_each_box_on_its_own_level(way):
    maps, (_, boxes) = a_pyramid(), case(2)
    levels = np.array([0, 1, 2, 1, 0, 2], np.int32)
    found = jax.jit(lambda m, b, at: roi_align(m, b, 3, scales=SCALES, levels=at, lowering=way))(
        maps, jnp.asarray(boxes), jnp.asarray(levels)
    )
    for r, level in enumerate(levels):
        one = looped(np.asarray(maps[level]), boxes[r : r + 1], 3, SCALES[level], 2, True)
        np.testing.assert_allclose(found[r], one[0], atol=2e-5)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_the_maps_and_none_of_the_boxes(way):
    """The pooling is linear: ⟨g, pool(F)⟩ = ⟨poolᵀ(g), F⟩."""
    maps, (_, boxes) = a_pyramid(), case(3)
    levels = jnp.array([0, 1, 2, 1, 0, 2], jnp.int32)

    @jax.jit
    def both(maps, boxes, g):
        found, back = jax.vjp(
            lambda m, b: roi_align(m, b, 3, scales=SCALES, levels=levels, lowering=way), maps, boxes
        )
        return found, back(g)

    g = jax.random.normal(jax.random.key(0), (6, 3, 3, 3))
    found, (slopes, of_boxes) = both(maps, jnp.asarray(boxes), g)
    inner = sum(float(jnp.vdot(slope, m)) for slope, m in zip(slopes, maps, strict=True))
    assert inner == pytest.approx(float(jnp.vdot(g, found)), rel=1e-4)
    assert (np.asarray(of_boxes) == 0).all()


@pytest.mark.parametrize("way", WAYS)
def test_images_at_once_are_the_same_as_one_by_one_in_one_trace(way):
    traces = []

    @jax.jit
    @jax.vmap
    def run(image, boxes):
        traces.append(1)
        return roi_align(image, boxes, 2, scales=0.25, lowering=way)

    (image, boxes), (other, others) = case(4), case(5)
    found = run(jnp.asarray(np.stack([image, other])), jnp.asarray(np.stack([boxes, others])))
    run(jnp.asarray(np.stack([other, image])), jnp.asarray(np.stack([others, boxes])))
    np.testing.assert_allclose(found[1], looped(other, others, 2, 0.25, 2, True), atol=2e-5)
    assert len(traces) == 1


def test_half_precision_keeps_its_type():
    image, boxes = case()
    expected = looped(image, boxes, 3, 0.25, 2, True)
    for way in WAYS:
        found = align(jnp.asarray(image, jnp.bfloat16), jnp.asarray(boxes), way=way)
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.05)


def test_what_does_not_fit_is_refused(as_users_have_it):
    maps, boxes = a_pyramid(), jnp.zeros((2, 4))
    with pytest.raises(ValueError, match="sampling_ratio must be at least 1, got -1"):
        roi_align(maps[0], boxes, sampling_ratio=-1)
    with pytest.raises(ValueError, match="scales must have a number for each of 3 feature maps, got 1"):
        roi_align(maps, boxes)
    with pytest.raises(ValueError, match="levels must say which of 3 feature maps"):
        roi_align(maps, boxes, scales=SCALES)
    with pytest.raises(ValueError, match="lowering must be gather or matmul, got 'auto'"):
        roi_align(maps[0], boxes, lowering="auto")


# Levels


@pytest.mark.parametrize(("canonical", "convention"), [(64.0, "half_open"), (224.0, "inclusive")])
def test_levels_are_those_of_the_formula(canonical, convention):
    rng = np.random.default_rng(0)
    side = np.exp(rng.uniform(0, 6.5, (300, 2)))
    side[:12] = (canonical * 2.0 ** np.arange(-6, 6))[:, None]  # exactly on a step
    unit = 1 if convention == "inclusive" else 0
    boxes = np.concatenate([np.zeros((300, 2)), side - unit], axis=1).astype(np.float32)
    area = np.prod(boxes[:, 2:].astype(np.float64) + unit, axis=1)
    expected = np.clip(np.floor(2 + np.log2(np.sqrt(area) / canonical)), 0, 3)
    np.testing.assert_array_equal(roi_levels(jnp.asarray(boxes), 4, canonical, convention), expected)


def test_worked_levels():
    """Squares of 16, 31, 32, 64, 128 and 500 pixels, and padding, on strides 4 to 32."""
    side = jnp.array([16.0, 31.0, 32.0, 64.0, 128.0, 500.0, 0.0])
    boxes = jnp.stack([0 * side, 0 * side, side, side], axis=1)
    np.testing.assert_array_equal(roi_levels(boxes, 4), [0, 0, 1, 2, 3, 3, 0])
    np.testing.assert_array_equal(roi_levels(boxes, 1), [0] * 7)
