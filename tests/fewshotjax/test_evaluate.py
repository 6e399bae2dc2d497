"""Evaluation over episodes: equal to a plain loop, whatever the chunk; what it reports and refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshotjax as fs
from fewshotjax import evaluate as evaluate_function

WAYS, EPISODES = 3, 50
RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(6), 12).astype(np.int32)
FEATURES = (RNG.normal(size=(6, 4))[LABELS] + RNG.normal(size=(72, 4))).astype(np.float32)
SHAPE = {"ways": WAYS, "shots": 2, "queries": 4}


def run(method=None, key=0, **options):
    options = {**SHAPE, "episodes": EPISODES, **options}
    return evaluate_function(jax.random.key(key), method or fs.prototypes(), FEATURES, LABELS, **options)


@pytest.mark.parametrize("shots", [2, (1, 3)])
def test_it_equals_a_plain_loop(shots):
    found = run(shots=shots)
    config = fs.EpisodeConfig(WAYS, shots, 4)
    table = fs.class_table(LABELS, config)
    episodes = jax.tree.map(np.asarray, fs.draw_many(jax.random.key(0), table, config, EPISODES))
    confusion = np.zeros((6, 6), int)
    for i in range(EPISODES):
        means = [
            FEATURES[s[shown]].mean(0)
            for s, shown in zip(episodes.support[i], episodes.shown[i], strict=True)
        ]
        right = 0
        for way, rows in enumerate(episodes.query[i]):
            for row in rows:
                best = int(np.argmin([((FEATURES[row] - m) ** 2).sum() for m in means]))
                right += best == way
                confusion[episodes.classes[i, way], episodes.classes[i, best]] += 1
        assert found.accuracies[i] == pytest.approx(right / (WAYS * 4))
    np.testing.assert_array_equal(found.confusion, confusion)
    half = 1.96 * found.accuracies.std(ddof=1) / EPISODES**0.5
    assert found.accuracy == pytest.approx((found.accuracies.mean(), half))
    diagonal = np.diag(confusion) / confusion.sum(axis=1)
    np.testing.assert_allclose(list(found.per_class().values()), diagonal)


def test_chunks_change_nothing_and_one_program_serves_all_calls(monkeypatch):
    traces = 0

    def predict(centres, queries):
        nonlocal traces
        traces += 1
        return fs.prototypes().predict(centres, queries)

    method = fs.Method(fs.prototypes().fit, predict)
    monkeypatch.setattr("fewshotjax.evaluation.BLOCK", 16)
    told = []
    whole = run(method, chunk=8, on_chunk=told.append)
    assert told[-1][:2] == (EPISODES, EPISODES)
    assert len(told) == 4
    assert traces == 1
    for chunk in (1, 7, 50):
        np.testing.assert_array_equal(run(method, chunk=chunk).predictions, whole.predictions)
    traces = 0
    run(method, key=1, chunk=8)
    assert traces == 0


def test_a_method_that_fails_is_wrong_not_lucky():
    def predict(centres, queries):
        scores = fs.prototypes().predict(centres, queries)
        return jnp.where(queries[:, :1] > 0, jnp.nan, scores)

    found = run(fs.Method(fs.prototypes().fit, predict))
    fine = run()
    assert found.failed > 0
    failed = found.predictions == WAYS
    assert failed.sum() == found.failed
    np.testing.assert_array_equal(found.predictions[~failed], fine.predictions[~failed])
    assert found.confusion.sum() == fine.confusion.sum() - found.failed
    assert found.accuracy.mean < fine.accuracy.mean


def test_comparison_is_paired():
    methods = {"means": fs.prototypes(), "neighbour": fs.nearest_neighbour()}
    found = fs.compare(jax.random.key(0), methods, FEATURES, LABELS, episodes=EPISODES, **SHAPE)
    gap = found["means"].accuracies - found["neighbour"].accuracies
    difference = found["means"].minus(found["neighbour"])
    assert difference == pytest.approx((gap.mean(), 1.96 * gap.std(ddof=1) / EPISODES**0.5))
    lines = found.table().splitlines()
    assert len(lines) == 3
    assert lines[1].startswith(found.best())
    told = found.as_dict()
    assert told["methods"]["means"]["accuracy"] == found["means"].accuracy.mean
    assert told["methods"][told["best"]]["minus_best"] == 0
    with pytest.raises(ValueError, match="results are of different episodes"):
        found["means"].minus(run(key=5))
    with pytest.raises(ValueError, match="methods is empty"):
        fs.compare(jax.random.key(0), {}, FEATURES, LABELS)


def test_given_episodes_are_run_as_they_are(tmp_path):
    config = fs.EpisodeConfig(WAYS, (1, 3), 4)
    drawn = fs.draw_many(jax.random.key(0), fs.class_table(LABELS, config), config, EPISODES)
    fs.save_episodes(tmp_path / "e.json", drawn)
    found = run(drawn=fs.load_episodes(tmp_path / "e.json"))
    np.testing.assert_array_equal(found.predictions, run(shots=(1, 3)).predictions)
    with pytest.raises(ValueError, match="drawn has rows"):
        run(drawn=drawn.replace(query=drawn.query + 72))
    with pytest.raises(ValueError, match="drawn mixes labels"):
        run(drawn=drawn.replace(query=drawn.query[:, ::-1]))
    with pytest.raises(ValueError, match="drawn has a class without support"):
        run(drawn=drawn.replace(shown=drawn.shown & False))
    twice = drawn.replace(
        **{name: getattr(drawn, name)[:, [0, 0, 1]] for name in ("support", "shown", "query")}
    )
    with pytest.raises(ValueError, match="drawn has a class twice"):
        run(drawn=twice)
    with pytest.raises(ValueError, match="drawn has an example twice in episode 0, in support and queries"):
        run(drawn=drawn.replace(query=drawn.support))
    few = jax.tree.map(lambda leaf: leaf[:1], drawn)  # three of the six classes
    np.testing.assert_array_equal(run(drawn=few).predictions, found.predictions[:1])


def test_merged_episodes_run_again_and_none_is_infinite_in_json(tmp_path):
    found = run(parts=2, episodes=1)
    fs.save_episodes(tmp_path / "e.json", found.episodes)
    again = run(drawn=fs.load_episodes(tmp_path / "e.json"), parts=2)
    np.testing.assert_array_equal(again.predictions, found.predictions)
    assert again.settings == found.settings
    with pytest.raises(ValueError, match="drawn mixes labels within a class"):
        run(drawn=found.episodes)
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["accuracy_half"] is None


def test_tables_tell_of_failures_and_of_classes_left_out():
    labels = LABELS.copy()
    labels[:9] = 1
    broken = fs.Method(fs.prototypes().fit, lambda centres, queries: queries[:, :WAYS] + jnp.nan)
    found = fs.compare(
        jax.random.key(0), {"broken": broken, "means": "prototypes"}, FEATURES, labels, episodes=5, **SHAPE
    )
    lines = found.table().splitlines()
    assert "NaN for 60 queries, which count as wrong" in lines[3]
    assert lines[4] == "left out, for want of examples: 0"


def test_copies_among_the_examples_are_warned_of():
    twice = FEATURES.copy()
    twice[40] = twice[3]
    with pytest.warns(UserWarning, match="1 examples are copies of others, so a query .*: rows 3 = 40"):
        evaluate_function(jax.random.key(0), fs.prototypes(), twice, LABELS, episodes=3, **SHAPE)


def test_a_network_is_tuned_in_every_episode():
    """All parameters, one episode after the other; before and after on the same episodes."""
    images = np.random.default_rng(0).integers(0, 255, (72, 4, 4, 1)).astype(np.uint8)
    images[:, :2] = (images[:, :2] // 4 + 30 * LABELS[:, None, None, None]).astype(np.uint8)
    kernel = 0.3 * jax.random.normal(jax.random.key(0), (2, 2, 1, 3))

    def embed(kernel, x):
        x = x.astype(jnp.float32) / 255
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return fs.l2_normalize(y.reshape(len(x), -1))

    config = fs.RepMetConfig(embedding=None, modes=2)
    before, after = (
        fs.repmet(config, kernel, embed=embed, tuning=tuning, sequential=True)
        for tuning in (None, fs.Tuning("all", steps=5, learning_rate=0.5))
    )
    results = [
        evaluate_function(jax.random.key(0), m, images, LABELS, episodes=6, chunk=3, **SHAPE)
        for m in (before, after)
    ]
    assert (results[0].predictions != results[1].predictions).any()
    support = jnp.asarray(images[:6])
    model = after.fit(jax.random.key(1), support, np.arange(6, dtype=np.int32) // 2, 3)
    assert np.abs(model.params - kernel).max() > 1e-3


def test_classes_are_chosen_named_and_left_out():
    labels = LABELS.copy()
    labels[:9] = 1  # three examples of class 0 are left
    found = evaluate_function(
        jax.random.key(0), fs.prototypes(), FEATURES, labels, episodes=5, names=list("abcdef"), **SHAPE
    )
    assert found.excluded == ("a",)
    assert found.classes == tuple("bcdef")
    some = run(classes=[1, 2, 4], episodes=5)
    assert some.classes == ("1", "2", "4")
    assert found.as_dict()["excluded_classes"] == ["a"]


def test_images_go_through_a_function_first():
    images = np.round(FEATURES * 20 + 100).clip(0, 255).astype(np.uint8).reshape(72, 2, 2, 1)
    flat = fs.through(lambda x: x.reshape(len(x), -1).astype(jnp.float32), fs.prototypes())
    found = evaluate_function(jax.random.key(0), flat, images, LABELS, episodes=EPISODES, **SHAPE)
    as_features = evaluate_function(
        jax.random.key(0),
        fs.prototypes(),
        images.reshape(72, 4).astype(np.float32),
        LABELS,
        episodes=EPISODES,
        **SHAPE,
    )
    np.testing.assert_array_equal(found.predictions, as_features.predictions)


def test_whole_numbers_are_features_too():
    whole = np.round(FEATURES * 20).astype(np.int16)
    found, same = (
        evaluate_function(jax.random.key(0), fs.prototypes(), x, LABELS, episodes=20, **SHAPE)
        for x in (whole, whole.astype(np.float32))
    )
    np.testing.assert_array_equal(found.predictions, same.predictions)


def test_bad_input_is_refused_before_anything_is_drawn():
    bad = FEATURES.copy()
    bad[3, 1] = np.nan
    for features, labels, options, message in (
        (bad, LABELS, {}, "features of example 3 are not finite"),
        (FEATURES[:5], LABELS, {}, "features are 5, labels 72"),
        (FEATURES, LABELS - 1, {}, "labels must be class indices from 0, got -1"),
        (FEATURES, LABELS, {"episodes": 0}, "episodes must be at least 1, got 0"),
        (
            FEATURES,
            LABELS[:, None],
            {},
            r"labels must be whole numbers of shape \(72,\), got int32 of \(72, 1\)",
        ),
        (FEATURES, LABELS.astype(np.float32), {}, "labels must be whole numbers"),
        (FEATURES, LABELS, {"chunk": 0}, "chunk must be at least 1, got 0"),
        (FEATURES, LABELS, {"names": ["a"]}, "labels reach 5, but there are 1 names"),
        (FEATURES, LABELS, {"ways": 9}, "ways is 9, but 6 of 6 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_function(jax.random.key(0), fs.prototypes(), features, labels, **{**SHAPE, **options})
    with pytest.raises(ValueError, match="method must be one of repmet"):
        run("svm")


def test_no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        run(fs.repmet(fs.RepMetConfig(embedding=None, modes=1)), shots=(1, 3), episodes=3)


@pytest.mark.slow
def test_equals_easyfsl():
    torch = pytest.importorskip("torch", reason="easyfsl comes with the extra bench")
    from benchmarks.zoo_torch import torchvision

    torchvision()  # which easyfsl imports, mended where it lacks operators
    from easyfsl.methods import PrototypicalNetworks, SimpleShot

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 5).astype(np.int32)
    support, queries = (rng.normal(size=(n, 12)).astype(np.float32) for n in (20, 30))
    support += 0.5 * rng.normal(size=(4, 12)).astype(np.float32)[labels]
    for theirs, ours in (
        (PrototypicalNetworks(), fs.prototypes()),
        (SimpleShot(), fs.simpleshot(normalize=False, distance="cosine")),
    ):
        theirs.process_support_set(torch.from_numpy(support), torch.from_numpy(labels.astype(np.int64)))
        expected = theirs(torch.from_numpy(queries)).numpy()
        model = ours.fit(jax.random.key(0), jnp.asarray(support), labels, 4)
        found = np.asarray(ours.predict(model, jnp.asarray(queries)))
        np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
        if isinstance(
            theirs, PrototypicalNetworks
        ):  # minus the distance; ours minus its square, up to a constant
            squared = -(expected**2)
            np.testing.assert_allclose(found - found[:, :1], squared - squared[:, :1], rtol=1e-3, atol=1e-3)
