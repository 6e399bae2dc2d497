"""Ranges of the quantizers against NumPy, on activations that a plain function collects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import trace
from nemojax.calibration import ROWS, SHRINKS, QuantizerConfig, activation_ranges, calibrate, weight_ranges
from nemojax.interpreter import fold
from nemojax.observers import BINS, histograms
from nemojax.traced import Traced

OBSERVERS = ("minmax", "mean_minmax", "percentile", "mse")
POINTS = ("input", "a.activation", "b.linear", "b.sum", "pool.pool")  # of activations


def conv(x, w, groups=1):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def apply(p, x, seen=None):
    """Convolution, depthwise convolution, residual add, mean, classifier; `seen` collects activations."""
    a = jax.nn.relu6(conv(x, p["a"]) + p["bias"][None, None, None])
    b = conv(a, p["b"], groups=4)
    pooled = jnp.mean(a + b, (1, 2))
    if seen is not None:
        seen.update(zip(POINTS, (x, a, b, a + b, pooled), strict=True))
    return pooled @ p["fc"]


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 3, 3, 4), "bias": (4,), "b": (3, 3, 1, 4), "fc": (4, 5)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def images():
    """11 of them, so that the last batch is short; heavy tails, each of another size."""
    rng = np.random.default_rng(1)
    draw = rng.standard_t(3, size=(11, 8, 8, 3)) * rng.uniform(0.2, 3, size=(11, 1, 1, 1)) + 0.5
    return jnp.asarray(draw, jnp.float32)


@pytest.fixture(scope="module")
def activations(params, images):
    def collect(params, images):
        seen = {}
        apply(params, images, seen)
        return seen

    return {name: np.asarray(x) for name, x in jax.jit(collect)(params, images).items()}


def prepared(fn, params, image=(8, 8, 3)):
    shapes = jax.eval_shape(lambda p: p, params)
    traced = Traced(fn, shapes, jax.ShapeDtypeStruct(image, jnp.float32), True, "cpu")
    return traced, jax.jit(fold, static_argnums=0)(traced.workload(), params)


@pytest.fixture(scope="module")
def network(params):
    return prepared(apply, params)


def ranges(network, images, **config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name -> (ROWS,) low and high of every activation."""
    traced, folded = network
    low, high = activation_ranges(traced, folded, images, QuantizerConfig(**config))
    assert low.shape == high.shape == (len(traced.workload().points), ROWS)
    assert low.dtype == high.dtype == jnp.float32
    found = {}
    for i, point in enumerate(traced.workload().points):
        if point.is_weight:
            assert not low[i].any()
            assert not high[i].any()
        else:
            found[point.name] = np.asarray(low[i]), np.asarray(high[i])
    assert tuple(found) == POINTS
    return found


def test_minmax(network, images, activations):
    for name, (low, high) in ranges(network, images, activation_range="minmax").items():
        np.testing.assert_allclose(low, activations[name].min(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(high, activations[name].max(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_mean_minmax_weighs_a_short_last_batch_by_its_images(network, images, activations, batch):
    for name, (low, high) in ranges(network, images, activation_range="mean_minmax", batch=batch).items():
        lowest, highest = 0.0, 0.0
        for start in range(0, 11, batch):
            part = activations[name][start : start + batch]
            lowest, highest = lowest + len(part) / 11 * part.min(), highest + len(part) / 11 * part.max()
        np.testing.assert_allclose(low, lowest, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(high, highest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("percentile", [80.0, 99.0, 99.9])
def test_percentile_is_right_to_a_bin(network, images, activations, percentile):
    found = ranges(network, images, activation_range="percentile", percentile=percentile)
    tail = (1 - percentile / 100) / 2
    for name, (low, high) in found.items():
        x = activations[name].ravel()
        slack = (max(x.max(), 0) - min(x.min(), 0)) / BINS
        assert len({*low, *high}) == 2  # one range for all bit-widths
        for end, share in ((low[0], tail), (high[0], 1 - tail)):
            assert (x < end - 1.5 * slack).mean() <= share
            assert (x <= end + 1.5 * slack).mean() >= share


def test_the_hundredth_percentile_is_minmax_widened_to_zero(network, images):
    every = ranges(network, images, activation_range="percentile", percentile=100.0)
    for name, (low, high) in ranges(network, images, activation_range="minmax").items():
        np.testing.assert_allclose(every[name][0], np.minimum(low, 0), rtol=1e-6)
        np.testing.assert_allclose(every[name][1], np.maximum(high, 0), rtol=1e-6)


def rounded(x, low, high, bits, symmetric):
    """The quantizer in float64 NumPy."""
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    if symmetric:
        step = np.maximum(-low, high) / np.where(low < 0, 2 ** (bits - 1) - 1, 2**bits - 1)
        first = np.where(low < 0, -(2 ** (bits - 1)), 0)
    else:
        step = (high - low) / (2**bits - 1)
        first = np.rint(low / np.where(step > 0, step, 1))
    step = np.where(step > 0, step, 1)
    return step * np.clip(np.rint(x / step), first, first + 2**bits - 1)


def squared_error(x, low, high, bits, symmetric, axes=None):
    x = np.float64(x)
    return np.square(rounded(x, np.float64(low), np.float64(high), bits, symmetric) - x).sum(
        axes, keepdims=True
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_is_the_best_shrunk_range_and_never_worse_than_minmax(network, images, activations, symmetric):
    found = ranges(network, images, activation_range="mse", symmetric_activations=symmetric)
    for name, (low, high) in found.items():
        x = activations[name].ravel()
        start, end = min(x.min(), 0), max(x.max(), 0)
        for bits in range(2, 17):
            error = functools.partial(squared_error, x, bits=bits, symmetric=symmetric)
            tried = [error(s * start, s * end) for s in np.float64(SHRINKS)]
            assert SHRINKS[0] == 1.0
            # the observer sees a histogram, whose bins are as wide as the steps of 11 bits
            slack = 1.02 if bits <= 8 else 1.5
            assert error(low[bits], high[bits]) <= slack * min(tried)
            if bits <= 8:
                assert error(low[bits], high[bits]) <= tried[0] * (1 + 1e-5)
        assert low[0] == low[1] == low[2]  # rows that are never read
    assert found["input"][1][2] < found["input"][1][8] <= found["input"][1][16]  # fewer bits clip more


def test_a_histogram_counts_every_value_once(network, images, activations):
    traced, folded = network
    points = traced.workload().points
    lowest = np.array([0 if p.is_weight else activations[p.name].min() for p in points], np.float32)
    highest = np.array([0 if p.is_weight else activations[p.name].max() for p in points], np.float32)
    found = histograms(traced, folded, images, lowest, highest)
    for i, point in enumerate(points):
        if point.is_weight:
            assert not found.counts[i].any()
            continue
        x = activations[point.name].ravel()
        span = (min(x.min(), 0), max(x.max(), 0))
        np.testing.assert_allclose((found.low[i], found.high[i]), span, rtol=1e-6)
        expected = np.histogram(x, BINS, span)[0]
        assert found.counts[i].sum() == x.size
        assert np.abs(found.counts[i].cumsum() - expected.cumsum()).max() <= 3  # values on an edge


@pytest.mark.parametrize("observer", OBSERVERS)
def test_order_and_repetition_of_the_images_do_not_matter(network, images, observer):
    """So neither do the few that run together, nor those that fill up the last few."""
    once = ranges(network, images, activation_range=observer, batch=1)
    twice = ranges(network, jnp.concatenate([images[::-1], images]), activation_range=observer, batch=1)
    for name in POINTS:
        np.testing.assert_allclose(twice[name], once[name], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("observer", ["minmax", "mean_minmax"])
@pytest.mark.parametrize("count", [1, 5])
def test_what_fills_up_the_last_few_is_not_seen(network, images, observer, count):
    bright = jnp.abs(images[:count]) + 5.0
    low, _ = ranges(network, bright, activation_range=observer)["input"]
    assert low[8] >= 5.0


@pytest.mark.parametrize("observer", OBSERVERS)
def test_constant_activations(network, params, images, observer):
    """A layer whose every output is cut to 0, and one whose every output is cut to 6."""
    for bias, constant in ((-1e4, 0.0), (1e4, 6.0)):
        folded = fold(network[0].workload(), params | {"bias": jnp.full(4, bias)})
        low, high = ranges((network[0], folded), images, activation_range=observer)["a.activation"]
        for bits in (2, 8):
            error = squared_error(np.full(5, constant), low[bits], high[bits], bits, symmetric=False)
            assert error <= 1e-6


def test_a_reshape_that_joins_images_and_pixels(images):
    """Rows of the matrix product are pixels of all images: every one of them is calibrated on."""

    def rows(p, x):
        y = jax.nn.relu((x.reshape(-1, 3) @ p["w"]).reshape(x.shape[0], -1) * p["s"])
        return y @ p["fc"]

    rng = np.random.default_rng(2)
    p = {"w": rng.normal(size=(3, 4)), "s": np.ones(()), "fc": rng.normal(size=(256, 5))}
    p = {name: jnp.asarray(value, jnp.float32) for name, value in p.items()}
    traced, folded = prepared(rows, p)
    low, high = activation_ranges(traced, folded, images, QuantizerConfig(activation_range="minmax"))
    i = traced.workload().point_names.index("w.activation")
    hidden = np.maximum(np.asarray(images).reshape(-1, 3) @ np.asarray(p["w"]), 0)
    np.testing.assert_allclose((low[i, 8], high[i, 8]), (0, hidden.max()), rtol=1e-5)


@pytest.mark.parametrize("per_channel", [False, True])
def test_weight_ranges_follow_numpy(network, per_channel):
    traced, folded = network
    for observer in ("minmax", "mean_minmax", "percentile"):
        config = QuantizerConfig(weight_range=observer, per_channel=per_channel, percentile=90.0)
        found = weight_ranges(traced, folded, config)
        assert set(found) == {"a", "b", "fc"}
        for name, (low, high) in found.items():
            kernel = np.asarray(folded.kernels[name])
            axes = tuple(range(kernel.ndim - 1)) if per_channel else tuple(range(kernel.ndim))
            share = 5.0 if observer == "percentile" else 0.0
            expected = (np.percentile(kernel, q, axes, keepdims=True) for q in (share, 100 - share))
            for end, right in zip((low, high), expected, strict=True):
                np.testing.assert_allclose(
                    end, np.broadcast_to(right, (ROWS, *right.shape)), rtol=1e-5, atol=1e-6
                )


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_weight_mse_is_the_best_shrunk_range(network, per_channel, symmetric):
    traced, folded = network
    config = QuantizerConfig(weight_range="mse", per_channel=per_channel, symmetric_weights=symmetric)
    for name, (low, high) in weight_ranges(traced, folded, config).items():
        kernel = np.asarray(folded.kernels[name])
        axes = tuple(range(kernel.ndim - 1)) if per_channel else tuple(range(kernel.ndim))
        start, end = kernel.min(axes, keepdims=True), kernel.max(axes, keepdims=True)
        for bits in (2, 3, 4, 8, 16):
            error = functools.partial(squared_error, kernel, bits=bits, symmetric=symmetric, axes=axes)
            tried = np.array([error(s * start, s * end) for s in np.float64(SHRINKS)])
            assert (error(low[bits], high[bits]) <= tried.min(0) * (1 + 1e-3) + 1e-10).all()
            assert low[bits].shape == start.shape


def test_weights_used_from_both_sides_have_ranges_along_their_own_outputs():
    def tied(p, x):
        hidden = jax.nn.relu(x @ p)
        return jax.lax.dot_general(hidden, p, (((1,), (1,)), ((), ())))

    p = jnp.asarray(np.random.default_rng(3).normal(size=(6, 3)), jnp.float32)
    traced, folded = prepared(tied, p, (6,))
    found = weight_ranges(traced, folded, QuantizerConfig())
    np.testing.assert_array_equal(found["param"][0][8], np.asarray(p).min(0, keepdims=True))
    np.testing.assert_array_equal(found["param_2"][0][8], np.asarray(p).min(1, keepdims=True))


def test_calibrate_joins_both(network, images):
    traced, folded = network
    config = QuantizerConfig(activation_range="minmax")
    found = calibrate(traced, folded, images, config)
    low, high = activation_ranges(traced, folded, images, config)
    np.testing.assert_array_equal(found.low, low)
    np.testing.assert_array_equal(found.high, high)
    expected = weight_ranges(traced, folded, config)
    jax.tree.map(np.testing.assert_array_equal, found.weights, expected)
    assert ROWS == 17
    assert trace(apply, traced.params, images).point_names == traced.workload().point_names


def test_no_images_are_refused(network, images):
    with pytest.raises(ValueError, match="inputs are empty: calibration needs at least one sample"):
        calibrate(*network, images[:0], QuantizerConfig())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused_by_name(network, params, images, value):
    traced, folded = network
    with pytest.raises(ValueError, match="activation 'input' is not finite on these inputs"):
        calibrate(traced, folded, images.at[6, 0, 0, 0].set(value), QuantizerConfig())
    broken = fold(traced.workload(), params | {"b": params["b"].at[0].set(value)})
    with pytest.raises(ValueError, match=r"activation 'b.linear' is not finite"):
        calibrate(traced, broken, images, QuantizerConfig())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"percentile": 50.0}, r"percentile must be in \(50, 100\], got 50.0"),
        ({"percentile": 100.5}, "percentile must be in"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
    ],
)
def test_a_config_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        QuantizerConfig(**fields)


@pytest.mark.parametrize("field", ["weight_range", "activation_range"])
def test_a_config_refuses_an_unknown_observer(field, monkeypatch):
    config = QuantizerConfig()
    object.__setattr__(config, field, "median")  # past the type check of the tests
    with pytest.raises(ValueError, match=f"{field} must be one of .*'mse'.*, got 'median'"):
        config.__post_init__()
