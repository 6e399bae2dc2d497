"""Published networks from shapes alone: nodes, weights, MACs and quantizable points.

MobileNet-V2 has 116 quantizers, ResNet50 125 and ResNeXt-101-32x8d 244 in Miret et al. 2022, the first one
without a quantizer behind the average pooling and the others with it. Weight counts are torchvision's.
"""

import collections

import jax
import jax.numpy as jnp
import pytest

from hwmodel import Workload, trace
from nemojax.networks.efficientnet_lite import Config, EfficientNetLite

IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)


def conv(get, name, x, kernel, channels, stride=1, groups=1, act=None):
    """Convolution, batch norm as a scale and a shift, activation."""
    w = get(f"{name}/kernel", (kernel, kernel, x.shape[3] // groups, channels))
    pad = [(kernel // 2, kernel // 2)] * 2
    y = jax.lax.conv_general_dilated(
        x, w, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )
    y = (
        y * get(f"{name}/scale", (channels,))[None, None, None]
        + get(f"{name}/shift", (channels,))[None, None, None]
    )
    return y if act is None else act(y)


def head(get, x):
    pooled = jnp.mean(x, (1, 2))
    return pooled @ get("fc/kernel", (pooled.shape[1], 1000)) + get("fc/bias", (1000,))[None]


def resnet(get, x, repeats, groups=1, width=64):
    """Bottlenecks with the stride on the 3x3, as torchvision has them."""
    x = conv(get, "stem", x, 7, 64, 2, act=jax.nn.relu)
    x = jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (1, 1), (1, 1), (0, 0)]
    )
    for stage, count in enumerate(repeats):
        planes = 64 * 2**stage
        inner = planes * width // 64 * groups
        for i in range(count):
            name, stride = f"{stage}.{i}", 2 if stage and i == 0 else 1
            y = conv(get, f"{name}.a", x, 1, inner, act=jax.nn.relu)
            y = conv(get, f"{name}.b", y, 3, inner, stride, groups, act=jax.nn.relu)
            y = conv(get, f"{name}.c", y, 1, 4 * planes)
            x = jax.nn.relu(y + (conv(get, f"{name}.down", x, 1, 4 * planes, stride) if i == 0 else x))
    return head(get, x)


def mobilenet_v2(get, x):
    x = conv(get, "stem", x, 3, 32, 2, act=jax.nn.relu6)
    table = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    for stage, (expand, channels, count, first) in enumerate(table):
        for i in range(count):
            name, stride, y, wide = f"{stage}.{i}", first if i == 0 else 1, x, expand * x.shape[3]
            if expand != 1:
                y = conv(get, f"{name}.expand", y, 1, wide, act=jax.nn.relu6)
            y = conv(get, f"{name}.depthwise", y, 3, wide, stride, wide, act=jax.nn.relu6)
            y = conv(get, f"{name}.project", y, 1, channels)
            x = x + y if stride == 1 and x.shape[3] == channels else y
    return head(get, conv(get, "head", x, 1, 1280, act=jax.nn.relu6))


def traced(network, **options) -> Workload:
    shapes = {}

    def record(name, shape):
        shapes[name] = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jnp.zeros(shape)

    jax.eval_shape(lambda x: network(record, x), IMAGE)
    return trace(lambda params, x: network(lambda name, _: params[name], x), shapes, IMAGE, **options)


def lite0(batch=1, **options) -> Workload:
    model = EfficientNetLite(Config())
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    image = jax.ShapeDtypeStruct((batch, 224, 224, 3), jnp.float32)
    return trace(model.apply, params, image, **options)


@pytest.fixture(scope="module")
def lite0_workload():
    return lite0()


def resnet50(get, x):
    return resnet(get, x, (3, 4, 6, 3))


def resnext101(get, x):
    return resnet(get, x, (3, 4, 23, 3), groups=32, width=8)


# network: convolutions, nodes, weights, MACs, largest activation, points with and without the pooled one
EXPECTED = {
    mobilenet_v2: (52, 54, 3_469_760, 300_774_272, 1_204_224, 117, 116),
    resnet50: (53, 56, 25_502_912, 4_089_184_256, 802_816, 125, 124),
    resnext101: (104, 107, 88_587_456, 16_414_015_488, 1_605_632, 244, 243),
}


@pytest.mark.parametrize("network", EXPECTED, ids=lambda network: network.__name__)
def test_published_counts(network):
    convolutions, nodes, weights, macs, largest, points, unpooled = EXPECTED[network]
    work = traced(network)
    layers = [op for op in work.operations if op.w_elems]
    assert [op.kind == "dense" for op in layers] == convolutions * [False] + [True]
    assert len(work.operations) == nodes
    assert sum(op.w_elems for op in layers) == weights
    assert sum(op.macs for op in layers) == macs
    assert max(op.o_elems for op in work.operations) == largest
    assert len(work.points) == points
    assert len(traced(network, quantize_pooled_input=False).points) == unpooled


def test_resnet50_counts_parameters_and_blocks():
    work = traced(resnet50)
    sources = collections.Counter(point.source for point in work.points)
    # 16 third convolutions and 4 shortcuts feed an add; a relu follows every add, so there is no "sum"
    assert sources == {"weight": 54, "input": 1, "activation": 49, "linear": 20, "pool": 1}
    convolutions = sum(op.ofm[2] for op in work.operations if op.kind == "conv")
    # torchvision's 25,557,032 counts two batch norm vectors a convolution; one bias is left of them
    assert work.column("w_elems").sum() + 2 * convolutions + 1000 == 25_557_032
    assert work.column("bias_elems").sum() == convolutions + 1000
    assert sum(len(op.parents) == 2 for op in work.operations) == 16


def test_efficientnet_lite0(lite0_workload):
    work = lite0_workload
    kinds = collections.Counter(op.kind for op in work.operations)
    assert kinds == {"conv": 33, "dwconv": 16, "pool": 1, "dense": 1}
    layers = [op for op in work.operations if op.w_elems]
    assert sum(op.w_elems for op in layers) == 4_608_992
    assert sum(op.macs for op in layers) == 385_187_552
    assert max(op.o_elems for op in work.operations) == 1_204_224
    # 4,652,008 weights and biases count two batch norm vectors a convolution; one bias is left of them
    biases = work.column("bias_elems").sum()
    assert 4_608_992 + 2 * (biases - 1000) + 1000 == 4_652_008
    sources = collections.Counter(point.source for point in work.points)
    assert sources == {"weight": 50, "input": 1, "activation": 33, "linear": 16, "sum": 9, "pool": 1}
    assert work.points[0].elems == 3 * 224**2
    assert sum(point.elems for point in work.points if point.is_weight) == 4_608_992
    assert [op.name for op in work.operations if op.is_output] == ["classifier"]


def test_efficientnet_lite0_names(lite0_workload):
    names = lite0_workload.point_names
    assert names[:4] == ("input", "stem.weight", "stem.activation", "blocks_0/depthwise.weight")
    assert names[-3:] == ("head.activation", "pool.pool", "classifier.weight")
    assert len(set(names)) == 110
    residual = [name for name in names if name.startswith("blocks_2/project")]
    assert residual == ["blocks_2/project.weight", "blocks_2/project.linear", "blocks_2/project.sum"]


def test_points_do_not_depend_on_the_batch(lite0_workload):
    eight = lite0(batch=8)
    for one, many in zip(lite0_workload.points, eight.points, strict=True):
        assert (one.name, one.source, one.operation) == (many.name, many.source, many.operation)
        assert one.channel_axis == many.channel_axis
        assert many.elems == one.elems * (1 if one.is_weight else 8)
    for one, many in zip(lite0_workload.operations, eight.operations, strict=True):
        assert (one.name, one.equations, one.weight_point, one.input_point) == (
            many.name,
            many.equations,
            many.weight_point,
            many.input_point,
        )
        assert many.macs == 8 * one.macs
        assert (many.batch, many.ofm) == (8, one.ofm)


def test_without_the_pooled_point_no_quantizer_feeds_the_classifier(lite0_workload):
    work = lite0(quantize_pooled_input=False)
    assert [name for name in lite0_workload.point_names if name != "pool.pool"] == list(work.point_names)
    assert work.operations[-1].input_point == -1
    last = lite0_workload.operations[-1]
    assert lite0_workload.points[last.input_point].name == "pool.pool"


def test_every_layer_is_fed_by_a_point(lite0_workload):
    for op in lite0_workload.operations:
        if op.w_elems:
            feeding = lite0_workload.points[op.input_point]
            assert feeding.elems == op.ifm[0] * op.ifm[1] * op.ifm[2]
            assert lite0_workload.points[op.weight_point].elems == op.w_elems
