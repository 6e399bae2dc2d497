"""A classifier of a few examples against plain loops; open set, files, and what is refused."""

import csv
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from scipy.special import logsumexp

import fewshotjax as fs
from fewshotjax import classifier_calibration as calibration
from fewshotjax.classifier import fit, fit_features
from fewshotjax.classifier_files import load_classifier, save_classifier
from fewshotjax.classifier_plot import plot_predictions
from fewshotjax.classifier_predict import NONE, predict, predict_features
from fewshotjax.data import LabelledFeatures, Pictures

CLASSES = ("ant", "bee", "cat")
SIDE = 4


def examples(counts=(4, 3, 3), seed=0, spread=0.5, width=6):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(len(counts), width))
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    return (centres[labels] + spread * rng.normal(size=(len(labels), width))).astype(np.float32), labels


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def embed():
    """Raw pixels of 4x4 images."""
    return fs.from_function(lambda x: x.reshape(len(x), -1), fs.backbones.raw(SIDE), name="pixels")


def photographs(count, shade, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 40, (count, SIDE, SIDE, 3))
    return (noise + np.array(shade)).astype(np.uint8)


SHADES = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


@pytest.fixture
def support():
    images = np.concatenate([photographs(3, shade, i) for i, shade in enumerate(SHADES)])
    files = tuple(f"{name}/{i}.png" for name in CLASSES for i in range(3))
    return fs.LabelledImages(images, np.repeat(np.arange(3, dtype=np.int32), 3), CLASSES, files)


# --- what is chosen from the support


def brute_loss(x, labels, ways, sigma):
    """The smoothed leave-one-out loss, an example at a time."""
    x, total, left = unit(x), 0.0, 0
    alone = [i for i in range(len(x)) if (labels == labels[i]).sum() > 1]
    for i in alone:
        log_p = np.full(ways, -np.inf)
        for k in range(ways):
            terms = [
                -np.sum((x[i] - x[j]) ** 2) / (2 * sigma**2)
                for j in range(len(x))
                if j != i and labels[j] == k
            ]
            log_p[k] = logsumexp(terms)
        log_p -= logsumexp(log_p)
        n = len(alone)
        for k in range(ways):
            wanted = (n + 1) / (n + 2) if k == labels[i] else 1 / (n + 2) / (ways - 1)
            total -= wanted * log_p[k]
        left += 1
    return total / left


@pytest.mark.parametrize("counts", [(4, 3, 3), (2, 1, 5)])
def test_sigma_and_threshold_by_leaving_one_out(counts):
    x, labels = examples(counts)
    seen = calibration.leave_one_out(unit(x), labels)
    losses = [brute_loss(x, labels, 3, sigma) for sigma in calibration.GRID]
    for sigma, loss in list(zip(calibration.GRID, losses, strict=True))[::6]:
        np.testing.assert_allclose(calibration.smoothed_loss(seen, 3, sigma), loss, rtol=1e-9)
    assert calibration.choose_sigma(seen, 3) == calibration.GRID[int(np.argmin(losses))]

    nearest = []
    for i, row in enumerate(unit(x)):
        if (labels == labels[i]).sum() > 1:
            nearest.append(min(np.linalg.norm(row - unit(x)[j]) for j in range(len(x)) if j != i))
    np.testing.assert_allclose(calibration.choose_threshold(seen), np.quantile(nearest, 0.95), rtol=1e-9)
    made = fit_features(x, labels)
    assert made.sigma == calibration.choose_sigma(seen, 3)
    np.testing.assert_allclose(made.threshold, np.quantile(nearest, 0.95), rtol=1e-6)


def test_clean_examples_do_not_make_it_sure_of_everything():
    """The plain likelihood would take the smallest sigma of the grid."""
    x = np.repeat(np.eye(3, dtype=np.float32), 3, axis=0)
    x += 0.01 * np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    labels = np.repeat(np.arange(3, dtype=np.int32), 3)
    made = fit_features(x, labels)
    assert made.sigma > 0.2
    sure = predict_features(made, x).confidence
    assert 0.8 < sure.min() <= sure.max() < 0.97  # of 11 to come, one may be wrong


def test_one_example_each_tells_nothing():
    x, labels = examples((1, 1, 1))
    made = fit_features(x, labels, CLASSES)
    assert (made.sigma, made.threshold) == (0.5, None)
    assert [note[:30] for note in made.notes] == [
        "each class has one example, wh",
        "each class has one example, so",
    ]
    assert (predict_features(made, 10 - x).labels >= 0).all()
    some = fit_features(*examples((3, 1, 1)), CLASSES)
    assert some.notes == ("classes of one example told nothing of distances: bee, cat",)


def test_many_examples_are_left_out_in_part(monkeypatch):
    monkeypatch.setattr(calibration, "LEFT_OUT", 4)
    seen = calibration.leave_one_out(*(lambda x, y: (unit(x), y))(*examples()))
    assert seen.squared.shape == (4, 10)
    assert np.isinf(seen.squared).sum() == 4


# --- what it says


def test_predictions_against_plain_loops():
    x, labels = examples()
    queries, _ = examples((5, 5, 5), seed=1, spread=0.8)
    queries[-1] = -x[0] - x[4] - x[7]
    made = fit_features(x, labels, CLASSES, sigma=0.4, reject=0.9)
    found = predict_features(made, queries)
    for i, q in enumerate(unit(queries)):
        squared = [np.sum((q - s) ** 2) for s in unit(x)]
        log_p = np.array(
            [logsumexp([-d / 0.32 for d, y in zip(squared, labels, strict=True) if y == k]) for k in range(3)]
        )
        np.testing.assert_allclose(found.log_probabilities[i], log_p - logsumexp(log_p), rtol=1e-4, atol=1e-4)
        assert found.nearest[i] == np.argmin(squared)
        assert found.nearest_files[i] == f"example {np.argmin(squared)}"
        np.testing.assert_allclose(found.outsider[i], np.sqrt(min(squared)), rtol=1e-4)
        assert found.labels[i] == (-1 if min(squared) > 0.81 else np.argmax(log_p))
    assert found.names[-1] == NONE
    assert found.files[3] == "query 3"
    assert found.likeliest[-1] in (0, 1, 2)
    np.testing.assert_allclose(found.confidence, np.exp(found.log_probabilities).max(axis=1))
    assert (predict_features(fit_features(x, labels, CLASSES, reject=None), queries).labels >= 0).all()


def test_chunks_change_nothing_and_compile_once(monkeypatch):
    traces = []

    def predict_rows(model, queries):
        traces.append(queries.shape)
        return jax.nn.log_softmax(queries @ model)

    method = fs.Method(lambda key, support, labels, ways: support[:ways].T, predict_rows)
    x, labels = examples()
    made = fit_features(x, labels, method=method)
    many = np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)
    whole = predict_features(made, many)
    parts = [predict_features(made, many[a:b]) for a, b in ((0, 1), (1, 300), (300, 600))]
    assert traces == [(256, 6)]
    np.testing.assert_array_equal(whole.distance, np.concatenate([part.distance for part in parts]))
    np.testing.assert_array_equal(
        whole.log_probabilities, np.concatenate([part.log_probabilities for part in parts])
    )
    another = fit_features(x, labels, method=method)
    predict_features(another, many[:3])
    assert len(traces) == 1


def test_another_sigma_compiles_nothing():
    from fewshotjax.classifier_predict import _judge

    x, labels = examples()
    predict_features(fit_features(x, labels, sigma=0.4), x)
    before = _judge._cache_size()
    predict_features(fit_features(x, labels, sigma=0.3), x)
    assert _judge._cache_size() == before


def test_more_examples_than_modes_become_centres():
    x, labels = examples((9, 3, 3))
    made = fit_features(x, labels, modes=3)
    modes, mask = map(np.asarray, made.representatives)
    assert modes.shape == (3, 3, 6)
    assert mask.all()
    np.testing.assert_allclose(np.linalg.norm(modes, axis=2), 1, rtol=1e-5)
    np.testing.assert_allclose(modes[1], unit(x)[9:12], rtol=1e-5)
    assert fit_features(x, labels).representatives.modes.shape == (3, 5, 6)


@pytest.mark.parametrize("name", ["prototypes", "nearest_neighbour", "ridge"])
def test_any_other_method_with_its_own_posterior(name):
    x, labels = examples()
    queries, _ = examples(seed=3)
    made = fit_features(x, labels, method=name)
    method = fs.by_name(name)
    wanted = method.predict(method.fit(jax.random.key(0), jnp.asarray(x), labels, 3), jnp.asarray(queries))
    found = predict_features(made, queries)
    np.testing.assert_allclose(found.log_probabilities, wanted, rtol=1e-4, atol=1e-4)
    assert made.representatives is None
    assert made.sigma is None
    default = predict_features(fit_features(x, labels), queries)
    np.testing.assert_array_equal(found.distance, default.distance)  # of whatever method
    assert "ridge" in repr(fit_features(x, labels, method="ridge"))


# --- images


def test_folders_files_and_arrays(tmp_path, embed, support):
    for image, file in zip(support.images, support.files, strict=True):
        (tmp_path / "support" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "support" / file)
    queries = np.concatenate([photographs(2, shade, 7 + i) for i, shade in enumerate(SHADES)])
    queries = np.concatenate([queries, photographs(1, (200, 200, 200))])
    (tmp_path / "query").mkdir()
    for i, image in enumerate(queries):
        Image.fromarray(image).save(tmp_path / "query" / f"{i}.png")
    made = fit(embed, tmp_path / "support")
    np.testing.assert_array_equal(made.support, fit(embed, support).support)
    assert (made.classes, made.files) == (CLASSES, support.files)
    found = predict(made, tmp_path / "query")
    assert found.names == ("ant", "ant", "bee", "bee", "cat", "cat", NONE)
    assert found.files[0] == "0.png"
    assert found.nearest_files[0].startswith("ant/")
    for given in (queries, Pictures(queries, tuple("abcdefg")), fs.from_arrays(queries, [0] * 7)):
        np.testing.assert_array_equal(predict(made, given).log_probabilities, found.log_probabilities)
    assert predict(made, queries[2]).names == ("bee",)
    one = predict(made, str(tmp_path / "query" / "4.png"))
    assert (one.names, one.files) == (("cat",), ("4.png",))

    found.to_csv(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(found.names)
    np.testing.assert_allclose([float(row["confidence"]) for row in rows], found.confidence, rtol=1e-5)
    assert rows[-1]["likeliest"] in CLASSES
    told = json.loads(json.dumps(found.as_dict()))
    assert (told["schema"], len(told["queries"])) == ("frugaljax.fewshot.predictions/1", 7)
    lines = found.table(3).splitlines()
    assert lines[0].split() == ["file", "label", "confidence", "nearest", "example", "distance"]
    assert lines[1].split()[:2] == ["0.png", "ant"]
    assert lines[-1] == "... and 4 more"
    assert "%" not in found.table().splitlines()[-1]  # of a query that is none of these

    axes = plot_predictions(made, found)
    assert axes.get_legend_handles_labels()[1] == [*CLASSES, NONE, "representative"]
    assert axes.get_title() == "9 examples and 7 queries"


def test_images_of_the_support_among_the_queries(embed, support):
    made = fit(embed, support)
    with pytest.warns(UserWarning, match=r"1 queries are images of the support.*image 1 = bee/0.png"):
        found = predict(made, np.stack([photographs(1, SHADES[0], 50)[0], support.images[3]]))
    assert found.distance[1] == 0
    twice = np.concatenate([support.images[:8], support.images[6:7]])
    with pytest.warns(UserWarning, match=r"1 images are in the support twice.*cat/0.png = cat/2.png"):
        fit(embed, fs.LabelledImages(twice, support.labels, CLASSES, support.files))


def test_saved_and_loaded(tmp_path, embed, support):
    queries = photographs(4, SHADES[1], 5)
    for number, made in enumerate(
        [fit(embed, support, modes=2), fit(embed, support, method="ridge", reject=1.0)]
    ):
        path = tmp_path / f"{number}.safetensors"
        save_classifier(path, made)
        again = load_classifier(path, embed)
        for name in (
            "classes",
            "files",
            "sigma",
            "threshold",
            "notes",
            "digests",
            "made_with",
            "method_name",
        ):
            assert getattr(again, name) == getattr(made, name)
        one, two = predict(made, queries), predict(load_classifier(path), queries, backbone=embed)
        np.testing.assert_array_equal(one.log_probabilities, two.log_probabilities)
        np.testing.assert_array_equal(one.labels, predict(again, queries).labels)
    with pytest.raises(ValueError, match="has no backbone: give backbone=, the pixels it was made with"):
        predict(load_classifier(path), queries)
    with pytest.warns(UserWarning, match="cat/1.png"):
        predict(again, support.images[7])

    other = fs.from_function(lambda x: x.reshape(len(x), -1), fs.backbones.raw(SIDE), name="other")
    weighted = fs.from_function(
        lambda w, x: x.reshape(len(x), -1) * w, fs.backbones.raw(SIDE), jnp.ones((1, 1)), name="pixels"
    )
    for wrong, message in (
        (other, "whose name was pixels, and this one's is other"),
        (weighted, "whose weights"),
    ):
        with pytest.raises(ValueError, match=message):
            load_classifier(path, wrong)
        with pytest.raises(ValueError, match=message):
            predict(again, queries, backbone=wrong)
    x, labels = examples()
    save_classifier(path, fit_features(x, labels))
    with pytest.raises(ValueError, match="made of features alone: leave backbone out"):
        load_classifier(path, embed)
    predict_features(load_classifier(path), x)


def test_files_are_checked(tmp_path):
    x, labels = examples()
    path = tmp_path / "c.safetensors"
    save_classifier(path, fit_features(x, labels))
    with safetensors.safe_open(path, "np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    told = json.loads(metadata["classifier"])

    def written(metadata=metadata, changed=None, dropped=(), **values):
        new = {**metadata, "classifier": json.dumps({**told, **values})} if values else metadata
        kept = {name: array for name, array in {**tensors, **(changed or {})}.items() if name not in dropped}
        path.write_bytes(safetensors.numpy.save(kept, new))
        return path

    nan = tensors["support"].copy()
    nan[0, 0] = np.nan
    for bad, message in (
        (lambda: written({"format": "pt"}), "is no file of save_classifier"),
        (lambda: written({**metadata, "schema": "7"}), "schema version 7"),
        (lambda: written({**metadata, "classifier": "{"}), "is damaged"),
        (lambda: written(dropped=["labels"]), "is damaged"),
        (lambda: written(dropped=["modes"]), "is damaged"),
        (lambda: written(changed={"support": nan}), "its support do not fit"),
        (lambda: written(changed={"labels": labels + np.int32(1)}), "labels reach 3"),
        (lambda: written(changed={"labels": labels - np.int32(1)}), "its labels do not fit"),
        (lambda: written(changed={"modes": tensors["modes"][:, :2]}), "its mode_mask do not fit"),
        (lambda: written(changed={"mode_mask": tensors["mode_mask"] & False}), "its mode_mask do not fit"),
        (lambda: written(sigma=-1.0), "its sigma do not fit"),
        (lambda: written(threshold="wide"), "could not convert"),
        (lambda: written(files=["one"]), "its files do not fit"),
        (lambda: written(method_name="magic"), "method must be one of repmet"),
        (lambda: path.write_bytes(b"not one"), "is no .safetensors file"),
    ):
        bad()
        with pytest.raises(ValueError, match=message):
            load_classifier(path)
    with pytest.raises(FileNotFoundError):
        load_classifier(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="the classifier's method has no name: register it"):
        save_classifier(path, fit_features(x, labels, method=fs.ridge()))


# --- what is refused


def test_refused_supports(embed, support):
    with pytest.raises(ValueError, match="support has no examples of bee: add one each"):
        fit(embed, support.take([0, 1, 6, 7]))
    with pytest.raises(ValueError, match="support has 1 class: give two at least"):
        fit(embed, support.only(["ant"]))
    small = fs.LabelledImages(support.images[:, :2, :2], support.labels, CLASSES)
    with pytest.raises(
        ValueError, match="images are 2x2, the backbone takes 4x4 pixels: read them with pixels=4"
    ):
        fit(embed, small)
    grey = fs.LabelledImages(support.images[..., :1], support.labels, CLASSES)
    with pytest.raises(ValueError, match="images have 1 channels, the backbone takes 3"):
        fit(embed, grey)
    made = fit(embed, support)
    with pytest.raises(ValueError, match="images are 2x2"):
        predict(made, small.images)
    with pytest.raises(ValueError, match="images have 1 channels"):
        predict(made, grey)
    logs = fs.from_function(lambda x: jnp.log(x).reshape(len(x), -1), fs.backbones.raw(SIDE), name="logs")
    with pytest.raises(ValueError, match=r"logs gives NaN or infinite features for bee/1\.png"):
        fit(logs, fs.LabelledImages(_black(support.images, 4), support.labels, CLASSES, support.files))


def _black(images, row):
    out = np.maximum(images, 1)
    out[row] = 0
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.0}, "sigma must be above 0, got 0"),
        ({"modes": 0}, "modes must be at least 1, got 0"),
        ({"reject": "maybe"}, "reject must be 'auto', a distance or None, got 'maybe'"),
        ({"reject": -1.0}, "reject must be a distance of 0-2, above 0"),
        ({"method": "magic"}, "method must be one of repmet"),
        ({"method": "ridge", "sigma": 1.0}, "modes and sigma are of method 'repmet'"),
        ({"labels": None}, "labels is None"),
        ({"labels": [0, 1]}, r"labels are int64 of shape \(2,\): give 10 whole numbers"),
        ({"labels": np.full(10, -1)}, "labels must be class indices from 0, got -1"),
        ({"classes": ["a", "b"]}, "labels reach 2, but there are 2 classes"),
        ({"classes": ["a", "b", "a"]}, "classes has a name twice"),
        ({"classes": ["a", "b", "c", "d"]}, "support has no examples of d"),
        ({"files": ["x"]}, "files are 1, features 10"),
        ({"features": np.zeros(10)}, r"features are float64 of shape \(10,\): give numbers \(N, F\)"),
    ],
)
def test_refused_settings(change, message):
    x, labels = examples()
    given = {"features": x, "labels": labels, **change}
    with pytest.raises(ValueError, match=message):
        fit_features(given.pop("features"), given.pop("labels"), **given)


def test_refused_features():
    x, labels = examples()
    bad = x.copy()
    bad[4, 2] = np.nan
    with pytest.raises(ValueError, match="features of row 4 hold NaN or infinite values"):
        fit_features(bad, labels)
    made = fit_features(LabelledFeatures(x, labels, CLASSES))
    with pytest.raises(ValueError, match="labels and classes are in the LabelledFeatures already"):
        fit_features(LabelledFeatures(x, labels, CLASSES), labels)
    with pytest.raises(ValueError, match=r"features of e\.png hold NaN"):
        predict_features(made, bad, files=[f"{c}.png" for c in "abcdefghij"])
    with pytest.raises(ValueError, match=r"features are \(10, 5\): give \(N, 6\)"):
        predict_features(made, x[:, 1:])
    with pytest.raises(ValueError, match="with one row at least"):
        predict_features(made, x[:0])
    with pytest.raises(ValueError, match="files are 1, features 10"):
        predict_features(made, x, files=["a"])
    with pytest.raises(ValueError, match="made of features alone: give features to predict_features"):
        predict(made, photographs(1, SHADES[0]))
    nothing = fs.Method(lambda key, s, y, ways: s, lambda model, q: jnp.full((len(q), 3), jnp.nan))
    with pytest.raises(ValueError, match="the method gives NaN for query 0"):
        predict_features(fit_features(x, labels, method=nothing), x)


def test_no_warning_where_all_is_well(embed, support):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(fit(embed, support), photographs(2, SHADES[0], 90))
