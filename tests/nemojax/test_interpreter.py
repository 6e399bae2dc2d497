"""Running a network from its equations gives the function back, with its batch norms folded away."""

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import trace
from nemojax.interpreter import execute, fold
from nemojax.networks.efficientnet_lite import Config, EfficientNetLite, Stage

TINY = Config(
    classes=5, stem_channels=8, head_channels=16, stages=(Stage(1, 3, 1, 1, 8), Stage(2, 5, 2, 3, 8))
)


def norm():
    return nn.BatchNorm(use_running_average=True)


class Residual(nn.Module):
    """Biases before batch norms, a max pooling, a shortcut from a value that is read twice."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu6(norm()(nn.Conv(8, (3, 3), strides=2)(x)))
        x = nn.max_pool(x, (2, 2), (1, 1), "SAME")
        y = nn.relu(norm()(nn.Conv(8, (5, 5), feature_group_count=8, use_bias=False)(x)))
        x = nn.relu(x + norm()(nn.Conv(8, (1, 1))(y)))
        x = x + nn.Conv(8, (3, 3), feature_group_count=2)(norm()(x))  # a norm that stands alone
        return nn.Dense(5)(jnp.mean(x, axis=(1, 2)))


class Plain(nn.Module):
    """Dense layers alone."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(norm()(nn.Dense(12)(x.reshape(x.shape[0], -1))))
        return nn.Dense(5, use_bias=False)(nn.sigmoid(nn.Dense(12)(x)))


def drawn(module, seed, image=(16, 16, 3)):
    """Parameters and statistics away from their start; some batch norm scales negative, some zero."""
    rng = np.random.default_rng(seed)
    tree = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *image)))

    def value(path, leaf):
        draw = rng.normal(size=leaf.shape)
        if path[-1] == "kernel":
            draw /= np.sqrt(np.prod(leaf.shape[:-1]))
        if path[-1] == "var":
            draw = draw**2 + 0.1
        if path[-1] == "scale":
            draw[:2] = 0.0, -1.0
        return jnp.asarray(draw, jnp.float32)

    flat = flax.traverse_util.flatten_dict(tree)
    return flax.traverse_util.unflatten_dict({path: value(path, leaf) for path, leaf in flat.items()})


def images(seed, count=3, image=(16, 16, 3)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, *image)), jnp.float32)


MODULES = {"residual": Residual(), "plain": Plain(), "efficientnet_lite": EfficientNetLite(TINY)}


@pytest.mark.parametrize("name", MODULES)
def test_equals_flax(name):
    module, x = MODULES[name], images(1)
    params = drawn(module, 0)
    work = trace(module.apply, params, x)

    @jax.jit
    def run(params, x):
        folded = fold(work, params)
        ours = [
            execute(work, folded, (x,), lowering=lowering, quantize=quantize)[0]
            for lowering in ("xla", "cpu")
            for quantize in (None, lambda i, tensor: tensor)
        ]
        return module.apply(params, x), jnp.stack(ours)

    expected, found = run(params, x)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(
        found, np.broadcast_to(expected, found.shape), atol=1e-5 * np.abs(expected).max(), rtol=0
    )


@pytest.mark.parametrize("count", [1, 4])
def test_another_batch_size_has_the_same_folded_weights(count):
    module, params = MODULES["residual"], drawn(MODULES["residual"], 0)
    one, many = (trace(module.apply, params, images(2, n)) for n in (1, count))
    folded = jax.jit(fold, static_argnums=0)(one, params)
    again = jax.jit(fold, static_argnums=0)(many, params)
    assert jax.tree.structure(folded) == jax.tree.structure(again)
    jax.tree.map(np.testing.assert_array_equal, folded, again)
    x = images(2, count)
    found = jax.jit(lambda folded, x: execute(many, folded, (x,), lowering="xla")[0])(folded, x)
    np.testing.assert_allclose(found, jax.jit(module.apply)(params, x), atol=2e-5)


def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_folding_against_numpy():
    """Bias, batch norm, and c - y: scale and shift in float64."""
    rng = np.random.default_rng(0)
    p = {name: np.float32(rng.normal(size=4)) for name in ("bias", "mean", "gamma", "beta", "top")}
    p["gamma"][:2] = 0.0, -2.0
    p |= {"var": np.float32(rng.uniform(0.1, 2, 4)), "w": np.float32(rng.normal(size=(3, 3, 4, 4)))}

    def fn(p, x):
        c = {name: value[None, None, None] for name, value in p.items() if value.ndim == 1}
        y = conv(x, p["w"]) + c["bias"]
        y = (y - c["mean"]) * (c["gamma"] / jnp.sqrt(c["var"] + 1e-3)) + c["beta"]
        return c["top"] - y / 2.0

    x = np.float32(rng.normal(size=(1, 5, 5, 4)))
    work = trace(fn, p, x)
    folded = fold(work, p)
    wide = {name: value.astype(np.float64) for name, value in p.items()}
    scale = wide["gamma"] / np.sqrt(wide["var"] + 1e-3)
    shift = (wide["bias"] - wide["mean"]) * scale + wide["beta"]
    np.testing.assert_allclose(folded.kernels["w"], wide["w"] * -scale / 2, rtol=2e-6)
    np.testing.assert_allclose(folded.biases["w"], wide["top"] - shift / 2, rtol=2e-6, atol=1e-7)
    assert folded.constants == {}
    found = jax.jit(lambda x: execute(work, folded, (x,), lowering="cpu")[0])(x)
    np.testing.assert_allclose(found, jax.jit(fn)(p, x), atol=1e-5)


def two_ways(p, x):
    """One matrix used from both sides, so that its output channels are along either axis."""
    hidden = jax.nn.relu(x @ p["w"] * p["s"][None] + p["b"][None])
    return jax.lax.dot_general(hidden, p["w"], (((1,), (1,)), ((), ()))) * p["t"][None] - p["c"][None]


def channels_first(p, x):
    def conv(x, w, groups):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", feature_group_count=groups)

    y = jax.nn.relu(conv(x, p["w"], 1) * p["s"][None, :, None, None] + p["b"][None, :, None, None])
    return conv(y, p["v"], 6) * p["t"][None, :, None, None]


def captured_and_python_numbers(p, x):
    return jax.nn.relu(x @ np.eye(6, 3, dtype=np.float32) * p["s"]) @ p["w"] + jnp.ones((1, 3))


def widened(p, x):
    return x @ p["w"] + p["c"]


def two_inputs(p, x):
    return (x["a"] @ p["w"], jax.nn.relu(x["b"] @ p["w"] + p["c"]) + x["a"] @ p["v"])


def shape(*sizes):
    return np.float32(np.random.default_rng(sum(sizes)).normal(size=sizes))


PLAIN_FUNCTIONS = {
    two_ways: ({"w": shape(6, 3), "s": shape(3), "b": shape(3), "t": shape(6), "c": shape(6)}, shape(4, 6)),
    channels_first: (
        {"w": shape(6, 3, 3, 2), "s": shape(6), "b": shape(6), "v": shape(6, 1, 3, 3), "t": shape(6)},
        shape(2, 3, 5, 7),
    ),
    captured_and_python_numbers: ({"s": 0.5, "w": shape(3, 3)}, shape(4, 6)),
    widened: ({"w": shape(6, 1), "c": shape(1, 5)}, shape(4, 6)),
    two_inputs: (
        {"w": shape(6, 3), "v": shape(6, 3), "c": shape(1, 3)},
        {"a": shape(4, 6), "b": shape(4, 6)},
    ),
}


@pytest.mark.parametrize("fn", PLAIN_FUNCTIONS, ids=lambda fn: fn.__name__)
def test_plain_functions(fn):
    params, x = PLAIN_FUNCTIONS[fn]
    work = trace(fn, params, x)

    @jax.jit
    def run(params, x):
        return fn(params, x), execute(work, fold(work, params), tuple(jax.tree.leaves(x)), lowering="cpu")

    expected, found = run(params, x)
    for output, right in zip(found, jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(output, right, atol=1e-5 * np.abs(right).max(), rtol=0)


def test_every_point_is_quantized_once_and_takes_effect():
    """Doubling the tensor at one point changes what comes after it, as doubling it by hand does."""
    module, x = MODULES["residual"], images(3, 2)
    params = drawn(module, 1)
    work = trace(module.apply, params, x)
    folded = jax.jit(fold, static_argnums=0)(work, params)
    seen: list[int] = []

    @jax.jit
    def run(chosen):
        def double(i, tensor):
            seen.append(i)
            assert tensor.size == work.points[i].elems
            return tensor * jnp.where(chosen == i, 2.0, 1.0)

        return execute(work, folded, (x,), lowering="xla", quantize=double)[0]

    untouched, outputs = run(-1), [run(i) for i in range(len(work.points))]
    assert sorted(seen) == list(range(len(work.points)))
    assert all(np.abs(output - untouched).max() > 1e-3 for output in outputs)
    biasless = work.point_names.index("Dense_0.weight")
    bias = params["params"]["Dense_0"]["bias"]
    np.testing.assert_allclose(
        outputs[biasless] - bias[None], 2 * (untouched - bias[None]), rtol=1e-4, atol=1e-5
    )
    pooled = next(i for i, point in enumerate(work.points) if point.source == "pool")
    np.testing.assert_allclose(outputs[pooled], outputs[biasless], rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_parameters():
    module, x = MODULES["plain"], images(4, 2)
    params = drawn(module, 2)
    work = trace(module.apply, params, x)

    def ours(params):
        return jnp.sum(execute(work, fold(work, params), (x,), lowering="cpu")[0] ** 2)

    found, expected = jax.jit(
        lambda p: (jax.grad(ours)(p), jax.grad(lambda p: jnp.sum(module.apply(p, x) ** 2))(p))
    )(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4 * max(1, np.abs(b).max())), found, expected
    )


def test_parameters_of_another_shape_are_refused_by_name():
    module = MODULES["plain"]
    params = drawn(module, 0)
    work = trace(module.apply, params, images(0))
    params["params"]["Dense_1"]["kernel"] = jnp.zeros((12, 13))
    message = r"parameter 'Dense_1/kernel' has shape \(12, 13\), traced as \(12, 5\)"
    with pytest.raises(ValueError, match=message):
        fold(work, params)


def test_another_number_of_parameters_is_refused():
    module = MODULES["plain"]
    params = drawn(module, 0)
    work = trace(module.apply, params, images(0))
    del params["params"]["Dense_0"]["bias"]
    with pytest.raises(ValueError, match="params has 8 leaves, the traced function had 9"):
        fold(work, params)
