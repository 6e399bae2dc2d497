"""Equalization, bias correction, rounding and the front door against NumPy, closed forms and brute force."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nemojax as nemo
from nemojax.calibration import QuantizerConfig
from nemojax.networks import Network
from nemojax.ptq import PTQConfig, correct_bias, equalized, find_pairs, improve, reconstruct
from nemojax.ptq.equalization import scales
from nemojax.ptq.grids import rounded
from nemojax.ptq.rounding import (
    annealed,
    hard_weights,
    rectified_sigmoid,
    soft_start,
    soft_weights,
    undecided,
)
from nemojax.quantizers import grid


class Chain(nn.Module):
    """Convolution, depthwise, convolution with a shortcut, a pooled classifier."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu6(nn.Conv(8, (3, 3), strides=2, name="stem")(x))
        y = nn.relu6(nn.Conv(16, (1, 1), name="expand")(x))
        y = nn.relu(nn.Conv(16, (3, 3), feature_group_count=16, name="depthwise")(y))
        x = x + nn.Conv(8, (1, 1), name="project")(y)
        y = nn.gelu(nn.Conv(8, (1, 1), name="curved")(x))
        return nn.Dense(5, name="fc")(jnp.mean(nn.relu(nn.Conv(8, (1, 1), name="head")(y)), (1, 2)))


@pytest.fixture(scope="module")
def images():
    return np.asarray(jax.random.normal(jax.random.key(1), (12, 8, 8, 3))) * 2


@pytest.fixture(scope="module")
def network(images):
    """Channels of very different scale, biases away from 0."""
    module = Chain()
    params = jax.jit(module.init)(jax.random.key(0), images[:1])
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    leaves = [
        jnp.asarray(
            np.asarray(leaf) * np.exp(rng.normal(size=leaf.shape[-1])) + 0.1 * (leaf.ndim == 1), jnp.float32
        )
        for leaf in leaves
    ]
    net = Network("chain", module.apply, jax.tree.unflatten(tree, leaves))
    return nemo.quantize(net, images, QuantizerConfig(per_channel=False))


def width(network, weights, activations):
    return np.array([weights if p.is_weight else activations for p in network.workload.points], np.int32)


def test_pairs_skip_forks_and_curved_functions(network):
    found = {(pair.first, pair.second) for pair in find_pairs(network.workload)}
    assert found == {("expand", "depthwise"), ("depthwise", "project"), ("head", "fc")}


def test_equalization_makes_ranges_equal_and_keeps_the_function(network, images):
    better = equalized(network, images)
    kernels = {name: np.asarray(k) for name, k in better.folded.kernels.items()}
    after = [np.abs(kernels["expand"]).max((0, 1, 2)), np.abs(kernels["depthwise"]).max((0, 1, 2)),
             np.abs(kernels["project"]).max((0, 1, 3))]  # fmt: skip
    np.testing.assert_allclose(after[0], after[1], rtol=1e-3)
    np.testing.assert_allclose(after[1], after[2], rtol=1e-3)
    old = np.abs(np.asarray(network.folded.kernels["expand"])).max((0, 1, 2))
    assert np.ptp(np.log(old / after[0])) > 0.5  # something moved
    x = 5 * images  # far enough for ReLU6 to bound some
    np.testing.assert_allclose(better.logits(x), network.logits(x), rtol=1e-4, atol=1e-3)


def test_scales_are_the_closed_form():
    r1, r2 = np.float32([4, 1, 0, 3]), np.float32([1, 16, 2, 0])
    np.testing.assert_allclose(scales(r1, r2), [np.sqrt(4 * 1) / 1, np.sqrt(16) / 16, 1, 1], rtol=1e-6)
    s = scales(r1, r2)[:2]
    np.testing.assert_allclose(r1[:2] / s, r2[:2] * s, rtol=1e-6)


def test_a_channel_with_next_to_no_weights_keeps_its_bias():
    """What a batch norm with a scale of almost 0 leaves: weights of 1e-8; any s would be huge or tiny."""
    np.testing.assert_array_equal(scales(np.float32([4, 3e-7]), np.float32([4, 0.3])), [1, 1])
    np.testing.assert_array_equal(scales(np.float32([4, 0.3]), np.float32([4, 1e-8])), [1, 1])


def test_corrected_biases_make_mean_errors_zero(network, images):
    """The last operation's outputs are the logits, so their means agree on the data."""
    bits = width(network, 3, 32)
    corrected = correct_bias(network, bits, images)
    right = np.asarray(network.logits(images)).mean(0)
    before = np.abs(np.asarray(network.quantized_logits(jnp.asarray(bits), images)).mean(0) - right).max()
    after = np.abs(np.asarray(corrected.quantized_logits(jnp.asarray(bits), images)).mean(0) - right).max()
    assert before > 0.01
    assert after < 1e-3 * before + 1e-5


def test_biases_do_not_answer_for_rounded_activations(network, images):
    fine, coarse = (correct_bias(network, width(network, 3, a), images).folded.biases for a in (32, 2))
    for name, bias in fine.items():
        np.testing.assert_array_equal(coarse[name], bias)


def test_rounding_functions_follow_numpy():
    rng = np.random.default_rng(1)
    w, v = rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32) * 3
    to = grid(jnp.float32(-1.5), jnp.float32(1.2), jnp.asarray(3))
    w, v = jnp.asarray(w), jnp.asarray(v)
    h = np.clip(1.2 / (1 + np.exp(-np.asarray(v, float))) - 0.1, 0, 1)
    np.testing.assert_allclose(rectified_sigmoid(v), h, atol=1e-6)
    np.testing.assert_allclose(undecided(v, jnp.float32(3.0)), 1 - np.abs(2 * h - 1) ** 3, atol=1e-4)
    s, n, p = float(to.scale), float(to.first), float(to.last)
    flat = np.asarray(w)
    soft = s * np.clip(np.floor(flat / s) + h, n, p)
    np.testing.assert_allclose(soft_weights(w, v, to), soft, atol=1e-5)
    inside = (flat / s > n) & (flat / s < p)
    np.testing.assert_allclose(
        np.asarray(soft_weights(w, soft_start(w, to), to))[inside], flat[inside], atol=1e-5
    )
    hard = np.asarray(hard_weights(w, v, to)) / s
    np.testing.assert_allclose(hard, np.round(hard), atol=1e-4)
    np.testing.assert_array_equal(np.round(hard), np.clip(np.floor(flat / s) + (h >= 0.5), n, p))
    assert annealed(jnp.float32(0), 10, 0.2, 20.0, 2.0) == 20
    np.testing.assert_allclose(annealed(jnp.float32(10), 10, 0.2, 20.0, 2.0), 2, atol=1e-5)


def test_learned_rounding_is_near_the_best_of_all():
    """One layer of 8 weights: 256 roundings, all tried."""
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(64, 8)) @ rng.normal(size=(8, 8))).astype(np.float32)
    w = rng.normal(size=(8, 1)).astype(np.float32)
    net = nemo.quantize(Network("one", lambda p, x: x @ p["w"], {"w": jnp.asarray(w)}), x, QuantizerConfig())
    bits = width(net, 3, 32)

    def error(kernel):
        return float(np.mean((x @ np.asarray(kernel) - x @ w) ** 2))

    to = grid(jnp.float32(w.min()), jnp.float32(w.max()), jnp.asarray(3))
    s, n, p = (float(part) for part in to)
    below = np.floor(w / s)
    best = min(
        error(s * np.clip(below + np.array(up, np.float32)[:, None], n, p))
        for up in itertools.product((0, 1), repeat=8)
    )
    nearest = error(rounded(net, bits)["w"])
    found = improve(jax.random.key(0), net, bits, x, PTQConfig(reconstruct="layer", steps=600, held_out=0.0))
    learned = error(found.folded.kernels["w"])
    assert best < 0.7 * nearest  # the example is one where nearest is poor
    assert learned <= nearest
    assert learned <= 1.5 * best
    np.testing.assert_allclose(rounded(found, bits)["w"], found.folded.kernels["w"], rtol=1e-6)


def test_what_was_learned_by_heart_is_not_taken():
    """2,048 roundings learned from 8 samples fit these and no others; held-out samples tell."""
    rng = np.random.default_rng(5)
    x, fresh = (rng.normal(size=(n, 64)).astype(np.float32) for n in (64, 500))
    w = rng.normal(size=(64, 32)).astype(np.float32)
    net = nemo.quantize(Network("one", lambda p, x: x @ p["w"], {"w": jnp.asarray(w)}), x)
    bits, nearest = width(net, 3, 32), rounded(net, width(net, 3, 32))["w"]

    def learned(x, held_out):
        reports = []
        config = PTQConfig(reconstruct="layer", steps=300, held_out=held_out)
        found = improve(jax.random.key(0), net, bits, x, config, on_chunk=lambda *a: reports.append(a[2]))
        return np.asarray(found.folded.kernels["w"]), reports[0]

    def error(kernel, inputs):
        return float(np.mean((inputs @ np.asarray(kernel) - inputs @ w) ** 2))

    by_heart, report = learned(x[:8], 0.0)
    assert report.after < 0.5 * report.before
    assert error(by_heart, fresh) > error(nearest, fresh)
    judged, report = learned(x, 0.875)
    assert report.after == report.before
    np.testing.assert_allclose(report.before, error(nearest, x[8:]), rtol=1e-4)
    np.testing.assert_array_equal(judged, nearest)


@pytest.mark.parametrize("mode", ["layer", "block"])
@pytest.mark.slow
def test_improve_lowers_the_error_and_repeats_itself(network, images, mode):
    bits = width(network, 3, 6)
    config = PTQConfig(
        equalize=True,
        reconstruct=mode,
        correct_bias=True,
        steps=80,
        learn_activations=mode == "block",
        drop=0.25,
    )
    seen, others = [], np.asarray(jax.random.normal(jax.random.key(7), (64, 8, 8, 3))) * 2
    better = improve(jax.random.key(0), network, bits, others, config, on_chunk=lambda *a: seen.append(a))
    assert [k for k, _, _ in seen] == list(range(seen[0][1]))
    assert all(report.after <= report.before for _, _, report in seen)
    right = np.asarray(network.logits(images))
    before, after = (
        float(np.mean((np.asarray(n.quantized_logits(jnp.asarray(bits), images)) - right) ** 2))
        for n in (network, better)
    )
    assert after < 0.75 * before  # on images that were not learned from
    again = improve(jax.random.key(0), network, bits, others, config)
    jax.tree.map(np.testing.assert_array_equal, again.folded, better.folded)
    for name, kernel in rounded(better, bits).items():
        np.testing.assert_allclose(kernel, better.folded.kernels[name], rtol=1e-5, atol=1e-7)


def test_what_does_not_fit_is_refused(network, images):
    bits = width(network, 4, 8)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="bits must have one column for each of"):
        improve(key, network, bits[1:], images, PTQConfig())
    with pytest.raises(ValueError, match=r"bits of 'input' in row 0 are 1: a bit-width is 2-16"):
        improve(key, network, np.where(np.arange(len(bits)) == 0, 1, bits), images, PTQConfig())
    with pytest.raises(ValueError, match="bits must be whole numbers, got float64"):
        improve(key, network, bits + 0.5, images, PTQConfig())
    broken = np.array(images)
    broken[3, 0, 0, 0] = np.nan
    module = Chain()
    unquantized = Network("chain", module.apply, jax.jit(module.init)(key, images[:1]))
    for run in (
        lambda: improve(key, network, bits, broken, PTQConfig(correct_bias=True)),
        lambda: improve(key, unquantized, bits, broken, PTQConfig(correct_bias=True)),
        lambda: correct_bias(network, bits, broken),
        lambda: reconstruct(key, network, bits, broken, PTQConfig(reconstruct="layer", steps=1)),
    ):
        with pytest.raises(ValueError, match=r"inputs\[3\] holds NaN or infinity"):
            run()
    with pytest.raises(ValueError, match="inputs are empty"):
        improve(key, network, bits, images[:0], PTQConfig())
    for other in (images.transpose(0, 3, 1, 2), images[..., :1]):  # channels first; one channel
        for step in (
            lambda x: improve(key, network, bits, x, PTQConfig()),
            lambda x: correct_bias(network, bits, x),
            lambda x: reconstruct(key, network, bits, x, PTQConfig(reconstruct="layer")),
        ):
            with pytest.raises(ValueError, match=r"inputs has shape .* the network was traced for"):
                step(other)


def test_bits_as_a_search_gives_them(network, images):
    bits, key, names = width(network, 4, 8), jax.random.key(0), network.workload.point_names
    found = nemo.Front.of(bits[None], np.ones((1, 1)), ("kl",), names).configuration(0)
    config = PTQConfig(reconstruct="layer", steps=1)
    for step in (
        lambda b: improve(key, network, b, images, PTQConfig(correct_bias=True)),
        lambda b: correct_bias(network, b, images),
        lambda b: reconstruct(key, network, b, images, config),
    ):
        wanted = jax.tree.leaves(step(bits))
        for given in (found, found.as_dict()):
            for one, two in zip(wanted, jax.tree.leaves(step(given)), strict=True):
                np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"regularization": -1.0}, "regularization must be at least 0"),
        ({"drop": 1.0}, r"drop must be in \[0, 1\), got 1.0"),
        ({"beta": (2.0, 20.0)}, "beta must fall"),
        ({"learn_activations": True}, "set reconstruct, too"),
    ],
)
def test_a_config_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        PTQConfig(**fields)
