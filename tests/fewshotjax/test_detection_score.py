"""From support boxes to detections against a plain NumPy retelling of the whole chain."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.backbones import Preprocess
from fewshotjax.detection import methods
from fewshotjax.detection.config import DetectorConfig
from fewshotjax.detection.detector import Net
from fewshotjax.detection.regions import Regions
from fewshotjax.detection.score import Scoring, score_regions, scoring_of, suppress
from fewshotjax.detection.support import SupportBoxes, SupportConfig
from fewshotjax.repmet_model import RepMetConfig, init_repmet

WAYS, SHOTS, R, F, D, BASE, IMAGES, K = 3, 2, 20, 6, 4, 5, 4, 12
HEAD = RepMetConfig(modes=2, embedding=D, posterior="softmax", background=True)
NET = Net(
    DetectorConfig(hidden=(F,), head=HEAD, per_image=K),
    max,
    Preprocess(64),
    (4, 8, 16, 32),
    (1, 1, 1, 1),
    True,
)
PARAMS = {"repmet": init_repmet(jax.random.key(0), HEAD, F, BASE)}
SIZE = (64, 64)


def some_regions(rng, count):
    """Many boxes overlap; coordinates are multiples of 1/8, so that areas are exact."""
    corner = rng.integers(0, 4, (count, R, 2)) * 10 + rng.integers(-24, 25, (count, R, 2)) / 8
    boxes = np.concatenate([corner, corner + 16 + rng.integers(0, 33, (count, R, 2)) / 8], axis=2)
    mask = rng.random((count, R)) < 0.9
    features = rng.normal(size=(count, R, F))
    return Regions(
        *(jnp.asarray(x, jnp.float32) for x in (boxes, boxes - 1, features, rng.random((count, R)))),
        jnp.asarray(mask),
    )


def some_support(rng):
    regions = some_regions(rng, WAYS * SHOTS)
    boxes = regions.proposals[:, 3] + jnp.asarray([[0.0, 0.0, 1.0, 1.0]])
    return SupportBoxes(
        jnp.asarray(rng.normal(size=(WAYS * SHOTS, F)), jnp.float32),
        boxes,
        jnp.repeat(jnp.arange(WAYS), SHOTS),
        jnp.arange(WAYS * SHOTS),
        regions,
        jnp.full(WAYS, -1),
    )


def iou(a, b):
    both = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embedded(x):
    dense = PARAMS["repmet"]["head"]["Dense_0"]
    return unit(np.asarray(x, np.float64) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]))


def examples(shown):
    """Of each class the embeddings of its boxes and of the best region on each, IoU ≥ .7."""
    found = [[] for _ in range(WAYS)]
    for b, label in enumerate(np.asarray(shown.labels)):
        found[label].append(embedded(shown.features[b]))
        overlap = [
            iou(np.asarray(shown.boxes[b]), one) if there else 0.0
            for one, there in zip(
                np.asarray(shown.regions.proposals[b]), np.asarray(shown.regions.mask[b]), strict=True
            )
        ]
        if max(overlap) >= np.float32(0.7):
            found[label].append(embedded(shown.regions.features[b, int(np.argmax(overlap))]))
    return found


def softmax_posterior(e, modes, erased=0):
    """(classes, background) of one embedding, with so many erased classes at the constant vector."""
    constant = np.full(len(e), len(e) ** -0.5)
    if erased:
        modes = [[*own, constant] for own in modes]  # one stands for all missing ones
    best = [max(np.exp(-((e - m) ** 2).sum() / (2 * 0.5**2)) for m in own) for own in modes]
    best += erased * [np.exp(-((e - constant) ** 2).sum() / (2 * 0.5**2))]
    logits = 15 * np.array([*(b + 1e-7 for b in best), 1 + 1e-7 - max(best)])
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return p[:WAYS], p[-1]


def greedy(boxes, scores, threshold):
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] > 0 and all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def retold(shown, regions, image, erased=0):
    """(score, label, region, background), the surest first."""
    modes, boxes = examples(shown), np.asarray(regions.boxes[image])
    p, none = np.zeros((R, WAYS)), np.zeros(R)
    for r in range(R):
        if regions.mask[image, r]:
            p[r], none[r] = softmax_posterior(embedded(regions.features[image, r]), modes, erased)
    rows = [(p[r, c], c, r, none[r]) for c in range(WAYS) for r in greedy(boxes, p[:, c], 0.3)]
    return sorted(rows, key=lambda row: -row[0])[:K]


def test_the_whole_chain_equals_a_plain_retelling():
    method = methods.repmet(NET)

    @jax.jit
    def run(shown, regions):
        model = method.fit(jax.random.key(0), PARAMS, shown, WAYS)
        return jax.vmap(lambda some: score_regions(method, PARAMS, model, NET, some, SIZE))(regions)

    for seed in range(2):
        rng = np.random.default_rng(seed)
        shown, regions = some_support(rng), some_regions(rng, IMAGES)
        found = jax.device_get(run(shown, regions))
        assert found.boxes.shape == (IMAGES, K, 4)
        for image in range(IMAGES):
            rows = retold(shown, regions, image)
            assert found.valid[image].sum() == len(rows)
            scores, labels, places, none = (np.array(x) for x in zip(*rows, strict=True))
            there = slice(0, len(rows))
            np.testing.assert_allclose(found.scores[image, there], scores, rtol=2e-5)
            np.testing.assert_array_equal(found.labels[image, there], labels)
            np.testing.assert_array_equal(found.region[image, there], places)
            np.testing.assert_allclose(found.background[image, there], none, rtol=2e-4)
            np.testing.assert_array_equal(found.boxes[image, there], np.asarray(regions.boxes)[image][places])


def test_fillers_take_part_in_the_posterior():
    """Erased classes and missing modes as constants, as the authors' code has them."""
    rng = np.random.default_rng(0)
    shown, regions = some_support(rng), some_regions(rng, 1)
    log_p, none = scores_of(methods.repmet(NET, SupportConfig(compat_filler=True)), shown, regions)
    assert log_p.shape == (R, WAYS + BASE)
    modes, plain, filled = examples(shown), [], []
    for r in range(R):
        e = embedded(regions.features[0, r])
        p, bg = softmax_posterior(e, modes, BASE)
        np.testing.assert_allclose(np.exp(log_p[r, :WAYS]), p, rtol=2e-4)
        np.testing.assert_allclose(np.exp(none[r]), bg, rtol=2e-4)
        plain.append(softmax_posterior(e, modes)[0])
        filled.append(p)
    ratio = np.array(filled) / np.array(plain)
    assert ratio.max() > 1.05  # of the class whose missing modes are near


def test_suppression_caps_ties_and_thresholds():
    boxes = jnp.asarray(
        [[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [40, 40, 50, 50], [5, 5, 5, 5]], jnp.float32
    )
    p = jnp.asarray([[0.5, 0.5], [0.6, 0.4], [0.5, 0.1], [0.05, jnp.nan], [0.9, 0.9]])
    mask = jnp.asarray([True, True, True, True, False])
    run = jax.jit(suppress, static_argnums=4)
    found = run(jnp.log(p), None, boxes, mask, Scoring(0.3, 6, 0.05))
    assert found.background is None
    # Class 0: box 1 suppresses 0; 2 stays; 3 is at the threshold, not above it. Class 1: 0 suppresses 1; 2.
    np.testing.assert_array_equal(found.valid, [True] * 4 + [False] * 2)
    np.testing.assert_array_equal(found.region[:4], [1, 2, 0, 2])  # of equal scores the lower class first
    np.testing.assert_array_equal(found.labels[:4], [0, 0, 1, 1])
    np.testing.assert_allclose(found.scores[:4], [0.6, 0.5, 0.5, 0.1], rtol=1e-6)
    few = run(jnp.log(p), None, boxes, mask, Scoring(0.3, 2, 0.05))
    np.testing.assert_array_equal(few.region, [1, 2])
    flat = run(jnp.log(p), None, boxes.at[2, 3].set(20), mask, Scoring(0.3, 2, 0.05))
    np.testing.assert_array_equal(flat.region, [1, 0])  # a box without height is no detection
    none = run(jnp.full((5, 2), -jnp.inf), None, boxes, mask, Scoring(0.3, 2, 0.05))
    assert not none.valid.any()


def test_boxes_of_a_model_are_decoded_from_the_proposals_and_cut():
    base = methods.repmet(NET)
    codes = jnp.asarray([[1.0, 0.0, 0.0, 0.0]])
    method = base._replace(
        predict=lambda params, model, x, objectness: (jnp.log(jnp.full((R, 2), 0.5)), None),
        codes=lambda params, model, x: jnp.broadcast_to(codes, (R, 4)),
    )
    regions = jax.tree.map(lambda leaf: leaf[0], some_regions(np.random.default_rng(0), 1))
    found = jax.jit(lambda some: score_regions(method, PARAMS, None, NET, some, SIZE))(regions)
    proposals = np.asarray(regions.proposals)[np.asarray(found.region)]
    shift = 0.1 * (proposals[:, 2] - proposals[:, 0])
    wanted = np.clip(proposals + np.stack([shift, 0 * shift, shift, 0 * shift], axis=1), 0, 64)
    np.testing.assert_allclose(found.boxes, wanted, atol=1e-4)


@pytest.mark.usefixtures("as_users_have_it")
def test_messages():
    assert scoring_of(NET.config) == Scoring(0.3, K, 0.0)
    for options, message in (
        ({"nms": 2.0}, "nms must be 0 to 1"),
        ({"per_image": 0}, "per_image must be at least 1"),
        ({"least_score": 1.0}, "least_score must be 0 to below 1"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(Scoring(), **options)
    with pytest.raises(ValueError, match="method must be one of repmet, class_mean"):
        methods.detection_method("best", NET)
    with pytest.raises(ValueError, match="method linear: "):
        methods.detection_method("linear", NET, rate=1)
    with pytest.raises(ValueError, match="name 'repmet' is taken"):
        methods.register_detection_method("repmet", methods.repmet)
    for options, message in (
        ({"steps": 0}, "steps and regions must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
        ({"share": 1.0}, "share must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            methods.linear(NET, **options)
        with pytest.raises(ValueError, match=message):
            methods.fine_tuned(NET, **options)


def test_one_method_however_its_defaults_are_written():
    config = SupportConfig()
    for maker in (methods.repmet, methods.class_mean, methods.nearest, methods.prototype_regions):
        assert maker(NET) is maker(NET, None) is maker(NET, config) is maker(NET, support=config)
    assert methods.linear(NET) is methods.linear(NET, steps=200)
    assert methods.fine_tuned(NET) is methods.fine_tuned(NET, share=0.5)
    assert methods.trained(NET) is methods.trained(NET, keep_base=False)


def scores_of(method, shown, regions, params=PARAMS):
    """(log-probabilities, background) of one image's regions."""

    @jax.jit
    def run(shown, regions):
        model = method.fit(jax.random.key(0), params, shown, WAYS)
        return method.predict(params, model, regions.features, regions.objectness)

    return jax.device_get(run(shown, jax.tree.map(lambda leaf: leaf[0], regions)))


def test_class_means_and_nearest_and_prototypes():
    rng = np.random.default_rng(5)
    shown, regions = some_support(rng), some_regions(rng, 1)
    modes = examples(shown)
    means = [np.mean(own, axis=0) for own in modes]
    e = embedded(regions.features[0])
    for method, own in (
        (methods.class_mean(NET), [[unit(m)] for m in means]),
        (methods.nearest(NET), modes),
    ):
        log_p, none = scores_of(method, shown, regions)
        for r in range(R):
            p, bg = softmax_posterior(e[r], own)
            np.testing.assert_allclose(np.exp(log_p[r]), p, rtol=2e-4)
            np.testing.assert_allclose(np.exp(none[r]), bg, rtol=2e-4)
    log_p, _ = scores_of(methods.prototype_regions(NET), shown, regions)
    for r in range(R):
        p = np.exp([-((e[r] - m) ** 2).sum() / 0.5 for m in means])
        p *= np.asarray(regions.objectness)[0, r] / p.sum()
        np.testing.assert_allclose(np.exp(log_p[r]), p, rtol=2e-4)
    learned = {"repmet": {**PARAMS["repmet"], "log_sigma": jnp.log(jnp.float32(0.3))}}
    log_p, _ = scores_of(methods.prototype_regions(NET), shown, regions, learned)
    p = np.exp([-((e[0] - m) ** 2).sum() / (2 * 0.3**2) for m in means])
    np.testing.assert_allclose(np.exp(log_p[0]), p * regions.objectness[0, 0] / p.sum(), rtol=2e-4)
    raw, _ = scores_of(methods.external(NET, SupportConfig(regions=0), normalize=False), shown, regions)
    own = np.asarray(shown.features, np.float64).reshape(WAYS, SHOTS, F)
    x = unit(np.asarray(regions.features[0], np.float64))
    for r in range(0, R, 5):
        p, _ = softmax_posterior(x[r], [[unit(some).mean(axis=0)] for some in own])
        np.testing.assert_allclose(np.exp(raw[r]), p, rtol=2e-4)


def test_trained_representatives_of_known_classes():
    rng = np.random.default_rng(6)
    shown, regions = some_support(rng)._replace(classes=jnp.asarray([4, 0, 2])), some_regions(rng, 1)
    base = unit(np.asarray(PARAMS["repmet"]["modes"], np.float64))
    log_p, _ = scores_of(methods.trained(NET), shown, regions)
    every, _ = scores_of(methods.trained(NET, keep_base=True), shown, regions)
    assert every.shape == (R, WAYS + BASE)
    assert (np.exp(every[:, [WAYS + 4, WAYS, WAYS + 2]]) == 0).all()  # already among the first
    e = embedded(regions.features[0])
    for r in range(0, R, 5):
        p, _ = softmax_posterior(e[r], base[[4, 0, 2]])
        np.testing.assert_allclose(np.exp(log_p[r]), p, rtol=2e-4)
        p, _ = softmax_posterior(e[r], base[[4, 0, 2, 1, 3]])
        np.testing.assert_allclose(np.exp(every[r, :WAYS]), p, rtol=2e-4)
