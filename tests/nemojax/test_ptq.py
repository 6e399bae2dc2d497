"""Equalization, learned rounding and bias correction against the papers' formulas and brute force."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nemojax as nemo
from nemojax.ptq import PTQConfig, correct_bias, equalize, find_pairs, find_units, improve
from nemojax.ptq.rounding import (
    annealed,
    hard_weights,
    rectified_sigmoid,
    soft_start,
    soft_weights,
    undecided,
)
from nemojax.quantizers import grid

FAST = PTQConfig(reconstruct="layer", steps=150, batch=16)


class Residual(nn.Module):
    """A stem, an inverted bottleneck with its shortcut, a mean and a classifier."""

    bound: bool = True  # ReLU6 or ReLU

    @nn.compact
    def __call__(self, x):
        act = nn.relu6 if self.bound else nn.relu
        x = act(nn.Conv(8, (3, 3), name="stem")(x))
        y = act(nn.Conv(16, (1, 1), name="expand")(x))
        y = act(nn.Conv(16, (3, 3), feature_group_count=16, name="depthwise")(y))
        x = x + nn.Conv(8, (1, 1), name="project")(y)
        return nn.Dense(4, name="classifier")(jnp.mean(x, (1, 2)))


class Words(nn.Module):
    """Embeddings, attention and a classifier."""

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(20, 8, name="words")(ids)
        x = nn.LayerNorm(name="norm")(x + nn.MultiHeadDotProductAttention(2, name="attention")(x))
        return nn.Dense(3, name="classifier")(jnp.mean(nn.relu(nn.Dense(16, name="up")(x)), 1))


def images(seed, count=48):
    return np.random.default_rng(seed).normal(size=(count, 6, 6, 3)).astype(np.float32)


def quantized(model, inputs):
    variables = model.init(jax.random.key(0), inputs[:2])
    rng = np.random.default_rng(0)

    def spread(path, leaf):  # channels of very different sizes, as real per-tensor weights have
        factors = np.exp(rng.normal(size=leaf.shape[-1])) if leaf.ndim > 1 else 1.0
        noise = rng.normal(size=leaf.shape) * 0.1 if leaf.ndim == 1 else 0.0
        return jnp.asarray(leaf * factors + noise, jnp.float32)

    variables = jax.tree_util.tree_map_with_path(spread, variables)
    config = nemo.QuantizerConfig(per_channel=False)
    return nemo.quantize(nemo.quantizable(model, variables), inputs, config)


@pytest.fixture(scope="module")
def network():
    return quantized(Residual(), images(0))


def kl(network, bits, inputs, exact):
    log_p = jax.nn.log_softmax(network.quantized_logits(jnp.asarray(bits), inputs))
    return float(jnp.mean(jnp.sum(jax.nn.softmax(exact) * (jax.nn.log_softmax(exact) - log_p), -1)))


@pytest.mark.parametrize("bound", [True, False])
def test_equalization_leaves_the_function_and_evens_the_channels(bound):
    net = quantized(Residual(bound), images(0))
    pairs = find_pairs(net.workload)
    # The stem is read twice, the projection meets the shortcut: the chain inside the block is left.
    assert [(p.first, p.second, len(p.clips)) for p in pairs] == [
        ("expand", "depthwise", int(bound)),
        ("depthwise", "project", int(bound)),
    ]
    traced, folded = equalize(net.traced, net.folded)
    x = jnp.asarray(images(1))
    np.testing.assert_allclose(traced.run(folded, x), net.logits(x), atol=2e-4)
    kernels = folded.kernels
    assert np.abs(kernels["expand"] - net.folded.kernels["expand"]).max() > 0.01
    out = np.abs(kernels["expand"]).max((0, 1, 2))
    middle = np.abs(kernels["depthwise"]).max((0, 1, 2))
    into = np.abs(kernels["project"]).max((0, 1, 3))
    np.testing.assert_allclose(out, middle, rtol=1e-2)  # √(r1·r2) on both sides of each pair
    np.testing.assert_allclose(middle, into, rtol=1e-2)


def test_one_pair_has_the_papers_closed_form():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="b")(nn.relu(nn.Dense(5, name="a")(x)))

    net = quantized(Two(), np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    a, b = (np.asarray(net.folded.kernels[name]) for name in "ab")
    r1, r2 = np.abs(a).max(0), np.abs(b).max(1)
    s = np.sqrt(r1 * r2) / r2  # Nagel et al. 2019, equation 11
    _, folded = equalize(net.traced, net.folded)
    np.testing.assert_allclose(folded.kernels["a"], a / s, rtol=1e-4)
    np.testing.assert_allclose(folded.kernels["b"], b * s[:, None], rtol=1e-4)
    np.testing.assert_allclose(folded.biases["a"], np.asarray(net.folded.biases["a"]) / s, rtol=1e-4)


def test_soft_rounding_is_adarounds():
    rng = np.random.default_rng(0)
    w, v = rng.normal(size=40).astype(np.float32), (3 * rng.normal(size=40)).astype(np.float32)
    to = grid(jnp.asarray(-1.5), jnp.asarray(2.0), jnp.asarray(4))
    s, first, last = (float(part) for part in to)
    h = np.clip(1 / (1 + np.exp(-v)) * 1.2 - 0.1, 0, 1)
    np.testing.assert_allclose(rectified_sigmoid(jnp.asarray(v)), h, atol=1e-5)
    expected = s * np.clip(np.floor(w / s) + h, first, last)
    np.testing.assert_allclose(soft_weights(jnp.asarray(w), jnp.asarray(v), to), expected, atol=1e-5)
    start = soft_weights(jnp.asarray(w), soft_start(jnp.asarray(w), to), to)
    np.testing.assert_allclose(start, np.clip(w, s * first, s * last), atol=1e-4)
    hard = s * np.clip(np.floor(w / s) + (h >= 0.5), first, last)
    np.testing.assert_allclose(hard_weights(jnp.asarray(w), jnp.asarray(v), to), hard, atol=1e-5)
    regulariser = undecided(jnp.asarray(v), jnp.asarray(4.0))
    np.testing.assert_allclose(regulariser, 1 - np.abs(2 * h - 1) ** 4, atol=1e-4)
    betas = [float(annealed(jnp.asarray(float(t)), 100, 0.2, 20.0, 2.0)) for t in (0, 20, 60, 100)]
    np.testing.assert_allclose(betas, [20, 20, 11, 2], atol=1e-4)


def test_a_layer_is_rounded_nearly_as_well_as_can_be():
    """All 2^8 roundings up or down of one output's weights, by their error on the data."""

    class One(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1, name="dense", use_bias=False)(x)

    rng = np.random.default_rng(1)
    x = (rng.normal(size=(64, 8)) @ rng.normal(size=(8, 8))).astype(np.float32)  # correlated inputs
    net = quantized(One(), x)
    bits = np.array([3 if p.is_weight else 32 for p in net.workload.points])
    w = np.asarray(net.folded.kernels["dense"])[:, 0]
    low, high = (float(end[3].ravel()[0]) for end in net.ranges.weights["dense"])
    s = (high - low) / 7
    first = np.round(low / s)
    choices = np.array(list(itertools.product([0, 1], repeat=8)))
    candidates = s * np.clip(np.floor(w / s) + choices, first, first + 7)
    errors = np.mean((candidates @ x.T - w @ x.T) ** 2, axis=1)
    nearest = np.mean((s * np.clip(np.round(w / s), first, first + 7) @ x.T - w @ x.T) ** 2)
    better = improve(jax.random.key(0), net, bits, x, dataclasses.replace(FAST, steps=600))
    found = np.asarray(better.folded.kernels["dense"])[:, 0]
    assert np.abs(found[None] - candidates).max(1).min() < 1e-5  # one of them, on the grid
    error = np.mean((found @ x.T - w @ x.T) ** 2)
    assert errors.min() <= error * (1 + 1e-5)
    assert error <= errors.min() + 0.35 * (nearest - errors.min())


def test_corrected_biases_make_the_mean_right(network):
    x, bits = jnp.asarray(images(0)), np.full(len(network.workload.points), 3)
    corrected = correct_bias(network, bits, x)
    exact = network.logits(x).mean(0)
    off, before = (
        np.abs(net.quantized_logits(jnp.asarray(bits), x).mean(0) - exact) for net in (corrected, network)
    )
    np.testing.assert_allclose(off, 0, atol=1e-4)  # the last layer's means are those of full precision
    assert before.max() > 1e-2
    for name, kernel in network.folded.kernels.items():
        np.testing.assert_array_equal(corrected.folded.kernels[name], kernel)


@pytest.mark.parametrize("mode", ["layer", "block"])
def test_reconstruction_helps_on_unseen_inputs(network, mode):
    x, unseen = images(2, 128), jnp.asarray(images(3))
    bits = np.array([3 if point.is_weight else 8 for point in network.workload.points])
    seen = []
    config = dataclasses.replace(FAST, reconstruct=mode)
    better = improve(
        jax.random.key(1), network, bits, x, config, on_step=lambda k, n, report: seen.append((k, n))
    )
    units = find_units(network.traced, mode)
    assert seen == [(k, len(units)) for k in range(len(units))]
    assert len(units) == (5 if mode == "layer" else len(units) < 5 and len(units))
    exact = network.logits(unseen)
    assert kl(better, bits, unseen, exact) < 0.8 * kl(network, bits, unseen, exact)
    again = improve(jax.random.key(1), network, bits, x, config)
    for a, b in zip(*map(jax.tree.leaves, (better, again)), strict=True):
        np.testing.assert_array_equal(a, b)
    twice = better._quantized_weights(jnp.asarray(bits), jnp.asarray(bits), False)
    for name, kernel in better.folded.kernels.items():
        np.testing.assert_allclose(twice.kernels[name], kernel, atol=1e-6)  # on the grid


def test_attention_and_tables_too():
    ids = np.random.default_rng(0).integers(0, 20, (40, 6))
    net = quantized(Words(), ids)
    bits = np.array([4 if point.is_weight else 8 for point in net.workload.points])
    config = PTQConfig(equalize=True, reconstruct="block", correct_bias=True, steps=60, batch=16)
    better = improve(jax.random.key(0), net, bits, ids, config)
    unseen = jnp.asarray(np.random.default_rng(1).integers(0, 20, (40, 6)))
    exact = net.logits(unseen)
    assert kl(better, bits, unseen, exact) < kl(net, bits, unseen, exact)


def test_refusals(network):
    for change, message in (
        ({"steps": 0}, "steps must be at least 1"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\)"),
        ({"reconstruct": None, "learn_activations": True}, "learn_activations is part of a reconstruction"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(FAST, **change)
    bits = np.full(len(network.workload.points), 4)
    with pytest.raises(ValueError, match="inputs are empty"):
        improve(jax.random.key(0), network, bits, images(0)[:0])
    with pytest.raises(ValueError, match="bits"):
        improve(jax.random.key(0), network, bits[:-1], images(0))
    bits[2] = 1
    with pytest.raises(ValueError, match=f"bits of point '{network.workload.point_names[2]}' must be 2-16"):
        improve(jax.random.key(0), network, bits, images(0))
