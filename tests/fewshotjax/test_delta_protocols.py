"""Honest and authors' protocol on the same episodes, generalised few-shot, and the pictures."""

import importlib
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fewshotjax as fs
from fewshotjax import delta as de, evaluation
from fewshotjax.delta import episode_fit
from fewshotjax.delta.generalised import Guesses
from fewshotjax.delta.protocols import _digest
from fewshotjax.delta.scaling import Scaling
from fewshotjax.episode_task import episode_task
from fewshotjax.episodes import FIT as FIT_STREAM
from fewshotjax.memory import program_bytes
from fewshotjax.results import mean_of

WIDTH = 5
KEY = jax.random.key(0)
SHORT = de.ClassifierConfig(epochs=4, batch=16, learning_rate=0.05)
FIT = de.EpisodeFit(8, classifier=SHORT)
RIDGE = de.ClassifierConfig("ridge")
SHAPE = {"ways": 3, "shots": 1, "queries": 4, "episodes": 24}


def examples(seed, classes=5, per_class=8):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class).astype(np.int32)
    x = 1.5 * rng.normal(size=(classes, WIDTH))[labels] + rng.normal(size=(len(labels), WIDTH))
    return x.astype(np.float32), labels


@pytest.fixture(scope="module")
def candidates():
    """As if after three epochs: the first gives its seeds back with a little noise, the others spoil them."""
    config = de.DeltaConfig(hidden=2 * WIDTH, code=3)
    plain = Scaling(jnp.zeros(WIDTH), jnp.ones(WIDTH))
    found = {}
    for epoch, std in enumerate((0.1, 1.0, 3.0)):
        params = de.init_delta(jax.random.key(epoch), replace(config, init_std=0.05 * std), WIDTH)
        # relu(y) - relu(-y), with a slope: the decoder is the identity on its seed, but for the noise.
        eye = np.concatenate([np.eye(WIDTH), -np.eye(WIDTH)], axis=1)
        layer = params["decoder"]["layer_0"]
        layer["kernel"] = layer["kernel"].at[:WIDTH].add(eye)
        params["decoder"]["layer_1"]["kernel"] += eye.T / 1.2
        bank = jnp.asarray(np.random.default_rng(epoch).normal(size=(20, 3)), jnp.float32)
        found[f"epoch {epoch + 1}"] = de.DeltaEncoder(config, params, bank, WIDTH, plain)
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("choice") / "choice.json"


@pytest.fixture(scope="module")
def choice(candidates, file):
    return de.choose_on_validation(KEY, candidates, *examples(1), file, fit=FIT, **SHAPE)


@pytest.fixture(scope="module")
def result(candidates, choice, file):
    return de.protocols(jax.random.key(1), candidates, *examples(2), file, fit=FIT, **SHAPE)


def test_the_choice_is_the_best_on_validation_and_lies_in_a_file(choice, candidates, file):
    assert choice.name == max(choice.accuracies, key=choice.accuracies.__getitem__)
    assert set(choice.accuracies) == set(candidates)
    assert choice.accuracies["epoch 1"] > choice.accuracies["epoch 3"]
    assert de.load_choice(file) == choice
    with pytest.raises(ValueError, match=r"choice.json exists: a choice is made once"):
        de.choose_on_validation(KEY, candidates, *examples(1), file, fit=FIT, **SHAPE)


def test_each_maximum_is_at_least_what_it_replaces(result, choice):
    """The rows retold from the accuracies."""
    a, chosen = result.accuracies, result.candidates.index(choice.name)
    assert a.shape == (3, 24, 4)
    rows = {row.name.split(",")[0]: row for row in result.rows()}
    honest = a[chosen, :, -1]
    best = a[:, :, -1].mean(axis=1).argmax()
    both = a.max(axis=2).mean(axis=1).argmax()
    expected = {
        "honest": honest,
        "+ best classifier epoch": a[chosen].max(axis=1),
        "+ best model": a[best, :, -1],
        "+ both (authors)": a[both].max(axis=1),
    }
    assert list(rows) == list(expected)
    for name, values in expected.items():
        assert rows[name].accuracy == mean_of(values)
        assert rows[name].comparable == (name == "honest")
        if name != "honest":
            assert rows[name].gain == mean_of(values - honest)
            assert rows[name].gain.mean >= 0
    most = rows["+ both (authors)"].accuracy.mean
    assert most >= max(row.accuracy.mean for row in rows.values())
    np.testing.assert_array_equal(result.honest_accuracies, honest)
    assert result.best_model() == result.candidates[best]


def test_an_accuracy_is_the_share_of_queries_that_the_weights_of_its_epoch_put_right(result, candidates):
    """One episode of one candidate, from its support to its accuracies, in NumPy but for the fit."""
    x, labels = examples(2)
    delta, row = candidates["epoch 2"], 5
    task = episode_task(jax.random.key(1), x, labels, **SHAPE)
    drawn = task.episodes
    classes, support, query = (np.asarray(part)[row] for part in (drawn.classes, drawn.support, drawn.query))
    assert (labels[support[:, 0]] == classes).all()
    assert (labels[query] == classes[:, None]).all()
    fit = replace(FIT, classifier=replace(SHORT, keep_epochs=True))
    key = jax.random.fold_in(jax.random.fold_in(task.key, row), FIT_STREAM)
    sampler, known = de.delta_sampler(delta), np.arange(3, dtype=np.int32)
    found = jax.jit(lambda k, s: de.fit_episode(k, sampler, fit, s, known, 3))(key, x[support[:, 0]])
    right = []
    for W, b in zip(np.asarray(found.trace.W), np.asarray(found.trace.b), strict=True):
        guessed = (x[query.reshape(-1)] @ W.T + b).argmax(axis=1)
        right.append(np.mean(guessed == np.repeat(np.arange(3), 4)))
    np.testing.assert_allclose(result.accuracies[result.candidates.index("epoch 2"), row], right, atol=1e-6)


def test_the_table_says_what_is_not_comparable(result, choice):
    lines = result.table().splitlines()
    assert lines[0].split() == ["protocol", "accuracy", "gain"]
    assert lines[1].startswith("honest ")
    assert ["selected on test; not comparable" in line for line in lines] == [False] * 2 + [True] * 3
    told = json.loads(json.dumps(result.as_dict()))
    assert told["chosen"] == choice.name
    notes = [row["note"] for row in told["protocols"].values()]
    assert notes == [None] + ["selected on test; not comparable"] * 3


def test_each_maximum_can_be_left_out(candidates, result, file, choice):
    """And ten episodes be asked for: the first ones; nothing else changes."""
    authors = de.Authors(max_model_epoch=False, episodes=10)
    one = de.protocols(jax.random.key(1), candidates, *examples(2), file, fit=FIT, authors=authors, **SHAPE)
    assert one.candidates == (choice.name,)
    assert [row.name for row in one.rows()] == [
        "honest",
        "honest, the first 10 episodes",
        "+ best classifier epoch",
    ]
    np.testing.assert_array_equal(one.accuracies[0], result.accuracies[result.chosen])
    np.testing.assert_array_equal(one.rows()[1].accuracy, mean_of(one.honest_accuracies[:10]))
    authors = de.Authors(max_classifier_epoch=False)
    last = de.protocols(jax.random.key(1), candidates, *examples(2), file, fit=FIT, authors=authors, **SHAPE)
    assert [row.name.split(",")[0] for row in last.rows()] == ["honest", "+ best model"]
    np.testing.assert_array_equal(last.accuracies, result.accuracies[:, :, -1:])


def test_what_protocols_refuse(candidates, choice, file, tmp_path):
    test, options = examples(2), {"fit": FIT, **SHAPE}
    other = {**candidates, choice.name: candidates["epoch 3" if choice.name != "epoch 3" else "epoch 1"]}
    less = {name: one for name, one in candidates.items() if name != choice.name}
    held, held_labels = examples(1)
    mixed = np.concatenate([held[7:8] * np.float64(1), test[0]]), np.r_[np.int32(5), test[1]]
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    marred = tmp_path / "marred.json"
    marred.write_text(file.read_text().replace('"rows": "', '"rows": "x'))
    for given, data, place, more, message in (
        (candidates, test, tmp_path / "none.json", {}, "there is no such choice"),
        (candidates, test, broken, {}, "is no choice on validation"),
        (candidates, test, marred, {}, "is no choice on validation"),
        (other, test, file, {}, "is not the one that validation chose: they differ"),
        (less, test, file, {}, "candidates lack"),
        (candidates, (held, held_labels), file, {}, "those of the validation, 40 of 40 rows, row 0"),
        (candidates, (held[::-1], held_labels.astype(np.int64)), file, {}, "40 of 40 rows"),
        (candidates, mixed, file, {}, "those of the validation, 1 of 41 rows, row 0 the first"),
        (
            candidates,
            test,
            file,
            {"codes": "noise"},
            "codes: validation chose with pairs, this test has noise",
        ),
        (
            candidates,
            test,
            file,
            {"fit": replace(FIT, samples=9)},
            "fit: validation chose with {'samples': 8",
        ),
        (
            candidates,
            test,
            file,
            {"authors": de.Authors(episodes=25)},
            "authors.episodes is 25, but there are 24",
        ),
        (
            candidates,
            test,
            file,
            {"fit": de.EpisodeFit(8, classifier=de.ClassifierConfig("ridge"))},
            "epochs of adam",
        ),
        (candidates, test, file, {"ways": 6}, "ways is 6, but 5 of 5 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            de.protocols(KEY, given, *data, place, **{**options, **more})
    with pytest.raises(ValueError, match="candidates is empty"):
        de.choose_on_validation(KEY, {}, *test, tmp_path / "x.json")
    with pytest.raises(ValueError, match="episodes must be at least 2, or None for all, got 1"):
        de.Authors(episodes=1)


def test_the_digest_of_a_candidate_is_of_its_settings_too(candidates):
    """Weights alone do not tell how they are used."""
    one = candidates["epoch 1"]
    others = [
        one.replace(scaling=replace(one.scaling, kind="l2")),
        one.replace(config=replace(one.config, slope=0.1)),
        one.replace(bank=one.bank[::-1]),
    ]
    assert len({_digest(delta) for delta in (one, *others)}) == 4
    assert _digest(one.replace(config=replace(one.config))) == _digest(one)


# Generalised few-shot


@pytest.fixture(scope="module")
def halves():
    """Classes 0 to 3 seen, with examples to learn and to test; 4 to 6 unseen."""
    x, labels = examples(3, classes=7, per_class=10)
    place = np.arange(len(x)) % 10
    old = labels < 4
    return (
        (x[old & (place < 6)], labels[old & (place < 6)]),
        (x[old & (place >= 6)], labels[old & (place >= 6)]),
        (x[~old], labels[~old]),
    )


def test_generalised_counts_every_class(candidates, halves):
    ridge = de.ClassifierConfig("ridge", regularization=0.1)
    options = {"shots": 2, "draws": 3, "samples": 12, "classifier": ridge}
    found = de.generalised(KEY, candidates["epoch 1"], *halves, **options)
    assert found.right.shape == (3, 7)
    assert found.classes[3:5] == ("seen 3", "unseen 4")
    s, u = found.right[:, :4].mean(axis=1), found.right[:, 4:].mean(axis=1)
    np.testing.assert_allclose(found.harmonic_means, 2 * s * u / (s + u))
    assert found.seen == mean_of(s)
    assert found.unseen == mean_of(u)
    assert found.per_class()["unseen 6"] == pytest.approx(found.right[:, 6].mean())
    assert "harmonic mean" in found.table()
    assert found.area == mean_of(found.areas)
    assert 0 < found.as_dict()["area"] < 1
    assert json.loads(json.dumps(found.as_dict()))["unseen"] == pytest.approx(u.mean())
    assert found.settings["classifier"]["kind"] == "ridge"
    assert (found.settings["sampler"], found.settings["codes"]) == ("DeltaSampler", "pairs")
    none = de.generalised(KEY, candidates["epoch 1"], *halves, **{**options, "samples": 0})
    assert none.unseen.mean < found.unseen.mean, "two seeds beside 24 examples should be drowned"


def test_generalised_is_the_argmax_of_one_classifier_in_the_scaled_space(candidates, halves):
    """One draw retold: rows of the seeds, a fit of scaled examples, and scaled queries, in NumPy."""
    standard = Scaling(jnp.full(WIDTH, 1.0), jnp.asarray([0.2, 1.0, 5.0, 1.0, 2.0]), "standard")
    delta = candidates["epoch 1"].replace(scaling=standard)
    ridge = de.ClassifierConfig("ridge", regularization=0.1)
    (x, y), (x_test, y_test), (x_new, y_new) = halves
    found = de.generalised(KEY, delta, *halves, shots=2, draws=1, samples=0, classifier=ridge)
    k_draw = jax.random.split(KEY, 1)[0]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.fold_in(k_draw, 0))))
    rows = np.concatenate([rng.permutation(np.flatnonzero(y_new == c))[:2] for c in (4, 5, 6)])

    def scaled(part):
        return (part - np.asarray(standard.mean)) / np.asarray(standard.std)

    inputs, wanted = scaled(np.concatenate([x, x_new[rows]])), np.eye(7)[np.concatenate([y, y_new[rows]])]
    middle, target = inputs.mean(axis=0), wanted.mean(axis=0)
    gram = (inputs - middle).T @ (inputs - middle) + 0.1 * np.eye(WIDTH)
    W = np.linalg.solve(gram, (inputs - middle).T @ (wanted - target))
    rest = np.setdiff1d(np.arange(len(y_new)), rows)
    scores = (scaled(np.concatenate([x_test, x_new[rest]])) - middle) @ W + target
    true = np.concatenate([y_test, y_new[rest]])
    right = [np.mean(scores[true == c].argmax(axis=1) == c) for c in range(7)]
    np.testing.assert_allclose(found.right[0], right)
    lead = scores[:, 4:].max(axis=1) - scores[:, :4].max(axis=1)
    guesses = Guesses(scores[:, :4].argmax(axis=1), 4 + scores[:, 4:].argmax(axis=1), lead)
    assert found.areas[0] == pytest.approx(guesses.area(true, 7, 4))


def test_what_is_not_a_number_is_no_accuracy(candidates, halves):
    """A classifier that fails is told, not counted as class 0."""
    broken = candidates["epoch 1"].replace(bank=candidates["epoch 1"].bank * jnp.nan)
    with pytest.raises(ValueError, match="the classifier ridge gave NaN: scale the features"):
        de.generalised(KEY, broken, *halves, draws=1, samples=6, classifier=RIDGE)
    task = episode_task(KEY, *examples(2), **{**SHAPE, "episodes": 3})
    fit = de.EpisodeFit(8, classifier=RIDGE)
    with pytest.warns(UserWarning, match="the classifier ridge gave NaN in 3 of 3 episodes"):
        assert not de.accuracies_by_epoch(task, de.delta_sampler(broken), fit).any()


def test_episodes_alive_at_once_are_those_that_memory_has_room_for(candidates, monkeypatch):
    """Of accuracies_by_epoch and of evaluate, which ask what an episode holds."""
    told = []
    sampler, fit = de.delta_sampler(candidates["epoch 1"]), de.EpisodeFit(90_000, classifier=RIDGE)
    held = episode_fit.episode_bytes(sampler, fit, 3, 1, WIDTH)
    assert held > 90_000 * 3 * (2 * 4 * WIDTH)
    monkeypatch.setenv("FRUGALJAX_MEMORY_BYTES", str(int(2.5 * held)))
    code = importlib.import_module("fewshotjax.delta.protocols")  # the function has its module's name
    monkeypatch.setattr(
        code, "_accuracies", lambda *given: told.append(given[7]) or (np.zeros((24, 1)), np.zeros(24, bool))
    )
    task = episode_task(KEY, *examples(2), **SHAPE)
    de.accuracies_by_epoch(task, sampler, fit)
    assert told == [2]
    assert evaluation._suited(task, de.delta_encoder(candidates["epoch 1"], 90_000, classifier=RIDGE)) == 2
    assert evaluation._suited(task, fs.prototypes()) > 2


def test_an_episode_takes_what_it_is_said_to(candidates):
    """XLA's own count, without running it; of all three ways to make the samples."""
    config = de.DeltaConfig(hidden=64, code=3)
    delta = de.DeltaEncoder(
        config, de.init_delta(KEY, config, WIDTH), jnp.zeros((20, 3)), WIDTH, candidates["epoch 1"].scaling
    )
    seeds = np.zeros((3, WIDTH), np.float32)
    for memory in ("blocks", "whole", "scan"):
        fit = de.EpisodeFit(200_000, classifier=RIDGE, memory=memory)
        sampler = de.delta_sampler(delta, "noise")

        def run(key, x, sampler=sampler, fit=fit):
            return de.fit_episode(key, sampler, fit, x, np.arange(3, dtype=np.int32), 3)

        said, real = (
            episode_fit.episode_bytes(sampler, fit, 3, 1, WIDTH),
            program_bytes(jax.jit(run), KEY, seeds),
        )
        assert 0.4 < real / said < 1.6, memory


def test_the_area_is_that_under_the_curve_over_all_biases():
    """Drawn bias by bias, ties included; a query counts by its class's size."""
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(5), [3, 6, 4, 2, 5])  # three classes seen, two not
    seen, unseen = rng.integers(0, 3, 20), rng.integers(3, 5, 20)
    lead = rng.integers(-4, 5, 20).astype(np.float32)
    points = []
    for bias in (np.inf, *(-np.unique(lead) + 0.5)[::1], -np.inf):
        guessed = np.where(lead + bias > 0, unseen, seen)
        of_class = [np.mean(guessed[true == c] == c) for c in range(5)]
        points.append((np.mean(of_class[:3]), np.mean(of_class[3:])))
    s, u = np.array(sorted(points, key=lambda point: (point[0], -point[1]))).T
    assert Guesses(seen, unseen, lead).area(true, 5, 3) == pytest.approx(np.trapezoid(u, s))
    certain = Guesses(np.where(true < 3, true, 0), np.where(true < 3, 3, true), np.where(true < 3, -1.0, 1.0))
    assert certain.area(true, 5, 3) == pytest.approx(1)
    assert certain.right(true, 5).tolist() == [1] * 5


def test_generalised_refuses(candidates, halves):
    seen, seen_queries, unseen = halves
    for parts, options, message in (
        ((seen, seen_queries, seen), {}, "label 0 is of a seen and of an unseen class"),
        ((seen, unseen, unseen), {}, "is in one of seen and seen_queries alone"),
        (
            (seen, tuple(np.concatenate(two) for two in zip(seen_queries, seen, strict=True)), unseen),
            {},
            "24 of 40 seen_queries are in seen, row 16 the first",
        ),
        (halves, {"shots": 10}, "unseen has class 4 10 examples: 10 seeds and a query"),
        (halves, {"names": ("a",)}, "names are 1, classes 7"),
        (halves, {"samples": 10**9}, "take more than 2 GiB"),
        (((seen[0] * np.nan, seen[1]), seen_queries, unseen), {}, "features of example 0 are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            de.generalised(KEY, candidates["epoch 1"], *parts, **options)


# Pictures


def test_plot_imagined_shows_the_nearest_images(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (6, 8, 8, 3)).astype(np.uint8)
    features = rng.normal(size=(6, 4)).astype(np.float32)
    made = features[[[3, 3, 1], [5, 5, 5]]] + np.float32(0.01)
    axes = de.plot_imagined(images[:2], made, features, images, list("abcdef"), columns=2, titles=["x", "y"])
    shown = [np.asarray(picture.get_array()) for picture in axes.get_images()]
    for got, row in zip(shown, (0, 3, 1, 1, 5), strict=True):  # a seed, its two; a seed, its one
        np.testing.assert_allclose(got, images[row] / 255)
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["x", "0.02, 67%", "d", "0.02, 33%", "b", "y", "0.02, 100%", "f"]
    axes.figure.savefig(tmp_path / "imagined.png")
    with Image.open(tmp_path / "imagined.png") as picture:
        assert min(picture.size) > 100
    for change, message in (
        ({"seed_images": images[:1]}, r"of 1 seeds, got \(2, 3, 4\)"),
        ({"images": images[:5]}, "images are 5, features 6"),
        ({"columns": 0}, "columns must be at least 1, got 0"),
        ({"synthesized": made * np.nan}, "synthesized hold NaN"),
    ):
        given = {"seed_images": images[:2], "synthesized": made, "features": features, "images": images}
        with pytest.raises(ValueError, match=message):
            de.plot_imagined(**{**given, **change})


def test_plot_samples_draws_a_line_for_each_method():
    lines = {"delta": {0: (0.4, 0.01), 16: (0.45, 0.01), 1: (0.41, 0.01)}, "noise": {0: (0.4, np.inf)}}
    axes = de.plot_samples(lines)
    first = axes.get_lines()[0]
    np.testing.assert_allclose(first.get_xdata(), [0, 1, 16])
    np.testing.assert_allclose(first.get_ydata(), [40, 41, 45])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["delta", "noise"]
    axes.figure.canvas.draw()
    for wrong, message in (({}, "results is empty"), ({"a": {1: (1.2, 0.1)}}, "no such share")):
        with pytest.raises(ValueError, match=message):
            de.plot_samples(wrong)
