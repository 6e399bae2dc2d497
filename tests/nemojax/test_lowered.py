"""Functions with other lowerings of their convolutions: the numbers and gradients of XLA's own."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.conv_gradients import depthwise
from nemojax.lowered import lowered
from nemojax.networks import by_name

CLOSE = partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)


def conv(x, w, stride=1, padding="SAME", groups=1):
    return jax.lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def primitives(jaxpr):
    """Names and parameters of all equations, nested ones included."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name, eqn.params
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                yield from primitives(getattr(value, "jaxpr", value))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups", "channels", "outputs", "size"),
    [
        (3, 1, "SAME", 6, 6, 6, 9),  # depthwise
        (3, 2, "SAME", 6, 6, 6, 8),  # SAME is asymmetric here
        (2, 3, "VALID", 4, 4, 4, 9),  # the stride passes the kernel, and rows are left over
        (1, 2, "VALID", 1, 6, 4, 8),
        (3, 2, "SAME", 1, 4, 4, 8),  # dense
        (7, 3, ((3, 3), (2, 4)), 1, 3, 4, 16),
        (3, 1, "SAME", 2, 20, 8, 6),  # grouped
        (3, 2, "SAME", 4, 8, 16, 8),  # narrow groups, two in one
        (3, 1, ((-1, 0), (0, 0)), 1, 4, 4, 8),  # crops: left to XLA
        (3, 1, "SAME", 3, 3, 6, 6),  # two outputs of each channel
    ],
)
def test_values_and_gradients(kernel, stride, padding, groups, channels, outputs, size):
    fn = partial(conv, stride=stride, padding=padding, groups=groups)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, size, size + 1, channels))
    w = jax.random.normal(keys[1], (kernel, kernel, channels // groups, outputs))
    weight = jax.random.normal(keys[2], fn(x, w).shape)

    @jax.jit
    def both(x, w):
        sides = [jax.vjp(f, x, w) for f in (fn, lowered(fn, "cpu"))]
        return [(value, back(weight)) for value, back in sides]

    plain, ours = both(x, w)
    jax.tree.map(CLOSE, ours, plain)


def test_the_rule_is_the_derivative_of_the_numbers():
    """By differences: the loss is quadratic in each argument, so that they are exact but for rounding."""

    @jax.jit
    def loss(x, w):
        return jnp.sum(depthwise(x, w, (2, 2), ((1, 1), (0, 1))) ** 2)

    keys = jax.random.split(jax.random.key(0), 4)
    x, w, dx, dw = (
        jax.random.normal(k, shape) for k, shape in zip(keys, ((2, 5, 6, 3), (3, 3, 1, 3)) * 2, strict=True)
    )
    slopes = jax.grad(loss, (0, 1))(x, w)
    for slope, step, difference in (
        (slopes[0], dx, loss(x + 0.1 * dx, w) - loss(x - 0.1 * dx, w)),
        (slopes[1], dw, loss(x, w + 0.1 * dw) - loss(x, w - 0.1 * dw)),
    ):
        np.testing.assert_allclose(jnp.sum(slope * step), difference / 0.2, rtol=1e-3)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        for i, groups in enumerate((1, 8)):
            x = nn.Conv(8, (3, 3), feature_group_count=groups, use_bias=False, name=f"conv_{i}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"norm_{i}")(x))
        return nn.Dense(3, name="classifier")(jnp.mean(x, (1, 2)))


@pytest.mark.long
def test_a_module_in_training_with_its_statistics():
    model, x = Net(), jax.random.normal(jax.random.key(0), (4, 6, 6, 3))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    apply = partial(model.apply, train=True, mutable=["batch_stats"])

    def loss(apply, params, x):
        logits, updates = apply({**variables, "params": params}, x)
        return jnp.sum(logits**2), updates

    results = [
        jax.jit(jax.value_and_grad(partial(loss, f), has_aux=True))(variables["params"], x)
        for f in (apply, lowered(apply, "cpu"))
    ]
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), *results)
    closed = jax.make_jaxpr(lowered(apply, "cpu"))(variables, x)
    groups = [p["feature_group_count"] for name, p in primitives(closed.jaxpr) if name.startswith("conv_g")]
    assert groups
    assert set(groups) == {1}  # no grouped convolution is left to XLA


@pytest.mark.slow
def test_the_zoo_in_training():
    network = by_name("mobilenet_v2_cifar", None, jax.random.key(0), width=0.25)
    x = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    apply = partial(network.apply, train=True, mutable=["batch_stats"])

    def loss(apply, params):
        return jnp.sum(apply({**network.params, "params": params}, x)[0] ** 2)

    plain, ours = (
        jax.jit(jax.grad(partial(loss, f)))(network.params["params"]) for f in (apply, lowered(apply, "cpu"))
    )
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a / scale, b / scale, atol=1e-4), plain, ours)


def test_convolutions_inside_other_functions_are_reached():
    x, w = jax.random.normal(jax.random.key(0), (1, 6, 6, 4)), jnp.full((3, 3, 1, 4), 0.1)
    deep = partial(conv, groups=4)

    @jax.custom_jvp
    def custom(x, w):
        return deep(x, w)

    custom.defjvp(lambda primals, tangents: (deep(*primals), 7 * deep(tangents[0], primals[1])))

    def inside(x, w):
        x = jax.jit(deep)(x, w)
        x = jax.checkpoint(deep)(x, w)
        x, sums = jax.lax.scan(lambda c, k: (deep(c, w * k), c.sum()), x, jnp.arange(1.0, 4.0))
        return custom(x, w) + sums.sum()

    ours = lowered(inside, "cpu")
    CLOSE(ours(x, w), inside(x, w))
    left = [p for name, p in primitives(jax.make_jaxpr(ours)(x, w).jaxpr) if name.startswith("conv_general")]
    assert not left
    jax.grad(lambda x: ours(x, w).sum())(x)

    def branches(x, w):
        return jax.lax.cond(x.sum() > 0, deep, lambda x, w: x, x, w)

    CLOSE(lowered(branches, "cpu")(x, w), branches(x, w))  # not reached, and right all the same


def test_custom_derivatives_stay():
    """relu's derivative at 0 is 0; that of the maximum in its body would be a half."""
    fn = lambda x: jnp.sum(jax.nn.relu(x) * jnp.arange(3.0))  # noqa: E731
    np.testing.assert_array_equal(jax.grad(lowered(fn, "cpu"))(jnp.asarray([-1.0, 0.0, 2.0])), [0, 0, 2])


def test_pytrees_and_the_other_lowering():
    fn = lambda d, y: {"a": d["x"] * y, "b": (y, 3.0)}  # noqa: E731
    out = lowered(fn, "cpu")({"x": jnp.ones(2)}, jnp.asarray(2.0))
    np.testing.assert_array_equal(out["a"], [2, 2])
    assert float(out["b"][1]) == 3
    assert lowered(fn, "xla") is fn
