"""Episodes of detection: drawing, evaluation equal to a plain loop, what is reported and refused."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.backbones import Preprocess
from fewshotjax.detection import methods
from fewshotjax.detection.config import DetectorConfig
from fewshotjax.detection.data import DetectionEpisode, MosaicConfig, SupportBox, floors
from fewshotjax.detection.data.boxed import BoxedImages, boxed
from fewshotjax.detection.detector import Detector, Net
from fewshotjax.detection.episode_program import _met, on_device
from fewshotjax.detection.episode_truth import LEFT_OUT, NOTHING, OBJECT
from fewshotjax.detection.episodes import (
    _SPLITS,
    FIT,
    DetectionEpisodes,
    draw_detection_episodes,
    listed_episodes,
)
from fewshotjax.detection.metrics import (
    Detections,
    class_agnostic_recall,
    coco_ap,
    repmet_pooled_ap,
    voc_ap,
)
from fewshotjax.detection.pool import DetectionPool, external_pool
from fewshotjax.detection.queries import centred, mosaic_queries
from fewshotjax.detection.regions import Regions
from fewshotjax.detection.results import METRICS
from fewshotjax.detection.score import Scoring
from fewshotjax.detection.support import SupportBoxes, SupportConfig
from fewshotjax.detection.task import compare_detection, evaluate_detection
from fewshotjax.repmet_model import RepMetConfig, representatives

WAYS, SHOTS, QUERIES, EPISODES = 3, 2, 3, 7
N, C, R, F, SIDE, K = 60, 6, 6, 5, 32, 8
NAMES = tuple("abcdef")
HEAD = RepMetConfig(modes=2, embedding=None, posterior="softmax", background=True)
NET = Net(
    DetectorConfig(hidden=(F,), head=HEAD, per_image=K),
    max,
    Preprocess(SIDE),
    (4, 8, 16, 32),
    (1, 1, 1, 1),
    True,
)
BOXES_ALONE = SupportConfig(regions=0)
SHAPE = {"ways": WAYS, "shots": SHOTS, "queries": QUERIES, "episodes": EPISODES}
RNG = np.random.default_rng(0)
DETECTOR = Detector(
    NET, {"repmet": {"modes": jnp.asarray(RNG.normal(size=(2, 2, F)), jnp.float32)}}, ("a", "z"), "by hand"
)


def make_pool(second=()):
    """Photographs of class row % 6; those of `second` show class 0, too, where they are of another."""
    boxes, labels = [], []
    for row in range(N):
        corner = RNG.integers(0, 40, 2) / 4
        own = [[*corner, *(corner + RNG.integers(40, 80, 2) / 4)]]
        label = [row % C]
        if row in second and row % C:
            own.append([20, 20, 30, 30])
            label.append(0)
        boxes.append(np.array(own))
        labels.append(label)
    images = RNG.integers(0, 256, (N, SIDE, SIDE, 3)).astype(np.uint8)
    photographs = boxed(images, boxes, labels, NAMES, [f"{row}.jpg" for row in range(N)])
    centres = RNG.normal(size=(C, F))
    near = photographs.boxes[:, :1] + RNG.integers(-8, 9, (N, R, 4)) / 4
    found = np.where(
        RNG.random((N, R, 1)) < 0.6, near, np.array([16, 16, 32, 31]) + RNG.integers(-8, 1, (N, R, 4))
    )
    found = np.clip(found, 0, SIDE)
    found[..., 2:] = np.maximum(found[..., 2:], found[..., :2])
    of_regions = centres[np.arange(N) % C][:, None] + RNG.normal(size=(N, R, F))
    of_boxes = centres[photographs.labels] + RNG.normal(size=(*photographs.labels.shape, F)) / 2
    regions = Regions(
        found.astype(np.float32),
        found.astype(np.float32),
        of_regions.astype(np.float32),
        RNG.random((N, R)).astype(np.float32),
        RNG.random((N, R)) < 0.9,
    )
    own = np.where(photographs.shown[..., None], of_boxes, 0).astype(np.float32)
    return DetectionPool(DETECTOR, photographs, regions, own)


POOL = make_pool()
BUSY = make_pool(second=range(30))
METHOD = methods.class_mean(NET, BOXES_ALONE)


@pytest.fixture(scope="module")
def result():
    return evaluate_detection(jax.random.key(0), METHOD, POOL, **SHAPE)


def iou(a, b):
    both = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both
    return both / union if union else 0.0


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def retold(pool, drawn):
    """(image, label, score, region) of class means, by loops."""
    rows = []
    for e in range(len(drawn)):
        own = pool.features[drawn.support[e], drawn.slots[e]].astype(np.float64)
        means = unit(unit(own).mean(axis=1))
        for q, photo in enumerate(drawn.queries[e]):
            x = unit(pool.regions.features[photo].astype(np.float64))
            p = np.exp(-2 * ((x[:, None] - means[None]) ** 2).sum(axis=2))
            logits = 15 * np.concatenate([p, 1 - p.max(axis=1, keepdims=True)], axis=1)
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            found, boxes = [], pool.regions.boxes[photo]
            for way in range(WAYS):
                kept = []
                for r in np.argsort(-p[:, way], kind="stable"):
                    if pool.regions.mask[photo, r] and all(iou(boxes[r], boxes[k]) <= 0.3 for k in kept):
                        kept.append(r)
                found += [(drawn.classes[e, way], p[r, way], r) for r in kept]
            found = sorted(found, key=lambda row: -row[1])[:K]
            rows += [(e * drawn.queries.shape[1] + q, *one) for one in found]
    return [np.array(x) for x in zip(*rows, strict=True)]


def test_it_equals_a_plain_loop(result):
    image, label, score, region = retold(POOL, result.episodes)
    found = result.detections
    np.testing.assert_array_equal(found.image_index, image)
    np.testing.assert_array_equal(found.labels, label)
    np.testing.assert_allclose(found.scores, score, rtol=1e-5)
    np.testing.assert_array_equal(result.region, region)
    photo = result.episodes.queries.reshape(-1)[image]
    np.testing.assert_array_equal(found.boxes, POOL.regions.boxes[photo, region])
    assert result.background.shape == score.shape
    # One box in each query photograph, of the class that it is asked for.
    np.testing.assert_array_equal(result.truth.image_index, np.arange(EPISODES * WAYS * QUERIES))
    np.testing.assert_array_equal(
        result.truth.labels.reshape(EPISODES, WAYS, QUERIES),
        np.broadcast_to(result.episodes.classes[..., None], (EPISODES, WAYS, QUERIES)),
    )


def test_the_background_is_measured_on_all_regions(result):
    """Those with IoU .5 on an object of the episode against the others, whatever was suppressed."""
    rows, drawn, found = [], result.episodes, result.open_set
    for e in range(EPISODES):
        own = POOL.features[drawn.support[e], drawn.slots[e]].astype(np.float64)
        means = unit(unit(own).mean(axis=1))
        for photo in drawn.queries[e]:
            x = unit(POOL.regions.features[photo].astype(np.float64))
            p = np.exp(-2 * ((x[:, None] - means[None]) ** 2).sum(axis=2))
            logits = 15 * np.concatenate([p, 1 - p.max(axis=1, keepdims=True)], axis=1)
            none = logits[:, -1] - np.log(np.exp(logits).sum(axis=1))
            for r in np.flatnonzero(POOL.regions.mask[photo]):
                met = iou(POOL.regions.boxes[photo, r], POOL.photographs.boxes[photo, 0]) >= 0.5
                rows.append((e, none[r], met))
    episode, none, known = map(np.array, zip(*rows, strict=True))
    np.testing.assert_array_equal(found.episode, episode)
    np.testing.assert_allclose(found.background, none, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.known, known)
    unknown, of_class = found.background[~known][:, None], found.background[known]
    won = ((unknown > of_class) + (unknown == of_class) / 2).mean()
    interval = result.figure("background_auroc", resamples=20)
    assert interval.value == pytest.approx(won)
    assert interval.low < won < interval.high
    silent = replace(result, open_set=None)
    assert np.isnan(silent.figure("background_auroc", resamples=20)).all()
    assert silent.as_dict(resamples=2)["figures"]["background_auroc"] == [None] * 3
    assert silent.table(resamples=0).splitlines()[1].split()[-1] == "-"


def test_regions_on_crowds_tell_nothing_of_the_background():
    boxes = jnp.asarray([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [0, 0, 10, 10]])
    truth = jnp.asarray([[0.0, 0, 10, 9], [19, 19, 40, 40]])
    mask, kind = jnp.asarray([True, True, True, False]), jnp.asarray([OBJECT, LEFT_OUT], jnp.int8)
    assert _met(boxes, mask, truth, kind, 0.7).tolist() == [OBJECT, LEFT_OUT, NOTHING, LEFT_OUT]


@pytest.mark.parametrize("pool", [POOL, BUSY])
def test_merged_classes_have_support_and_queries_of_each_part(pool):
    photographs = pool.photographs
    shape = {"ways": 3, "shots": 1, "queries": 2, "parts": 2, "episodes": 12}
    drawn = draw_detection_episodes(jax.random.key(0), photographs, **shape)
    assert drawn.parts == 2
    assert (drawn.support.shape, drawn.queries.shape) == ((12, 3, 2), (12, 12))
    np.testing.assert_array_equal(drawn.classes, drawn.members[..., 0])
    for e in range(12):
        assert sorted(drawn.members[e].reshape(-1)) == list(range(6))  # no class twice
        flat = drawn.support[e].reshape(-1)
        assert len(set(flat.tolist())) == 6
        assert not set(flat.tolist()) & set(drawn.queries[e].tolist())
        labels = photographs.labels[drawn.support[e], drawn.slots[e]]
        np.testing.assert_array_equal(labels, drawn.members[e])
        for i, row in enumerate(drawn.queries[e]):
            label = drawn.members[e].reshape(-1)[i // 2]
            assert label in photographs.labels[row][photographs.shown[row]]
    assert len({tuple(row) for row in drawn.members.reshape(12, -1)}) > 6  # at random
    # The same draw as of so many classes, two of which follow each other.
    apart = draw_detection_episodes(jax.random.key(0), photographs, **{**shape, "ways": 6, "parts": 1})
    np.testing.assert_array_equal(apart.members.reshape(12, 3, 2), drawn.members)
    np.testing.assert_array_equal(apart.support.reshape(12, 3, 2), drawn.support)
    np.testing.assert_array_equal(apart.queries, drawn.queries)
    assert not apart.same(drawn)
    assert drawn.take([3]).parts == 2


@pytest.mark.usefixtures("as_users_have_it")
def test_merged_classes_that_cannot_be_are_refused():
    shape = {"ways": 3, "shots": 1, "queries": 2, "parts": 2, "episodes": 2}
    with pytest.raises(ValueError, match="ways is 4 of 2 parts, but 6 of 6 classes have"):
        draw_detection_episodes(jax.random.key(0), POOL.photographs, **{**shape, "ways": 4})
    with pytest.raises(ValueError, match="parts must be at least 1"):
        draw_detection_episodes(jax.random.key(0), POOL.photographs, **{**shape, "parts": 0})
    numbers, there = np.zeros((1, 2), np.int32), np.ones((1, 2, 1), bool)
    with pytest.raises(ValueError, match="members must begin with classes"):
        DetectionEpisodes(
            *(numbers, numbers[..., None], numbers[..., None], there, numbers, there[..., 0], ("a", "b")),
            members=np.ones((1, 2, 2), np.int32),
        )


def test_merged_classes_are_found_as_one():
    found = evaluate_detection(
        jax.random.key(1), METHOD, BUSY, ways=3, shots=1, queries=1, parts=2, episodes=2
    )
    drawn, photographs = found.episodes, BUSY.photographs
    rows = []
    for e in range(2):
        way = {int(label): w for w in range(3) for label in drawn.members[e, w]}
        for q, photo in enumerate(drawn.queries[e]):
            for slot in np.flatnonzero(photographs.shown[photo]):
                label = drawn.classes[e, way[int(photographs.labels[photo, slot])]]
                rows.append((e * 6 + q, label, *photographs.boxes[photo, slot]))
    truth = found.truth
    got = np.column_stack([truth.image_index, truth.labels, truth.boxes])
    np.testing.assert_array_equal(got, np.array(rows))
    assert set(found.detections.labels.tolist()) <= set(drawn.classes.reshape(-1).tolist())
    assert (found.settings["parts"], found.settings["shots"]) == (2, 1)


def test_trained_representatives_of_merged_classes_are_those_of_all_parts():
    modes = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2, F)), jnp.float32)
    params = {"repmet": {"modes": modes}}
    shown = SupportBoxes(*[None] * 5, jnp.asarray([[0, 3], [5, 1]]))
    every = representatives(params["repmet"], NET.config.head).modes
    for keep_base in (False, True):
        method = methods.trained(NET, keep_base=keep_base)
        model = method.fit(jax.random.key(0), params, shown, 2)
        np.testing.assert_array_equal(model.mask[:2].sum(axis=1), [4, 4])
        np.testing.assert_array_equal(model.modes[0], jnp.concatenate([every[0], every[3]]))
        np.testing.assert_array_equal(model.modes[1], jnp.concatenate([every[5], every[1]]))
        assert model.mask[2:].any(axis=1).tolist() == [False, False, True, False, True, False] * keep_base


def test_chunks_change_nothing_and_one_program_serves_all_calls(result, monkeypatch):
    traces = 0

    def predict(params, model, features, objectness):
        nonlocal traces
        traces += 1
        return METHOD.predict(params, model, features, objectness)

    def fit(key, params, shown, ways):
        jax.debug.callback(lambda data: keys.add(tuple(data.tolist())), jax.random.key_data(key))
        return METHOD.fit(key, params, shown, ways)

    method, told, keys = METHOD._replace(fit=fit, predict=predict), [], set()
    monkeypatch.setattr("fewshotjax.detection.task.BLOCK", 2)
    for chunk, key in ((1, 0), (1, 1), (3, 0)):
        found = evaluate_detection(
            jax.random.key(key), method, POOL, **SHAPE, chunk=chunk, on_chunk=told.append
        )
        if key == 0:
            np.testing.assert_array_equal(found.region, result.region)
            np.testing.assert_array_equal(found.detections.image_index, result.detections.image_index)
            np.testing.assert_allclose(found.detections.scores, result.detections.scores, rtol=1e-5)
        assert traces == (1 if chunk == 1 else 2)  # another key or block compiles nothing
    assert [one.done for one in told] == [2, 4, 6, 7] * 2 + [3, 6, 7]
    jax.effects_barrier()
    own = [jax.random.fold_in(jax.random.key(seed), i) for seed in (0, 1) for i in range(EPISODES)]
    wanted = {tuple(np.asarray(jax.random.key_data(jax.random.fold_in(key, FIT))).tolist()) for key in own}
    assert keys == wanted


def test_figures_are_those_of_the_metrics(result):
    found, truth = result.detections, result.truth
    for name, value in {
        "repmet_pooled_ap": repmet_pooled_ap(found, truth).ap,
        "voc_ap": voc_ap(found, truth).mean_ap,
        "voc_ap_11": voc_ap(found, truth, points=11).mean_ap,
        "coco_ap": coco_ap(found, truth)["AP"],
        "coco_ap75": coco_ap(found, truth)["AP75"],
        "recall": class_agnostic_recall(found, truth)[0.5],
        "recall75": class_agnostic_recall(found, truth)[0.75],
    }.items():
        interval = result.figure(name, resamples=20)
        assert interval.value == pytest.approx(value)
        assert interval.low <= interval.high
    weights = np.array([0.0, 2.0, 1.0, 1.0, 3.0, 0.0, 0.0])
    spread = weights[result.episode_of]
    for name, value in {
        "repmet_pooled_ap": result.pooled.weighted(spread),
        "voc_ap": result.voc.weighted(spread),
        "voc_ap_11": result.voc_11.weighted(spread),
        "coco_ap": result.coco.weighted(spread),
        "coco_ap75": result.coco.weighted(spread, "AP75"),
    }.items():
        assert result.weighted(name)(weights) == pytest.approx(value, abs=1e-12)
    shown = POOL.photographs.take(result.episodes.queries.reshape(-1))
    floor = floors(shown)
    assert result.figure("floor_whole", resamples=0).value == pytest.approx(floor.whole[0.5])
    assert result.figure("floor_centred75", resamples=0).value == pytest.approx(floor.centred[0.75])
    assert result.figure("recall", resamples=20) is result.figure("recall", resamples=20)
    with pytest.raises(ValueError, match="name must be one of repmet_pooled_ap"):
        result.figure("map")
    text = result.table(resamples=5)
    assert "pooled AP" in text
    assert "at IoU .5" in text
    told = json.loads(json.dumps(result.as_dict(resamples=5)))
    assert set(told["figures"]) == set(METRICS)
    assert told["classes_without_support"] == 0
    assert told["settings"]["images"] == "photographs"
    assert told["settings"]["queries_in_support"] == told["queries_in_support"] == 0
    other = replace(result, detections=replace(found, scores=found.scores[::-1].copy()))
    assert other.figure("voc_ap", resamples=20) == pytest.approx(
        (voc_ap(other.detections, truth).mean_ap, *other.figure("voc_ap", resamples=20)[1:])
    )  # nothing is kept of the one that it was made of
    assert other.figure("voc_ap", resamples=20).value != result.figure("voc_ap", resamples=20).value


@pytest.mark.parametrize("kind", ["crowd", "difficult"])
def test_what_is_left_out_is_left_out_of_every_figure(result, kind):
    """As if the object and what was found on it were not there, but for recall, which never counted it."""
    truth = result.truth
    found = Detections(truth.image_index, truth.labels, np.ones(len(truth)), truth.boxes)  # all is found
    rows = np.arange(len(truth)) % 3 == 0
    some = replace(truth, **{kind: rows})
    lost = replace(result, truth=some, detections=found.take(~rows))
    right = replace(result, truth=some, detections=found)
    for name in ("repmet_pooled_ap", "voc_ap", "voc_ap_11", "coco_ap", "recall"):
        assert lost.figure(name, resamples=0).value == pytest.approx(1), name
        assert right.figure(name, resamples=0).value == pytest.approx(1), name
    assert lost.episode_voc.mean == pytest.approx(1)


def test_settings_tell_a_row_from_others(result):
    told = result.settings
    assert told["detector"] == "by hand"
    assert told["method"] is None  # it was not named; what it learns with is told
    assert "regions=0" in told["fit"]
    seen = replace(POOL, features=POOL.features + 1)
    assert [seen.told[name] == told[name] for name in ("weights", "photographs", "view")] == [1, 1, 0]
    pictures = replace(POOL.photographs, images=POOL.photographs.images[::-1].copy())
    assert replace(POOL, photographs=pictures).told["photographs"] != told["photographs"]
    heavier = replace(DETECTOR, params=jax.tree.map(lambda leaf: leaf + 1, DETECTOR.params))
    assert replace(POOL, detector=heavier).told["weights"] != told["weights"]


def test_no_two_keys_of_an_episode_are_equal():
    """Key i of a split is the one that i is folded into."""
    own = jax.random.fold_in(jax.random.key(0), 3)
    keys = [*jax.random.split(own, _SPLITS), jax.random.fold_in(own, FIT)]
    assert len({tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}) == len(keys)
    assert max(_SPLITS, WAYS) < FIT


def test_one_pool_is_on_the_device_at_a_time(monkeypatch):
    moved = []

    def moving(pool, images):
        moved.append(pool)
        return on_device(pool, images)

    monkeypatch.setattr("fewshotjax.detection.task.on_device", moving)
    other = replace(POOL, features=POOL.features + 1)
    entries = {"a": METHOD, "b": (METHOD, other), "c": METHOD}
    found = compare_detection(jax.random.key(0), entries, POOL, **SHAPE)
    assert [id(one) for one in moved] == [id(POOL), id(other)]
    assert list(found.results) == ["a", "b", "c"]
    np.testing.assert_array_equal(found["a"].detections.scores, found["c"].detections.scores)


def test_comparison_is_paired(result):
    found = compare_detection(
        jax.random.key(0),
        {"mean": METHOD, "nearest": "nearest"},
        POOL,
        **SHAPE,
    )
    assert found["mean"].episodes.same(result.episodes)
    np.testing.assert_array_equal(found["mean"].detections.scores, result.detections.scores)
    first, second = found["mean"].settings, found["nearest"].settings
    assert (first["method"], second["method"]) == (None, "nearest")
    assert first["fit"] != second["fit"]
    assert {name for name in first if first[name] != second[name]} == {"method", "fit"}
    gap = found.difference("mean", "nearest", resamples=30)
    a, b = (repmet_pooled_ap(found[n].detections, found[n].truth).ap for n in ("mean", "nearest"))
    assert gap.value == pytest.approx(a - b)
    same = result.minus(found["mean"], resamples=5)
    assert tuple(same) == (0, 0, 0)
    text = found.table(resamples=5)
    assert f"minus {found.best()}" in text
    assert len(text.splitlines()) == 6
    assert found.as_dict(resamples=5)["methods"][found.best()]["minus_best"]["voc_ap"] == [0, 0, 0]
    other = replace(result, episodes=result.episodes.take(slice(0, 5)))
    with pytest.raises(ValueError, match="results are of different episodes"):
        result.minus(other)


def test_episodes_are_functions_of_key_and_number():
    few = draw_detection_episodes(jax.random.key(3), BUSY.photographs, **SHAPE)
    many = draw_detection_episodes(jax.random.key(3), BUSY.photographs, **{**SHAPE, "episodes": 90})
    assert few.same(many.take(slice(0, EPISODES)))
    photographs = BUSY.photographs
    twice = 0
    for e in range(90):
        assert len(set(many.classes[e])) == WAYS
        support = many.support[e].reshape(-1)
        assert len(set(support)) == WAYS * SHOTS
        assert not set(support) & set(many.queries[e])
        queries = many.queries[e].reshape(WAYS, QUERIES)
        for way, label in enumerate(many.classes[e]):
            assert (photographs.labels[many.support[e, way], many.slots[e, way]] == label).all()
            assert photographs.shown[many.support[e, way], many.slots[e, way]].all()
            assert len(set(queries[way])) == QUERIES
            for row in queries[way]:
                assert label in photographs.labels[row][photographs.shown[row]]
        twice += len(set(many.queries[e])) < WAYS * QUERIES
    assert twice  # in two classes' lists
    assert set(many.classes.reshape(-1)) == set(range(C))
    some = draw_detection_episodes(jax.random.key(3), photographs, **SHAPE, classes=["b", "f", "d"])
    assert set(some.classes.reshape(-1)) == {1, 3, 5}


def test_a_class_with_too_few_photographs_is_left_out_and_named(result):
    rows = [row for row in range(N) if row % C != 4 or row < 20]
    pool = POOL.take(rows)
    drawn = draw_detection_episodes(jax.random.key(0), pool.photographs, **SHAPE)
    assert drawn.excluded == ("e",)
    assert 4 not in drawn.classes
    told = replace(result, episodes=replace(result.episodes, excluded=drawn.excluded)).table(resamples=0)
    assert "left out, for want of photographs: e" in told


def test_an_image_in_two_lists_counts_twice_and_only_the_episodes_classes_count():
    found = evaluate_detection(jax.random.key(3), METHOD, BUSY, **SHAPE)
    photographs, drawn = BUSY.photographs, found.episodes
    wanted = []
    for e in range(EPISODES):
        for q, row in enumerate(drawn.queries[e]):
            for slot in range(photographs.boxes.shape[1]):
                if photographs.shown[row, slot] and photographs.labels[row, slot] in drawn.classes[e]:
                    wanted.append((e * WAYS * QUERIES + q, photographs.labels[row, slot]))
    assert wanted == list(zip(found.truth.image_index, found.truth.labels, strict=True))


def test_listed_episodes_are_run_as_they_are(result):
    drawn, photographs = result.episodes, POOL.photographs
    listed = [
        DetectionEpisode(
            tuple(NAMES[label] for label in drawn.classes[e]),
            tuple(
                SupportBox(
                    f"{row}.jpg",
                    NAMES[drawn.classes[e, way]],
                    tuple((2 * photographs.boxes[row, 0]).tolist()),
                )
                for way in range(WAYS)
                for row in drawn.support[e, way]
            ),
            tuple(f"{row}.jpg" for row in drawn.queries[e]),
        )
        for e in range(EPISODES)
    ]
    again = listed_episodes(listed, photographs, scales=np.full((N, 2), 0.5, np.float32))
    assert again.same(replace(drawn, excluded=()))
    shorter = replace(listed[1], queries=listed[1].queries[:2], support=listed[1].support[1:])
    uneven = listed_episodes([listed[0], shorter], photographs, scales=np.full((N, 2), 0.5, np.float32))
    assert uneven.shown.sum() == 2 * WAYS * SHOTS - 1
    found = evaluate_detection(jax.random.key(0), METHOD, POOL, drawn=uneven)
    assert found.truth.image_index.max() == WAYS * QUERIES + 1
    queries = drawn.queries.copy()
    queries[:2, 0] = drawn.support[:2, 0, 0]
    known = replace(drawn, queries=queries)
    assert (known.shared(), uneven.shared()) == (2, 0)
    told = replace(result, episodes=known).table(resamples=0)
    assert f"2 of {EPISODES * WAYS * QUERIES} query photographs are support of their own" in told
    first = result.detections.image_index < WAYS * QUERIES
    np.testing.assert_array_equal(found.detections.scores[: first.sum()], result.detections.scores[first])
    with pytest.raises(ValueError, match="were the photographs resized"):
        listed_episodes(listed, photographs)
    with pytest.raises(ValueError, match="none of the photographs' files"):
        listed_episodes([replace(listed[0], queries=("no.jpg",))], photographs)
    with pytest.raises(ValueError, match="episodes is empty"):
        listed_episodes([], photographs)


def test_what_fails_or_lacks_support_is_counted():
    def predict(params, model, features, objectness):
        log_p, background = METHOD.predict(params, model, features, objectness)
        return log_p.at[0].set(jnp.where(features[0, 0] > 0, jnp.nan, log_p[0])), background

    found = evaluate_detection(jax.random.key(0), METHOD._replace(predict=predict), POOL, **SHAPE)
    rows = found.episodes.queries.reshape(-1)
    nan = (POOL.regions.features[rows, 0, 0] > 0) & POOL.regions.mask[rows, 0]
    assert found.failed == nan.sum() > 0
    far = replace(POOL, regions=POOL.regions._replace(proposals=POOL.regions.proposals + 100))
    empty = methods.repmet(NET, SupportConfig(compat_support=True))
    found = evaluate_detection(jax.random.key(0), empty, far, **SHAPE)
    assert found.missing.all()
    assert len(found.detections) == 0
    assert "21 of 21 classes had no usable support" in found.table(resamples=0)
    assert found.figure("repmet_pooled_ap", resamples=5).value == 0


def test_scenes_are_queries_of_their_own(result):
    inside = [row for row in range(N) if row % C < 5]
    pool = POOL.take(inside)
    photographs = BoxedImages(
        *(getattr(pool.photographs, n) for n in ("images", "boxes", "shown", "labels")), NAMES
    )
    pool = replace(pool, photographs=photographs)
    drawn = draw_detection_episodes(jax.random.key(0), photographs, **{**SHAPE, "episodes": 3})
    others = POOL.photographs.take([row for row in range(N) if row % C == 5])
    calls = []

    def find(images, frames):
        """The true frames as regions, with a feature of the frame's mean colour."""
        calls.append(len(images))
        assert images.shape[1:] == (2 * SIDE, 2 * SIDE, 3)
        features = np.tile(images.mean(axis=(1, 2)).astype(np.float32)[:, None], (1, frames.shape[1], 2))
        there = np.ones(frames.shape[:2], bool)
        return Regions(frames, frames, features[..., :F], there.astype(np.float32), there)

    asked = mosaic_queries(0, pool, others, drawn, MosaicConfig(grid=2), find=find)
    a, b = asked.images(np.arange(3)), asked.images(np.array([2]))
    np.testing.assert_array_equal(a.boxes[2], b.boxes[0])  # a function of the episode's number
    calls.clear()
    found = compare_detection(
        jax.random.key(0),
        {"a": METHOD, "b": METHOD},
        pool,
        drawn=drawn,
        asked=asked,
    )
    assert calls == [3 * WAYS * QUERIES]  # once for both methods
    result = found["a"]
    np.testing.assert_array_equal(result.truth.boxes, a.boxes[a.shown])
    assert result.figure("recall", resamples=0).value == result.figure("floor_whole", resamples=0).value
    assert result.figure("floor_centred", resamples=0).value >= 0
    assert result.settings["images"].startswith("mosaic2")
    mixed = compare_detection(
        jax.random.key(0), {"plain": METHOD, "scenes": (METHOD, pool, asked)}, pool, drawn=drawn
    )
    best, other = mixed.best(), ({"plain", "scenes"} - {mixed.best()}).pop()
    text = mixed.table(resamples=2)
    assert f"{other} is on other query images than {best}: no difference" in text
    assert "floor of plain: the whole" in text
    assert "floor of scenes: the whole" in text
    assert mixed.as_dict(resamples=2)["methods"][other]["minus_best"] is None
    with pytest.raises(ValueError, match="results are of different query images, photographs and mosaic2"):
        mixed.difference("plain", "scenes")
    np.testing.assert_array_equal(centred(np.array([[0.0, 8.0, 32.0, 24.0]])), [[4.0, 10.0, 28.0, 22.0]])


def test_external_features_are_of_the_crops():
    """A network that gives the mean colour sees each box by itself."""
    images = np.zeros((N, SIDE, SIDE, 3), np.uint8)
    images[:, :, :16] = [200, 0, 100]
    photographs = replace(POOL.photographs, images=images)
    boxes = np.tile(np.array([[0, 0, 16, 32], [16, 0, 32, 32], [8, 4, 24, 20]], np.float32), (N, 2, 1))
    regions = POOL.regions._replace(boxes=boxes, mask=np.ones((N, R), bool))
    pool = replace(POOL, photographs=photographs, regions=regions).take(range(5))
    told = []
    found = external_pool(
        pool, lambda crops: crops.astype(np.float32).mean(axis=(1, 2)), 8, chunk=2, on_chunk=told.append
    )
    np.testing.assert_allclose(found.regions.features[:, 0], np.tile([200, 0, 100], (5, 1)), atol=15)
    np.testing.assert_allclose(found.regions.features[:, 2], np.tile([100, 0, 50], (5, 1)), atol=1)
    assert found.features.shape == (5, 1, 3)
    assert [one.done for one in told] == [2, 4, 5]
    with pytest.raises(ValueError, match="embed gives NaN"):
        external_pool(pool, lambda crops: np.full((len(crops), 2), np.nan), 8)


@pytest.mark.usefixtures("as_users_have_it")
def test_messages():
    key, photographs = jax.random.key(0), POOL.photographs
    for options, message in (
        ({"ways": 1}, "ways must be at least 2"),
        ({"shots": 0}, "shots must be at least 1"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"classes": ["a", "no"]}, "classes: 'no' is none of"),
        ({"queries": 9}, "ways is 5, but 0 of 6 classes have 11 photographs .2 shots and 9 queries"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_detection_episodes(key, photographs, **{"shots": 2, "queries": 3, **options})
    with pytest.raises(ValueError, match="methods is empty"):
        compare_detection(key, {}, POOL)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        evaluate_detection(key, METHOD, POOL, **SHAPE, chunk=0)
    with pytest.raises(ValueError, match="method must be a DetectionMethod or a name"):
        evaluate_detection(key, print, POOL, **SHAPE)
    with pytest.raises(ValueError, match="is none that the detector was trained on"):
        evaluate_detection(key, "trained", POOL, **SHAPE)
    drawn = draw_detection_episodes(key, photographs, **SHAPE)
    with pytest.raises(ValueError, match="drawn shows boxes that the photographs do not have"):
        evaluate_detection(key, METHOD, POOL, drawn=replace(drawn, support=drawn.support[:, ::-1]))
    with pytest.raises(ValueError, match="drawn has rows up to"):
        evaluate_detection(key, METHOD, POOL.take(range(10)), drawn=drawn)
    moved = replace(photographs, boxes=np.where(photographs.shown[..., None], photographs.boxes + 1, 0))
    named = replace(photographs, files=photographs.files[::-1])
    for some, name in ((moved, "boxes"), (named, "files")):
        with pytest.raises(ValueError, match=f"pools are of photographs with different {name}"):
            compare_detection(key, {"a": (METHOD, replace(POOL, photographs=some))}, POOL, drawn=drawn)
    with pytest.raises(ValueError, match="features of boxes have width 5"):
        replace(POOL, regions=POOL.regions._replace(features=np.zeros((N, R, 2), np.float32)))
    with pytest.raises(ValueError, match="regions are of 60 images"):
        replace(POOL, photographs=photographs.take(range(3)))
    with pytest.raises(ValueError, match="photographs must be of one size"):
        replace(POOL, photographs=replace(photographs, images=tuple(photographs.images)))
    assert Scoring().per_image == 100
