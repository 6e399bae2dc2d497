"""The published members of ResNet and ResNeXt, and what other programs call their layers."""

from collections.abc import Iterator

import jax

from nemojax.networks.family import IMAGE, Family, Weights
from nemojax.networks.network import Network
from nemojax.networks.pixels import cifar, keras_centred, torchvision
from nemojax.networks.resnet import Config, ResNet
from nemojax.preprocess import Preprocess
from nemojax.weights import CLASSIFIER, COUNTER, KERAS, KERAS_COUNTED, TORCH, Layout, counted

AS_TORCH = {"stride_first": False, "bias": False, "epsilon": 1e-5}
AS_KERAS = {"stride_first": True, "bias": True, "epsilon": 1.001e-5}


def _torch_names(config: Config) -> Iterator[tuple[str, str]]:
    """torchvision's, and timm's of the same networks."""
    yield from [("stem", "conv1"), ("stem_bn", "bn1"), ("classifier", "fc")]
    for place in config.blocks():
        there = f"layer{place.stage + 1}.{place.block}"
        for i in range(1, len(config.convolutions(place)) + 1):
            yield f"{place.name}.conv{i}", f"{there}.conv{i}"
            yield f"{place.name}.conv{i}_bn", f"{there}.bn{i}"
        yield f"{place.name}.shortcut", f"{there}.downsample.0"
        yield f"{place.name}.shortcut_bn", f"{there}.downsample.1"


def _keras_names(config: Config) -> Iterator[tuple[str, str]]:
    """In the order of Keras's model, where the shortcut comes before the last convolution."""
    yield from [("stem", "conv1_conv"), ("stem_bn", "conv1_bn")]
    for place in config.blocks():
        there = f"conv{place.stage + 2}_block{place.block + 1}"
        layers = {f"conv{i}": i for i in range(1, len(config.convolutions(place)) + 1)}
        last = layers.popitem()
        if config.projects(place):
            layers["shortcut"] = 0
        for layer, number in (*layers.items(), last):
            yield f"{place.name}.{layer}", f"{there}_{number}_conv"
            yield f"{place.name}.{layer}_bn", f"{there}_{number}_bn"
    yield "classifier", CLASSIFIER


def _preprocess(config: Config) -> Preprocess:
    if config.stem == "cifar":
        return cifar(config.resolution)
    return keras_centred(config.resolution) if config.bias else torchvision(config.resolution)


FAMILY = Family(
    ResNet,
    (
        Layout("torchvision", TORCH, _torch_names, AS_TORCH, COUNTER),
        # Keras's own weights want blue, green, red; reversed once here, so that all networks take RGB.
        Layout("Keras", KERAS, _keras_names, AS_KERAS, reversed_inputs="stem"),
        Layout("Keras 3", KERAS_COUNTED, counted(_keras_names), AS_KERAS, reversed_inputs="stem"),
    ),
    _preprocess,
    IMAGE,
)


def resnet50(
    weights: Weights = None, key: jax.Array | None = None, *, classes: int = 1000, resolution: int = 224
) -> Network:
    """ResNet-50: 53 convolutions, 1 dense layer, 25,557,032 parameters.

    Args:
        weights: a file with the names of torchvision's or timm's resnet50, of Keras's ResNet50 (which is
            the network of the paper, with biases), or of `save_weights`; None: drawn from `key`.
        key: for weights=None only.
        classes: of the dense layer.
        resolution: pixels of the inputs that `preprocess` makes; the network takes any size.

    Raises:
        ValueError: as `Family.build`.
    """
    return FAMILY.build(Config(classes=classes), weights, key, name="resnet50", resolution=resolution)


def resnet101(
    weights: Weights = None, key: jax.Array | None = None, *, classes: int = 1000, resolution: int = 224
) -> Network:
    """ResNet-101: 104 convolutions, 1 dense layer, 44,549,160 parameters. See `resnet50`."""
    config = Config((3, 4, 23, 3), classes=classes)
    return FAMILY.build(config, weights, key, name="resnet101", resolution=resolution)


def resnext101_32x8d(
    weights: Weights = None, key: jax.Array | None = None, *, classes: int = 1000, resolution: int = 224
) -> Network:
    """ResNet-101 whose 3x3 convolutions have 32 groups of 8 channels in the first stage; 88,791,336
    parameters. Files as of `resnet50`, Keras's aside, which has no such network."""
    config = Config((3, 4, 23, 3), groups=32, group_width=8, classes=classes)
    return FAMILY.build(config, weights, key, name="resnext101_32x8d", resolution=resolution)


def resnet_cifar(
    weights: Weights = None,
    key: jax.Array | None = None,
    *,
    depth: int = 20,
    width: int = 16,
    shortcut: str = "projection",
    classes: int = 10,
    resolution: int = 32,
) -> Network:
    """ResNet-20, 32, 44, 56, 110 for 32x32 images (He et al. 2016, section 4.2): basic blocks.

    Args:
        weights: a file with torchvision's names of layers, or of `save_weights`; None: drawn from `key`.
        key: for weights=None only.
        depth: layers: 6n + 2, n blocks in each of three stages.
        width: channels of the stem and the first stage.
        shortcut: where shapes differ. "projection", a 1x1 convolution, is a departure from the paper's
            "padded", which has no parameters: it is what ports with published weights have.
        classes: of the dense layer.
        resolution: pixels of the inputs that `preprocess` makes; the network takes any size.

    Raises:
        ValueError: depth is not 6n + 2; and as `Family.build`.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2 (20, 32, 44, 56, 110), got {depth}")
    repeats = ((depth - 2) // 6,) * 3
    config = Config(repeats, "basic", width, stem="cifar", classes=classes, resolution=32, shortcut=shortcut)
    return FAMILY.build(config, weights, key, name=f"resnet{depth}_cifar", resolution=resolution)


def resnext_cifar(
    weights: Weights = None,
    key: jax.Array | None = None,
    *,
    depth: int = 29,
    width: int = 64,
    groups: int = 8,
    group_width: int = 64,
    classes: int = 10,
    resolution: int = 32,
) -> Network:
    """ResNeXt-29 for 32x32 images (Xie et al. 2017, section 5.3), by default 8x64d: grouped bottlenecks.

    A small one, for a CPU: width=16, groups=4, group_width=8.

    Args:
        weights: a file with torchvision's names of layers, or of `save_weights`; None: drawn from `key`.
        key: for weights=None only.
        depth: layers: 9n + 2, n blocks in each of three stages.
        width: channels of the stem, and a quarter of those that leave the first stage.
        groups: of the 3x3 convolutions; the paper's cardinality.
        group_width: channels of each group in the first stage.
        classes: of the dense layer.
        resolution: pixels of the inputs that `preprocess` makes; the network takes any size.

    Raises:
        ValueError: depth is not 9n + 2; and as `Family.build`.
    """
    if depth < 11 or (depth - 2) % 9:
        raise ValueError(f"depth must be 9n + 2 (20, 29, 38, ...), got {depth}")
    config = Config(
        ((depth - 2) // 9,) * 3,
        width=width,
        groups=groups,
        group_width=group_width,
        stem="cifar",
        classes=classes,
        resolution=32,
    )
    return FAMILY.build(config, weights, key, name=f"resnext{depth}_cifar", resolution=resolution)
