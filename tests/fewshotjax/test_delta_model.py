"""The Delta-encoder's networks, losses and pairs against plain retellings in NumPy."""

import itertools
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.delta import (
    DeltaConfig,
    DeltaTrainConfig,
    decode,
    decode_from,
    encode,
    fit_scaling,
    init_delta,
    make_pairs,
    nearest_pairs,
    sample_losses,
    seed_part,
)
from fewshotjax.delta.config import LOSSES
from fewshotjax.delta.model import kept_units
from fewshotjax.delta.step import pairs_loss

WIDTH = 5
CONFIG = DeltaConfig(hidden=12, code=3, init_std=0.5)


def double(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def network(layers, inputs, slope):
    """Dense layers with leaky ReLUs between them, in float64."""
    for i in range(len(layers)):
        if i:
            inputs = np.where(inputs > 0, inputs, slope * inputs)
        inputs = inputs @ layers[f"layer_{i}"]["kernel"] + layers[f"layer_{i}"]["bias"]
    return inputs


def retold(params, config, x, y):
    """(codes, reconstructions, loss of each sample), in float64, the loss number by number."""
    z = network(params["encoder"], np.concatenate([x, y], 1), config.slope)
    xhat = network(params["decoder"], np.concatenate([y, z], 1), config.slope)
    return z, xhat, np.array([loss(config.loss, *pair) for pair in zip(x, xhat, strict=True)])


def loss(kind, x, xhat):
    differences = [abs(a - b) for a, b in zip(x, xhat, strict=True)]
    if kind != "weighted":
        return sum(d if kind == "l1" else d * d for d in differences) / len(differences)
    total = sum(d * d for d in differences) + 1e-7
    return sum((d * d / total) * d for d in differences)


def problem(config, seed=0, rows=7):
    rng = np.random.default_rng(seed)
    like = jax.eval_shape(lambda key: init_delta(key, config, WIDTH), jax.random.key(0))
    params = jax.tree.map(lambda p: normal(rng, *p.shape), like)  # biases, too
    return params, normal(rng, rows, WIDTH), normal(rng, rows, WIDTH)


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape) * (0.5 if len(shape) > 1 else 0.3), jnp.float32)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, layers=2, slope=0.1)])
def test_networks_equal_the_retelling_and_the_split_layer_the_plain_one(config):
    params, x, y = problem(config)

    @jax.jit
    def all_ways(params, x, y):
        z = encode(params, config, x, y)
        parts = seed_part(params, y)
        one = decode_from(params, config, parts[2:3], z)  # one seed, all codes
        tiled = decode(params, config, jnp.tile(y[2:3], (7, 1)), z)
        return z, decode(params, config, y, z), parts, decode_from(params, config, parts, z), one, tiled

    z, xhat, parts, split, one, tiled = all_ways(params, x, y)
    codes, wanted, _ = retold(double(params), config, np.asarray(x, "f8"), np.asarray(y, "f8"))
    np.testing.assert_allclose(z, codes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(xhat, wanted, rtol=1e-4, atol=1e-5)
    assert parts.shape == (7, config.hidden)
    np.testing.assert_allclose(split, xhat, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one, tiled, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one[2], xhat[2], rtol=1e-5, atol=1e-5)


def test_parameters_start_as_the_config_says():
    config, width = DeltaConfig(hidden=300, code=16), 40
    params = init_delta(jax.random.key(0), config, width)
    sizes = {name: sum(p.size for p in jax.tree.leaves(params[name])) for name in params}
    assert sizes["encoder"] == 2 * width * 300 + 300 + 300 * 16 + 16
    assert sizes["decoder"] == (width + 16) * 300 + 300 + 300 * width + width
    for layer in (layer for net in params.values() for layer in net.values()):
        np.testing.assert_array_equal(layer["bias"], 0)
        np.testing.assert_allclose(np.std(layer["kernel"]), 0.01, rtol=0.1)
    again = init_delta(jax.random.key(0), DeltaConfig(hidden=300, code=16), width)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert not np.allclose(
        params["encoder"]["layer_0"]["kernel"][:56], params["decoder"]["layer_0"]["kernel"]
    )
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        init_delta(jax.random.key(0), config, 0)


@pytest.mark.parametrize("dropout", [0.5, 0.25, 0.8125, 0.3])
def test_units_are_left_out_independently_with_the_probability_asked_for(dropout):
    kept = np.asarray(jax.jit(kept_units, static_argnums=(1, 2, 3))(jax.random.key(0), dropout, 4000, 37))
    assert kept.shape == (4000, 37)
    share, error = 1 - dropout, np.sqrt(dropout * (1 - dropout) / 4000)
    np.testing.assert_allclose(kept.mean(0), share, atol=5 * error)
    correlation = np.corrcoef(kept.T) - np.eye(37)
    np.testing.assert_allclose(correlation, 0, atol=5 / np.sqrt(4000))
    rows = np.corrcoef(kept[:40].astype(float)) - np.eye(40)
    assert np.abs(rows).max() < 0.8  # no row repeats another


def test_dropout_is_on_with_a_key_alone_and_keeps_the_mean():
    params, x, y = problem(CONFIG)
    keys = jax.random.split(jax.random.key(1), 4000)
    none = replace(CONFIG, dropout=0.0)

    @jax.jit
    def both(params, x, y):
        z = jax.vmap(lambda key: encode(params, CONFIG, x, y, key))(keys)
        return z, encode(params, CONFIG, x, y), encode(params, none, x, y, keys[0])

    z, plain, off = map(np.asarray, both(params, x, y))
    # One hidden layer, then a linear one: the mean over masks is the code without dropout.
    np.testing.assert_allclose(z.mean(0), plain, atol=5 * z.std(0).max() / 4000**0.5)
    assert z.std(0).min() > 0.1
    np.testing.assert_array_equal(off, plain)


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_equal_the_loop_and_the_closed_form(kind):
    _, x, xhat = problem(CONFIG, 3, 9)
    found = sample_losses(replace(CONFIG, loss=kind), x, xhat)
    wanted = [loss(kind, *pair) for pair in zip(*(np.asarray(a, "f8") for a in (x, xhat)), strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    d = np.abs(np.asarray(x, "f8") - np.asarray(xhat, "f8"))
    closed = {"weighted": (d**3).sum(1) / ((d**2).sum(1) + 1e-7), "l1": d.mean(1), "l2": (d**2).mean(1)}
    np.testing.assert_allclose(found, closed[kind], rtol=1e-5)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_gradient_equals_finite_differences_in_double_precision(kind):
    """Of the whole chain, encoder, decoder and loss, along random directions."""
    config = replace(CONFIG, loss=kind)
    params, x, y = problem(config, rows=4)
    there = jnp.array([1.0, 1.0, 1.0, 0.0])  # the last is padding
    gradient = double(jax.jit(jax.grad(pairs_loss), static_argnums=1)(params, config, x, y, there, None))
    exact, rng = double(params), np.random.default_rng(0)
    inputs = [np.asarray(a, np.float64)[:3] for a in (x, y)]
    for _ in range(4):
        step = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), exact)
        ahead, behind = (
            retold(jax.tree.map(lambda p, d, e=e: p + e * d, exact, step), config, *inputs)[2].mean()
            for e in (1e-6, -1e-6)
        )
        slope = sum(np.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, step)), strict=True))
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-3, atol=1e-4)


def test_stopped_weights_change_the_gradient_and_not_the_value():
    _, x, xhat = problem(CONFIG, 4, 6)
    stopped = replace(CONFIG, stop_gradient_weights=True)

    @jax.jit
    def slopes(x, xhat):
        return [
            jax.value_and_grad(lambda made, config=config: sample_losses(config, x, made).sum())(xhat)
            for config in (CONFIG, stopped)
        ]

    (value, flowing), (same, held) = slopes(x, xhat)
    np.testing.assert_array_equal(value, same)
    d = np.asarray(xhat, "f8") - np.asarray(x, "f8")
    total = (d**2).sum(1, keepdims=True) + 1e-7
    np.testing.assert_allclose(held, np.sign(d) * d**2 / total, rtol=1e-4, atol=1e-6)
    wanted = np.sign(d) * 3 * d**2 / total - 2 * d * (np.abs(d) ** 3).sum(1, keepdims=True) / total**2
    np.testing.assert_allclose(flowing, wanted, rtol=1e-4, atol=1e-6)
    assert np.abs(flowing - held).max() > 0.1


def test_a_perfect_reconstruction_has_no_loss_and_a_finite_gradient():
    configs = [replace(CONFIG, stop_gradient_weights=True), *(replace(CONFIG, loss=k) for k in LOSSES)]

    @jax.jit
    def slopes(x):
        return [
            jax.value_and_grad(lambda made, config=config: sample_losses(config, x, made).sum())(x)
            for config in configs
        ]

    for value, gradient in slopes(problem(CONFIG)[1]):
        assert value == 0
        assert np.isfinite(gradient).all()


LABELS = np.array([7, -2, 7, 4, -2, 7, 4, -2, -2, 9], np.int32)  # classes of 3, 4, 2 and 1 samples


def draws(policy, count=3000, nearest=None):
    keys = jax.random.split(jax.random.key(0), count)
    made = jax.jit(jax.vmap(partial(make_pairs, policy=policy, nearest=nearest), (0, None)))
    return np.asarray(made(keys, jnp.asarray(LABELS)))


@pytest.mark.parametrize("policy", ["random", "no_self"])
def test_pairs_are_bijections_within_classes_that_reach_every_pair(policy):
    found = draws(policy)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(10), (3000, 1)))
    np.testing.assert_array_equal(LABELS[found], np.tile(LABELS, (3000, 1)))
    seen = np.zeros((10, 10))
    np.add.at(seen, (np.tile(np.arange(10), (3000, 1)), found), 1)
    allowed = LABELS[:, None] == LABELS[None]
    if policy == "no_self":
        allowed &= ~np.eye(10, dtype=bool) | (np.arange(10) == 9)  # the only one of its class
    np.testing.assert_array_equal(seen > 0, allowed)
    # Each partner of a sample is equally likely.
    expected = 3000 * allowed / allowed.sum(1, keepdims=True)
    np.testing.assert_allclose(seen, expected, atol=5 * np.sqrt(3000) / 2)


def test_all_permutations_of_a_class_are_equally_likely():
    rows = np.flatnonzero(LABELS == 7)
    counts = dict.fromkeys(itertools.permutations(rows.tolist()), 0)
    for draw in draws("random"):
        counts[tuple(draw[rows].tolist())] += 1
    np.testing.assert_allclose(list(counts.values()), 500, atol=5 * np.sqrt(500))


def test_shuffled_labels_pair_any_classes_and_still_once_each():
    found = draws("shuffled_labels")
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(10), (3000, 1)))
    seen = np.zeros((10, 10))
    np.add.at(seen, (np.tile(np.arange(10), (3000, 1)), found), 1)
    assert (seen > 0).all()


def test_nearest_pairs_equal_brute_force():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (10, 4)).astype(np.float32)  # with ties
    found = nearest_pairs(x, LABELS)
    for i in range(10):
        others = [j for j in range(10) if LABELS[j] == LABELS[i] and j != i] or [i]
        distances = [float(((x[i] - x[j]) ** 2).sum()) for j in others]
        assert found[i] == others[int(np.argmin(distances))]
    np.testing.assert_array_equal(draws("nearest", 3, found), np.tile(found, (3, 1)))
    with pytest.raises(ValueError, match="'nearest' needs nearest"):
        make_pairs(jax.random.key(0), LABELS, "nearest")
    with pytest.raises(ValueError, match=r"policy must be one of random, no_self, .* got 'far'"):
        make_pairs(jax.random.key(0), LABELS, "far")


def test_scalings():
    x = np.random.default_rng(0).normal(3, 2, (50, WIDTH)).astype(np.float32)
    x[:, 1] = 0.3  # alike in all: keeps its unit
    new = x[:4] * 2
    unscaled, unit, standard = (fit_scaling(kind, x)(jnp.asarray(new)) for kind in ("none", "l2", "standard"))
    np.testing.assert_array_equal(unscaled, new)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    std = x.std(0)
    std[1] = 1
    np.testing.assert_allclose(standard, (new - x.mean(0)) / std, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="scaling must be one of none, l2, standard, got 'unit'"):
        fit_scaling("unit", x)


@pytest.mark.parametrize(
    ("config", "field", "value", "match"),
    [
        (DeltaConfig, "hidden", 0, "hidden must be a whole number of at least 1, got 0"),
        (DeltaConfig, "code", -1, "code must be a whole number"),
        (DeltaConfig, "layers", 0, "layers must be a whole number"),
        (DeltaConfig, "slope", 1.0, r"slope must be in \[0, 1\), got 1.0"),
        (DeltaConfig, "dropout", 1.0, r"dropout must be in \[0, 1\), got 1.0"),
        (DeltaConfig, "init_std", 0.0, "init_std must be above 0 and finite, got 0.0"),
        (DeltaConfig, "loss", "l3", "loss must be one of weighted, l1, l2, got 'l3'"),
        (DeltaConfig, "pairs", "any", "pairs must be one of random, .* got 'any'"),
        (DeltaConfig, "scaling", "max", "scaling must be one of none, l2, standard, got 'max'"),
        (
            partial(DeltaConfig, loss="l1"),
            "stop_gradient_weights",
            True,
            "is for loss='weighted', got loss='l1'",
        ),
        (DeltaTrainConfig, "learning_rate", 0.0, "learning_rate must be above 0 and finite, got 0.0"),
        (DeltaTrainConfig, "batch", 0, "batch must be a whole number"),
        (DeltaTrainConfig, "epochs", 0, "epochs must be a whole number"),
        (DeltaTrainConfig, "decay", 0.0, r"decay must be in \(0, 1\], got 0.0"),
        (DeltaTrainConfig, "keep", "first", "keep must be one of last, best, got 'first'"),
    ],
)
def test_bad_configs_are_refused(config, field, value, match):
    with pytest.raises(ValueError, match=match):
        config(**{field: value})
