"""The CPU's ways of running a convolution: the same numbers as XLA's, and really taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel.tracing.program import Equation, flatten
from nemojax.lowering import contract, default_lowering

NHWC = ("NHWC", "HWIO", "NHWC")
PADS = {"SAME": "SAME", "VALID": "VALID", "asymmetric": [(0, 2), (3, 1)]}


def equation(x, w, stride=(1, 1), pad="SAME", groups=1, layout=NHWC, dilation=(1, 1)) -> Equation:
    def fn(w, x):
        return jax.lax.conv_general_dilated(
            x, w, stride, pad, None, dilation, dimension_numbers=layout, feature_group_count=groups
        )

    (eqn,) = flatten(fn, w, x).equations
    return eqn


def arrays(seed, x, w):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (x, w))


def primitives(eqn, x, w) -> list[tuple[str, int]]:
    """(name, feature groups) of every primitive of the lowered program, calls entered."""
    found = []

    def walk(jaxpr):
        for e in jaxpr.eqns:
            for body in (v for v in e.params.values() if hasattr(v, "jaxpr")):
                walk(body.jaxpr)
            found.append((e.primitive.name, e.params.get("feature_group_count", 1)))

    walk(jax.make_jaxpr(lambda x, w: contract(eqn, x, w, "cpu"))(x, w).jaxpr)
    return found


def check(eqn, x, w):
    xla, cpu = jax.jit(lambda x, w: (contract(eqn, x, w, "xla"), contract(eqn, x, w, "cpu")))(x, w)
    assert xla.shape == cpu.shape
    np.testing.assert_allclose(cpu, xla, atol=1e-5 * np.abs(xla).max(), rtol=0)


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((3, 3), (1, 1)), ((3, 3), (2, 2)), ((5, 5), (1, 1)), ((5, 5), (2, 2)), ((2, 3), (1, 2))],
)
def test_depthwise_is_a_sum_of_slices(kernel, stride, pad):
    x, w = arrays(0, (2, 8, 9, 6), (*kernel, 1, 6))
    eqn = equation(x, w, stride, PADS[pad], groups=6)
    check(eqn, x, w)
    assert not [name for name, _ in primitives(eqn, x, w) if name == "conv_general_dilated"]


@pytest.mark.parametrize("shape", [(2, 8, 9, 6), (1, 1, 1, 6), (3, 2, 5, 6)])
def test_a_1x1_convolution_is_a_matrix_product(shape):
    x, w = arrays(1, shape, (1, 1, 6, 10))
    eqn = equation(x, w)
    check(eqn, x, w)
    names = [name for name, _ in primitives(eqn, x, w)]
    assert "dot_general" in names
    assert "conv_general_dilated" not in names


@pytest.mark.parametrize(("pad", "stride"), [("SAME", (2, 2)), ("VALID", (1, 1)), ("asymmetric", (2, 1))])
@pytest.mark.parametrize(
    ("groups", "inside", "out", "dense"),
    [(2, 9, 6, 2), (2, 4, 6, 1), (6, 2, 12, 3), (2, 1, 6, 1), (3, 4, 6, 3)],
)
def test_a_grouped_convolution_is_a_row_of_dense_ones(groups, inside, out, dense, stride, pad):
    """Two narrow groups share one; the fourth case is depthwise with more outputs than inputs."""
    x, w = arrays(2, (2, 8, 9, groups * inside), (3, 3, inside, out))
    eqn = equation(x, w, stride, PADS[pad], groups)
    check(eqn, x, w)
    convolutions = [count for name, count in primitives(eqn, x, w) if name == "conv_general_dilated"]
    assert convolutions == dense * [1]


LEFT_ALONE = {  # shapes of x and w, and what else the convolution has
    "dense 3x3": ((2, 8, 9, 6), (3, 3, 6, 4), {}),
    "1x1 at stride 2": ((2, 8, 9, 6), (1, 1, 6, 4), {"stride": (2, 2)}),
    "1x1 with padding": ((2, 8, 9, 6), (1, 1, 6, 4), {"pad": [(1, 0), (0, 1)]}),
    "NCHW": ((2, 6, 8, 9), (6, 1, 3, 3), {"groups": 6, "layout": ("NCHW", "OIHW", "NCHW")}),
    "OHWI": ((2, 8, 9, 6), (6, 3, 3, 1), {"groups": 6, "layout": ("NHWC", "OHWI", "NHWC")}),
    "NHWC to NCHW": ((2, 8, 9, 6), (1, 1, 6, 4), {"layout": ("NHWC", "HWIO", "NCHW")}),
    "dilated depthwise": ((2, 8, 9, 6), (3, 3, 1, 6), {"groups": 6, "dilation": (2, 2)}),
    "dilated grouped": ((2, 8, 9, 6), (3, 3, 3, 4), {"groups": 2, "dilation": (1, 2)}),
    "negative padding": ((2, 8, 9, 6), (3, 3, 1, 6), {"groups": 6, "pad": [(-1, 0), (0, 2)]}),
    "one dimension": (
        (2, 8, 6),
        (3, 1, 6),
        {"groups": 6, "stride": (1,), "dilation": (1,), "layout": ("NWC", "WIO", "NWC")},
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_unusual_convolutions_are_left_to_xla(case):
    x_shape, w_shape, options = LEFT_ALONE[case]
    x, w = arrays(3, x_shape, w_shape)
    eqn = equation(x, w, **options)
    assert [name for name, _ in primitives(eqn, x, w)] == ["conv_general_dilated"]
    check(eqn, x, w)


def test_a_matrix_product_stays_one():
    x, w = arrays(4, (2, 6), (6, 3))
    (eqn,) = flatten(lambda w, x: x @ w, w, x).equations
    assert [name for name, _ in primitives(eqn, x, w)] == ["dot_general"]
    check(eqn, x, w)


def test_gradients_agree():
    x, w = arrays(5, (2, 8, 9, 6), (3, 3, 1, 6))
    eqn = equation(x, w, (2, 2), groups=6)

    def loss(how):
        return jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(contract(eqn, x, w, how))), argnums=(0, 1)))

    for a, b in zip(loss("xla")(x, w), loss("cpu")(x, w), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_default_lowering_follows_the_backend(monkeypatch):
    assert default_lowering() == "cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert default_lowering() == "xla"
