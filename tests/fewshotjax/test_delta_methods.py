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
MEANS = replace(FIT, classifier=de.ClassifierConfig("means"))  # compiles soonest
LABELS = np.repeat(np.arange(WAYS), 2).astype(np.int32)
REFERENCES = np.roll(np.arange(54).reshape(6, 9), 1, axis=1).reshape(-1)  # of the same class


@pytest.fixture(scope="module")
def delta():
    """Untrained, with weights large enough that codes matter."""
    config = de.DeltaConfig(hidden=7, code=3, init_std=0.5, scaling="standard")
    scaling = Scaling(jnp.full(WIDTH, 0.5), jnp.full(WIDTH, 2.0), "standard")
    bank = jnp.asarray(np.random.default_rng(5).normal(size=(30, 3)), jnp.float32)
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


def fitted(sampler, options, support):
    """Labels that are known while tracing."""
    run = jax.jit(lambda key, sampler, x: de.fit_episode(key, sampler, options, x, LABELS, WAYS))
    return run(jax.random.key(3), sampler, support)


def made_by(sampler, options, seeds, labels=LABELS):
    """The samples of `fitted`."""
    run = jax.jit(lambda key, sampler, x: synthesized(key, sampler, options, x, labels, WAYS))
    return run(jax.random.split(jax.random.key(3))[0], sampler, seeds)


@pytest.fixture(scope="module")
def blocks(delta, support):
    return fitted(de.delta_sampler(delta), FIT, support)


@pytest.fixture(scope="module")
def several(delta, support):
    """What needs no program of its own: samples in blocks and at once; nearest class means without seeds."""
    whole, bare = replace(FIT, memory="whole"), replace(MEANS, include_seeds=False)

    @jax.jit
    def run(key, sampler, x):
        k_samples, scaled = jax.random.split(key)[0], sampler.scale(x)
        made = [synthesized(k_samples, sampler, fit, scaled, LABELS, WAYS) for fit in (FIT, whole)]
        fits = [bare, replace(bare, memory="scan"), MEANS, replace(MEANS, memory="scan")]
        return *made, [de.fit_episode(key, sampler, fit, x, LABELS, WAYS) for fit in fits]

    return run(jax.random.key(3), de.delta_sampler(delta), support)


@pytest.fixture(scope="module")
def samples(several):
    return several[0]


def test_the_training_set_is_what_synthesize_makes_and_the_seeds(delta, support, blocks, samples):
    """Distinct codes for every seed, 12 // 2 of them, decoded without dropout; the classifier of both."""
    k_samples, k_fit = jax.random.split(jax.random.key(3))
    k_codes, _ = jax.random.split(k_samples)
    made = de.synthesize(k_codes, delta, support, SAMPLES // 2, include_seeds=False)
    np.testing.assert_allclose(samples, made.reshape(-1, WIDTH), rtol=1e-5, atol=1e-5)
    x = np.concatenate([made.reshape(-1, WIDTH), delta.scaling(support)])
    y = np.concatenate([np.repeat(LABELS, SAMPLES // 2), LABELS])
    direct = jax.jit(partial(de.fit_linear, config=SHORT, ways=WAYS))(k_fit, x, y, None)
    np.testing.assert_allclose(blocks.W, direct.W, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(blocks.b, direct.b, rtol=1e-4, atol=1e-5)


def test_samples_at_once_are_those_in_blocks(several):
    np.testing.assert_allclose(several[1], several[0], rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_adam_on_samples_that_are_not_kept(delta, support, blocks):
    scan = fitted(de.delta_sampler(delta), replace(FIT, memory="scan"), support)
    np.testing.assert_allclose(scan.W, blocks.W, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scan.trace.loss, blocks.trace.loss, rtol=1e-4)


def test_blocks_of_any_size_make_the_same(delta, support, samples, monkeypatch):
    from fewshotjax.delta import episode_fit

    monkeypatch.setattr(episode_fit, "_HIDDEN_BYTES", 4 * 7 * 4)  # four rows of hidden units
    made = made_by(de.delta_sampler(delta), FIT, delta.scaling(support))
    np.testing.assert_allclose(made, samples, rtol=1e-5, atol=1e-6)


def test_no_samples_are_seeds_only_exactly(delta, support):
    """The very same program, without the network."""
    methods = de.seeds_only(delta, classifier=SHORT), de.delta_encoder(delta, 0, classifier=SHORT)
    alone, none = (jax.make_jaxpr(lambda x, m=m: m.fit(KEY, x, LABELS, WAYS))(support) for m in methods)
    assert str(alone) == str(none)
    for one, other in zip(alone.consts, none.consts, strict=True):
        assert jnp.all(one == other)


def test_seeds_can_be_left_out_of_the_training_set(several):
    """The nearest class mean of the samples alone in closed form, whether they are kept or made anew."""
    centres = np.asarray(several[0], np.float64).reshape(WAYS, -1, WIDTH).mean(axis=1)
    for found in several[2][:2]:
        np.testing.assert_allclose(found.W, 2 * (centres - centres.mean(axis=0)), rtol=1e-4, atol=1e-5)


def test_seeds_count_as_samples_do_whether_these_are_kept_or_made_anew(delta, support, several):
    """The nearest class mean of both, in closed form."""
    parts = np.asarray(several[0], np.float64), np.asarray(delta.scaling(support), np.float64)
    centres = np.concatenate([part.reshape(WAYS, -1, WIDTH) for part in parts], axis=1).mean(axis=1)
    for found in several[2][2:]:
        np.testing.assert_allclose(found.W, 2 * (centres - centres.mean(axis=0)), rtol=1e-4, atol=1e-5)


def test_classes_with_fewer_seeds_take_turns():
    """Traced labels with padding, and known ones of unequal classes."""
    labels = np.array([0, 3, 1, 3, 1, 3, 2, 2, 2], np.int32)  # 3: padding
    expected = [[0, 0, 0], [2, 4, 2], [6, 7, 8]]
    np.testing.assert_array_equal(jax.jit(seeds_of, static_argnums=1)(jnp.asarray(labels), WAYS), expected)
    np.testing.assert_array_equal(seeds_of(labels, WAYS), expected)
    with pytest.raises(ValueError, match="labels: class 1 has no example"):
        seeds_of(np.array([0, 2]), WAYS)


def test_padding_is_left_out(delta, support):
    """Two episodes at once: padded rows hold anything, and classes stay balanced: the one seed of a class has
    as many samples as two. A class without a seed spoils its episode, and no other."""
    padded = jnp.asarray(np.where(np.arange(6) == 1, WAYS, LABELS))
    other = support.at[1].set(1e3)
    run = jax.jit(jax.vmap(partial(de.fit_episode, options=MEANS, ways=WAYS), in_axes=(0, None)))
    sampler, keys = de.delta_sampler(delta), jnp.stack([KEY, KEY])
    both = run(keys, sampler, support=jnp.stack([support, other]), labels=jnp.stack([padded, padded]))
    np.testing.assert_array_equal(both.W[0], both.W[1])
    k_codes = jax.random.split(jax.random.split(KEY)[0])[0]
    made = de.synthesize(k_codes, delta, support[np.array([0, 0, 2, 3, 4, 5])], 6, include_seeds=False)
    real = np.asarray(delta.scaling(support), np.float64)
    sets = [
        np.r_[np.asarray(made[2 * c : 2 * c + 2]).reshape(12, -1), real[padded == c]] for c in range(WAYS)
    ]
    centres = np.stack([one.mean(axis=0) for one in sets])
    np.testing.assert_allclose(both.W[0], 2 * (centres - centres.mean(axis=0)), rtol=1e-4, atol=1e-5)
    without = jnp.stack([padded, jnp.where(padded == 1, 2, padded)])
    half = run(keys, sampler, support=jnp.stack([support, other]), labels=without)
    np.testing.assert_array_equal(half.W[0], both.W[0])
    assert np.isnan(half.W[1]).all()
    assert np.isnan(half.b[1]).all()


def test_episodes_are_those_of_all_methods(delta, features):
    """`evaluate` and the function that takes weights as arguments agree, whatever is alive at once."""
    x, labels = features
    shape = {"ways": WAYS, "shots": 2, "queries": 4, "episodes": 11}
    method = de.delta_encoder(delta, SAMPLES, classifier=MEANS.classifier)
    found, task = fs.evaluate(KEY, method, x, labels, **shape), episode_task(KEY, x, labels, **shape)
    np.testing.assert_array_equal(found.episode_classes, task.episodes.classes)
    assert found.failed == 0
    last = de.accuracies_by_epoch(task, de.delta_sampler(delta), MEANS, chunk=4)
    assert last.shape == (11, 1)
    np.testing.assert_allclose(last[:, 0], found.accuracies, atol=1e-6)


def test_linear_offsets_and_noise(features, support):
    """What is added is a row of the bank, distinct ones of each seed; noise has the covariance asked for."""
    x, labels = features
    scaling = de.fit_scaling("none", x)
    offsets = de.fit_offsets(x, REFERENCES, scaling)
    rows = made_by(de.OffsetSampler(offsets), FIT, support)
    added = np.asarray(rows).reshape(6, 6, WIDTH) - np.asarray(support)[:, None]
    away = np.abs(added[:, :, None] - np.asarray(offsets.bank)[None, None]).max(axis=3)
    assert away.min(axis=2).max() < 1e-5
    assert all(len(set(of_seed)) == 6 for of_seed in away.argmin(axis=2).tolist())
    noise = de.fit_noise(x, labels, scaling)
    many = de.EpisodeFit(20_000)
    rows = made_by(de.NoiseSampler(noise), many, support[:3], np.arange(3, dtype=np.int32))
    drawn = np.asarray(rows).reshape(3, 20_000, WIDTH) - np.asarray(support[:3])[:, None]
    covariance = np.asarray(noise.root).T @ np.asarray(noise.root)
    np.testing.assert_allclose(np.cov(drawn.reshape(-1, WIDTH).T), covariance, atol=0.06 * covariance.max())
    assert abs(np.corrcoef(drawn[0, :, 0], drawn[1, :, 0])[0, 1]) < 0.03


@pytest.mark.long
@pytest.mark.parametrize("maker", [de.linear_offset, de.gaussian_noise])
def test_controls_in_a_scan(maker, features, support):
    x, labels = features
    scaling = de.fit_scaling("none", x)
    if maker is de.linear_offset:
        given = de.fit_offsets(x, REFERENCES, scaling)
    else:
        given = de.fit_noise(x, labels, scaling)
    options = {"classifier": MEANS.classifier}
    methods = [maker(given, SAMPLES, memory=memory, **options) for memory in ("blocks", "scan")]
    blocks, scan = jax.jit(lambda s: [m.fit(KEY, s, LABELS, WAYS) for m in methods])(support)
    np.testing.assert_allclose(blocks.W, scan.W, rtol=1e-3, atol=1e-4)
    assert methods[0].predict(blocks, support).shape == (6, WAYS)


def test_random_class_deltas_encode_pairs_of_any_classes(delta, features):
    x, labels = features
    other = de.random_class_deltas(KEY, delta, x, chunk=20)
    partner = np.asarray(jax.random.permutation(KEY, jnp.arange(54, dtype=jnp.int32)))
    assert (labels[partner] != labels).mean() > 0.5
    scaled = delta.scaling(jnp.asarray(x))
    expected = jax.jit(de.encode, static_argnums=1)(delta.params, delta.config, scaled, scaled[partner])
    np.testing.assert_allclose(other.bank, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, other.params, delta.params)


def test_means_is_the_nearest_class_mean(support):
    fit = jax.jit(partial(de.fit_linear, config=MEANS.classifier, ways=WAYS))
    model = fit(KEY, support, LABELS, None)
    centres = np.asarray(support).reshape(WAYS, 2, WIDTH).mean(axis=1)
    query = np.random.default_rng(1).normal(size=(9, WIDTH)).astype(np.float32)
    logits = -((query[:, None] - centres[None]) ** 2).sum(axis=2)
    expected = jax.nn.log_softmax(jnp.asarray(logits), axis=1)
    np.testing.assert_allclose(scores(model, jnp.asarray(query)), expected, rtol=1e-3, atol=1e-3)
    # A class without example is never found, and the others are as they would be without it.
    part = fit(KEY, support, np.array([0, 0, 2, 2, 2, 2], np.int32), None)
    found = np.asarray(scores(part, jnp.asarray(query)))
    centres = np.stack([np.asarray(support)[:2].mean(axis=0), np.asarray(support)[2:].mean(axis=0)])
    gap = ((query[:, None] - centres[None]) ** 2).sum(axis=2) @ [1, -1]
    assert np.isneginf(found[:, 1]).all()
    np.testing.assert_allclose(found[:, 2] - found[:, 0], gap, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": -1}, "samples must be a whole number that is not negative, got -1"),
        ({"samples": 10.5}, "samples must be a whole number, got 10.5"),
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
