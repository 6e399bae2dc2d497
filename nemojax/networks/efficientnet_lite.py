"""EfficientNet-Lite: EfficientNet (Tan & Le 2019) without squeeze-and-excitation and with ReLU6.

The Lite variants are a release of the authors' TensorFlow code, without a paper. Stem, head and the number
of blocks in the first and last stage do not grow with the multipliers. Convolutions pad as TensorFlow's
SAME does (the odd pixel goes to the bottom and right), BatchNorm has ε = 1e-3. Inference only.
"""

import math
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclass(frozen=True)
class Stage:
    """`repeats` blocks; the first one has the stride and changes the number of channels."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


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
        for name in ("width", "depth", "resolution", "classes", "stem_channels", "head_channels"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    def blocks(self) -> tuple[Stage, ...]:
        """One single-repeat Stage per block, multipliers applied."""
        out: list[Stage] = []
        for index, stage in enumerate(self.stages):
            fixed = index in (0, len(self.stages) - 1)
            repeats = stage.repeats if fixed else math.ceil(stage.repeats * self.depth)
            channels = round_channels(stage.channels * self.width)
            for i in range(repeats):
                out.append(Stage(1, stage.kernel, stage.stride if i == 0 else 1, stage.expansion, channels))
        return tuple(out)


def round_channels(channels: float, multiple: int = 8) -> int:
    """The nearest multiple of 8 (at least 8), but never below 90 % of `channels`."""
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels else rounded


class Block(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise, linear 1x1 projection; a shortcut where shapes agree."""

    stage: Stage

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w c"]:
        stage, inputs, y = self.stage, x.shape[-1], x
        wide = inputs * stage.expansion
        if stage.expansion != 1:
            y = nn.relu6(_norm("expand_bn")(_conv(wide, 1, 1, "expand")(y)))
        y = _conv(wide, stage.kernel, stage.stride, "depthwise", groups=wide)(y)
        y = nn.relu6(_norm("depthwise_bn")(y))
        y = _norm("project_bn")(_conv(stage.channels, 1, 1, "project")(y))
        return x + y if stage.stride == 1 and inputs == stage.channels else y


class EfficientNetLite(nn.Module):
    """Images, normalised and channels last, to logits."""

    config: Config = Config()

    @nn.compact
    def __call__(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N classes"]:
        x = nn.relu6(_norm("stem_bn")(_conv(self.config.stem_channels, 3, 2, "stem")(images)))
        for i, stage in enumerate(self.config.blocks()):
            x = Block(stage, name=f"blocks_{i}")(x)
        x = nn.relu6(_norm("head_bn")(_conv(self.config.head_channels, 1, 1, "head")(x)))
        return nn.Dense(self.config.classes, name="classifier")(jnp.mean(x, axis=(1, 2)))


def _conv(channels: int, kernel: int, stride: int, name: str, groups: int = 1) -> nn.Conv:
    return nn.Conv(
        channels, (kernel, kernel), stride, "SAME", feature_group_count=groups, use_bias=False, name=name
    )


def _norm(name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=True, epsilon=1e-3, name=name)
