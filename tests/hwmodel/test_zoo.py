"""The built-in tables: published totals, structure, and agreement with the same networks traced from JAX."""

import collections
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from hwmodel import trace, zoo
from hwmodel.zoo.bert import Config
from nemojax.networks.efficientnet_lite import Config as LiteConfig, EfficientNetLite

# network: convolutions, operations, weights, parameters, MACs of layers, largest activation
EXPECTED = {
    "mobilenet_v2": (52, 55, 3_469_760, 3_504_872, 300_774_272, 1_204_224),
    "resnet50": (53, 57, 25_502_912, 25_557_032, 4_089_184_256, 802_816),
    "resnet101": (104, 108, 44_442_816, 44_549_160, 7_801_405_440, 802_816),
    "resnext101_32x8d": (104, 108, 88_587_456, 88_791_336, 16_414_015_488, 1_605_632),
    "efficientnet_lite0": (49, 52, 4_608_992, 4_652_008, 385_187_552, 1_204_224),
}
LAYERS = ("conv", "dwconv", "dense", "matmul")


def layer_macs(work):
    return sum(op.macs for op in work.operations if op.kind in LAYERS)


@pytest.mark.parametrize("name", EXPECTED)
def test_published_counts(name):
    convolutions, operations, weights, parameters, macs, largest = EXPECTED[name]
    work = zoo.by_name(name)
    assert work.name == name
    assert sum(op.kind in ("conv", "dwconv") for op in work.operations) == convolutions
    assert len(work.operations) == operations
    assert work.column("w_elems").sum() == weights
    assert zoo.parameters(work) == parameters
    assert layer_macs(work) == macs
    assert work.column("o_elems").max() == largest
    assert [op.name for op in work.operations if op.is_output] == ["softmax"]
    assert [op.name for op in work.operations if op.ext_in] == ["stem"]


@pytest.mark.parametrize("name", EXPECTED)
def test_batch_and_resolution(name):
    one, four = zoo.by_name(name), zoo.by_name(name, batch=4)
    for a, b in zip(one.operations, four.operations, strict=True):
        assert (b.macs, b.o_elems, b.ext_in) == (4 * a.macs, 4 * a.o_elems, 4 * a.ext_in)
        assert (b.w_elems, b.bias_elems, b.ifm, b.ofm, b.batch) == (a.w_elems, a.bias_elems, a.ifm, a.ofm, 4)
        assert [e.elems for e in b.parents] == [4 * e.elems for e in a.parents]
    double = zoo.by_name(name, resolution=448, classes=10)
    first, last = double.operations[0], double.operations[-1]
    assert (first.ifm, first.macs) == ((448, 448, 3), 4 * one.operations[0].macs)
    assert last.o_elems == 10


def test_maximum_pooling_and_blocks_of_resnet50():
    work = zoo.resnet50()
    stem, pool, *_ = work.operations
    assert (stem.pad, stem.kernel, stem.stride) == (((3, 3), (3, 3)), (7, 7), (2, 2))
    assert (pool.macs, pool.ofm) == (9 * 56 * 56 * 64, (56, 56, 64))
    assert collections.Counter(len(op.parents) for op in work.operations) == {0: 1, 1: 40, 2: 16}
    strided = [op.name for op in work.operations if op.stride == (2, 2)]
    assert strided[2:4] == ["layer2.0.conv2", "layer2.0.shortcut"]


class ResNet(nn.Module):
    """ResNet and ResNeXt written once more, in Flax, with softmax."""

    repeats: tuple[int, ...]
    groups: int = 1
    width: int = 64

    @nn.compact
    def __call__(self, x):
        def conv(x, channels, kernel, stride=1, groups=1):
            pad = [(kernel // 2, kernel // 2)] * 2
            y = nn.Conv(channels, (kernel,) * 2, stride, pad, feature_group_count=groups, use_bias=False)(x)
            return nn.BatchNorm(use_running_average=True)(y)

        x = nn.max_pool(nn.relu(conv(x, 64, 7, 2)), (3, 3), (2, 2), [(1, 1), (1, 1)])
        for stage, count in enumerate(self.repeats):
            inner = self.width * self.groups * 2**stage
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                y = nn.relu(conv(x, inner, 1))
                y = nn.relu(conv(y, inner, 3, stride, self.groups))
                y = conv(y, 256 * 2**stage, 1)
                x = nn.relu(y + (conv(x, 256 * 2**stage, 1, stride) if i == 0 else x))
        return nn.softmax(nn.Dense(1000)(jnp.mean(x, (1, 2))))


class MobileNetV2(nn.Module):
    """MobileNet-V2 written once more, in Flax, with softmax."""

    @nn.compact
    def __call__(self, x):
        def conv(x, channels, kernel, stride=1, groups=1):
            pad = [(kernel // 2, kernel // 2)] * 2
            y = nn.Conv(channels, (kernel,) * 2, stride, pad, feature_group_count=groups, use_bias=False)(x)
            return nn.BatchNorm(use_running_average=True)(y)

        x = nn.relu6(conv(x, 32, 3, 2))
        for expand, channels, count, first in [
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
            (6, 320, 1, 1),
        ]:  # fmt: skip
            for i in range(count):
                wide, y = expand * x.shape[3], x
                if expand > 1:
                    y = nn.relu6(conv(y, wide, 1))
                y = conv(nn.relu6(conv(y, wide, 3, first if i == 0 else 1, wide)), channels, 1)
                x = x + y if x.shape == y.shape else y
        return nn.softmax(nn.Dense(1000)(jnp.mean(nn.relu6(conv(x, 1280, 1)), (1, 2))))


class Lite0(nn.Module):
    """This project's EfficientNet-Lite0, with softmax."""

    @nn.compact
    def __call__(self, x):
        return nn.softmax(EfficientNetLite(LiteConfig())(x))


FLAX = {
    "resnet50": ResNet((3, 4, 6, 3)),
    "resnext101_32x8d": ResNet((3, 4, 23, 3), groups=32, width=8),
    "mobilenet_v2": MobileNetV2(),
    "efficientnet_lite0": Lite0(),
}
OF_THE_PROGRAM = {
    "name": "", "equations": (), "affine": (), "affine_value": -1, "weight_point": -1, "weight_axis": -1,
    "input_point": -1,
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("name", "batch"), [*((name, 1) for name in FLAX), ("mobilenet_v2", 3)])
def test_traced_flax_network_is_the_table(name, batch):
    model, image = FLAX[name], jax.ShapeDtypeStruct((batch, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), image)
    traced = trace(model.apply, params, image)
    table = zoo.by_name(name, batch=batch)
    assert len(traced.operations) == len(table.operations)
    for found, expected in zip(traced.operations, table.operations, strict=True):
        assert dataclasses.replace(found, **OF_THE_PROGRAM) == dataclasses.replace(expected, name="")
    assert traced.death.tolist() == table.death.tolist()


def test_bert_base_counts():
    for granularity, operations in (("fused", 12 * 11 + 4), ("fine", 376)):
        work = zoo.bert_base(granularity=granularity)
        assert len(work.operations) == operations
        encoder = [op for op in work.operations if op.name.startswith("layer")]
        assert sum(op.w_elems for op in encoder) == 84_934_656
        assert sum(op.macs for op in encoder if op.kind in LAYERS) == 11_173_625_856
        assert work.operations[0].w_elems == 23_835_648
        assert work.operations[0].w_reads == 3 * 128 * 768
        classifier = 768 * 2 + 2
        assert zoo.parameters(work) - classifier == 109_482_240
    longer = zoo.bert_base(sequence=384)
    assert layer_macs(longer) - layer_macs(zoo.bert_base(sequence=384, labels=1)) == 768
    encoder = [op for op in longer.operations if op.name.startswith("layer") and op.kind in LAYERS]
    assert sum(op.macs for op in encoder) == 35_332_816_896


def test_bert_base_fine_has_31_operations_a_layer():
    work = zoo.bert_base(granularity="fine")
    layer = [op for op in work.operations if op.name.startswith("layer7.")]
    assert collections.Counter(op.kind for op in layer) == {
        "dense": 6, "norm": 6 + 1 + 2, "layout": 6 + 1 + 2, "matmul": 2, "add": 1 + 2, "softmax": 1, "act": 1
    }  # fmt: skip
    by_name = {op.name: op for op in work.operations}
    scores, context = by_name["layer7.scores"], by_name["layer7.context"]
    assert [work.operations[e.producer].name for e in scores.parents] == [
        "layer7.query.transpose",
        "layer7.key.transpose2",
    ]
    assert [work.operations[e.producer].name for e in context.parents] == [
        "layer7.softmax",
        "layer7.value.transpose",
    ]
    assert scores.o_elems == 12 * 128 * 128
    assert by_name["pooler"].parents[0].elems == 768  # the first token alone
    assert by_name["layer7.mask"].ext_in == 128


class Encoder(nn.Module):
    """Embedding, norm and BERT's layers written once more, in Flax."""

    layers: int
    heads: int

    @nn.compact
    def __call__(self, tokens, mask):
        x = nn.LayerNorm()(nn.Embed(100, 64)(tokens))
        batch, sequence, hidden = x.shape
        for _ in range(self.layers):
            parts = (nn.Dense(hidden)(x) for _ in range(3))
            q, k, v = (y.reshape(batch, sequence, self.heads, hidden // self.heads) for y in parts)
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 4 + mask[:, None, None]
            y = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), v).reshape(x.shape)
            x = nn.LayerNorm()(x + nn.Dense(hidden)(y))
            wide = nn.gelu(nn.Dense(256)(x), approximate=False)
            x = nn.LayerNorm()(x + nn.Dense(hidden)(wide))
        return x


def test_traced_flax_encoder_is_fused_bert():
    tokens, mask = (jax.ShapeDtypeStruct((2, 16), dtype) for dtype in (jnp.int32, jnp.float32))
    model = Encoder(layers=2, heads=4)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens, mask)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        traced = trace(model.apply, params, tokens, mask)
    config = Config(layers=2, hidden=64, heads=4, feed_forward=256)
    table = zoo.bert_base(config=config, sequence=16, batch=2)
    assert len(traced.operations) == 2 + 2 * 11
    for found, expected in zip(traced.operations[2:], table.operations[2:-2], strict=True):
        ignored = OF_THE_PROGRAM | {"parents": (), "is_output": False}
        assert dataclasses.replace(found, **ignored) == dataclasses.replace(expected, name="", parents=())
        assert sorted(found.parents) == sorted(expected.parents)  # einsum exchanges its operands


def test_both_granularities_of_bert_do_the_same_work():
    fused, fine = (zoo.bert_base(granularity=g, batch=2, sequence=64) for g in ("fused", "fine"))
    assert layer_macs(fused) == layer_macs(fine)
    assert zoo.parameters(fused) == zoo.parameters(fine)
    assert fused.operations[-1].o_elems == fine.operations[-1].o_elems == 4


def test_a_smaller_bert():
    work = zoo.bert_base(config=Config(layers=2, hidden=16, heads=2, feed_forward=32), sequence=8)
    assert len(work.operations) == 2 * 11 + 4


def test_names():
    assert (*EXPECTED, "bert_base") == zoo.NAMES
    assert zoo.by_name("resnet50").operations == zoo.resnet50().operations


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet51", {}, "no built-in network 'resnet51'; there are mobilenet_v2, resnet50"),
        ("resnet50", {"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ("resnet50", {"resolution": 16}, "resolution must be a whole number of at least 32, got 16"),
        ("mobilenet_v2", {"resolution": 0}, "resolution must be a whole number"),
        ("mobilenet_v2", {"classes": 0}, "classes must be a whole number of at least 1"),
        ("bert_base", {"sequence": 0}, "sequence must be a whole number"),
        ("bert_base", {"sequence": 513}, "sequence must be at most 512, got 513"),
        ("bert_base", {"labels": 0}, "labels must be a whole number"),
    ],
)
def test_bad_arguments(name, options, message):
    with pytest.raises(ValueError, match=message):
        zoo.by_name(name, **options)


def test_bad_configuration_of_bert():
    with pytest.raises(ValueError, match="heads 5 must divide hidden 768"):
        zoo.bert_base(config=Config(heads=5))
