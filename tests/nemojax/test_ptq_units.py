"""Cutting a network into units: every equation once, residual blocks whole, and the units add up to it."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nemojax as nemo
from nemojax.calibration import QuantizerConfig
from nemojax.networks import Network
from nemojax.ptq.gradients import dense_convolution, depthwise_convolution
from nemojax.ptq.prefix import Prefix, activation_settings, full_precision, run_all
from nemojax.ptq.segment import make_segment
from nemojax.ptq.units import find_units


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu6(nn.Conv(8, (3, 3), strides=2, name="stem")(x))
        for i in range(2):
            y = nn.relu(nn.Conv(16, (1, 1), name=f"expand_{i}")(x))
            y = nn.relu(nn.Conv(16, (3, 3), feature_group_count=16, name=f"depthwise_{i}")(y))
            x = x + nn.Conv(8, (1, 1), name=f"project_{i}")(y)
        return nn.Dense(5, name="fc")(jnp.mean(x, (1, 2)))


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        q, k, v = (nn.Dense(8, name=name)(y) for name in "qkv")
        y = jnp.einsum("bij,bjd->bid", nn.softmax(jnp.einsum("bid,bjd->bij", q, k) / 3.0), v)
        x = x + nn.Dense(8, name="o")(y)
        y = nn.Dense(16, name="up")(nn.LayerNorm()(x))
        x = x + nn.Dense(8, name="down")(nn.gelu(y))
        return nn.Dense(3, name="head")(jnp.mean(x, 1))


SHAPES = {"residual": (Residual(), (8, 8, 3)), "attention": (Attention(), (6, 8))}


@pytest.fixture(scope="module", params=SHAPES)
def quantized(request):
    module, shape = SHAPES[request.param]
    x = np.asarray(jax.random.normal(jax.random.key(1), (7, *shape)))
    params = jax.jit(module.init)(jax.random.key(0), x[:1])
    network = nemo.quantize(Network("n", module.apply, params), x, QuantizerConfig())
    return request.param, network, x


@pytest.mark.parametrize("mode", ["layer", "block"])
def test_units_follow_each_other_and_hold_every_operation_once(quantized, mode):
    _, network, _ = quantized
    units = find_units(network.traced, mode)
    assert units[0].first == 0
    assert all(a.last == b.first for a, b in itertools.pairwise(units))
    weighted = [op.name for op in network.workload.operations if op.weight_point >= 0]
    assert [name for unit in units for name in unit.operations] == weighted


def test_blocks_keep_residual_branches_together(quantized):
    name, network, _ = quantized
    found = [unit.operations for unit in find_units(network.traced, "block")]
    expected = {
        "residual": [
            ("stem",),
            ("expand_0", "depthwise_0", "project_0"),
            ("expand_1", "depthwise_1", "project_1"),
            ("fc",),
        ],
        "attention": [("q", "k", "v", "o"), ("up", "down"), ("head",)],
    }
    assert found == expected[name]


@pytest.mark.parametrize("mode", ["layer", "block"])
@pytest.mark.parametrize("width", [32, 8])
def test_units_in_a_row_are_the_network(quantized, mode, width):
    """Chunks of 3 of 7 samples, so that the last one is filled up."""
    _, network, x = quantized
    bits = np.full(len(network.workload.points), width, np.int32)
    weights = np.array([point.is_weight for point in network.workload.points])
    bits[weights] = 32  # the segments take weights as they are
    units = find_units(network.traced, mode)
    prefix = Prefix(network, bits, x)
    for k, unit in enumerate(units):
        segment = make_segment(network.traced, network.folded, unit, 3)
        settings = activation_settings(network, bits, segment.points)
        exact, seen = prefix.entries(unit)
        folded = segment.folded(network.folded)
        full = run_all(segment, prefix.symmetric, folded, full_precision(settings), exact)
        made = run_all(segment, prefix.symmetric, folded, settings, seen)
        prefix.advance(unit, full, made, units[k + 1 :])
    np.testing.assert_allclose(full[-1].reshape(7, -1), network.logits(x), atol=1e-4)
    # A value on the edge between two grid points may fall to either side.
    np.testing.assert_allclose(
        made[-1].reshape(7, -1), network.quantized_logits(jnp.asarray(bits), x), atol=2e-2
    )
    assert prefix.full == {} or set(prefix.full) <= set(network.workload.program.outputs)


def test_blocks_that_look_alike_are_equal(quantized):
    name, network, _ = quantized
    if name != "residual":
        pytest.skip("has no repeated block")
    a, b = (
        make_segment(network.traced, network.folded, unit, 2)
        for unit in find_units(network.traced, "block")[1:3]
    )
    assert a == b
    assert hash(a) == hash(b)
    assert a != make_segment(network.traced, network.folded, find_units(network.traced, "block")[1], 3)


@pytest.mark.parametrize(("size", "stride", "pad"), [(6, 1, (1, 1)), (7, 2, (0, 1))])
@pytest.mark.parametrize("depthwise", [True, False])
def test_gradients_are_those_of_the_plain_convolution(size, stride, pad, depthwise):
    kernel = sum(pad) + 1 if stride == 1 else 3
    groups = 4 if depthwise else 1
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, size, size, 4))
    w = jax.random.normal(keys[1], (kernel, kernel, 1, 4) if depthwise else (kernel, kernel, 4, 5))
    ours = depthwise_convolution if depthwise else dense_convolution
    pads = (pad, pad)

    def plain(x, w):
        return jax.lax.conv_general_dilated(
            x,
            w,
            (stride, stride),
            pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    @jax.jit
    def both(x, w):
        y, back = jax.vjp(plain, x, w)
        z, ours_back = jax.vjp(lambda x, w: ours(x, w, (stride, stride), pads), x, w)
        dy = jax.random.normal(keys[2], y.shape)
        return (y, *back(dy)), (z, *ours_back(dy))

    for right, found in zip(*both(x, w), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-4)
