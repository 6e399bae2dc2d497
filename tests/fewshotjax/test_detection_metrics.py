"""Metrics of detection against loops, worked examples, pycocotools and torchmetrics."""

import contextlib
import io
import warnings

import numpy as np
import pytest

from fewshotjax.detection.metrics import (
    Detections,
    GroundTruth,
    bootstrap,
    class_agnostic_recall,
    coco_ap,
    episode_voc_ap,
    no_detections,
    repmet_pooled_ap,
    voc_ap,
)

# The example of github.com/rafaelpadilla/Object-Detection-Metrics (MIT licence; Padilla et al. 2020):
# image, x, y, width, height (and score first). Its figures at IoU .3: 26.84 % (11 points), 24.56 % (all).
EXAMPLE_TRUTH = """
1 25 16 38 56; 1 129 123 41 62; 2 123 11 43 55; 2 38 132 59 45; 3 16 14 35 48; 3 123 30 49 44; 3 99 139 47 47;
4 53 42 40 52; 4 154 43 31 34; 5 59 31 44 51; 5 48 128 34 52; 6 36 89 52 76; 6 62 58 44 67; 7 28 31 55 63;
7 58 67 50 58"""
EXAMPLE_FOUND = """
1 .88 5 67 31 48; 1 .70 119 111 40 67; 1 .80 124 9 49 67; 2 .71 64 111 64 58; 2 .54 26 140 60 47;
2 .74 19 18 43 35; 3 .18 109 15 77 39; 3 .67 86 63 46 45; 3 .38 160 62 36 53; 3 .91 105 131 47 47;
3 .44 18 148 40 44; 4 .35 83 28 28 26; 4 .78 28 68 42 67; 4 .45 87 89 25 39; 4 .14 10 155 60 26;
5 .62 50 38 28 46; 5 .44 95 11 53 28; 5 .95 29 131 72 29; 5 .23 29 163 72 29; 6 .45 43 48 74 38;
6 .84 17 155 29 35; 6 .43 95 110 25 42; 7 .48 16 20 101 88; 7 .95 33 116 37 49"""


def numbers(text):
    return np.array([[float(word) for word in row.split()] for row in text.split(";")])


def corners(xywh):
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def example():
    truth, found = numbers(EXAMPLE_TRUTH), numbers(EXAMPLE_FOUND)
    none = np.zeros(len(found), int)
    return (
        Detections(found[:, 0].astype(int), none, found[:, 1], corners(found[:, 2:])),
        GroundTruth(truth[:, 0].astype(int), none[: len(truth)], corners(truth[:, 1:])),
    )


def random_case(seed, *, images=8, classes=3, most=12, ties=False, crowd=0.0, difficult=0.0, scale=1.0):
    """Objects, and detections that are half of them moved objects; whole pixels, so overlaps may be equal."""
    rng = np.random.default_rng(seed)
    count = rng.integers(0, 6, images)
    count[0] = 0  # an image without objects
    truth_image = np.repeat(np.arange(images), count)
    total = int(count.sum())

    def boxes(n):
        low = rng.integers(0, 60, (n, 2))
        return np.concatenate([low, low + rng.integers(1, 40, (n, 2))], axis=1) * scale

    true_boxes = boxes(total)
    found_count = rng.integers(0, most + 1, images)
    found_count[1] = 0
    image = rng.permutation(np.repeat(np.arange(images), found_count))
    found = boxes(len(image))
    for i, at in enumerate(image):
        same = np.flatnonzero(truth_image == at)
        if len(same) and rng.random() < 0.6:
            moved = true_boxes[rng.choice(same)] + rng.integers(-4, 5, 4) * scale
            found[i] = [*moved[:2], *np.maximum(moved[2:], moved[:2] + scale)]
    scores = rng.integers(1, 5, len(image)) / 5 if ties else rng.random(len(image))
    return (
        Detections(image, rng.integers(0, classes, len(image)), scores, found),
        GroundTruth(
            truth_image,
            rng.integers(0, classes, total),
            true_boxes,
            rng.random(total) < difficult,
            rng.random(total) < crowd,
            np.prod(true_boxes[:, 2:] - true_boxes[:, :2], axis=1) * rng.choice([0.4, 1.0], total),
        ),
    )


def iou_of(a, b, one=0.0):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + one for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    sizes = [(box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (a, b)]
    return shared / (sum(sizes) - shared)


def area_by_steps(hits, objects):
    """All-point interpolation, written as the definition."""
    if not objects:
        return float("nan")
    tp = np.cumsum(hits)
    precision, recalls = tp / np.arange(1, len(hits) + 1), tp / objects
    return sum((recalls[i] - (recalls[i - 1] if i else 0)) * precision[i:].max() for i in range(len(hits)))


def brute_pooled(found, truth, iou=0.5):
    """As the authors' code goes: image by image and class by class, tables of detections by objects."""
    entries, objects = [], 0
    for image in np.union1d(found.image_index, truth.image_index):
        there = truth.take(truth.image_index == image)
        for label in np.union1d(found.labels, truth.labels):
            objects += int((there.labels == label).sum())
            mine = found.take((found.image_index == image) & (found.labels == label))
            table = np.array([[iou_of(a, b) for b in there.boxes] for a in mine.boxes])
            table = table.reshape(len(mine), len(there)) >= iou
            same = there.labels == label
            for g in np.flatnonzero(same):
                entries += [(s, True) for s in [max(mine.scores[table[:, g]], default=0)] if s > 0]
            good = (table & same).any(axis=1)
            for g in np.flatnonzero(~same):
                entries += [(s, False) for s in [max(mine.scores[table[:, g] & ~good], default=0)] if s > 0]
            entries += [(s, False) for s, row in zip(mine.scores, table, strict=True) if not row.any()]
    entries.sort(key=lambda entry: -entry[0])
    return area_by_steps([hit for _, hit in entries], objects)


def brute_voc(found, truth, iou=0.5, points="all"):
    values = {}
    for label in np.union1d(found.labels, truth.labels):
        taken, hits = set(), []
        objects = np.flatnonzero((truth.labels == label) & ~truth.difficult)
        mine = [i for i in np.argsort(-found.scores, kind="stable") if found.labels[i] == label]
        for i in mine:
            best, target = 0.0, None
            for g in np.flatnonzero((truth.labels == label) & (truth.image_index == found.image_index[i])):
                if (overlap := iou_of(found.boxes[i], truth.boxes[g])) > best:
                    best, target = overlap, g
            if target is None or best < iou:
                hits.append(False)
            elif not truth.difficult[target]:
                hits.append(target not in taken)
                taken.add(target)
        if points == "all":
            values[label] = area_by_steps(hits, len(objects))
            continue
        tp = np.cumsum(hits)
        precision = tp / np.arange(1, len(hits) + 1)
        reached = [precision[10 * tp >= i * len(objects)] for i in range(11)]
        values[label] = sum(max(p, default=0) for p in reached) / 11 if len(objects) else float("nan")
    defined = [v for v in values.values() if v == v]
    return (sum(defined) / len(defined) if defined else float("nan")), values


def test_the_worked_example():
    found, truth = example()
    assert (len(truth), len(found)) == (15, 24)
    eleven = voc_ap(found, truth, iou=0.3, points=11, convention="inclusive")
    every = voc_ap(found, truth, iou=0.3, convention="inclusive")
    assert round(100 * eleven.mean_ap, 2) == 26.84
    # Precision 1, 2/3, 3/7, 7/23 over steps of recall; their 24.56 is this with the rest cut off.
    assert every.mean_ap == pytest.approx((1 + 2 / 3 + 4 * 3 / 7 + 7 / 23) / 15)
    assert int(1e4 * every.mean_ap) == 2456
    assert every.per_class == {0: every.mean_ap}
    # Its corners are the last pixels inside: read as half-open, one overlap falls under .3.
    assert voc_ap(found, truth, iou=0.3).mean_ap < 0.23


def test_the_known_case_of_the_pooled_metric():
    """.9, .8, .7 on one object and .6 on a second: duplicates are ignored here and false in VOC."""
    a, b = [0, 0, 10, 10], [20, 20, 30, 30]
    none, scores = np.zeros(4, int), np.array([0.9, 0.8, 0.7, 0.6])
    found = Detections(none, none, scores, np.array([a, a, a, b]))
    truth = GroundTruth(np.zeros(2, int), np.zeros(2, int), np.array([a, b]))
    result = repmet_pooled_ap(found, truth)
    assert (result.ap, result.recall, result.objects) == (1.0, 1.0, 2)
    assert (result.true_positives, result.wrong_class, result.background) == (2, 0, 0)
    assert voc_ap(found, truth).mean_ap == pytest.approx(0.75)
    # A wrong class is one false positive an object, a second detection none; scores of 0 do not count.
    scores = np.array([0.9, 0.8, 0.7, 0.0])
    other = Detections(none, none + 1, scores, np.array([a, a, b, a]))
    result = repmet_pooled_ap(other, truth)
    assert (result.ap, result.true_positives, result.wrong_class, result.background) == (0.0, 0, 2, 0)
    # In an image without objects, on which the authors' code fails.
    elsewhere = Detections(np.ones(4, int), found.labels, found.scores, found.boxes)
    assert repmet_pooled_ap(elsewhere, truth).background == 4
    assert np.isnan(repmet_pooled_ap(found, truth.take([])).ap)


@pytest.mark.parametrize("seed", range(6))
def test_pooled_as_the_authors_loop(seed):
    found, truth = random_case(seed, classes=2)
    for iou in (0.3, 0.5):
        assert repmet_pooled_ap(found, truth, iou=iou).ap == pytest.approx(brute_pooled(found, truth, iou))
    # The same objects with inclusive corners, as the authors' files have them.
    less = np.array([0, 0, 1, 1])
    there = GroundTruth(truth.image_index, truth.labels, truth.boxes - less)
    mine = Detections(found.image_index, found.labels, found.scores, found.boxes - less)
    assert repmet_pooled_ap(mine, there, convention="inclusive").ap == repmet_pooled_ap(found, truth).ap
    # The order of the arrays is nothing to it.
    rng = np.random.default_rng(seed)
    mixed = found.take(rng.permutation(len(found))), truth.take(rng.permutation(len(truth)))
    assert repmet_pooled_ap(*mixed).ap == repmet_pooled_ap(found, truth).ap


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("points", ["all", 11])
def test_voc_as_a_loop(seed, points):
    found, truth = random_case(seed, difficult=0.3, ties=seed % 2 == 1)
    result = voc_ap(found, truth, points=points)
    mean, per_class = brute_voc(found, truth, points=points)
    assert result.mean_ap == pytest.approx(mean, nan_ok=True)
    assert result.per_class == pytest.approx(per_class, nan_ok=True)


def test_eleven_points_are_reached_in_whole_numbers():
    """Recall 3 of 10 reaches .3, though .1 * 3 > .3 in floating point."""
    boxes = np.arange(10)[:, None] * 20 + np.array([0, 0, 10, 10])
    truth = GroundTruth(np.zeros(10, int), np.zeros(10, int), boxes)
    found = Detections(np.zeros(3, int), np.zeros(3, int), np.array([0.9, 0.8, 0.7]), boxes[:3])
    assert voc_ap(found, truth, points=11).mean_ap == pytest.approx(4 / 11)
    assert voc_ap(found, truth).mean_ap == pytest.approx(0.3)


def test_nothing_found_and_nothing_there():
    _, truth = random_case(1)
    none = no_detections()
    assert voc_ap(none, truth).mean_ap == repmet_pooled_ap(none, truth).ap == coco_ap(none, truth)["AP"] == 0
    empty = truth.take(slice(0, 0))
    for found in (none, random_case(1)[0]):
        assert np.isnan(voc_ap(found, empty).mean_ap)
        assert np.isnan(repmet_pooled_ap(found, empty).ap)
        assert np.isnan(list(coco_ap(found, empty).numbers.values())).all()
        assert np.isnan(class_agnostic_recall(found, empty)[0.5])


def test_recall_of_any_class():
    truth = GroundTruth(
        np.array([0, 0, 1, 1]),
        np.zeros(4, int),
        np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 10], [0, 0, 10, 10]]),
        difficult=np.array([False, False, False, True]),
    )
    found = Detections(
        np.array([0, 0, 1]),
        np.array([5, 0, 2]),
        np.array([0.2, 0.9, 0.1]),
        np.array([[0, 0, 10, 10], [20, 0, 30, 6], [5, 0, 15, 10]]),
    )
    assert class_agnostic_recall(found, truth, (0.3, 0.5, 0.75)) == {0.3: 1.0, 0.5: 2 / 3, 0.75: 1 / 3}
    assert class_agnostic_recall(found, truth, (0.5,), most=1) == {0.5: 1 / 3}
    found, truth = random_case(3)
    best = [
        max((iou_of(a, b) for a, i in zip(found.boxes, found.image_index, strict=True) if i == at), default=0)
        for b, at in zip(truth.boxes, truth.image_index, strict=True)
    ]
    assert class_agnostic_recall(found, truth, most=None)[0.5] == np.mean(np.array(best) >= 0.5)


@pytest.mark.parametrize("metric", ["pooled", "voc11", "voc", "coco"])
def test_weights_are_copies_of_images(metric):
    """Which is what a bootstrap resample is; scores are distinct, so that copies stand side by side."""
    measure = {
        "pooled": lambda d, t: repmet_pooled_ap(d, t),
        "voc11": lambda d, t: voc_ap(d, t, points=11),
        "voc": voc_ap,
        "coco": coco_ap,
    }[metric]
    found, truth = random_case(5, images=7, difficult=0.2 * metric.startswith("voc"))
    whole = measure(found, truth)
    for weights in (np.array([1, 0, 2, 3, 0, 1, 2]), np.array([0, 1, 1, 0, 4, 1, 0]), np.ones(7)):
        copies = [i for i, weight in enumerate(weights) for _ in range(int(weight))]
        rows, objects = ([np.flatnonzero(one.image_index == i) for i in copies] for one in (found, truth))
        image, where = (np.repeat(np.arange(len(copies)), [len(r) for r in x]) for x in (rows, objects))
        d, t = found.take(np.concatenate(rows)), truth.take(np.concatenate(objects))
        again = measure(
            Detections(image, d.labels, d.scores, d.boxes),
            GroundTruth(where, t.labels, t.boxes, t.difficult, t.crowd, t.areas),
        )
        expected = {"pooled": "ap", "voc": "mean_ap", "voc11": "mean_ap"}.get(metric)
        value = getattr(again, expected) if expected else again["AP"]
        assert whole.weighted(weights) == pytest.approx(value, abs=1e-12)
    if metric == "coco":
        assert whole.weighted(np.ones(7), "AP75") == pytest.approx(whole["AP75"])
        with pytest.raises(ValueError, match="name must be one of AP, AP50, AP75, got 'AR'"):
            whole.weighted(np.ones(7), "AR")
    with pytest.raises(ValueError, match="weights are 3, but there is an image 6"):
        whole.weighted(np.ones(3))


def test_bootstrap_over_episodes():
    found, truth = random_case(2, images=12)
    result, episodes = voc_ap(found, truth), np.repeat(np.arange(4), 3)
    interval = bootstrap(np.random.default_rng(0), result.weighted, episodes, resamples=200)
    assert interval.value == result.mean_ap
    assert interval.low < interval.value < interval.high
    assert interval == bootstrap(np.random.default_rng(0), result.weighted, episodes, resamples=200)
    assert str(interval).endswith("] %")
    # By hand: each resample as copies of whole episodes.
    rng = np.random.default_rng(0)
    drawn = [result.weighted(w[episodes]) for w in rng.multinomial(4, [0.25] * 4, size=200)]
    spread = np.quantile(np.array(drawn) - np.mean(drawn), [0.025, 0.975])
    np.testing.assert_allclose([interval.low, interval.high], interval.value + spread)
    # A mean over episodes has the interval of the closed form.
    values = np.random.default_rng(1).normal(size=400)
    mean = bootstrap(np.random.default_rng(2), lambda w: float(w @ values / w.sum()), np.arange(400))
    assert mean.high - mean.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    gap = bootstrap(np.random.default_rng(0), lambda w: result.weighted(w) - result.weighted(w), episodes)
    assert gap == (0.0, 0.0, 0.0)
    for settings, message in (
        ({"resamples": 1}, "resamples must be at least 2, got 1"),
        ({"level": 1.0}, "level must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            bootstrap(np.random.default_rng(0), result.weighted, episodes, **settings)
    with pytest.raises(ValueError, match="episodes must number at least 2"):
        bootstrap(np.random.default_rng(0), result.weighted, np.zeros(12, int))


def test_voc_of_each_episode():
    found, truth = random_case(4, images=9)
    episodes = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    values = episode_voc_ap(found, truth, episodes)
    for episode, value in enumerate(values):
        own = [one.take(episodes[one.image_index] == episode) for one in (found, truth)]
        assert value == pytest.approx(voc_ap(*own).mean_ap)


def in_pycocotools(found, truth):
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    images = range(1 + max([0, *found.image_index, *truth.image_index]))
    classes = range(1 + max([0, *found.labels, *truth.labels]))

    def wide(boxes):
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()

    annotations = [
        {"id": i + 1, "image_id": int(image), "category_id": int(label), "bbox": box, "area": float(area)}
        | {"iscrowd": int(crowd)}
        for i, (image, label, box, area, crowd) in enumerate(
            zip(truth.image_index, truth.labels, wide(truth.boxes), truth.areas, truth.crowd, strict=True)
        )
    ]
    results = [
        {"image_id": int(image), "category_id": int(label), "bbox": box, "score": float(score)}
        for image, label, box, score in zip(
            found.image_index, found.labels, wide(found.boxes), found.scores, strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = coco.COCO()
        there.dataset = {
            "images": [{"id": i} for i in images],
            "categories": [{"id": i} for i in classes],
            "annotations": annotations,
        }
        there.createIndex()
        run = evaluation.COCOeval(there, there.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return np.where(run.stats == -1, np.nan, run.stats)


CASES = {
    "plain": {},
    "ties": {"ties": True},
    "crowd": {"crowd": 0.3},
    "many": {"most": 400, "images": 4, "classes": 1, "ties": True},
    "large": {"scale": 4.0, "crowd": 0.1, "images": 30},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_coco_is_pycocotools(case):
    for seed in range(8):
        found, truth = random_case(seed, **CASES[case])
        ours = list(coco_ap(found, truth).numbers.values())
        np.testing.assert_allclose(ours, in_pycocotools(found, truth), rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def detection(torch):
    """torchmetrics imports torchvision; where its operators do not load, stubs stand in for two of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision
        except (ImportError, RuntimeError):
            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            torchvision = pytest.importorskip("torchvision")
            torchvision.kept_alive = library
        pytest.importorskip("pycocotools")
        return pytest.importorskip("torchmetrics.detection")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_coco_is_torchmetrics(torch, detection, case):
    found, truth = random_case(11, **CASES[case])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = detection.MeanAveragePrecision(backend="pycocotools")
        for image in range(CASES[case].get("images", 30)):
            d, t = (one.take(one.image_index == image) for one in (found, truth))
            metric.update(
                [
                    {
                        "boxes": torch.tensor(d.boxes, dtype=torch.float32).reshape(-1, 4),
                        "scores": torch.tensor(d.scores),
                        "labels": torch.tensor(d.labels),
                    }
                ],
                [
                    {
                        "boxes": torch.tensor(t.boxes, dtype=torch.float32).reshape(-1, 4),
                        "labels": torch.tensor(t.labels),
                        "iscrowd": torch.tensor(t.crowd.astype(int)),
                        "area": torch.tensor(t.areas),
                    }
                ],
            )
        theirs = metric.compute()
    names = (
        "map map_50 map_75 map_small map_medium map_large mar_1 mar_10 mar_100 mar_small mar_medium mar_large"
    )
    values = np.array([float(theirs[name]) for name in names.split()])
    ours = np.array(list(coco_ap(found, truth).numbers.values()))
    np.testing.assert_allclose(np.nan_to_num(ours, nan=-1), values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_coco_as_a_loop(case):
    """AP and AR100 of one class, written as COCO's rules."""
    found, truth = random_case(21, **CASES[case] | {"classes": 1})
    precisions, recalls = [], []
    for iou in np.linspace(0.5, 0.95, 10):
        entries = []
        for image in range(30):
            mine, there = (one.take(one.image_index == image) for one in (found, truth))
            free = np.ones(len(there), bool)
            for i in np.argsort(-mine.scores, kind="stable")[:100]:
                best, target = iou, None
                for crowd in (False, True):
                    for g in np.flatnonzero((there.crowd == crowd) & (free | crowd)):
                        box = mine.boxes[i]
                        overlap = iou_of(box, there.boxes[g])
                        if crowd:
                            low, high = (
                                np.maximum(box[:2], there.boxes[g][:2]),
                                np.minimum(box[2:], there.boxes[g][2:]),
                            )
                            overlap = np.prod(np.maximum(high - low, 0)) / np.prod(box[2:] - box[:2])
                        if overlap >= best:
                            best, target = overlap, g
                    if target is not None:
                        break
                if target is None or not there.crowd[target]:
                    entries.append((mine.scores[i], target is not None))
                if target is not None:
                    free[target] = False
        entries.sort(key=lambda entry: -entry[0])
        tp = np.cumsum([hit for _, hit in entries])
        precision, reached = tp / np.arange(1, len(tp) + 1), tp / (~truth.crowd).sum()
        precisions += [max(precision[reached >= r], default=0) for r in np.linspace(0, 1, 101)]
        recalls.append(reached[-1])
    result = coco_ap(found, truth)
    assert result["AP"] == pytest.approx(np.mean(precisions))
    assert result["AR100"] == pytest.approx(np.mean(recalls))
    assert result.per_class[0] == result["AP"]


ONE = {"image_index": np.zeros(1, int), "labels": np.zeros(1, int), "boxes": np.array([[0.0, 0.0, 1.0, 1.0]])}


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.array([[3.0, 0.0, 1.0, 1.0]])}, r"boxes: box 0 is \[3.0, .*past the last pixel"),
        ({"boxes": np.zeros((2, 4))}, r"boxes must be \(1, 4\) numbers, got float64 of shape \(2, 4\)"),
        ({"boxes": np.array([[np.nan, 0.0, 1.0, 1.0]])}, "boxes: box 0 is .*leave it out"),
        ({"labels": np.array([-1])}, "labels: box 0 has -1: count from 0"),
        ({"labels": np.array([0.5])}, "labels must be whole numbers, got float64"),
        ({"labels": np.zeros(2, int)}, r"labels must be \(1,\), one per box"),
        ({"image_index": np.array([-2])}, "image_index: box 0 has -2"),
        ({"areas": np.array([-1.0])}, "areas: object 0 has -1.0"),
        ({"difficult": np.array([1])}, "difficult must be bools, got int64"),
    ],
)
def test_records_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        GroundTruth(**ONE | change)
    if "areas" not in change and "difficult" not in change:
        with pytest.raises(ValueError, match=message):
            Detections(**ONE | {"scores": np.ones(1)} | change)


@pytest.mark.usefixtures("as_users_have_it")
def test_settings_are_checked():
    with pytest.raises(ValueError, match="scores: box 0 has inf"):
        Detections(**ONE | {"scores": np.array([np.inf])})
    found, truth = Detections(**ONE, scores=np.ones(1)), GroundTruth(**ONE)
    for metric in (voc_ap, repmet_pooled_ap):
        with pytest.raises(ValueError, match="iou must be over 0 and at most 1, got 0"):
            metric(found, truth, iou=0.0)
        with pytest.raises(ValueError, match="convention must be half_open or inclusive, got 'pixels'"):
            metric(found, truth, convention="pixels")
    with pytest.raises(ValueError, match="points must be 'all' or 11, got 12"):
        voc_ap(found, truth, points=12)
    with pytest.raises(ValueError, match="most must be at least 1 or None, got 0"):
        class_agnostic_recall(found, truth, most=0)
