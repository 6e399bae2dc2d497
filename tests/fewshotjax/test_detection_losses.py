"""The detector's losses against loops over boxes, with padding, ties and images that show nothing."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.backbones import Preprocess
from fewshotjax.detection import AnchorConfig, anchors
from fewshotjax.detection.config import DetectorConfig
from fewshotjax.detection.detector import (
    box_codes,
    feature_maps,
    init_detector,
    pool,
    propose,
    rpn,
    trunk,
)
from fewshotjax.detection.losses import Truth, detector_loss
from fewshotjax.detection.pyramids import pyramid_from_function
from fewshotjax.detection.region_losses import (
    RegionLosses,
    Targets,
    keep_hardest,
    region_losses,
    region_targets,
)
from fewshotjax.detection.rpn_losses import rpn_sums, smooth_l1
from fewshotjax.repmet_model import RepMetConfig, init_repmet

SIDE, N = 32, 3  # pixels; classes
HEAD = RepMetConfig(
    modes=2, embedding=6, posterior="softmax", background=True, linear_weight=0.5, embedding_weight=2.0
)
CONFIG = DetectorConfig(
    channels=4,
    anchors=AnchorConfig(strides=(8, 16), scale=2.0),
    before_nms=40,
    proposals=10,
    roi_size=2,
    hidden=(8,),
    head=HEAD,
    rpn_foreground=0.5,
    rpn_samples=200,  # all that are no "ignore"
    rpn_weight=1.5,
    rpn_box_weight=0.7,
    class_weight=1.25,
    box_weight=0.8,
    hardest=6,
)


def patches(params, x):
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 8, 8, width // 8, 8, channels).mean((2, 4))
    fine = jnp.tanh(jnp.einsum("bhwc,cd->bhwd", x, params["fine"]))
    coarse = fine.reshape(batch, height // 16, 2, width // 16, 2, -1).mean((2, 4))
    return fine, jnp.tanh(jnp.einsum("bhwc,cd->bhwd", coarse, params["coarse"]))


@pytest.fixture(scope="module")
def detector():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "fine": jax.random.normal(keys[0], (3, 4)),
        "coarse": jax.random.normal(keys[1], (4, 5)),
    }
    found = pyramid_from_function(patches, Preprocess(SIDE), params, strides=(8, 16), frozen=False)
    made = init_detector(keys[2], found, CONFIG, ("a", "b", "c"))
    # Louder last layers: proposals and classes that differ.
    louder = {name: jax.tree.map(lambda leaf: 30 * leaf, made.params[name]) for name in ("rpn", "box")}
    return replace(made, params={**made.params, **louder})


def batch_of(seed, nothing=False):
    """Three images: two with boxes, of which a pair is the same box twice, one without."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 16, (3, 4, 2))
    boxes = np.concatenate([low, low + rng.integers(6, 17, (3, 4, 2))], axis=-1).astype(np.float32)
    boxes[0, 1] = boxes[0, 0]
    shown = np.array([[True, True, True, False], [False, True, False, False], [False] * 4])
    shown &= not nothing
    boxes, labels = boxes * shown[..., None], rng.integers(0, N, (3, 4)) * shown
    images = rng.integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)
    truth = Truth(jnp.asarray(boxes), jnp.asarray(labels, jnp.int32), jnp.asarray(shown))
    return jnp.asarray(images), truth


def overlap(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0.0) * max(h, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def coded(box, anchor, stds=(1, 1, 1, 1)):
    w, h, w_a, h_a = box[2] - box[0], box[3] - box[1], anchor[2] - anchor[0], anchor[3] - anchor[1]
    moves = ((box[0] + box[2] - anchor[0] - anchor[2]) / 2 / w_a,)
    moves += ((box[1] + box[3] - anchor[1] - anchor[3]) / 2 / h_a,)
    return np.array([*moves, np.log(w / w_a), np.log(h / h_a)]) / stds


def smooth(x, sigma):
    x = abs(x)
    return 0.5 * (sigma * x) ** 2 if x < 1 / sigma**2 else x - 0.5 / sigma**2


def loop_anchors(logits, codes, places, boxes, shown, config=CONFIG):
    """(objectness, box, sampled, foreground) where all anchors are sampled."""
    true = [box for box, there in zip(boxes, shown, strict=True) if there]
    iou = np.array([[overlap(place, box) for box in true] for place in places]).reshape(len(places), -1)
    best = {int(np.argmax(column)) for column in iou.T if column.max() > 0}
    sums = np.zeros(4)
    for a, place in enumerate(places):
        most = iou[a].max(initial=0.0)
        if most >= config.rpn_foreground or a in best:
            wanted = coded(true[int(np.argmax(iou[a]))], place)
            away = sum(smooth(x, config.rpn_sharpness) for x in codes[a] - wanted)
            sums += [np.log1p(np.exp(-logits[a])), away, 1, 1]
        elif most < config.rpn_background:
            sums += [np.log1p(np.exp(logits[a])), 0, 1, 0]
    return sums


def loop_targets(proposals, mask, boxes, labels, shown, config=CONFIG):
    """(box, label, code, foreground) of each region that exists."""
    true = [(box, label) for box, label, there in zip(boxes, labels, shown, strict=True) if there]
    regions = [box for box, there in zip(proposals, mask, strict=True) if there] + [box for box, _ in true]
    found = []
    for region in regions:
        iou = [overlap(region, box) for box, _ in true]
        hit = bool(iou) and max(iou) >= config.region_foreground
        box, label = true[int(np.argmax(iou))] if hit else (None, N)
        code = coded(box, region, config.box_stds) if hit else np.zeros(4)
        found.append((region, int(label), code, hit))
    return found


def loop_region(params, feature, code, label, wanted, front, config=CONFIG):
    """(posterior, embedding, linear, box) and the likeliest class of one region."""
    head, tree = config.head, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    dense = tree["head"]["Dense_0"]
    e = feature @ dense["kernel"] + dense["bias"]
    e /= np.sqrt((e**2).sum())
    modes = tree["modes"] / np.sqrt((tree["modes"] ** 2).sum(-1, keepdims=True))
    d = ((e - modes) ** 2).sum(-1)  # (N, K)
    p = np.exp(-d / (2 * head.sigma**2)).max(1)
    scores = head.scale * (np.append(p, 1 - p.max()) + 1e-7)
    log_p = scores - np.log(np.exp(scores).sum())
    losses = np.array([-log_p[label], 0.0, 0.0, 0.0])
    if front:
        others = min(d[n].min() for n in range(N) if n != label)
        logits = feature @ tree["linear"]["kernel"] + tree["linear"]["bias"]
        linear = np.log(np.exp(logits).sum()) - logits[label]
        box = sum(smooth(x, config.box_sharpness) for x in code - wanted)
        losses[1:] = max(0.0, d[label].min() - others + head.margin), linear, box
    return losses, int(np.argmax(log_p)), log_p[N]


def loop_apart(modes):
    modes = modes / np.sqrt((modes**2).sum(-1, keepdims=True))
    each = []
    for n in range(N):
        for k in range(modes.shape[1]):
            d = ((modes - modes[n, k]) ** 2).sum(-1)
            each.append(max(0.0, 0.5 + d[n].max() - min(d[m].min() for m in range(N) if m != n)))
    return np.mean(each)


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_smooth_l1_and_its_slope(sigma):
    x = np.array([-2.0, -1.0, -0.12, 0.0, 0.05, 1 / 9, 0.3, 1.0, 5.0], np.float32)
    found = smooth_l1(jnp.asarray(x), sigma)
    np.testing.assert_allclose(found, [smooth(one, sigma) for one in x], rtol=1e-5)
    slope = jax.vmap(jax.grad(partial(smooth_l1, sigma=sigma)))(jnp.asarray(x))
    np.testing.assert_allclose(slope, np.clip(x * sigma**2, -1, 1), rtol=1e-5)


def test_anchors_losses_are_those_of_a_loop():
    places = np.asarray(anchors(SIDE, SIDE, CONFIG.anchors))
    sums = jax.jit(rpn_sums, static_argnums=(1, 7))
    for seed in range(4):
        _, truth = batch_of(seed)
        logits = jax.random.normal(jax.random.key(seed), (len(places),))
        codes = 0.3 * jax.random.normal(jax.random.key(seed + 9), (len(places), 4))
        for row in range(3):
            boxes, _, shown = (one[row] for one in truth[:3])
            args = (logits, codes, boxes, shown)
            key = jax.random.key(row)
            found = sums(key, CONFIG, jnp.asarray(places), *args, (SIDE, SIDE))
            wanted = loop_anchors(*map(np.asarray, (logits, codes, places, boxes, shown)))
            np.testing.assert_allclose(found, wanted, rtol=1e-4)
            if row == 0:
                few = replace(CONFIG, rpn_samples=10, rpn_border=0.0)
                some = sums(key, few, jnp.asarray(places), *args, (SIDE, SIDE))
                assert some.sampled <= 10
                assert some.foreground <= 5
                assert some.sampled < found.sampled


targets_of = jax.jit(region_targets, static_argnums=(0, 1))
losses_of = jax.jit(region_losses, static_argnums=1)


@pytest.mark.parametrize("seed", range(4))
def test_regions_losses_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    _, truth = batch_of(seed)
    params = init_repmet(jax.random.key(seed), HEAD, 8, N)
    for row in range(3):
        boxes, labels, shown = (np.asarray(one[row]) for one in truth[:3])
        low = rng.integers(0, 16, (9, 2))
        proposals = np.concatenate([low, low + rng.integers(4, 17, (9, 2))], 1).astype(np.float32)
        proposals[:2], mask = boxes[1] + np.float32([[0], [1]]), np.arange(9) < 7
        found = targets_of(CONFIG, N, *map(jnp.asarray, (proposals, mask, boxes, labels, shown)))
        wanted = loop_targets(proposals, mask, boxes, labels, shown)
        there = np.asarray(found.mask)
        assert there.tolist() == [*mask, *shown]
        np.testing.assert_array_equal(found.boxes[there], [one[0] for one in wanted])
        np.testing.assert_array_equal(found.labels[there], [one[1] for one in wanted])
        np.testing.assert_allclose(found.codes[there], [one[2] for one in wanted], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found.foreground[there], [one[3] for one in wanted])
        assert not np.asarray(found.foreground)[~there].any()
        features = rng.normal(size=(13, 8)).astype(np.float32)
        codes = rng.normal(size=(13, 4)).astype(np.float32)
        each = losses_of(params, CONFIG, jnp.asarray(features), jnp.asarray(codes), found)
        index = iter(wanted)
        for r in range(13):
            got = np.array([each.posterior[r], each.embedding[r], each.linear[r], each.box[r]])
            if not there[r]:
                assert not got.any()
                continue
            _, label, code, front = next(index)
            losses, likeliest, none = loop_region(params, features[r], codes[r], label, code, front)
            np.testing.assert_allclose(got, losses, rtol=2e-4, atol=2e-5)
            np.testing.assert_allclose(each.background[r], none, rtol=1e-4, atol=1e-5)
            assert bool(each.right[r]) == (likeliest == label)


def test_the_hardest_are_those_of_a_stable_sort():
    """By posterior and box loss, the others do not rank; ties to the lowest index, padding last."""
    rng = np.random.default_rng(0)
    for seed in range(5):
        mask = rng.random(9) < (0.3 if seed == 0 else 0.8)
        posterior, box = (rng.integers(0, 3, 9).astype(np.float32) for _ in range(2))
        other = 100 * rng.random(9).astype(np.float32)
        losses = RegionLosses(*map(jnp.asarray, (posterior, other, other, box, other, mask)))
        boxes = jnp.asarray(rng.random((9, 4)).astype(np.float32))
        front = jnp.asarray(mask & (rng.random(9) < 0.5))
        targets = Targets(boxes, jnp.arange(9), boxes, front, jnp.asarray(mask))
        kept = keep_hardest(targets, losses, 5)
        order = np.argsort(np.where(mask, -(posterior + box), np.inf), kind="stable")[:5]
        there = np.asarray(kept.mask)
        assert there.tolist() == mask[order].tolist()
        np.testing.assert_array_equal(kept.labels[there], order[there])
        np.testing.assert_array_equal(kept.boxes[there], boxes[order[there]])
        np.testing.assert_array_equal(kept.foreground, np.asarray(front)[order] & there)


@partial(jax.jit, static_argnums=2)
def loss_of(key, params, net, images, truth):
    return jax.value_and_grad(lambda one: detector_loss(key, one, net, images, truth), has_aux=True)(params)


@partial(jax.jit, static_argnums=1)
def seen_by(params, net, images, truth):
    """What the network says: everything that the losses are told."""
    maps = feature_maps(params, net, images)
    found = rpn(params, net, maps)
    proposals = propose(net, found, SIDE, SIDE)
    boxes = jnp.concatenate([proposals.boxes, truth.boxes], axis=1)
    features = [trunk(params, net, pool(params, net, [m[row] for m in maps], boxes[row])) for row in range(3)]
    return found, proposals, jnp.stack(features), jnp.stack([box_codes(params, net, f) for f in features])


@pytest.mark.parametrize("mined", [pytest.param(True, marks=pytest.mark.long), False])
def test_the_whole_loss_is_that_of_a_loop(detector, mined):
    """With the others' options in the second case, for few compilations."""
    config, apart = CONFIG, 0.0
    if not mined:
        head = replace(HEAD, representative_weight=2.0)
        config = replace(CONFIG, hardest=None, per_foreground=False, head=head)
        apart = loop_apart(np.asarray(detector.params["repmet"]["modes"]))
    net, params = replace(detector.net, config=config), detector.params
    images, truth = batch_of(1)
    if mined:  # compiled for other tests, too
        (loss, told), _ = loss_of(jax.random.key(0), params, net, images, truth)
    else:
        alone = jax.jit(detector_loss, static_argnums=2)
        loss, told = alone(jax.random.key(0), params, net, images, truth)
    found, proposals, features, codes = jax.tree.map(np.asarray, seen_by(params, net, images, truth))
    boxes, labels, shown = map(np.asarray, truth[:3])
    places, first, regions, fronts, met, right, lost = (
        np.asarray(anchors(SIDE, SIDE, CONFIG.anchors)),
        0,
        [],
        0,
        0,
        0,
        0,
    )
    for row in range(3):
        first = first + loop_anchors(found.logits[row], found.codes[row], places, boxes[row], shown[row])
        targets = loop_targets(proposals.boxes[row], proposals.mask[row], boxes[row], labels[row], shown[row])
        there = np.flatnonzero([*proposals.mask[row], *shown[row]])
        each = []
        for r, (_, label, code, front) in zip(there, targets, strict=True):
            of = loop_region(params["repmet"], features[row, r], codes[row, r], label, code, front)
            each.append((*of, label, front))
        if mined:
            rank = np.argsort([-(one[0][0] + one[0][3]) for one in each], kind="stable")[:6]
            each = [each[i] for i in rank]
        regions += [one[0] for one in each]
        fronts += sum(one[4] for one in each)
        right += sum(one[4] and one[1] == one[3] for one in each)
        lost += sum(one[4] and one[2] > np.log(0.999) for one in each)
        for g in np.flatnonzero(shown[row]):
            offered = proposals.boxes[row][proposals.mask[row]]
            met += any(overlap(box, boxes[row, g]) >= 0.5 for box in offered)
    posterior, embedding, linear, box = np.sum(regions, axis=0)
    kept, many = len(regions), fronts if mined else len(regions)
    assert 0 < fronts < kept
    wanted = {
        "objectness": first[0] / first[2],
        "anchor_box": first[1] / first[2],
        "posterior": posterior / kept,
        "embedding": embedding / many,
        "linear": linear / many,
        "box": box / kept,
        "apart": apart,
        "anchors": first[3] / 3,
        "foreground": fronts / 3,
        "right": right / fronts,
        "lost": lost / fronts,
        "recall": met / shown.sum(),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(getattr(told, name), value, rtol=2e-4, atol=1e-5, err_msg=name)
    weights = {"objectness": 1.5, "anchor_box": 0.7, "posterior": 1.25, "box": 0.8}
    weights |= {"embedding": 1.25 * 2.0, "linear": 1.25 * 0.5, "apart": 1.25 * 2.0}
    assert loss == told.loss
    np.testing.assert_allclose(loss, sum(w * wanted[name] for name, w in weights.items()), rtol=1e-4)


def test_a_batch_without_boxes_trains_background_alone(detector):
    images, truth = batch_of(0, nothing=True)
    (loss, told), slopes = loss_of(jax.random.key(0), detector.params, detector.net, images, truth)
    for name in ("anchor_box", "embedding", "linear", "box", "anchors", "foreground", "lost"):
        assert getattr(told, name) == 0, name
    assert told.recall == 1
    assert 0 < loss == pytest.approx(1.5 * told.objectness + 1.25 * told.posterior)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    zero = [slopes["box"], slopes["repmet"]["linear"], slopes["rpn"]["code"]]
    assert not any(leaf.any() for leaf in jax.tree.leaves(zero))
    assert all(
        np.any(slopes[name]["conv" if name == "rpn" else "output_0"]["kernel"]) for name in ("rpn", "fpn")
    )


def test_padding_has_no_say_and_gradients_are_finite(detector):
    images, truth = batch_of(2)
    args = (jax.random.key(0), detector.params, detector.net, images)
    (loss, told), slopes = loss_of(*args, truth)
    hidden = ~truth.shown
    other = truth._replace(
        boxes=jnp.where(hidden[..., None], jnp.asarray([[[1.0, 2.0, 30.0, 31.0]]]), truth.boxes),
        labels=jnp.where(hidden, 2, truth.labels),
    )
    (again, told_again), slopes_again = loss_of(*args, other)
    assert loss == again
    assert told == told_again
    for a, b in zip(*map(jax.tree.leaves, (slopes, slopes_again)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()
        assert np.any(a)  # every parameter is trained
