"""The zoo from shapes alone: quantizers of the paper, parameters of torchvision, hwmodel's layer tables.

Miret et al. 2022 count 116 quantizers in MobileNet-V2 (without one behind the average pooling), 125 in
ResNet50 and 244 in ResNeXt-101-32x8d (with it).
"""

import functools
import math

import flax.traverse_util
import jax
import jax.numpy as jnp
import pytest

from hwmodel import Workload, trace, zoo
from nemojax.networks import bert, mobilenet, resnet, resnet_members
from nemojax.networks.efficientnet_lite import FAMILY as LITE, Config as LiteConfig

pytestmark = pytest.mark.long  # `make test-long`; CI runs them

IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
LITE0 = LiteConfig()
MOBILENET = mobilenet.Config()
RESNET50 = resnet.Config()
RESNET101 = resnet.Config((3, 4, 23, 3))
RESNEXT101 = resnet.Config((3, 4, 23, 3), groups=32, group_width=8)

FAMILIES = {
    "mobilenet_v2": (mobilenet.FAMILY, MOBILENET),
    "resnet50": (resnet_members.FAMILY, RESNET50),
    "resnet101": (resnet_members.FAMILY, RESNET101),
    "resnext101_32x8d": (resnet_members.FAMILY, RESNEXT101),
    "efficientnet_lite0": (LITE, LITE0),
}


def variables(family, config):
    leaves = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in family.shapes(config).items()}
    return flax.traverse_util.unflatten_dict(leaves)


@functools.cache
def prepared(name: str):
    """The function and its parameters; the same object each time, which JAX traces once."""
    family, config = FAMILIES[name]
    return family.module(config).apply, variables(family, config)


@functools.cache
def traced(name: str, pooled: bool = True) -> Workload:
    return trace(*prepared(name), IMAGE, quantize_pooled_input=pooled)


def parameters(family, config) -> int:
    return sum(math.prod(shape) for path, shape in family.shapes(config).items() if path[0] == "params")


@pytest.mark.parametrize(
    ("name", "pooled", "points"),
    [
        ("mobilenet_v2", False, 116),
        ("mobilenet_v2", True, 117),
        ("resnet50", True, 125),
        ("resnet50", False, 124),
        ("resnext101_32x8d", True, 244),
        ("resnext101_32x8d", False, 243),
    ],
)
def test_quantizers_of_the_paper(name, pooled, points):
    assert len(traced(name, pooled).points) == points


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mobilenet_v2", 3_504_872),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnext101_32x8d", 88_791_336),
        ("efficientnet_lite0", 4_652_008),
    ],
)
def test_parameters(name, count):
    assert parameters(*FAMILIES[name]) == count


@pytest.mark.parametrize("name", FAMILIES)
def test_every_operation_is_that_of_the_layer_table(name):
    """All but the softmax, which the networks here leave to the loss."""
    *table, softmax = zoo.by_name(name).operations
    assert softmax.kind == "softmax"
    for ours, row in zip(traced(name).operations, table, strict=True):
        assert (ours.kind, ours.macs, ours.w_elems) == (row.kind, row.macs, row.w_elems), ours.name
        assert (ours.ifm, ours.ofm, ours.stride, ours.pad) == (row.ifm, row.ofm, row.stride, row.pad), (
            ours.name
        )


def test_bert_base_has_the_products_and_parameters_of_the_layer_table():
    config = bert.Config(output="classes")
    tokens = jax.ShapeDtypeStruct((1, 128), jnp.int32)
    inputs = {"ids": tokens, "mask": tokens, "segments": tokens}
    params = variables(bert.FAMILY, config)
    work = trace(bert.Bert(config).apply, params, inputs)
    table = zoo.by_name("bert_base")

    def products(work: Workload) -> list[tuple[int, int]]:
        return [(op.macs, op.w_elems) for op in work.operations if op.kind in ("dense", "matmul")]

    assert products(work) == products(table)
    assert parameters(bert.FAMILY, config) == zoo.parameters(table) == 109_483_778
    assert parameters(bert.FAMILY, bert.Config()) == 109_482_240
    tables = {"words.weight", "segments.weight"}  # the one of places is constant, so it is no operation
    layers = {name for name in work.point_names if name.endswith(".weight")}
    assert tables < layers
    assert len(layers) == 2 + 12 * 6 + 2


def test_minilm_has_the_published_number_of_parameters():
    """22,713,216 and 512 places counted out are the 22,713,728 entries of the published file."""
    small = bert.Config(layers=6, hidden=384, heads=12, feed_forward=1536)
    assert parameters(bert.FAMILY, small) == 22_713_216
    without = bert.Config(layers=6, hidden=384, heads=12, feed_forward=1536, output="unit_mean")
    assert parameters(bert.FAMILY, without) == 22_713_216 - 384 * 385


@pytest.mark.parametrize(
    ("config", "count"),
    [
        # He et al. 2016, table 6: 0.27 million; these are 16, 32, 64 channels with projections
        (resnet.Config((3, 3, 3), "basic", 16, stem="cifar", classes=10), 272_474),
        (resnet.Config((3, 3, 3), "basic", 16, stem="cifar", classes=10, shortcut="padded"), 269_722),
        # Xie et al. 2017, table 7: 34.4 million
        (resnet.Config((3, 3, 3), groups=8, group_width=64, stem="cifar", classes=10), 34_426_698),
    ],
)
def test_cifar_members_have_the_sizes_of_their_papers(config, count):
    assert parameters(resnet_members.FAMILY, config) == count


@pytest.mark.parametrize(
    ("width", "count"),  # timm's mobilenetv2_050, 140
    [(0.5, 1_968_680), (1.4, 6_108_776)],
)
def test_mobilenet_at_other_widths(width, count):
    assert parameters(mobilenet.FAMILY, mobilenet.Config(width)) == count


def test_cifar_mobilenet_ends_at_4x4():
    config = mobilenet.Config(1.0, 10, 32, stem_stride=1, stages=mobilenet.CIFAR_STAGES)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    work = trace(mobilenet.MobileNetV2(config).apply, variables(mobilenet.FAMILY, config), image)
    sizes = [op.ofm[0] for op in work.operations if op.kind == "dwconv"]
    assert sizes == [32] * 3 + [16] * 3 + [8] * 7 + [4] * 4
    assert len(work.points) == 117
