"""Representatives of new classes from boxes, against a plain retelling; the authors' ways, by their names."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.backbones import Preprocess
from fewshotjax.detection.config import DetectorConfig
from fewshotjax.detection.detector import Net
from fewshotjax.detection.regions import Regions
from fewshotjax.detection.support import (
    SupportBoxes,
    SupportConfig,
    class_rows,
    representatives_of,
    support_features,
)
from fewshotjax.repmet_model import RepMetConfig, embed, init_repmet, representatives

WAYS, SHOTS, R, F, D, BASE = 3, 4, 12, 6, 5, 7
HEAD = RepMetConfig(modes=2, embedding=D, posterior="softmax", background=True)
NET = Net(DetectorConfig(hidden=(F,), head=HEAD), max, Preprocess(64), (4, 8, 16, 32), (1, 1, 1, 1), True)
PARAMS = {"repmet": init_repmet(jax.random.key(0), HEAD, F, BASE)}
_of = jax.jit(representatives_of, static_argnums=(2, 4, 5))


def of(shown, config, net=NET):
    return jax.device_get(_of(jax.random.key(0), PARAMS, net, shown, WAYS, config))


def some_support(seed=0, far=()):
    """Boxes with regions around them; coordinates are multiples of 1/8, so that areas are exact."""
    rng = np.random.default_rng(seed)
    count = WAYS * SHOTS
    corner = rng.integers(0, 160, (count, 2)) / 8
    boxes = np.concatenate([corner, corner + rng.integers(80, 160, (count, 2)) / 8], axis=1)
    proposals = boxes[:, None] + rng.integers(-20, 21, (count, R, 4)) / 8
    proposals[list(far)] += 1000
    regions = Regions(
        jnp.zeros((count, R, 4)),
        jnp.asarray(proposals, jnp.float32),
        jnp.asarray(rng.normal(size=(count, R, F)), jnp.float32),
        jnp.ones((count, R)),
        jnp.asarray(rng.random((count, R)) < 0.8),
    )
    labels = np.repeat(np.arange(WAYS), SHOTS)
    labels[SHOTS - 1] = WAYS  # the first class has one box fewer
    return SupportBoxes(
        jnp.asarray(rng.normal(size=(count, F)), jnp.float32),
        jnp.asarray(boxes, jnp.float32),
        jnp.asarray(labels, jnp.int32),
        jnp.arange(count),
        regions,
        jnp.full(WAYS, -1),
    )


def iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = np.prod(np.maximum(high - low, 0))
    return both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)


def authors_iou(a, b):
    """Of boxes that end at their last pixel, each one wider than the difference of its corners."""
    a, b = (np.asarray(box) - [0, 0, 1, 1] for box in (a, b))
    both = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + 1, 0))
    return both / (np.prod(a[2:] - a[:2] + 1) + np.prod(b[2:] - b[:2] + 1) - both)


def retold(shown, config):
    """(features, label) of every example, box by box."""
    own, around = [], []
    for b, label in enumerate(np.asarray(shown.labels).tolist()):
        if label == WAYS:
            continue
        box, proposals = np.asarray(shown.boxes[b]), np.asarray(shown.regions.proposals[b])
        overlap = np.array([iou(box, one) for one in proposals])
        near = [r for r in np.argsort(-overlap, kind="stable") if shown.regions.mask[b, r]]
        kept = []
        for r in near:
            if overlap[r] >= np.float32(config.iou) and all(
                iou(proposals[r], proposals[k]) <= config.nms for k in kept
            ):
                kept.append(r)
        kept = kept[: config.regions]
        if not config.compat_support and (config.include_truth or not kept):
            own.append((np.asarray(shown.features[b]), label))
        around += [(np.asarray(shown.regions.features[b, r]), label) for r in kept]
    found, counts = [], dict.fromkeys(range(WAYS), 0)
    for feature, label in own + around:
        counts[label] += 1
        if config.per_class is None or counts[label] <= config.per_class:
            found.append((feature, label))
    return found


@pytest.mark.parametrize(
    "config",
    [
        SupportConfig(),
        SupportConfig(include_truth=False),
        SupportConfig(compat_support=True, per_class=2),
        SupportConfig(regions=5, nms=1.0, per_class=6),
        SupportConfig(regions=0),
    ],
)
def test_support_is_what_a_plain_loop_takes(config):
    run = jax.jit(lambda shown: support_features(shown, WAYS, config))
    for seed in range(3):
        shown = some_support(seed, far=(0, 5))
        found = jax.device_get(run(shown))
        wanted = retold(shown, config)
        assert found.mask.sum() == len(wanted)
        assert (found.labels[~found.mask] == WAYS).all()
        for way in range(WAYS):
            got = found.features[found.labels == way]
            np.testing.assert_array_equal(got, [f for f, label in wanted if label == way] or got[:0])


def test_half_open_boxes_have_the_authors_iou():
    shown = jax.device_get(some_support())
    for box, proposals in zip(shown.boxes, shown.regions.proposals, strict=True):
        for one in proposals:
            assert iou(box, one) == pytest.approx(authors_iou(box, one), abs=1e-6)


def test_suppression_at_their_thresholds_leaves_one_region_of_a_box():
    run = jax.jit(lambda shown: support_features(shown, WAYS, SupportConfig(regions=R)).mask)
    for seed in range(3):
        mask = np.asarray(run(some_support(seed)))[WAYS * SHOTS :]
        assert mask.reshape(-1, R).sum(axis=1).max() == 1


def test_modes_are_embeddings_and_no_kmeans_is_compiled(monkeypatch):
    monkeypatch.setattr("fewshotjax.representatives.kmeans", None)  # would fail if called
    shown = some_support()
    config = SupportConfig()
    found = of(shown, config)
    assert found.modes.shape == (WAYS, 2 * SHOTS, D)
    assert config.modes_of(1) == 5
    for way in range(WAYS):
        features = np.array([f for f, label in retold(shown, config) if label == way])
        e = np.asarray(embed(PARAMS["repmet"], HEAD, jnp.asarray(features)))
        assert found.mask[way].sum() == len(e)
        np.testing.assert_allclose(found.modes[way][found.mask[way]], e, atol=1e-6)


def test_more_embeddings_than_modes_become_centres():
    shown = some_support()
    # Two directions per class, far apart, so that the centres are known.
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(WAYS, 2, F)) * 5
    side = np.arange(WAYS * SHOTS) % 2
    exact = ends[np.repeat(np.arange(WAYS), SHOTS), side]
    shown = shown._replace(features=jnp.asarray(exact, jnp.float32))
    config = SupportConfig(regions=0, modes=2)
    found = of(shown, config)
    assert found.mask.all()
    for way in range(WAYS):
        e = np.asarray(embed(PARAMS["repmet"], HEAD, jnp.asarray(ends[way], jnp.float32)))
        distance = np.linalg.norm(np.asarray(found.modes[way])[:, None] - e[None], axis=2)
        np.testing.assert_allclose(np.sort(distance.min(axis=0)), 0, atol=1e-3)


def test_filler_is_a_constant_vector_in_every_missing_mode():
    shown = some_support()
    plain = of(shown, SupportConfig())
    found = of(shown, SupportConfig(compat_filler=True))
    constant = np.full(D, D**-0.5, np.float32)
    assert found.modes.shape == (WAYS + BASE, 2 * SHOTS, D)
    assert found.mask[:WAYS].all()
    np.testing.assert_array_equal(found.modes[:WAYS][plain.mask], plain.modes[plain.mask])
    missing = found.modes[:WAYS][~plain.mask]
    assert len(missing)
    np.testing.assert_allclose(missing, np.broadcast_to(constant, missing.shape), atol=1e-6)
    erased = found.modes[WAYS:][found.mask[WAYS:]]
    np.testing.assert_allclose(erased, np.broadcast_to(constant, erased.shape), atol=1e-6)
    assert found.mask[WAYS:].any(axis=1).all()
    raw = replace(HEAD, normalize_representatives=False)
    net = replace(NET, config=replace(NET.config, head=raw))
    again = of(shown, SupportConfig(compat_filler=True), net)
    assert (again.modes[WAYS:][again.mask[WAYS:]] == 1000).all()


def test_base_classes_stay_behind_the_new_ones():
    found = of(some_support(), SupportConfig(keep_base=True))
    base = representatives(PARAMS["repmet"], HEAD)
    assert found.modes.shape == (WAYS + BASE, 2 * SHOTS, D)
    np.testing.assert_array_equal(found.modes[WAYS:, : HEAD.modes], base.modes)
    np.testing.assert_array_equal(found.mask[WAYS:].sum(axis=1), HEAD.modes)


def test_a_class_whose_boxes_no_region_meets():
    """The authors' code passes its boxes over; ours has the boxes themselves."""
    shown = some_support(far=range(SHOTS))
    for config, count in ((SupportConfig(), SHOTS - 1), (SupportConfig(compat_support=True), 0)):
        found = of(shown, config)
        assert found.mask[0].sum() == count
        assert found.mask[1:].any(axis=1).all()


def test_class_rows():
    rows, there = class_rows(np.array([1, 0, 1, 1]), 3)
    np.testing.assert_array_equal(rows, [[1, 0, 0], [0, 2, 3], [0, 0, 0]])
    np.testing.assert_array_equal(there, [[True, False, False], [True] * 3, [False] * 3])
    with pytest.raises(ValueError, match="labels must be 0 to 1"):
        class_rows(np.array([0, 2]), 2)
    with pytest.raises(ValueError, match="boxes are 12 of 5 classes"):
        representatives_of(jax.random.key(0), PARAMS, NET, some_support(), 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou": 1.5}, "iou must be 0 to 1"),
        ({"nms": -0.1}, "nms must be 0 to 1"),
        ({"regions": -1}, "regions must be at least 0"),
        ({"regions": 0, "compat_support": True}, "regions must be at least 1"),
        ({"modes": 0}, "modes must be at least 1 or None"),
        ({"per_class": 0}, "per_class must be at least 1 or None"),
    ],
)
@pytest.mark.usefixtures("as_users_have_it")
def test_config_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        SupportConfig(**options)
