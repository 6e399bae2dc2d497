"""Synthesis, its controls, checks and files, against plain retellings in NumPy."""

import json
from dataclasses import asdict, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from fewshotjax.delta import (
    DeltaConfig,
    DeltaEncoder,
    NoiseSampler,
    OffsetSampler,
    code_bank,
    code_spread,
    draw_codes,
    fit_noise,
    fit_offsets,
    fit_scaling,
    generate,
    init_delta,
    linear_probes,
    load_delta,
    nearest_real,
    reconstruction,
    save_delta,
    seed_part,
    separability,
    synthesis,
    synthesize,
    synthesize_noise,
    synthesize_offsets,
    synthesize_rows,
    within_class_spread,
)

WIDTH, PAIRS, KEY = 4, 20, jax.random.key(5)
CONFIG = DeltaConfig(hidden=8, code=3, init_std=0.7, layers=2, scaling="standard")
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(PAIRS, WIDTH)) * [1, 2, 3, 4] + 2).astype(np.float32)
LABELS = np.arange(PAIRS, dtype=np.int32) % 4
REFERENCES = np.roll(np.arange(PAIRS), 4).astype(np.int32)  # of the same class
SEEDS = X[:3] * 1.5
draw = jax.jit(draw_codes, static_argnums=(2, 3, 4))


@pytest.fixture(scope="module")
def delta():
    params, scaling = init_delta(jax.random.key(0), CONFIG, WIDTH), fit_scaling("standard", X)
    bank = code_bank(params, CONFIG, scaling(jnp.asarray(X)), REFERENCES)
    return DeltaEncoder(CONFIG, params, bank, WIDTH, scaling, jnp.asarray(LABELS))


def network(layers, inputs):
    for i in range(len(layers)):
        if i:
            inputs = np.where(inputs > 0, inputs, CONFIG.slope * inputs)
        layer = layers[f"layer_{i}"]
        inputs = inputs @ np.asarray(layer["kernel"], "f8") + np.asarray(layer["bias"], "f8")
    return inputs


def decoded(delta, seeds, codes):
    """Sample after sample, without dropout, in float64; seeds are scaled."""
    rows = [
        [network(delta.params["decoder"], np.concatenate([s, z])[None])[0] for z in own]
        for s, own in zip(np.asarray(seeds, "f8"), np.asarray(codes, "f8"), strict=True)
    ]
    return np.array(rows)


def scaled(x):
    return (np.asarray(x, "f8") - X.mean(0, dtype="f8")) / X.std(0, dtype="f8")


def test_the_bank_is_the_codes_of_the_pairs_whatever_the_chunk(delta):
    x = scaled(X)
    wanted = network(delta.params["encoder"], np.concatenate([x, x[REFERENCES]], 1))
    np.testing.assert_allclose(delta.bank, wanted, rtol=1e-4, atol=1e-5)
    for chunk in (1, 7):
        found = code_bank(delta.params, CONFIG, delta.scaling(jnp.asarray(X)), REFERENCES, chunk=chunk)
        np.testing.assert_allclose(found, delta.bank, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        code_bank(delta.params, CONFIG, X, REFERENCES, chunk=0)


def test_samples_are_decoded_codes_of_distinct_pairs(delta):
    samples = synthesize(KEY, delta, SEEDS, 9)
    assert samples.shape == (3, 10, WIDTH)
    codes = draw(KEY, delta.bank, 3, 9)
    np.testing.assert_allclose(samples[:, 1:], decoded(delta, scaled(SEEDS), codes), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(samples[:, 0], scaled(SEEDS), rtol=1e-5, atol=1e-5)
    same = np.asarray(codes)[:, :, None] == np.asarray(delta.bank)[None, None]  # (3, 9, PAIRS, code)
    rows = same.all(-1)
    np.testing.assert_array_equal(rows.sum(2), 1)  # each is one of the bank,
    assert rows.sum(1).max() == 1  # no seed has one twice,
    assert not np.array_equal(rows[0].any(0), rows[1].any(0))  # and each its own draw
    # Dropout is off: one key, one result; another key, others. All in one compilation.
    np.testing.assert_array_equal(samples, synthesize(KEY, delta, SEEDS, 9))
    compiled = synthesis._synthesize._cache_size()
    other = synthesize(jax.random.key(6), delta, SEEDS + 1, 9, codes="pairs")
    assert synthesis._synthesize._cache_size() == compiled
    assert not np.allclose(other[:, 1:], samples[:, 1:])
    without = synthesize(KEY, delta, SEEDS, 9, include_seeds=False)
    np.testing.assert_allclose(without, samples[:, 1:], rtol=1e-5, atol=1e-6)


def test_a_draw_takes_every_pair_equally_often_and_does_not_depend_on_the_number_of_seeds(delta):
    marked = jnp.arange(PAIRS, dtype=jnp.float32)[:, None]
    rows = np.asarray(draw(KEY, marked, 600, 9))[..., 0].astype(int)
    counts = np.bincount(rows.ravel(), minlength=PAIRS)
    np.testing.assert_allclose(counts, 600 * 9 / PAIRS, atol=5 * np.sqrt(270))
    np.testing.assert_array_equal(rows[:3], np.asarray(draw(KEY, marked, 3, 9))[..., 0])
    everything = np.asarray(draw(KEY, marked, 7, PAIRS))[..., 0]
    np.testing.assert_array_equal(np.sort(everything, axis=1), np.tile(np.arange(PAIRS), (7, 1)))


@pytest.mark.parametrize("chunk", [2, pytest.param(4, marks=pytest.mark.long)])
def test_blocks_equal_the_whole(delta, chunk):
    """Fewer rows at once than a seed has samples, and fewer than there are seeds."""
    whole = synthesize(KEY, delta, SEEDS, 9)
    np.testing.assert_allclose(synthesize(KEY, delta, SEEDS, 9, chunk=chunk), whole, rtol=1e-5, atol=1e-6)


def test_hidden_units_of_a_block_alone_are_alive():
    config = DeltaConfig(hidden=512, code=3)
    params = jax.eval_shape(lambda key: init_delta(key, config, WIDTH), jax.random.key(0))

    def temporary(count, chunk):
        def function(key, params, bank, scaling, seeds):
            return generate(
                key, DeltaEncoder(config, params, bank, WIDTH, scaling), seeds, count, chunk=chunk
            )

        given = KEY, params, jnp.zeros((9000, 3)), fit_scaling("none", X), jnp.zeros((2, WIDTH))
        return jax.jit(function).lower(*given).compile().memory_analysis().temp_size_in_bytes

    hidden = 2 * 8192 * 512 * 4
    assert temporary(8192, 64) < hidden / 8
    assert temporary(8192, 16384) > hidden / 2


def test_rows_inside_a_scan_are_those_that_are_kept(delta):
    """A batch of any rows is made where it is needed."""
    seeds = jnp.asarray(scaled(SEEDS), jnp.float32)

    @jax.jit
    def both(key, delta, seeds):
        codes, parts = draw_codes(key, delta.bank, 3, 6), seed_part(delta.params, seeds)
        batches = jnp.asarray(np.random.default_rng(0).permutation(18).reshape(3, 6))

        def step(_, rows):
            return None, synthesize_rows(
                delta.params, delta.config, parts[rows // 6], codes.reshape(18, -1)[rows]
            )

        made = jax.lax.scan(step, None, batches)[1].reshape(18, WIDTH)
        return made, generate(key, delta, seeds, 6).reshape(18, WIDTH)[batches.reshape(-1)]

    np.testing.assert_allclose(*both(KEY, delta, seeds), rtol=1e-5, atol=1e-6)


def test_no_samples_are_the_seeds_alone(delta):
    np.testing.assert_allclose(synthesize(KEY, delta, SEEDS, 0), scaled(SEEDS)[:, None], rtol=1e-5, atol=1e-5)
    assert synthesize(KEY, delta, SEEDS, 0, include_seeds=False).shape == (3, 0, WIDTH)
    assert synthesize(KEY, delta, SEEDS[:0], 4).shape == (0, 5, WIDTH)


def test_more_samples_than_pairs_are_drawn_with_replacement_and_said_so(delta):
    for _ in range(2):  # not the first time alone
        with pytest.warns(UserWarning, match="count is 50, but there are 20 seen pairs"):
            found = synthesize(KEY, delta, SEEDS, 50)
    codes = draw(KEY, delta.bank, 3, 50)
    np.testing.assert_allclose(found[:, 1:], decoded(delta, scaled(SEEDS), codes), rtol=1e-4, atol=1e-5)
    assert len(np.unique(np.asarray(codes)[0], axis=0)) <= PAIRS
    with pytest.warns(UserWarning, match="drawn with replacement"):
        synthesize_offsets(KEY, fit_offsets(X, REFERENCES, delta.scaling), SEEDS, 50)


@pytest.mark.parametrize("codes", ["noise", "normal"])
def test_codes_from_noise_have_the_moments_asked_for(delta, codes):
    found = np.asarray(draw(KEY, delta.bank, 3, 8_192, codes), np.float64)
    bank = np.asarray(delta.bank, np.float64)
    mean, covariance = (bank.mean(0), np.cov(bank.T)) if codes == "normal" else (np.zeros(3), np.eye(3))
    scale = np.sqrt(np.diag(covariance))
    for own in found:
        np.testing.assert_allclose((own.mean(0) - mean) / scale, 0, atol=0.055)  # five deviations
        np.testing.assert_allclose(
            np.cov(own.T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=0.08
        )
    made = np.asarray(synthesize(KEY, delta, SEEDS, 8_192, codes=codes))
    wanted = decoded(delta, scaled(SEEDS), found[:, -7:])
    np.testing.assert_allclose(made[:, -7:], wanted, rtol=1e-4, atol=1e-5)


@partial(jax.jit, static_argnums=3)
def of_sampler(key, sampler, seeds, count):
    """What an episode makes: tickets, and a sample of each."""
    tickets = sampler.draw(key, len(seeds), count).reshape(-1)
    parts = jnp.repeat(sampler.parts(seeds), count, axis=0)
    return sampler.make(key, parts, tickets).reshape(len(seeds), count, -1)


def test_linear_offsets_add_differences_of_the_same_pairs(delta):
    offsets = fit_offsets(X, REFERENCES, delta.scaling)
    differences = scaled(X) - scaled(X)[REFERENCES]
    np.testing.assert_allclose(offsets.bank, differences, rtol=1e-4, atol=1e-5)
    found = synthesize_offsets(KEY, offsets, SEEDS, 9)
    episodes = of_sampler(KEY, OffsetSampler(offsets), delta.scaling(jnp.asarray(SEEDS)), 9)
    np.testing.assert_allclose(found[:, 1:], episodes, rtol=1e-5, atol=1e-5)
    rows = np.asarray(draw(KEY, jnp.arange(PAIRS, dtype=jnp.float32)[:, None], 3, 9))[..., 0].astype(int)
    np.testing.assert_allclose(found[:, 1:], scaled(SEEDS)[:, None] + differences[rows], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[:, 0], scaled(SEEDS), rtol=1e-5, atol=1e-5)
    assert synthesize_offsets(KEY, offsets, SEEDS, 0, include_seeds=False).shape == (3, 0, WIDTH)


def test_noise_has_the_covariance_within_classes(delta):
    noise = fit_noise(X, LABELS, delta.scaling)
    x, pooled = scaled(X), np.zeros((WIDTH, WIDTH))
    for label in range(4):
        pooled += np.cov(x[label == LABELS].T) * (5 - 1)
    pooled /= PAIRS - 4
    root = np.asarray(noise.root, np.float64)
    np.testing.assert_allclose(root.T @ root, pooled, rtol=1e-4, atol=1e-5)
    found = synthesize_noise(KEY, noise, SEEDS[:2], 20_000)
    episodes = of_sampler(KEY, NoiseSampler(noise), delta.scaling(jnp.asarray(SEEDS[:2])), 20_000)
    np.testing.assert_allclose(found[:, 1:], episodes, rtol=1e-5, atol=1e-5)
    found = np.asarray(found, np.float64)
    np.testing.assert_allclose(found[:, 0], scaled(SEEDS[:2]), rtol=1e-5, atol=1e-5)
    for own, seed in zip(found[:, 1:], scaled(SEEDS), strict=False):
        np.testing.assert_allclose(own.mean(0), seed, atol=0.05)
        np.testing.assert_allclose(np.cov(own.T), pooled, atol=0.06)
    with pytest.raises(ValueError, match="all 20 classes have a single sample"):
        fit_noise(X, np.arange(PAIRS), delta.scaling)


def test_bad_requests_are_refused(delta):
    for change, match in (
        ({"seeds": SEEDS[:, :2]}, r"seeds are of shape \(3, 2\), this is of features \(S, 4\)"),
        ({"seeds": SEEDS * np.float32(np.nan)}, "seeds hold NaN"),
        ({"count": -1}, "count must not be negative, got -1"),
        ({"chunk": 0}, "chunk must be at least 1, or None, got 0"),
        ({"codes": "other"}, "codes must be one of pairs, noise, normal, got 'other'"),
        ({"count": 10**9}, "count is 1000000000 for 3 seeds of width 4: 223.5 GiB"),
    ):
        with pytest.raises(ValueError, match=match):
            synthesize(**{"key": KEY, "delta": delta, "seeds": SEEDS, "count": 5, **change})
    with pytest.raises(ValueError, match=r"GiB\. Synthesize fewer"):
        synthesize_offsets(KEY, fit_offsets(X, REFERENCES, delta.scaling), SEEDS, 10**9)
    with pytest.raises(ValueError, match="count must not be negative"):
        synthesize_noise(KEY, fit_noise(X, LABELS, delta.scaling), SEEDS, -3)
    with pytest.raises(ValueError, match="codes must be one of"):
        draw_codes(KEY, delta.bank, 2, 3, "other")


def test_reconstruction_and_spread_equal_the_retelling(delta):
    found = reconstruction(KEY, delta, X, REFERENCES, chunk=6)
    x, y = scaled(X), scaled(X)[REFERENCES]
    made = network(delta.params["decoder"], np.concatenate([y, np.asarray(delta.bank, "f8")], 1))
    order = np.asarray(jax.random.permutation(KEY, jnp.arange(PAIRS, dtype=jnp.int32)))
    codes = np.empty((PAIRS, 3))
    codes[order] = np.asarray(delta.bank, "f8")[np.roll(order, -1)]  # of the next in a circle: never its own
    other = network(delta.params["decoder"], np.concatenate([y, codes], 1))
    for value, guess in ((found.code, made), (found.shuffled, other), (found.copy, y)):
        away = np.abs(x - guess)
        np.testing.assert_allclose(value, ((away**3).sum(1) / (away**2).sum(1)).mean(), rtol=1e-4)
    spread = code_spread(KEY, delta, SEEDS, 9)
    samples = decoded(delta, scaled(SEEDS), draw(KEY, delta.bank, 3, 9))
    np.testing.assert_allclose(spread.std, samples.std(1).mean(), rtol=1e-4)
    assert spread.share == 1
    dead = replace_kernel(delta, 0.0)  # the decoder does not look at z
    assert code_spread(KEY, dead, SEEDS, 9).share == 0


def replace_kernel(delta, value):
    layer = delta.params["decoder"]["layer_0"]
    layer = {**layer, "kernel": layer["kernel"].at[WIDTH:].set(value)}
    return delta.replace(params={**delta.params, "decoder": {**delta.params["decoder"], "layer_0": layer}})


def test_within_class_spread_and_nearest_real_by_hand():
    x = np.array([[0.0, 0], [2, 0], [5, 5], [5, 9], [5, 7]], np.float32)
    labels = np.array([3, 3, 8, 8, 8])
    np.testing.assert_allclose(within_class_spread(x, labels), np.sqrt((1 + 1 + 4 + 4) / 3))
    np.testing.assert_allclose(within_class_spread(x * 3 + 1, labels) / within_class_spread(x, labels), 3)
    with pytest.raises(ValueError, match="all 5 classes have a single sample"):
        within_class_spread(x, np.arange(5))
    samples = np.array([[1.0, 0], [5, 8.5], [-3, 4], [5, 5], [9, 9]], np.float32)
    for chunk in (2, 512):
        found = nearest_real(samples, x, chunk=chunk)
        np.testing.assert_array_equal(found.rows, [0, 3, 0, 2, 3])
        np.testing.assert_allclose(found.distances, [1, 0.5, 5, 0, 4], atol=2e-3)


def test_a_probe_finds_the_class_where_it_is(delta):
    """Features tell it, codes of a network that sees one random direction of x alone do not."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    x = (rng.normal(size=(300, WIDTH)) * 0.3 + np.eye(WIDTH)[labels]).astype(np.float32)
    x[:, 3] = rng.normal(size=300)
    encoder = delta.params["encoder"]
    blind = {
        **encoder["layer_0"],
        "kernel": encoder["layer_0"]["kernel"].at[jnp.array([0, 1, 2, 4, 5, 6])].set(0.0),
    }
    params = {**delta.params, "encoder": {**encoder, "layer_0": blind}}
    scaling = fit_scaling("none", x)
    one = replace(delta, params=params, scaling=scaling, bank_labels=None)
    found = linear_probes(KEY, one, x, labels, np.arange(300))
    assert found.feature > 0.9
    assert found.code < 0.5
    assert 0.3 < found.chance < 0.5
    with pytest.raises(ValueError, match=r"held_out must be in \(0, 1\) .* got 1.0"):
        linear_probes(KEY, one, x, labels, np.arange(300), held_out=1.0)


def test_a_map_tells_samples_from_real_ones_where_they_differ():
    """Whole classes are held out: copies of real ones, which lie close together, are not told by heart."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(30, 4))
    labels = np.repeat(np.arange(30), 20)
    real = (centres[labels] + rng.normal(size=(600, 4))).astype(np.float32)
    copies = np.repeat(real[::20], 20, axis=0) + np.float32(1e-3) * rng.normal(size=(600, 4)).astype(
        np.float32
    )
    assert separability(KEY, copies, labels, real, labels) == pytest.approx(0.5, abs=0.12)
    assert separability(KEY, real + np.float32(12), labels, real, labels) > 0.9
    few = labels < 9  # of the other classes there are real ones alone
    assert 0 <= separability(KEY, copies[few], labels[few], real, labels) <= 1


@pytest.mark.usefixtures("as_users_have_it")
def test_what_separability_refuses():
    labels = np.repeat(np.arange(30), 20)
    rows = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    broken = np.where(np.arange(600)[:, None] == 7, np.float32(np.nan), rows)
    for given, held_out, message in (
        ((rows, labels, rows, labels), 0.0, r"held_out must be in \(0, 1\) .* got 0.0 of 30 classes"),
        ((broken, labels, rows, labels), 0.3, "samples holds NaN or infinite values, row 7 the first"),
        ((rows[:0], labels[:0], rows, labels), 0.3, "samples is empty"),
        ((rows[:, :3], labels, rows, labels), 0.3, "samples have width 3, real 4"),
        ((rows, labels, rows, labels + 29), 0.3, "of 1 classes that are in samples and real"),
    ):
        with pytest.raises(ValueError, match=message):
            separability(KEY, *given, held_out=held_out)


def test_checks_refuse_what_they_could_say_nothing_about(delta):
    broken = X.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="features holds NaN or infinite values, row 3 the first"):
        linear_probes(KEY, delta, broken, LABELS, REFERENCES)
    with pytest.raises(ValueError, match="real holds NaN or infinite values, row 3 the first"):
        nearest_real(X, broken)
    with pytest.raises(ValueError, match="seeds are 1: give 2 or more"):
        code_spread(KEY, delta, X[:1])


def test_a_file_brings_the_encoder_back(delta, tmp_path):
    path = tmp_path / "delta.safetensors"
    for one in (delta, delta.replace(bank_labels=None)):
        save_delta(path, one)
        found = load_delta(path)
        assert (found.config, found.width, found.scaling.kind) == (CONFIG, WIDTH, "standard")
        assert jax.tree.structure(found) == jax.tree.structure(one)
        jax.tree.map(np.testing.assert_array_equal, found, one)
    with pytest.raises(ValueError, match="'bank' holds NaN or infinite values"):
        save_delta(path, delta.replace(bank=delta.bank * jnp.nan))
    with pytest.raises(FileNotFoundError):
        load_delta(tmp_path / "other")


def told(**changes):
    config = asdict(CONFIG) | changes.pop("config", {})
    delta = {"config": config, "width": WIDTH, "scaling": "standard"} | changes
    return {"format": "fewshotjax delta", "schema": "1", "delta": json.dumps(delta)}


@pytest.mark.parametrize(
    ("metadata", "changes", "match"),
    [
        ({"format": "other"}, {}, "is no file of save_delta"),
        (told() | {"schema": "2"}, {}, "has schema version 2, this library reads 1"),
        (told() | {"delta": "{"}, {}, "is damaged: save it again with save_delta"),
        (told(width=float("inf")), {}, "is damaged: save it again with save_delta"),
        (told(width=3.5e38), {}, "is damaged: save it again with save_delta"),
        (told(config={"layers": 2**31}), {}, "layers must be at most 1000"),
        (told(config={"depth": 3}), {}, "is damaged: save it again with save_delta"),
        (told(config={"slope": 3.0}), {}, r"slope must be in \[0, 1\), got 3"),
        (told(scaling="l2"), {}, "is scaled by 'l2', its config says 'standard'"),
        (told(width=7), {}, r"is float32 of shape \(7, 8\), its config needs float32 of shape \(10, 8\)"),
        (told(), {"bank": None}, "1 tensors are missing for its config: bank"),
        (told(), {"more": np.zeros(2, np.float32)}, "1 tensors are unexpected for its config: more"),
        (told(), {"bank": np.zeros((0, 3), np.float32), "bank_labels": None}, "its bank is empty"),
        (told(), {"bank": np.zeros((5, 2), np.float32)}, r"'bank' is float32 of shape \(5, 2\)"),
        (told(), {"bank": np.full((20, 3), np.nan, np.float32)}, "'bank' holds NaN"),
        (told(), {"bank": np.zeros((20, 3), np.float64)}, "'bank' is float64"),
        (told(), {"bank_labels": np.zeros(3, np.int32)}, r"'bank_labels' is int32 of shape \(3,\)"),
        (told(), {"scaling/std": np.zeros(4, np.float32)}, "'scaling/std' must be above 0"),
    ],
)
def test_files_are_checked(delta, tmp_path, metadata, changes, match):
    path = tmp_path / "delta.safetensors"
    save_delta(path, delta)
    tensors = safetensors.numpy.load_file(path) | changes
    tensors = {name: array for name, array in tensors.items() if array is not None}
    safetensors.numpy.save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=match):
        load_delta(path)


def test_a_file_that_is_cut_short_is_refused(delta, tmp_path):
    path = tmp_path / "delta.safetensors"
    save_delta(path, delta)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"is no \.safetensors file, or damaged"):
        load_delta(path)
