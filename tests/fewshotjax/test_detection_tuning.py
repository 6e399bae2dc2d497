"""Fine-tuning in the episode against descent by hand, with slopes from finite differences."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.backbones import Preprocess
from fewshotjax.detection import methods
from fewshotjax.detection.anchors import AnchorConfig
from fewshotjax.detection.augmentation import (
    AUTHORS_AUGMENTATION,
    augmented,
    draw_warp,
    warped_boxes,
    warped_image,
)
from fewshotjax.detection.config import DetectorConfig
from fewshotjax.detection.data.boxed import boxed
from fewshotjax.detection.detector import Net, init_detector
from fewshotjax.detection.episodes import draw_detection_episodes
from fewshotjax.detection.pool import detection_pool, floor_pool
from fewshotjax.detection.pyramids import pyramid_from_function
from fewshotjax.detection.queries import centred, frame_regions, mosaic_queries
from fewshotjax.detection.regions import Regions, box_features, find_regions
from fewshotjax.detection.support import SupportBoxes, SupportConfig
from fewshotjax.detection.targets import support_targets
from fewshotjax.detection.task import compare_detection
from fewshotjax.detection.tuning import DetectionTuning, _descend, tune
from fewshotjax.repmet_model import RepMetConfig, init_repmet
from fewshotjax.representatives import Representatives

WAYS, SHOTS, R, F, D = 2, 2, 6, 4, 3
HEAD = RepMetConfig(modes=2, embedding=D, posterior="softmax", background=True, scale=3.0)
CONFIG = DetectorConfig(hidden=(F,), head=HEAD, hardest=None)
NET = Net(CONFIG, max, Preprocess(64), (4, 8, 16, 32), (1, 1, 1, 1), True)
RNG = np.random.default_rng(1)
PARAMS = {
    "repmet": init_repmet(jax.random.key(0), HEAD, F, 3),
    "box": {"kernel": jnp.asarray(RNG.normal(size=(F, 4)), jnp.float32), "bias": jnp.zeros(4)},
}


def some_support(missing=False):
    rng = np.random.default_rng(2)
    count = WAYS * SHOTS
    boxes = np.array([[0, 0, 16, 16], [20, 20, 40, 44], [0, 0, 16, 16], [8, 8, 30, 24]], np.float32)
    proposals = boxes[:, None] + rng.integers(-40, 41, (count, R, 4)) / 8
    proposals[:, 0] = [50, 50, 60, 60]
    proposals[1, 1] = [0, 0, 16, 15]  # on the other box of photograph 0
    regions = Regions(
        *(jnp.zeros((count, R, 4)), jnp.asarray(proposals, jnp.float32)),
        jnp.asarray(rng.normal(size=(count, R, F)), jnp.float32),
        jnp.asarray(rng.random((count, R)), jnp.float32),
        jnp.asarray(rng.random((count, R)) < 0.9).at[:, :2].set(True),
    )
    labels = [0, 1, 0, 1] if not missing else [0, 1, 0, WAYS]
    return SupportBoxes(
        jnp.asarray(rng.normal(size=(count, F)), jnp.float32),
        jnp.asarray(boxes),
        jnp.asarray(labels),
        jnp.asarray([0, 0, 1, 2]),
        regions,
        jnp.full(WAYS, -1),
    )


FOUND = Representatives(
    jnp.asarray(RNG.normal(size=(WAYS, 3, D)) / 2, jnp.float32),
    jnp.asarray([[True, True, False], [True, False, False]]),
)


def iou(a, b):
    both = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)


def labels_of(shown, b):
    """Of the regions of box b's photograph, and of the box itself; None: not there."""
    found = []
    own = [*np.asarray(shown.regions.proposals[b]), np.asarray(shown.boxes[b])]
    there = [*np.asarray(shown.regions.mask[b]), True]
    for box, exists in zip(own, there, strict=True):
        if not exists or shown.labels[b] == WAYS:
            found.append(None)
            continue
        best, label = 0.0, WAYS
        for other in range(WAYS * SHOTS):
            same = shown.photograph[other] == shown.photograph[b] and shown.labels[other] < WAYS
            overlap = iou(box, np.asarray(shown.boxes[other])) if same else 0.0
            if overlap >= 0.5 and overlap > best:
                best, label = overlap, int(shown.labels[other])
        found.append(label)
    return found


def unit(x):
    return x / np.sqrt((x * x).sum(axis=-1, keepdims=True))


def loss_by_hand(modes, shown, b, labels, params=PARAMS):
    """Posterior and embedding loss of photograph b, in float64."""
    dense = params["repmet"]["head"]["Dense_0"]
    x = np.concatenate([shown.regions.features[b], shown.features[b : b + 1]]).astype(np.float64)
    e = unit(x @ np.asarray(dense["kernel"], np.float64) + np.asarray(dense["bias"], np.float64))
    modes, mask = unit(modes), np.asarray(FOUND.mask)
    wrong, margin = [], []
    for e_r, label in zip(e, labels, strict=True):
        if label is None:
            continue
        squared = np.where(mask, ((e_r - modes) ** 2).sum(axis=2), np.inf)
        best = np.exp(-squared.min(axis=1) / 0.5)
        logits = 3.0 * np.append(best + 1e-7, 1 - best.max() + 1e-7)
        wrong.append(np.log(np.exp(logits).sum()) - logits[label])
        if label < WAYS:
            margin.append(max(0.0, squared.min(axis=1)[label] - squared.min(axis=1)[1 - label] + 0.5))
    return np.mean(wrong) + np.sum(margin) / max(len(margin), 1)


def slope(function, at, step=1e-5):
    found = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        change = np.zeros_like(at)
        change[place] = step
        found[place] = (function(at + change) - function(at - change)) / (2 * step)
    return found


def test_targets_are_labelled_by_all_boxes_of_the_photograph():
    shown = jax.device_get(some_support(missing=True))
    found = jax.device_get(jax.jit(lambda shown: support_targets(shown, WAYS, CONFIG))(shown))
    for b in range(WAYS * SHOTS):
        wanted = labels_of(shown, b)
        np.testing.assert_array_equal(found.mask[b], [label is not None for label in wanted])
        there = np.asarray(found.mask[b])
        np.testing.assert_array_equal(
            found.labels[b][there], [label for label in wanted if label is not None]
        )
    assert found.labels[1, 1] == 0  # the other box of its photograph
    assert found.labels[0, 0] == WAYS
    np.testing.assert_allclose(found.codes[:, -1], 0, atol=1e-6)
    # Codes of the box that was matched, centre and logarithm of sides over .1 and .2.
    proposal, box = np.asarray(shown.regions.proposals[1, 1]), np.asarray(shown.boxes[0])
    w, h = proposal[2:] - proposal[:2]
    wanted = [
        *((box[:2] + box[2:] - proposal[:2] - proposal[2:]) / 2 / (w, h) / 0.1),
        *(np.log([16 / w, 16 / h]) / 0.2),
    ]
    np.testing.assert_allclose(found.codes[1, 1], wanted, atol=1e-5)


def test_representatives_descend_as_by_hand():
    """Two epochs with momentum, one photograph a step, in the order of the key; padding makes no step."""
    tuning = DetectionTuning(epochs=2, learning_rate=0.1, momentum=0.5, embedding=False)
    run = jax.jit(lambda shown, key: tune(key, PARAMS, NET, shown, FOUND, WAYS, tuning).found)
    for missing in (False, True):
        shown, key = some_support(missing), jax.random.key(3)
        plain = jax.device_get(shown)
        modes, speed = np.asarray(FOUND.modes, np.float64), 0.0
        for epoch in range(2):
            for b in np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), WAYS * SHOTS)):
                if shown.labels[b] < WAYS:
                    fixed = plain, b, labels_of(plain, b)
                    speed = 0.5 * speed + slope(lambda m, x=fixed: loss_by_hand(m, *x), modes)
                    modes = modes - 0.1 * speed
        found = run(shown, key)
        there = np.asarray(FOUND.mask)
        np.testing.assert_array_equal(found.mask, there)
        np.testing.assert_allclose(np.asarray(found.modes)[there], unit(modes)[there], atol=2e-4)


def test_head_and_box_move_and_the_loss_falls():
    shown, key = some_support(), jax.random.key(0)
    plain = jax.device_get(shown)
    tuning = DetectionTuning(epochs=20, learning_rate=0.05, per_step=3, box=True)
    net = replace(NET, config=replace(CONFIG, hardest=4))
    found = jax.jit(lambda shown: tune(key, PARAMS, net, shown, FOUND, WAYS, tuning))(shown)
    assert set(found.params) == {"repmet", "box"}
    own = {**PARAMS, **found.params}
    before, after = (
        np.mean(
            [
                loss_by_hand(np.asarray(m, np.float64), plain, b, labels_of(plain, b), p)
                for b in range(WAYS * SHOTS)
            ]
        )
        for m, p in ((FOUND.modes, PARAMS), (found.found.modes, own))
    )
    assert after < before
    assert float(jnp.abs(own["box"]["kernel"] - PARAMS["box"]["kernel"]).max()) > 0
    np.testing.assert_array_equal(found.params["repmet"]["modes"], PARAMS["repmet"]["modes"])


def test_linear_layer_descends_as_by_hand():
    shown = jax.device_get(some_support(missing=True))
    method = methods.linear(NET, steps=30, learning_rate=0.5, regions=R, share=0.25, decay=0.01)
    layer = jax.jit(lambda shown: method.fit(jax.random.key(0), PARAMS, shown, WAYS))(shown)
    x, labels, weight = [], [], []
    for b in range(WAYS * SHOTS):
        features = np.concatenate([shown.regions.features[b], shown.features[b : b + 1]])
        wanted = labels_of(shown, b)
        objects = np.append(shown.regions.objectness[b], 0.0)
        rank = [-1 if w is None else 2 if w < WAYS else o for w, o in zip(wanted, objects, strict=True)]
        for r in np.argsort(-np.array(rank), kind="stable")[:R]:
            if rank[r] >= 0:
                x.append(unit(features[r].astype(np.float64)))
                labels.append(wanted[r])
    x, labels = np.array(x), np.array(labels)
    front = labels < WAYS
    weight = np.where(front, 0.25 / front.sum(), 0.75 / (~front).sum())
    w, bias, speed = np.zeros((F, WAYS + 1)), np.zeros(WAYS + 1), [0.0, 0.0]
    for _ in range(30):
        p = np.exp(x @ w + bias)
        p = (p / p.sum(axis=1, keepdims=True) - np.eye(WAYS + 1)[labels]) * weight[:, None]
        speed = [0.9 * speed[0] + x.T @ p + 0.01 * w, 0.9 * speed[1] + p.sum(axis=0)]
        w, bias = w - 0.5 * speed[0], bias - 0.5 * speed[1]
    np.testing.assert_allclose(layer.weights, w, atol=1e-4)
    np.testing.assert_allclose(layer.bias, bias, atol=1e-4)
    log_p, none = method.predict(PARAMS, layer, jnp.asarray(x, jnp.float32), jnp.ones(len(x)))
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1) + np.exp(none), 1, atol=1e-5)


def test_fine_tuned_layers_descend_as_by_hand():
    """Two steps of Adam: slopes of a float64 retelling by finite differences."""
    shown = jax.device_get(some_support())
    method = methods.fine_tuned(NET, steps=2, learning_rate=0.1, tuned_rate=0.05, regions=R + 1, share=0.25)
    found = jax.jit(lambda shown: method.fit(jax.random.key(0), PARAMS, shown, WAYS))(shown)
    targets = jax.device_get(jax.jit(lambda shown: support_targets(shown, WAYS, CONFIG))(shown))
    there = np.asarray(targets.mask).reshape(-1)
    x = np.concatenate([shown.regions.features, shown.features[:, None]], axis=1).reshape(-1, F)[there]
    labels = np.asarray(targets.labels).reshape(-1)[there]
    codes = np.asarray(targets.codes).reshape(-1, 4)[there]
    front = labels < WAYS
    weight = np.where(front, 0.25 / front.sum(), 0.75 / (~front).sum())
    box = PARAMS["box"]
    shapes = [(F, F), (F,), (F, WAYS + 1), (WAYS + 1,), (F, 4), (4,)]
    sizes = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    start = [np.eye(F), *(np.zeros(shape) for shape in shapes[1:4]), box["kernel"], box["bias"]]
    flat = np.concatenate([np.asarray(one, np.float64).reshape(-1) for one in start])
    rates = np.concatenate(
        [np.full(np.prod(shape), 0.1 if i in (2, 3) else 0.05) for i, shape in enumerate(shapes)]
    )

    def parts(flat):
        return [one.reshape(shape) for one, shape in zip(np.split(flat, sizes), shapes, strict=True)]

    def forward(flat, x):
        a, a0, w, w0, v, v0 = parts(flat)
        h = np.maximum(x @ a + a0, 0)
        p = np.exp(h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12) @ w + w0)
        return p / p.sum(axis=1, keepdims=True), h @ v + v0

    def loss(flat):
        p, found = forward(flat, x.astype(np.float64))
        away = np.abs(found - codes)[front]
        box = np.where(away < 1, 0.5 * away**2, away - 0.5).sum() / front.sum()
        return box - (weight * np.log(p[np.arange(len(x)), labels])).sum()

    first = second = 0.0
    for step in (1, 2):
        gradient = slope(loss, flat)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        flat = flat - rates * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    own = jax.tree.leaves(found.layers._replace(box=(found.layers.box["kernel"], found.layers.box["bias"])))
    for got, wanted in zip(own, parts(flat), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-3)
    some = jnp.asarray(x)
    log_p, none = method.predict(PARAMS, found, some, jnp.ones(len(x)))
    p, wanted = forward(flat, x)
    np.testing.assert_allclose(np.exp(np.column_stack([log_p, none])), p, atol=2e-3)
    np.testing.assert_allclose(method.codes(PARAMS, found, some), wanted, atol=2e-2)


def test_classes_without_a_box_are_missing_and_never_found():
    shown = some_support()._replace(labels=jnp.asarray([0, WAYS, 0, WAYS]))
    for method in (methods.linear(NET, steps=1), methods.fine_tuned(NET, steps=1)):
        model = method.fit(jax.random.key(0), PARAMS, shown, WAYS)
        assert method.missing(model).tolist() == [False, True]
        log_p, none = method.predict(PARAMS, model, shown.features, jnp.ones(len(shown.features)))
        assert (np.exp(log_p[:, 1]) == 0).all()
        np.testing.assert_allclose(np.exp(log_p[:, 0]) + np.exp(none), 1, rtol=1e-5)


def block_means(params, images):
    """A network of one layer: means of blocks of pixels, mixed."""

    def level(stride):
        h, w = (-(-side // stride) for side in images.shape[1:3])
        padded = jnp.pad(
            images, ((0, 0), (0, h * stride - images.shape[1]), (0, w * stride - images.shape[2]), (0, 0))
        )
        return padded.reshape(len(images), h, stride, w, stride, 3).mean(axis=(2, 4)) @ params["mix"]

    return tuple(level(stride) for stride in (8, 16))


@pytest.fixture(scope="module")
def scene():
    """A small detector on photographs of one colour with a box of another."""
    rng = np.random.default_rng(0)
    count, side = 24, 32
    images = np.full((count, side, side, 3), 100, np.uint8)
    boxes = []
    for i in range(count):
        x, y = rng.integers(0, 16, 2)
        images[i, y : y + 16, x : x + 16, i % 3] = 255
        boxes.append(np.array([[x, y, x + 16, y + 16]], np.float32))
    photographs = boxed(images, boxes, [[i % 3] for i in range(count)], ("red", "green", "blue"))
    network = pyramid_from_function(
        block_means,
        Preprocess(side),
        {"mix": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)},
        strides=(8, 16),
        frozen=False,
    )
    head = RepMetConfig(modes=2, embedding=4, posterior="softmax", background=True)
    config = DetectorConfig(
        channels=4,
        anchors=AnchorConfig(strides=(8, 16)),
        before_nms=16,
        proposals=4,
        roi_size=2,
        hidden=(8,),
        head=head,
    )
    detector = init_detector(jax.random.key(0), network, config, ("a", "b"))
    return detection_pool(detector, photographs)


EPISODES = {"ways": 2, "shots": 1, "queries": 2, "episodes": 2}


def test_a_fixed_box_as_a_method_reaches_the_floor(scene):
    net = scene.detector.net
    entries = {
        "repmet": methods.repmet(net),
        "floor": (methods.class_mean(net), floor_pool(scene, "centred")),
    }
    found = compare_detection(jax.random.key(0), entries, scene, **EPISODES)
    floor = found["floor"]
    np.testing.assert_array_equal(np.unique(floor.detections.boxes, axis=0), [[4, 4, 28, 28]])
    assert floor.figure("recall", resamples=0).value == floor.figure("floor_centred", resamples=0).value
    assert "minus" in found.table(resamples=3)


@pytest.mark.long
def test_before_and_after_on_the_same_episodes(scene):
    """A whole network is tuned episode by episode, and finds regions of its own; no rate, no change."""
    net = scene.detector.net
    whole = DetectionTuning("all", epochs=1, learning_rate=1e-12, per_step=2)
    entries = {"before": methods.repmet(net), "after": methods.repmet(net, tuning=whole)}
    found = compare_detection(jax.random.key(0), entries, scene, **EPISODES)
    before, same = found["before"].detections, found["after"].detections
    np.testing.assert_array_equal(same.image_index, before.image_index)
    np.testing.assert_allclose(same.scores, before.scores, atol=1e-4)
    np.testing.assert_allclose(same.boxes, before.boxes, atol=1e-2)


def test_regions_of_scenes(scene, monkeypatch):
    """By default the detector's; the photographs' frames for the floors."""
    drawn = draw_detection_episodes(
        jax.random.key(0), scene.photographs, ways=2, shots=1, queries=2, episodes=2
    )
    plain = scene.photographs
    others = boxed(plain.images, list(plain.boxes), [[0]] * len(plain), ("other",))
    asked = mosaic_queries(
        0, scene, others, drawn, find=frame_regions(scene.detector, "centred"), keep_images=True
    )
    found = asked.images(np.arange(2))
    assert found.images.shape == (2, 4, 64, 64, 3)
    np.testing.assert_allclose(found.regions.boxes, centred(found.frames), atol=1e-5)
    assert found.regions.features.shape == (2, 4, 4, 8)
    with pytest.raises(ValueError, match="box must be whole or centred"):
        frame_regions(scene.detector, "left")
    called = []

    def find(detector, images):
        called.append((detector, images.shape))
        return Regions(*(leaf.reshape(8, 4, *leaf.shape[3:]) for leaf in found.regions))

    monkeypatch.setattr("fewshotjax.detection.queries.find_regions", find)
    same = mosaic_queries(0, scene, others, drawn).images(np.array([0, 1]))
    np.testing.assert_array_equal(same.boxes, found.boxes)
    assert called == [(scene.detector, (8, 64, 64, 3))]
    uneven = replace(drawn, asked=drawn.asked & (np.arange(4) > 0))
    uneven.asked[0] = True
    with pytest.raises(ValueError, match="episodes of different numbers of queries"):
        mosaic_queries(0, scene, others, uneven)


def two_of(scene, what="all"):
    """(method, what is shown) of a network that is tuned whole on two photographs."""
    rows = np.array([0, 1])
    shown = SupportBoxes(
        *(jnp.asarray(scene.features[rows, 0]), jnp.asarray(scene.photographs.boxes[rows, 0])),
        *(jnp.arange(2), jnp.arange(2)),
        Regions(*(jnp.asarray(leaf[rows]) for leaf in scene.regions)),
        jnp.full(2, -1),
        jnp.asarray(scene.photographs.images[rows]),
    )
    tuning = DetectionTuning(what, epochs=1, learning_rate=0.1, per_step=2)
    return methods.repmet(scene.detector.net, tuning=tuning), shown


def test_what_is_tuned_of_a_whole_network(scene):
    (method, shown), params = two_of(scene), scene.detector.params
    assert method.sequential
    own = jax.eval_shape(lambda: method.fit(jax.random.key(0), params, shown, 2).own)
    assert set(own) == {"pyramid", "fpn", "trunk", "box", "repmet"}
    with pytest.raises(ValueError, match="tuning is of 'all', but there are no images"):
        jax.eval_shape(lambda: method.fit(jax.random.key(0), params, shown._replace(images=None), 2))


def test_what_regions_go_through_is_tuned_with_its_gradient(scene):
    """Pyramid, FPN and proposal network stay; the trunk moves as by a difference of the loss."""
    (method, shown), params = two_of(scene, "regions"), scene.detector.params
    assert not method.sequential
    assert method.regions is not None
    run = jax.jit(lambda params, shown: method.fit(jax.random.key(0), params, shown, 2).own)
    own = run(params, shown)
    assert set(own) == {"trunk", "box", "repmet"}
    for name, part in own.items():
        change = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), part, params[name])
        assert max(jax.tree.leaves(change)) > 0, name
    # The same step of a head on features as they are: they are those of the photographs.
    head = methods.repmet(
        scene.detector.net, tuning=DetectionTuning(epochs=1, learning_rate=0.1, per_step=2, box=True)
    )
    same = jax.jit(lambda shown: head.fit(jax.random.key(0), params, shown, 2).own)(shown)
    for name in ("box", "repmet"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), own[name], same[name])
    with pytest.raises(ValueError, match="tuning is of 'regions', but there are no images"):
        jax.eval_shape(lambda: method.fit(jax.random.key(0), params, shown._replace(images=None), 2))


def test_views_are_of_photographs_that_were_moved_with_their_boxes(scene):
    (_, shown), params, net = two_of(scene), scene.detector.params, scene.detector.net
    # Two boxes in one photograph, a third one, at the corner, in another.
    given = jax.tree.map(lambda leaf: leaf[jnp.asarray([0, 0, 1])], shown._replace(classes=None))
    given = given._replace(
        boxes=jnp.asarray([[6.0, 6.0, 20.0, 22.0], [1.0, 2.0, 12.0, 20.0], [0.0, 0.0, 4.5, 5.0]]),
        labels=jnp.asarray([0, 1, 1]),
        photograph=jnp.asarray([7, 7, 2]),
        ignored=jnp.asarray([[[4.0, 4.0, 20.0, 20.0], [0.0] * 4]] * 3),
        classes=shown.classes,
    )
    key, config, side = jax.random.key(3), AUTHORS_AUGMENTATION, scene.size[0]
    found = jax.device_get(jax.jit(lambda given: augmented(key, params, net, given, 2, config, 3))(given))
    assert found.photograph.tolist() == [7, 7, 2, 15, 15, 10, 23, 23, 18]
    np.testing.assert_array_equal(found.images[0], found.images[1])
    assert (found.images[0] != found.images[3]).any()  # another view
    lost = []
    for view, own in enumerate(jax.random.split(key, 3)):
        warps = [draw_warp(one, config, side, side) for one in jax.random.split(own, 3)]
        for b, warp in enumerate((warps[0], warps[0], warps[2])):
            at = 3 * view + b
            # A value half way between two is rounded either way.
            away = found.images[at].astype(int) - np.asarray(warped_image(given.images[b], warp))
            assert np.abs(away).max() <= 1
            moved = warped_boxes(jnp.stack([given.boxes[b], given.ignored[b, 0]]), warp, side, side)
            np.testing.assert_allclose(found.ignored[at], [moved[1], [0] * 4], atol=1e-4)
            left = min(moved[0][2] - moved[0][0], moved[0][3] - moved[0][1])
            lost.append(bool(left < net.config.least_side))
            assert found.labels[at] == (2 if lost[-1] else given.labels[b])
            if not lost[-1]:
                np.testing.assert_allclose(found.boxes[at], moved[0], atol=1e-4)
    assert 0 < sum(lost) < 4
    seen = find_regions(scene.detector, found.images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), found.regions, seen)
    own = box_features(scene.detector, found.images, found.boxes[:, None], np.ones((9, 1), bool))[:, 0]
    np.testing.assert_allclose(found.features[~np.array(lost)], own[~np.array(lost)], atol=1e-3)


def test_every_epoch_has_its_own_view():
    tuning = DetectionTuning(epochs=3, learning_rate=0.5, momentum=0.0, augmentation=AUTHORS_AUGMENTATION)
    loss = lambda moved, rows: moved["modes"] * jnp.sum(rows).astype(jnp.float32)  # noqa: E731
    for views, wanted in ((1, 3 * sum(range(4))), (3, sum(range(12)))):
        there = jnp.ones(4 * views, bool)
        found = _descend(jax.random.key(0), tuning, loss, {"modes": jnp.zeros(())}, there, views)
        np.testing.assert_allclose(found["modes"], -0.5 * wanted)


def test_an_augmentation_needs_photographs(scene):
    (_, shown), params = two_of(scene), scene.detector.params
    tuning = DetectionTuning(epochs=2, augmentation=AUTHORS_AUGMENTATION)
    method = methods.repmet(scene.detector.net, tuning=tuning)
    assert method.images
    assert not methods.repmet(scene.detector.net, tuning=DetectionTuning()).images
    own = jax.eval_shape(lambda: method.fit(jax.random.key(0), params, shown, 2).own)
    assert set(own) == {"repmet"}
    with pytest.raises(ValueError, match="augmentation is of photographs, but there are no images"):
        jax.eval_shape(lambda: method.fit(jax.random.key(0), params, shown._replace(images=None), 2))


def test_offsets_move_at_a_rate_of_their_own():
    start = {"offsets": {"bias": jnp.ones(2)}, "box": jnp.ones(2)}
    loss = lambda moved, rows: jnp.sum(moved["offsets"]["bias"]) + jnp.sum(moved["box"])  # noqa: E731
    tuning = DetectionTuning("all", epochs=1, learning_rate=0.5)
    found = _descend(jax.random.key(0), tuning, loss, start, jnp.ones(1, bool))
    np.testing.assert_allclose(found["box"], 0.5)
    np.testing.assert_allclose(found["offsets"]["bias"], 1 - 0.005)


@pytest.mark.long
def test_every_part_of_a_whole_network_moves(scene):
    (method, shown), params = two_of(scene), scene.detector.params
    own = jax.jit(lambda shown: method.fit(jax.random.key(0), params, shown, 2).own)(shown)
    for name, part in own.items():
        change = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), part, params[name])
        assert max(jax.tree.leaves(change)) > 0, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "rpn"}, "what must be head, regions or all"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"per_step": 0}, "per_step must be at least 1"),
        ({"offsets_rate": -1.0}, "offsets_rate must not be negative"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"momentum": 1.0}, "learning_rate must be above 0 and momentum in"),
        ({"augmentation": "authors"}, "augmentation must be of type Augmentation or None, got 'authors'"),
    ],
)
@pytest.mark.usefixtures("as_users_have_it")
def test_config_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        DetectionTuning(**options)


def test_k_of_the_default_support_is_the_authors():
    assert [SupportConfig().modes_of(shots) for shots in (1, 5, 10)] == [5, 10, 20]
