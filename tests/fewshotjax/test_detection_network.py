"""A detector's functions against loops and worked numbers: FPN, RPN, proposals, pooling, gradients."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax import Preprocess, RepMetConfig
from fewshotjax.backbones.convolution import plain
from fewshotjax.detection import (
    AnchorConfig,
    anchors,
    decode,
    deformable_roi_pool,
    encode,
    level_shapes,
    roi_align,
    roi_levels,
)
from fewshotjax.detection.config import DetectorConfig
from fewshotjax.detection.detector import (
    RPN,
    box_codes,
    decoded,
    feature_maps,
    init_detector,
    pool,
    propose,
    rpn,
    trunk,
)
from fewshotjax.detection.layers import conv
from fewshotjax.detection.pooling import align, products
from fewshotjax.detection.pyramids import pyramid_from_function
from fewshotjax.detection.regions import region_features

STRIDES = (4, 8, 16)
HEAD = RepMetConfig(modes=2, embedding=5, posterior="softmax", background=True, linear_weight=1.0)
SMALL = DetectorConfig(
    channels=3,
    anchors=AnchorConfig(strides=STRIDES),
    before_nms=40,
    proposals=12,
    roi_size=2,
    canonical=16.0,
    hidden=(6, 7),
    head=HEAD,
)


def blocks(params, x):
    """Means of 4 x 4 pixels and coarser, and what is left over at the edges, times some weights."""
    found = []
    for stride, w in zip(STRIDES, params, strict=True):
        rows, columns = (-(-n // stride) for n in x.shape[1:3])
        x_ = jnp.pad(x, ((0, 0), (0, rows * stride - x.shape[1]), (0, columns * stride - x.shape[2]), (0, 0)))
        cells = x_.reshape(len(x), rows, stride, columns, stride, 3).mean((2, 4))
        found.append(cells @ w)
    return tuple(found)


WEIGHTS = tuple(
    np.random.default_rng(0).normal(size=(3, width)).astype(np.float32) * 2 for width in (2, 4, 5)
)


def a_detector(config=SMALL, frozen=True, classes=("a", "b", "c")):
    weights = tuple(map(jnp.asarray, WEIGHTS))
    found = pyramid_from_function(blocks, Preprocess(64), weights, strides=STRIDES, frozen=frozen)
    return init_detector(jax.random.key(1), found, config, classes)


@pytest.fixture(scope="module")
def small():
    return a_detector()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).integers(0, 256, (2, 36, 52, 3)).astype(np.uint8)


def convolved(x, kernel, bias):
    """3x3, padded by 1, pixel by pixel, in float64."""
    high, wide, _ = x.shape
    padded = np.pad(x.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((high, wide, kernel.shape[3]))
    for y in range(high):
        for z in range(wide):
            out[y, z] = np.einsum("ijc,ijcd->d", padded[y : y + 3, z : z + 3], kernel) + bias
    return out


def normed(x):
    """By mean and deviation of all that is there: one group."""
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


@pytest.mark.parametrize("norm", [None, "group"])
def test_the_pyramid_is_laid_together_as_lin_et_al_have_it(images, norm):
    """36 x 52 pixels: 9 x 13, 5 x 7 and 3 x 4 cells, where a doubled map is a row or column too large."""
    made = a_detector(replace(SMALL, norm=norm))
    params, net = made.params, made.net
    found = jax.jit(feature_maps, static_argnums=1)(params, net, jnp.asarray(images))
    assert [m.shape for m in found] == [(2, *shape, 3) for shape in level_shapes(36, 52, SMALL.anchors)]
    inputs = net.apply(params["pyramid"], net.preprocess.normalize(jnp.asarray(images)))
    fpn = jax.tree.map(np.asarray, params["fpn"])
    above = None
    for level in (2, 1, 0):
        side = fpn[f"lateral_{level}"]
        here = np.asarray(inputs[level][0], np.float64) @ side["kernel"] + side["bias"]
        if above is not None:
            for y in range(len(here)):
                for x in range(here.shape[1]):
                    here[y, x] += above[y // 2, x // 2]
        above = here
        out = fpn[f"output_{level}"]
        wanted = convolved(here, out["kernel"], out["bias"])
        np.testing.assert_allclose(found[level][0], wanted if norm is None else normed(wanted), atol=1e-4)


@pytest.mark.parametrize("kind", ["subsample", "conv"])
def test_one_more_level_for_proposals_alone(small, images, kind):
    """36 x 52 pixels at stride 32: 2 x 2 cells."""
    anchored = AnchorConfig(strides=(*STRIDES, 32))
    more = a_detector(replace(SMALL, p6=kind, anchors=anchored))
    assert ("p6" in more.params["fpn"]) == (kind == "conv")
    params = {**more.params, "fpn": {**more.params["fpn"], **small.params["fpn"]}}
    found = jax.jit(feature_maps, static_argnums=1)(params, more.net, jnp.asarray(images))
    assert [m.shape[1:3] for m in found] == list(level_shapes(36, 52, anchored))
    plain = jax.jit(feature_maps, static_argnums=1)(small.params, small.net, jnp.asarray(images))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), found[:3], plain)
    if kind == "subsample":
        wanted = plain[-1][:, ::2, ::2]
    else:
        inputs = more.net.apply(params["pyramid"], more.net.preprocess.normalize(jnp.asarray(images)))
        layer = jax.tree.map(np.asarray, params["fpn"]["p6"])
        wanted = np.stack([convolved(np.asarray(x), **layer)[::2, ::2] for x in inputs[-1]])
    np.testing.assert_allclose(found[-1], wanted, atol=1e-4)
    shapes = jax.eval_shape(lambda params: rpn(params, more.net, found), params)
    assert shapes.logits.shape == (2, len(anchors(36, 52, anchored)))
    boxes = jnp.asarray([[0.0, 0.0, 52.0, 36.0], [3.0, 3.0, 9.0, 9.0]])
    seen = pool(params, more.net, [m[0] for m in found], boxes)
    np.testing.assert_array_equal(seen, pool(params, small.net, [m[0] for m in found[:3]], boxes))


def test_outputs_of_the_rpn_are_in_the_order_of_the_anchors(small):
    """Each cell tells its centre and stride, and each ratio itself, through a network that hands them on."""
    height, width = 36, 52
    maps = []
    for stride, (rows, columns) in zip(STRIDES, level_shapes(height, width, SMALL.anchors), strict=True):
        y, x = np.mgrid[:rows, :columns].astype(np.float32)
        told = np.stack([(x + 0.5) * stride, (y + 0.5) * stride, np.full_like(x, stride)], axis=-1)
        maps.append(jnp.asarray(told[None]))
    through = np.zeros((3, 3, 3, 3), np.float32)
    through[1, 1] = np.eye(3)
    code, bias = np.zeros((3, 3, 4), np.float32), np.zeros((3, 4), np.float32)
    for ratio in range(3):
        code[:, ratio, :3] = np.eye(3)
        bias[ratio, 3] = SMALL.anchors.ratios[ratio]
    layers = {
        "conv": {"kernel": through, "bias": np.zeros(3, np.float32)},
        "logit": {
            "kernel": np.array([[1] * 3, [100] * 3, [0] * 3], np.float32),
            "bias": np.asarray(SMALL.anchors.ratios, np.float32),
        },
        "code": {"kernel": code.reshape(3, 12), "bias": bias.reshape(12)},
    }
    found = jax.jit(rpn, static_argnums=1)({"rpn": jax.tree.map(jnp.asarray, layers)}, small.net, maps)
    x1, y1, x2, y2 = np.asarray(anchors(height, width, SMALL.anchors)).T
    x, y, ratio = (x1 + x2) / 2, (y1 + y2) / 2, (y2 - y1) / (x2 - x1)
    stride = np.sqrt((x2 - x1) * (y2 - y1)) / SMALL.anchors.scale
    np.testing.assert_allclose(found.logits[0], x + 100 * y + ratio, rtol=1e-5)
    np.testing.assert_allclose(found.codes[0], np.stack([x, y, stride, ratio], axis=1), rtol=1e-4)


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def test_proposals_are_those_of_a_greedy_loop(small):
    rng = np.random.default_rng(3)
    places = np.asarray(anchors(36, 52, SMALL.anchors))
    logits = rng.normal(size=(3, len(places))).astype(np.float32)
    codes = (rng.normal(size=(3, len(places), 4)) * [0.3, 0.3, 0.5, 0.5]).astype(np.float32)
    codes[2, :, 3] = -20  # all too low to be proposed
    codes[2, 7] = 0  # but one
    logits[2, 7] = 9
    run = jax.jit(lambda logits, codes: propose(small.net, RPN(logits, codes), 36, 52))
    found = jax.tree.map(np.asarray, run(jnp.asarray(logits), jnp.asarray(codes)))
    for image in range(3):
        boxes = np.asarray(decode(jnp.asarray(codes[image]), jnp.asarray(places)), np.float64)
        boxes = np.clip(boxes, 0, [52, 36, 52, 36])
        kept = []
        for i in np.argsort(-logits[image], kind="stable")[:40]:
            wide = boxes[i, 2] - boxes[i, 0] >= 4 and boxes[i, 3] - boxes[i, 1] >= 4
            if wide and len(kept) < 12 and all(overlap(boxes[i], boxes[j]) <= 0.7 for j in kept):
                kept.append(i)
        count = len(kept)
        assert found.mask[image].tolist() == [True] * count + [False] * (12 - count)
        np.testing.assert_allclose(found.boxes[image, :count], boxes[kept], atol=1e-4)
        np.testing.assert_allclose(
            found.scores[image, :count], 1 / (1 + np.exp(-logits[image, kept])), rtol=1e-5
        )
        assert not found.boxes[image, count:].any()
        assert not found.scores[image, count:].any()
    assert found.mask.sum(axis=1).tolist() == [12, 12, 1]


def test_codes_of_boxes_come_back(small):
    rng = np.random.default_rng(4)
    low = rng.uniform(0, 20, (2, 9, 2))
    regions, boxes = jnp.asarray(
        np.concatenate([low, low + rng.uniform(3, 16, (2, 9, 2))], axis=-1).astype(np.float32)
    )
    codes = encode(boxes, regions, SMALL.box_stds)
    np.testing.assert_allclose(decoded(small.net, codes, regions, 36, 52), boxes, atol=1e-4)
    outside = decoded(small.net, codes, regions + 30.0, 36, 52)
    assert float(outside[:, [0, 2]].max()) <= 52
    assert float(outside[:, [1, 3]].max()) <= 36


def boxes_on_levels(seed=5, count=30):
    """Of sides from half a pixel to 60, some beyond the image, on maps of 36 x 52 pixels; and padding."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-9, 40, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.5, 60, (count, 2))], axis=1).astype(np.float32)
    boxes[-1] = 0
    maps = tuple(
        jnp.asarray(rng.normal(size=(*shape, 3)).astype(np.float32))
        for shape in level_shapes(36, 52, SMALL.anchors)
    )
    return maps, jnp.asarray(boxes)


def test_regions_are_pooled_as_roi_align_does_with_its_gradient(small):
    maps, boxes = boxes_on_levels()
    levels = roi_levels(boxes, 3, 16.0)
    assert {0, 1, 2} == set(np.asarray(levels).tolist())
    weight = jnp.asarray(np.random.default_rng(6).normal(size=(30, 2, 2, 3)).astype(np.float32))

    def value_and_gradient(pooled):
        return jax.jit(jax.value_and_grad(lambda maps: jnp.sum(pooled(maps) * weight)))(maps)

    scales = tuple(1 / stride for stride in STRIDES)
    wanted = value_and_gradient(lambda m: roi_align(list(m), boxes, 2, scales=scales, levels=levels))
    for pooled in (
        lambda m: align(m, boxes, levels, STRIDES, 2),
        lambda m: products(m, boxes, levels, STRIDES, 2),
        lambda m: pool({}, small.net, m, boxes),
    ):
        jax.tree.map(partial(np.testing.assert_allclose, atol=2e-4), value_and_gradient(pooled), wanted)


def test_deformable_pooling_starts_undeformed():
    config = replace(SMALL, roi="deformable")
    found = a_detector(config)
    assert found.params["offsets"]["kernel"].shape == (3, 12, 8)
    maps, boxes = boxes_on_levels()
    inclusive = boxes - jnp.asarray([[0.0, 0.0, 1.0, 1.0]])
    levels = roi_levels(boxes, 3, 16.0)
    scales = tuple(1 / stride for stride in STRIDES)
    wanted = jax.jit(
        lambda maps: deformable_roi_pool(list(maps), inclusive, None, 2, scales=scales, levels=levels)
    )(maps)
    pooled = jax.jit(lambda params, maps: pool(params, found.net, maps, boxes))
    np.testing.assert_allclose(pooled(found.params, maps), wanted, atol=1e-6)
    moved = jax.tree.map(lambda leaf: leaf + 1.0, found.params["offsets"])
    assert np.abs(np.asarray(pooled({**found.params, "offsets": moved}, maps) - wanted)).max() > 0.1


@pytest.mark.parametrize("norm", [None, "group"])
def test_dense_layers_are_products(norm):
    small = a_detector(replace(SMALL, norm=norm))
    pooled = np.random.default_rng(7).normal(size=(4, 2, 2, 3)).astype(np.float32)
    found = trunk(small.params, small.net, jnp.asarray(pooled))
    layers = jax.tree.map(np.asarray, small.params["trunk"])
    x = pooled.reshape(4, 12)
    for name in ("dense_0", "dense_1"):
        x = x @ layers[name]["kernel"] + layers[name]["bias"]
        x = np.maximum(x if norm is None else np.stack([normed(row) for row in x]), 0)
    np.testing.assert_allclose(found, x, atol=1e-4)
    box = jax.tree.map(np.asarray, small.params["box"])
    np.testing.assert_allclose(
        box_codes(small.params, small.net, found), x @ box["kernel"] + box["bias"], atol=1e-5
    )


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_reach_all_but_a_frozen_pyramid(images, frozen):
    found, (_, boxes) = a_detector(frozen=frozen), boxes_on_levels()

    @jax.jit
    @jax.grad
    def gradient(params):
        maps = feature_maps(params, found.net, jnp.asarray(images))
        features = region_features(params, found.net, maps, jnp.stack([boxes[:5], boxes[5:10]]))
        codes = box_codes(params, found.net, features.reshape(10, -1))
        return sum(jnp.sum(leaf**2) for leaf in (codes, *rpn(params, found.net, maps)))

    slopes = gradient({name: one for name, one in found.params.items() if name != "repmet"})
    for place, leaf in jax.tree_util.tree_leaves_with_path(slopes):
        name = jax.tree_util.keystr(place)
        assert np.isfinite(leaf).all(), name
        assert np.any(leaf != 0) == (not frozen or "pyramid" not in name), name


@pytest.mark.parametrize(("cells", "stride"), [((2, 2), 1), ((1, 3), 1), ((5, 6), 2), ((9, 7), 1)])
def test_convolutions_of_few_cells_are_the_same(cells, stride):
    rng = np.random.default_rng(8)
    x, w = (jnp.asarray(rng.normal(size=s).astype(np.float32)) for s in ((2, *cells, 4), (3, 3, 4, 5)))

    def both(run):
        return jax.jit(jax.value_and_grad(lambda x, w: jnp.sum(jnp.sin(run(x, w, stride))), argnums=(0, 1)))

    found, wanted = both(conv)(x, w), both(plain)(x, w)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels must be a whole number of at least 1, got 0"),
        ({"hardest": 0}, "hardest must be a whole number"),
        ({"hidden": ()}, "hidden must be a tuple of one or more widths"),
        ({"proposals": 700}, "proposals must not be above before_nms, got 700 of 600"),
        ({"proposal_nms": 1.5}, "proposal_nms must be 0 to 1, got 1.5"),
        ({"rpn_background": 0.8}, r"rpn_background must be 0 to rpn_foreground \(0.7\), got 0.8"),
        ({"region_foreground": 0.0}, "region_foreground must be above 0"),
        ({"ignored_overlap": 1.5}, "ignored_overlap must be above 0 and at most 1, got 1.5"),
        ({"canonical": 0.0}, "canonical must be above 0"),
        ({"box_stds": (0.1, 0.1, 0.0, 0.2)}, r"box_stds\[2\] must be above 0, got 0.0"),
        ({"box_weight": -1.0}, "box_weight must not be negative"),
        ({"least_score": 1.0}, "least_score must be 0 to below 1"),
        ({"head": RepMetConfig()}, "head must have a background"),
    ],
)
def test_a_config_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DetectorConfig(**options)


def test_values_of_other_types_are_refused(as_users_have_it):
    with pytest.raises(ValueError, match=r"box_stds must be a tuple \(a number, a number, "):
        DetectorConfig(box_stds=(0.1, 0.1))
    with pytest.raises(ValueError, match="roi must be align or deformable, got 'crop'"):
        DetectorConfig(roi="crop")
    with pytest.raises(ValueError, match="p6 must be subsample, conv or None, got 'max'"):
        DetectorConfig(p6="max")


@pytest.mark.parametrize(
    ("config", "classes", "message"),
    [
        (DetectorConfig(), ("a",), r"anchors.strides must be those of function, \(4, 8, 16\)"),
        (replace(SMALL, p6="conv"), ("a",), r"that of p6='conv', \(4, 8, 16, 32\), got \(4, 8, 16\)"),
        (SMALL, (), "classes must be one or more different names"),
        (SMALL, ("a", "b", "a"), "different names, got 'a', 'b', 'a'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(config, classes, message):
    with pytest.raises(ValueError, match=message):
        a_detector(config, classes=classes)
