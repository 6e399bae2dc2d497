"""New classes of a detector with random weights: what is found, learned, saved and refused."""

import dataclasses
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.backbones import Preprocess
from fewshotjax.detection import AUTHORS_AUGMENTATION, detect as detect_module
from fewshotjax.detection.data import boxed
from fewshotjax.detection.detect import detect, detector
from fewshotjax.detection.drawing import PANEL
from fewshotjax.detection.finder import RegionFinder
from fewshotjax.detection.methods import DetectionMethod, class_mean, repmet
from fewshotjax.detection.methods.repmet import trained as of_base
from fewshotjax.detection.new_classes import default_pixels, new_classes
from fewshotjax.detection.new_classes_files import load_new_classes, save_new_classes
from fewshotjax.detection.photos import fit_photos
from fewshotjax.detection.regions import box_features, find_regions
from fewshotjax.detection.support import SupportConfig
from fewshotjax.detection.training import fixed, train
from fewshotjax.detection.tuning import DetectionTuning
from fewshotjax.detection.windows import WindowConfig, Windows


def shared():
    """The module beside this one; pytest imports test files alone."""
    spec = importlib.util.spec_from_file_location(
        "coloured_squares", Path(__file__).with_name("coloured_squares.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


squares = shared()
RED = squares.RED
P = squares.P
KEY = squares.KEY
TRACES = squares.TRACES
WINDOWS = squares.WINDOWS
CONFIG = squares.CONFIG
pyramid = squares.pyramid
scene = squares.scene
support = squares.support
iou = squares.iou


@pytest.fixture(scope="module")
def trained():
    return squares.random_detector()


@pytest.fixture(scope="module")
def plain(trained):
    return new_classes(KEY, trained, support(), threshold=0.5)


def test_a_detector_finds_what_its_parts_say(trained):
    """Against a plain retelling: regions, RepMet's posterior, greedy suppression, the photograph's scale."""
    given = support().take([0, 1])
    made = new_classes(KEY, trained, given, pixels=P, config=SupportConfig(regions=0), threshold=0.0)
    image, _ = scene(32, 24, (RED, 4, 6, 8), seed=9)
    answer = detect(made, image)
    fit = fit_photos([image], P)
    regions = find_regions(trained, fit.images)
    head = trained.params["repmet"]["head"]["Dense_0"]

    def embedded(features):
        e = features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
        return e / np.linalg.norm(e, axis=1, keepdims=True)

    features = box_features(trained, np.asarray(given.images), given.boxes, given.shown)
    modes = embedded(features[given.shown])
    labels = given.labels[given.shown]
    np.testing.assert_allclose(made.embeddings[np.argsort(made.owner)], modes, atol=1e-5)
    e = embedded(regions.features[0])
    squared = ((e[:, None] - modes[None]) ** 2).sum(axis=2)
    near = np.exp(-2 * squared)  # sigma .5
    c = np.stack([near[:, labels == n].max(axis=1) for n in range(2)], axis=1) + 1e-7
    logits = 15 * np.concatenate([c, 1 + 1e-7 - c.max(axis=1, keepdims=True)], axis=1)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    boxes = np.clip(regions.boxes[0], 0, [48, 64, 48, 64])
    there = regions.mask[0] & ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    kept = []
    for n in range(2):
        alive = [i for i in np.argsort(-p[:, n], kind="stable") if there[i]]
        while alive:
            best, *rest = alive
            kept.append((p[best, n], n, best))
            alive = [i for i in rest if iou(boxes[[best]], boxes[[i]])[0, 0] <= 0.3]
    kept.sort(key=lambda one: -one[0])
    kept = kept[: CONFIG.per_image]
    assert len(answer) == len(kept) > 2
    np.testing.assert_allclose(answer.scores, [one[0] for one in kept], rtol=1e-3)
    assert answer.labels.tolist() == [n for _, n, _ in kept]
    rows = [i for *_, i in kept]
    np.testing.assert_allclose(answer.boxes, boxes[rows] / 2, atol=1e-2)
    np.testing.assert_allclose(answer.background, p[rows, 2], rtol=1e-3)
    assert answer.nearest.tolist() == squared[rows].argmin(axis=1).tolist()
    np.testing.assert_allclose(answer.distance, np.sqrt(squared[rows].min(axis=1)), atol=1e-3)
    assert made.representatives.modes.shape == (2, 5, 6)
    assert made.detector is trained


def test_classes_trained_on_are_found_too_on_request(trained):
    config = SupportConfig(keep_base=True)
    made = new_classes(KEY, trained, support(), config=config, threshold=0.0)
    assert made.classes == ("red", "blue", "cat", "blue (trained)")
    assert made.category_ids == (1, 2, 3, 4)
    assert made.pixels == P  # what the detector was trained on
    answer = detect(made, scene(64, 64, seed=3)[0])
    assert (answer.labels < 2).any()
    assert (answer.labels >= 2).any()
    assert (answer.nearest[answer.labels >= 2] == -1).all()
    assert (answer.nearest[answer.labels < 2] >= 0).all()
    assert answer.rows()[int(np.argmax(answer.labels >= 2))]["nearest"] == ""
    assert answer.picture(0).width == 480 + PANEL


@pytest.mark.long
def test_a_method_or_tuning_of_ones_own(trained, plain, tmp_path):
    made = new_classes(KEY, trained, support(), method=class_mean(trained.net), threshold=0.0)
    assert made.representatives.modes.shape[:2] == (2, 1)
    with pytest.raises(ValueError, match="cannot be saved"):
        save_new_classes(tmp_path / "x.safetensors", made)
    tuning = DetectionTuning(epochs=1, learning_rate=0.1, box=True, augmentation=AUTHORS_AUGMENTATION)
    tuned = new_classes(KEY, trained, support(), tuning=tuning, threshold=0.0)
    assert not np.allclose(tuned.representatives.modes, plain.representatives.modes)
    save_new_classes(tmp_path / "tuned.safetensors", tuned)
    again = load_new_classes(tmp_path / "tuned.safetensors", trained)
    image = scene(64, 64, (RED, 8, 8, 16))[0]
    before, after = detect(tuned, image), detect(again, image)
    np.testing.assert_array_equal(after.scores, before.scores)
    np.testing.assert_array_equal(after.boxes, before.boxes)
    assert not np.allclose(tuned.model.own["box"]["kernel"], trained.params["box"]["kernel"])


def test_a_tuned_box_head_comes_back(trained, plain, tmp_path):
    """As tuning leaves it, but without the tuning: only what the model then has of its own."""
    method = repmet(trained.net, SupportConfig(), tuning=DetectionTuning(box=True))
    own = {"box": jax.tree.map(lambda leaf: -leaf, trained.params["box"])}
    finder, model = RegionFinder(trained, method, SupportConfig()), plain.model._replace(own=own)
    tuned = dataclasses.replace(plain, finder=finder, model=model, threshold=0.0)
    path, image = tmp_path / "tuned.safetensors", scene(64, 64, (RED, 8, 8, 16))[0]
    save_new_classes(path, tuned)
    before, after = detect(tuned, image), detect(load_new_classes(path, trained), image)
    np.testing.assert_array_equal(after.boxes, before.boxes)
    np.testing.assert_array_equal(after.scores, before.scores)
    other = detect(plain, image, threshold=0.0).boxes
    assert before.boxes.shape != other.shape or not np.allclose(before.boxes, other)


def test_nan_is_refused(trained, plain):
    def scores(params, model, features, objectness):
        return jnp.full((len(features), 2), jnp.nan), None

    method = plain.finder.method._replace(predict=scores)
    broken = dataclasses.replace(plain, finder=RegionFinder(trained, method, SupportConfig()))
    with pytest.raises(ValueError, match="photo 0: scores are NaN"):
        detect(broken, scene(64, 64)[0])
    method = DetectionMethod(lambda key, params, shown, ways: jnp.full(ways, jnp.nan), scores)
    with pytest.raises(ValueError, match="the method learned NaN"):
        new_classes(KEY, trained, support(), method=method)


def test_any_number_of_photographs_runs_one_program(plain):
    images = [scene(64, 48, (RED, 4, 6, 8), seed=seed)[0] for seed in range(17)]
    TRACES.clear()
    every = detect(plain, images, threshold=0.0)
    assert not TRACES  # as of the support
    one = detect(plain, images[16:], threshold=0.0)
    assert not TRACES
    np.testing.assert_allclose(one.boxes, every.of(16).boxes, atol=1e-4)


def test_training_leaves_its_size(trained, monkeypatch):
    """Images of 96 pixels, where the pyramid was made for 64."""
    asked = []

    def fit(key, net, params, *rest):
        asked.append((net.preprocess.pixels, rest[-1]["preprocess"]["pixels"]))
        return SimpleNamespace(params=params, history=(), settings={}, finished=True)

    monkeypatch.setattr(train, "fit", fit)
    box = np.array([[8, 8, 24, 24]], np.float32)
    source = fixed(boxed(np.zeros((1, 64, 96, 3), np.uint8), [box], [[0]], trained.classes))
    result = train.train_detector(KEY, trained, source)
    assert asked == [(96, 96)]
    assert result.detector.net == dataclasses.replace(trained.net, preprocess=Preprocess(96))
    assert (default_pixels(trained), default_pixels(result.detector)) == (64, 96)


def test_methods_that_are_refused(trained):
    for given in ({"tuning": DetectionTuning()}, {"config": SupportConfig(keep_base=True)}):
        with pytest.raises(ValueError, match="config and tuning are of RepMet's method"):
            new_classes(KEY, trained, support(), method=class_mean(trained.net), **given)
    with pytest.raises(ValueError, match=r"method knows the classes trained on alone.*keep_base=True"):
        new_classes(KEY, trained, support(), method=of_base(trained.net))
    with pytest.raises(ValueError, match=r"DetectionTuning\(what='head'\) here"):
        new_classes(KEY, trained, support(), tuning=DetectionTuning(what="all"))
    config = SupportConfig(compat_support=True, iou=1.0)
    with pytest.raises(ValueError, match="no region of the detector overlaps a support box of red"):
        new_classes(KEY, trained, support(), config=config)


def test_detectors_come_from_files_or_the_plugin(monkeypatch, tmp_path):
    monkeypatch.setattr(detect_module, "plugin_pyramid", lambda name: pyramid())
    config = WindowConfig(bins=((0, 2),))
    assert detector(windows=config).config == config
    assert detector(per_image=7, windows=config).config == dataclasses.replace(config, per_image=7)
    assert "no trained proposals" in repr(detector(windows=config))
    with pytest.raises(ValueError, match="windows are for weights=None"):
        detector(tmp_path / "x.safetensors", windows=config)
    with pytest.raises(FileNotFoundError):
        detector(tmp_path / "x.safetensors")


def test_classes_of_another_detector_are_refused(plain, trained, tmp_path):
    found = new_classes(KEY, WINDOWS, support().take([0]), pixels=P, threshold=0.5)
    path = tmp_path / "new.safetensors"
    save_new_classes(path, found)
    with pytest.raises(ValueError, match=r"was made with sliding windows: give that"):
        load_new_classes(path, trained)
    with pytest.raises(ValueError, match=r"on colours whose weights was .*: give that detector"):
        load_new_classes(path, Windows(pyramid(2.0), WINDOWS.config))
    save_new_classes(path, plain)
    assert load_new_classes(path, trained).threshold == 0.5
    with pytest.raises(ValueError, match="a trained detector"):
        load_new_classes(path, WINDOWS)
    with pytest.raises(ValueError, match="whose weights was"):
        load_new_classes(
            path, dataclasses.replace(trained, params=jax.tree.map(lambda x: x + 1, trained.params))
        )
