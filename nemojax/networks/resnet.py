"""ResNet (He et al. 2016) and ResNeXt (Xie et al. 2017), for ImageNet and for CIFAR.

As torchvision has them, a bottleneck's stride is on its 3x3 convolution ("v1.5"); the paper and Keras have
it on the first 1x1. Keras's convolutions have biases as well, and ε = 1.001e-5. The config says which; a
file of weights decides it. The members for 32x32 images have a 3x3 stem and no max pooling, and three
stages: basic blocks of 16, 32, 64 channels (He et al. 2016, section 4.2) or grouped bottlenecks (Xie et al.
2017, section 5.3).
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nemojax.networks.checks import above_zero, one_of, whole
from nemojax.networks.layers import conv, norm


@dataclass(frozen=True)
class Config:
    """A member of both families; the defaults are torchvision's resnet50."""

    repeats: tuple[int, ...] = (3, 4, 6, 3)  # blocks of each stage; channels double from stage to stage
    block: str = "bottleneck"  # or "basic"
    width: int = 64  # channels of the stem and of the first stage's basic blocks; bottlenecks give 4 times it
    groups: int = 1  # of a bottleneck's 3x3 convolution (Xie et al.: cardinality)
    group_width: int = 64  # channels of each group in the first stage
    stem: str = "imagenet"  # 7x7 with stride 2 and max pooling; or "cifar": 3x3
    classes: int = 1000
    resolution: int = 224  # pixels, as trained
    shortcut: str = "projection"  # where shapes differ, or "padded": options B and A of He et al.
    stride_first: bool = False  # on the first convolution of a bottleneck instead of the second
    bias: bool = False  # of convolutions, beside the batch norm's
    epsilon: float = 1e-5  # of batch norms

    def __post_init__(self):
        listed = isinstance(self.repeats, tuple | list) and len(self.repeats) > 0
        if not listed or not all(isinstance(n, int) and n > 0 for n in self.repeats):
            raise ValueError(f"repeats must be whole numbers above 0, one a stage, got {self.repeats!r}")
        whole(self, "width", "groups", "group_width", "classes", "resolution")
        above_zero(self, "epsilon")
        one_of(self, "block", ("bottleneck", "basic"))
        one_of(self, "stem", ("imagenet", "cifar"))
        one_of(self, "shortcut", ("projection", "padded"))
        one_of(self, "stride_first", (False, True))
        one_of(self, "bias", (False, True))
        if self.block == "basic" and self.groups != 1:
            raise ValueError(f"groups must be 1 in basic blocks, got {self.groups}: set block='bottleneck'")

    def blocks(self) -> tuple["Place", ...]:
        """All blocks in order."""
        return tuple(
            Place(stage, i, 2 if stage and i == 0 else 1)
            for stage, count in enumerate(self.repeats)
            for i in range(count)
        )

    def convolutions(self, place: "Place") -> tuple[tuple[int, int, int, int], ...]:
        """(channels, kernel, stride, groups) of a block's convolutions."""
        stride, double = place.stride, 2**place.stage
        if self.block == "basic":
            return (self.width * double, 3, stride, 1), (self.width * double, 3, 1, 1)
        inner, outer = self.groups * self.group_width * double, 4 * self.width * double
        first, second = (stride, 1) if self.stride_first else (1, stride)
        return (inner, 1, first, 1), (inner, 3, second, self.groups), (outer, 1, 1, 1)

    def projects(self, place: "Place") -> bool:
        """Whether the block's output has another shape than its input."""
        return place.block == 0 and (place.stage > 0 or self.block == "bottleneck")


class Place(NamedTuple):
    """Of a block: its stage, its number in it, and the stride of its first convolution that has one."""

    stage: int
    block: int
    stride: int

    @property
    def name(self) -> str:
        return f"stage{self.stage + 1}_{self.block}"


class Block(nn.Module):
    """Two or three convolutions beside a shortcut."""

    config: Config
    place: Place

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool = False) -> Float[Array, "N h w c"]:
        c, y = self.config, x
        layers = c.convolutions(self.place)
        for i, (channels, kernel, stride, groups) in enumerate(layers, 1):
            y = conv(channels, kernel, stride, f"conv{i}", groups=groups, bias=c.bias)(y)
            y = norm(f"conv{i}_bn", c.epsilon, train)(y)
            if i < len(layers):
                y = nn.relu(y)
        if c.projects(self.place):
            x = self._shortcut(x, y.shape[-1], train)
        return nn.relu(y + x)

    def _shortcut(self, x: Array, channels: int, train: bool) -> Array:
        c, stride = self.config, self.place.stride
        if c.shortcut == "padded":  # no parameters: every second pixel, new channels are zero
            x = x[:, ::stride, ::stride]
            return jnp.pad(x, [(0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])])
        x = conv(channels, 1, stride, "shortcut", bias=c.bias)(x)
        return norm("shortcut_bn", c.epsilon, train)(x)


class ResNet(nn.Module):
    """Images, normalised and channels last, to logits."""

    config: Config = Config()

    @nn.compact
    def __call__(self, images: Float[Array, "N H W 3"], train: bool = False) -> Float[Array, "N classes"]:
        c = self.config
        kernel, stride = (7, 2) if c.stem == "imagenet" else (3, 1)
        x = conv(c.width, kernel, stride, "stem", bias=c.bias)(images)
        x = nn.relu(norm("stem_bn", c.epsilon, train)(x))
        if c.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for place in c.blocks():
            x = Block(c, place, name=place.name)(x, train)
        return nn.Dense(c.classes, name="classifier")(jnp.mean(x, axis=(1, 2)))
