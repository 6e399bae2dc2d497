"""Methods of synthesized samples: one training set whatever the memory, the episodes of all other methods."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshotjax as fs
from fewshotjax import delta as de
from fewshotjax.delta.classifier import scores
from fewshotjax.delta.episode_fit import seeds_of, synthesized
from fewshotjax.delta.scaling import Scaling
from fewshotjax.episode_task import episode_task

WIDTH, WAYS, SAMPLES = 5, 3, 12
KEY = jax.random.key(0)
SHORT = de.ClassifierConfig(epochs=3, batch=16, learning_rate=0.05)
FIT = de.EpisodeFit(SAMPLES, classifier=SHORT)
LABELS = np.repeat(np.arange(WAYS), 2).astype(np.int32)


@pytest.fixture(scope="module")
def delta():
    """Untrained, with weights large enough that codes matter."""
    config = de.DeltaConfig(hidden=7, code=3, init_std=0.5, scaling="standard")
    scaling = Scaling(jnp.full(WIDTH, 0.5), jnp.full(WIDTH, 2.0), "standard")
    bank = jax.random.normal(jax.random.key(5), (30, 3))
    return de.DeltaEncoder(config, de.init_delta(KEY, config, WIDTH), bank, WIDTH, scaling)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 9).astype(np.int32)
    x = 2 * rng.normal(size=(6, WIDTH))[labels] + rng.normal(size=(54, WIDTH))
    return x.astype(np.float32), labels


@pytest.fixture(scope="module")
def support(features):
    return jnp.asarray(features[0][[0, 1, 10, 11, 20, 21]])


def fitted(sampler, options, support, labels=LABELS):
    """Labels that are known while tracing."""
    run = jax.jit(lambda key, sampler, x: de.fit_episode(key, sampler, options, x, labels, WAYS))
    return run(jax.random.key(3), sampler, support)


@pytest.fixture(scope="module")
def blocks(delta, support):
    return fitted(de.delta_sampler(delta), FIT, support)


def test_the_training_set_is_what_synthesize_makes_and_the_seeds(delta, support, blocks):
    """Distinct codes for every seed, 12 // 2 of them, decoded without dropout; the classifier of both."""
    k_samples, k_fit = jax.random.split(jax.random.key(3))
    k_codes, _ = jax.random.split(k_samples)
    made = de.synthesize(k_codes, delta, support, SAMPLES // 2, include_seeds=False)
    rows = synthesized(k_samples, de.delta_sampler(delta), FIT, delta.scaling(support), LABELS, WAYS)
    np.testing.assert_allclose(rows, made.reshape(-1, WIDTH), rtol=1e-5, atol=1e-5)
    x = jnp.concatenate([made.reshape(-1, WIDTH), delta.scaling(support)])
    y = np.concatenate([np.repeat(LABELS, SAMPLES // 2), LABELS])
    direct = jax.jit(partial(de.fit_linear, config=SHORT, ways=WAYS))(k_fit, x, y, None)
    np.testing.assert_allclose(blocks.W, direct.W, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(blocks.b, direct.b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", ["scan", "whole"])
def test_memory_changes_nothing(delta, support, blocks, memory):
    other = fitted(de.delta_sampler(delta), replace(FIT, memory=memory), support)
    np.testing.assert_allclose(other.W, blocks.W, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other.trace.loss, blocks.trace.loss, rtol=1e-4)


def test_blocks_of_any_size_make_the_same(delta, support, monkeypatch):
    from fewshotjax.delta import episode_fit

    sampler, seeds = de.delta_sampler(delta), delta.scaling(support)
    one = synthesized(KEY, sampler, FIT, seeds, LABELS, WAYS)
    monkeypatch.setattr(episode_fit, "_HIDDEN_BYTES", 4 * 7 * 4)  # four rows of hidden units
    np.testing.assert_allclose(synthesized(KEY, sampler, FIT, seeds, LABELS, WAYS), one, rtol=1e-5, atol=1e-6)


def test_no_samples_are_seeds_only_exactly(delta, support):
    none = fitted(de.delta_sampler(delta), replace(FIT, samples=0), support)
    method = de.seeds_only(delta, classifier=SHORT)
    alone = jax.jit(lambda x: method.fit(jax.random.key(3), x, LABELS, WAYS))(support)
    jax.tree.map(np.testing.assert_array_equal, none, alone)


def test_seeds_can_be_left_out_of_the_training_set(delta, support, blocks):
    alone = fitted(de.delta_sampler(delta), replace(FIT, include_seeds=False), support)
    scan = fitted(de.delta_sampler(delta), replace(FIT, include_seeds=False, memory="scan"), support)
    np.testing.assert_allclose(alone.W, scan.W, rtol=1e-4, atol=1e-5)
    assert np.abs(alone.W - blocks.W).max() > 1e-3


def test_classes_with_fewer_seeds_take_turns():
    """Traced labels with padding, and known ones of unequal classes."""
    labels = np.array([0, 3, 1, 3, 1, 3, 2, 2, 2], np.int32)  # 3: padding
    expected = [[0, 0, 0], [2, 4, 2], [6, 7, 8]]
    np.testing.assert_array_equal(jax.jit(seeds_of, static_argnums=1)(jnp.asarray(labels), WAYS), expected)
    np.testing.assert_array_equal(seeds_of(labels, WAYS), expected)
    with pytest.raises(ValueError, match="labels: class 1 has no example"):
        seeds_of(np.array([0, 2]), WAYS)


def test_padding_is_left_out(delta, support):
    """Two episodes at once: padded rows hold anything, and classes stay balanced."""
    padded = jnp.asarray(np.where(np.arange(6) == 1, WAYS, LABELS))
    other = support.at[1].set(1e3)
    run = jax.jit(
        jax.vmap(partial(de.fit_episode, options=FIT, ways=WAYS), in_axes=(0, None)), static_argnums=()
    )
    sampler, keys = de.delta_sampler(delta), jnp.stack([KEY, KEY])
    both = run(keys, sampler, support=jnp.stack([support, other]), labels=jnp.stack([padded, padded]))
    np.testing.assert_array_equal(both.W[0], both.W[1])


def test_episodes_are_those_of_all_methods(delta, features):
    """`evaluate` and the function that takes weights as arguments agree, whatever is alive at once."""
    x, labels = features
    shape = {"ways": WAYS, "shots": 2, "queries": 4, "episodes": 11}
    found = fs.compare(
        KEY,
        {"delta": de.delta_encoder(delta, SAMPLES, classifier=SHORT), "means": fs.prototypes()},
        x,
        labels,
        **shape,
    )
    np.testing.assert_array_equal(found["delta"].episode_classes, found["means"].episode_classes)
    assert found["delta"].failed == 0
    task = episode_task(KEY, x, labels, **shape)
    kept = replace(FIT, classifier=replace(SHORT, keep_epochs=True))
    by_epoch = de.accuracies_by_epoch(task, de.delta_sampler(delta), kept, chunk=4)
    assert by_epoch.shape == (11, 3)
    np.testing.assert_allclose(by_epoch[:, -1], found["delta"].accuracies, atol=1e-6)


def test_linear_offsets_and_noise(features, support):
    """What is added is a row of the bank, distinct ones of each seed; noise has the covariance asked for."""
    x, labels = features
    scaling = de.fit_scaling("none", x)
    offsets = de.fit_offsets(x, de.make_pairs(KEY, labels, "no_self"), scaling)
    rows = synthesized(KEY, de.OffsetSampler(offsets), FIT, support, LABELS, WAYS)
    added = np.asarray(rows).reshape(6, 6, WIDTH) - np.asarray(support)[:, None]
    away = np.abs(added[:, :, None] - np.asarray(offsets.bank)[None, None]).max(axis=3)
    assert away.min(axis=2).max() < 1e-5
    assert all(len(set(of_seed)) == 6 for of_seed in away.argmin(axis=2).tolist())
    noise = de.fit_noise(x, labels, scaling)
    many = de.EpisodeFit(20_000)
    rows = synthesized(KEY, de.NoiseSampler(noise), many, support[:3], np.arange(3, dtype=np.int32), WAYS)
    drawn = np.asarray(rows).reshape(3, 20_000, WIDTH) - np.asarray(support[:3])[:, None]
    covariance = np.asarray(noise.root).T @ np.asarray(noise.root)
    np.testing.assert_allclose(np.cov(drawn.reshape(-1, WIDTH).T), covariance, atol=0.06 * covariance.max())
    assert abs(np.corrcoef(drawn[0, :, 0], drawn[1, :, 0])[0, 1]) < 0.03


@pytest.mark.parametrize("maker", [de.linear_offset, de.gaussian_noise])
def test_controls_in_a_scan(maker, features, support):
    x, labels = features
    scaling = de.fit_scaling("none", x)
    if maker is de.linear_offset:
        given = de.fit_offsets(x, de.make_pairs(KEY, labels), scaling)
    else:
        given = de.fit_noise(x, labels, scaling)
    ridge = de.ClassifierConfig("ridge")
    weights = []
    for memory in ("blocks", "scan"):
        method = maker(given, SAMPLES, classifier=ridge, memory=memory)
        model = jax.jit(lambda s, m=method: m.fit(KEY, s, LABELS, WAYS))(support)
        weights.append(model.W)
        assert method.predict(model, support).shape == (6, WAYS)
    np.testing.assert_allclose(*weights, rtol=1e-3, atol=1e-4)


def test_random_class_deltas_encode_pairs_of_any_classes(delta, features):
    x, labels = features
    other = de.random_class_deltas(KEY, delta, x, chunk=20)
    partner = np.asarray(jax.random.permutation(KEY, jnp.arange(54, dtype=jnp.int32)))
    assert (labels[partner] != labels).mean() > 0.5
    scaled = delta.scaling(jnp.asarray(x))
    expected = de.encode(delta.params, delta.config, scaled, scaled[partner])
    np.testing.assert_allclose(other.bank, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, other.params, delta.params)


def test_means_is_the_nearest_class_mean(support):
    model = de.fit_linear(KEY, support, LABELS, None, de.ClassifierConfig("means"), ways=WAYS)
    centres = np.asarray(support).reshape(WAYS, 2, WIDTH).mean(axis=1)
    query = np.random.default_rng(1).normal(size=(9, WIDTH)).astype(np.float32)
    logits = -((query[:, None] - centres[None]) ** 2).sum(axis=2)
    expected = jax.nn.log_softmax(jnp.asarray(logits), axis=1)
    np.testing.assert_allclose(scores(model, jnp.asarray(query)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": -1}, "samples must not be negative, got -1"),
        ({"samples": 0, "include_seeds": False}, "nothing to learn from"),
        ({"memory": "disk"}, "memory must be one of blocks, scan, whole, got 'disk'"),
        ({"memory": "scan", "classifier": de.ClassifierConfig("lbfgs")}, "memory='scan' is for adam, ridge"),
        ({"codes": "magic"}, "codes must be one of pairs, noise, normal, got 'magic'"),
    ],
)
def test_settings_are_checked(delta, options, message, as_users_have_it):
    with pytest.raises(ValueError, match=message):
        de.delta_encoder(delta, **options)


def test_requests_that_cannot_be_met(delta, support):
    sampler = de.delta_sampler(delta)
    for options, message in (
        (replace(FIT, samples=1), "samples is 1, but 2 seeds of a class share them: give 2 or more"),
        (
            replace(FIT, samples=10**9),
            "GiB an episode: lower samples, or keep none of them with memory='scan'",
        ),
        (replace(FIT, samples=10**9, memory="scan"), "GiB an episode: lower samples$"),
    ):
        with pytest.raises(ValueError, match=message):
            de.fit_episode(KEY, sampler, options, support, LABELS, WAYS)
    with pytest.warns(UserWarning, match="count is 31, but there are 30 seen pairs"):
        jax.eval_shape(
            lambda s: de.fit_episode(KEY, sampler, replace(FIT, samples=62), s, LABELS, WAYS), support
        )


def test_fewer_classes_than_ways_and_nan(delta, features):
    x, labels = features
    method = de.delta_encoder(delta, SAMPLES, classifier=SHORT)
    with pytest.raises(ValueError, match="ways is 7, but 6 of 6 classes have"):
        fs.evaluate(KEY, method, x, labels, ways=7, queries=4)
    broken = x.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="features of example 3 are not finite"):
        fs.evaluate(KEY, method, broken, labels, ways=2, queries=4)
