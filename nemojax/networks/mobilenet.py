"""MobileNet-V2 (Sandler et al. 2018): inverted bottlenecks with linear outputs, at any width.

Two programs have published weights for slightly different networks. torchvision and timm pad by one pixel
on all sides and have ε = 1e-5 in batch norms; Keras pads as TensorFlow's SAME does and has ε = 1e-3. The
config says which; a file of weights decides it. The member for 32x32 images keeps their size up to the
third stage, as is usual for CIFAR-10; the paper has none.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nemojax.networks.checks import above_zero, one_of, whole
from nemojax.networks.family import IMAGE, Family, Weights
from nemojax.networks.inverted import layers_of, single_blocks, timm_names
from nemojax.networks.layers import InvertedBottleneck, Stage, conv, norm, round_channels
from nemojax.networks.network import Network
from nemojax.networks.pixels import cifar, keras_scaled, torchvision
from nemojax.preprocess import Preprocess
from nemojax.weights import CLASSIFIER, COUNTER, KERAS, KERAS_COUNTED, TORCH, Layout, counted

STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(3, 3, 2, 6, 32),
    Stage(4, 3, 2, 6, 64),
    Stage(3, 3, 1, 6, 96),
    Stage(3, 3, 2, 6, 160),
    Stage(1, 3, 1, 6, 320),
)
CIFAR_STAGES = (STAGES[0], Stage(2, 3, 1, 6, 24), *STAGES[2:])


@dataclass(frozen=True)
class Config:
    """A member of the family; the defaults are torchvision's mobilenet_v2."""

    width: float = 1.0  # multiplies all channels; those of the head only where it is above 1
    classes: int = 1000
    resolution: int = 224  # pixels, as trained
    stem_stride: int = 2
    stages: tuple[Stage, ...] = STAGES
    padding: str = "symmetric"  # or "same"; see `layers.conv`
    epsilon: float = 1e-5  # of batch norms

    def __post_init__(self):
        above_zero(self, "width", "epsilon")
        whole(self, "classes", "resolution", "stem_stride")
        one_of(self, "padding", ("symmetric", "same"))
        if not self.stages:
            raise ValueError("stages is empty: give at least one Stage")

    def repeats(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return tuple(stage.repeats for stage in self.stages)

    def blocks(self) -> tuple[Stage, ...]:
        """One single-repeat Stage per block, multiplier applied."""
        return single_blocks(self.stages, self.repeats(), self.width)


class MobileNetV2(nn.Module):
    """Images, normalised and channels last, to logits."""

    config: Config = Config()

    @nn.compact
    def __call__(self, images: Float[Array, "N H W 3"], train: bool = False) -> Float[Array, "N classes"]:
        c = self.config
        stem = conv(round_channels(32 * c.width), 3, c.stem_stride, "stem", padding=c.padding)
        x = nn.relu6(norm("stem_bn", c.epsilon, train)(stem(images)))
        for i, stage in enumerate(c.blocks()):
            x = InvertedBottleneck(stage, c.padding, c.epsilon, name=f"blocks_{i}")(x, train)
        head = conv(round_channels(1280 * max(1.0, c.width)), 1, 1, "head")
        x = nn.relu6(norm("head_bn", c.epsilon, train)(head(x)))
        return nn.Dense(c.classes, name="classifier")(jnp.mean(x, axis=(1, 2)))


def _torchvision_names(config: Config) -> Iterator[tuple[str, str]]:
    last = len(config.blocks()) + 1
    for layer, number in (("stem", 0), ("head", last)):
        yield layer, f"features.{number}.0"
        yield f"{layer}_bn", f"features.{number}.1"
    yield "classifier", "classifier.1"
    for i, block in enumerate(config.blocks()):
        there = f"features.{i + 1}.conv"
        for number, layer in enumerate(layers_of(block)):
            # The linear layer stands in the list itself, others with their batch norm in one of their own.
            names = (number, number + 1) if layer == "project" else (f"{number}.0", f"{number}.1")
            yield f"blocks_{i}.{layer}", f"{there}.{names[0]}"
            yield f"blocks_{i}.{layer}_bn", f"{there}.{names[1]}"


def _timm_names(config: Config) -> Iterator[tuple[str, str]]:
    return timm_names(config.stages, config.repeats())


def _keras_names(config: Config) -> Iterator[tuple[str, str]]:
    """In the order of Keras's model."""
    yield from [("stem", "Conv1"), ("stem_bn", "bn_Conv1")]
    for i, block in enumerate(config.blocks()):
        there = f"block_{i}" if i else "expanded_conv"
        for layer in layers_of(block):
            yield f"blocks_{i}.{layer}", f"{there}_{layer}"
            yield f"blocks_{i}.{layer}_bn", f"{there}_{layer}_BN"
    yield from [("head", "Conv_1"), ("head_bn", "Conv_1_bn"), ("classifier", CLASSIFIER)]


AS_TORCH = {"padding": "symmetric", "epsilon": 1e-5}
AS_KERAS = {"padding": "same", "epsilon": 1e-3}


def _preprocess(config: Config) -> Preprocess:
    if config.stem_stride == 1:
        return cifar(config.resolution)
    return keras_scaled(config.resolution) if config.padding == "same" else torchvision(config.resolution)


FAMILY = Family(
    MobileNetV2,
    (
        Layout("torchvision", TORCH, _torchvision_names, AS_TORCH, COUNTER),
        Layout("timm", TORCH, _timm_names, AS_TORCH, COUNTER),
        Layout("Keras", KERAS, _keras_names, AS_KERAS),
        Layout("Keras 3", KERAS_COUNTED, counted(_keras_names), AS_KERAS),
    ),
    _preprocess,
    IMAGE,
)


def mobilenet_v2(
    weights: Weights = None,
    key: jax.Array | None = None,
    *,
    width: float = 1.0,
    classes: int = 1000,
    resolution: int = 224,
) -> Network:
    """MobileNet-V2: 52 convolutions, 1 dense layer, 3,504,872 parameters at width 1.

    Args:
        weights: a file with the names of torchvision's mobilenet_v2, timm's mobilenetv2_100 (or _035, _140,
            ... with their width), Keras's MobileNetV2, or of `save_weights`; None: drawn from `key`.
        key: for weights=None only.
        width: multiplies channels, as the paper's alpha.
        classes: of the dense layer.
        resolution: pixels of the inputs that `preprocess` makes; the network takes any size.

    Raises:
        ValueError: as `Family.build`.
    """
    config = Config(width, classes)
    return FAMILY.build(config, weights, key, name="mobilenet_v2", resolution=resolution)


def mobilenet_v2_cifar(
    weights: Weights = None,
    key: jax.Array | None = None,
    *,
    width: float = 1.0,
    classes: int = 10,
    resolution: int = 32,
) -> Network:
    """MobileNet-V2 for 32x32 images: strides 1 in the stem and the second stage. See `mobilenet_v2`."""
    config = Config(width, classes, 32, stem_stride=1, stages=CIFAR_STAGES)
    return FAMILY.build(config, weights, key, name="mobilenet_v2_cifar", resolution=resolution)
