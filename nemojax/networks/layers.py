"""What the image networks here are made of: convolutions, batch norms, inverted bottlenecks."""

from dataclasses import dataclass

import flax.linen as nn
from jaxtyping import Array, Float

MOMENTUM = 0.9  # of the running statistics: PyTorch's default, which calls it 0.1


@dataclass(frozen=True)
class Stage:
    """`repeats` blocks; the first one has the stride and changes the number of channels."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


def round_channels(channels: float, multiple: int = 8) -> int:
    """The nearest multiple of 8 (at least 8), but never below 90 % of `channels`."""
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels else rounded


def conv(
    channels: int,
    kernel: int,
    stride: int,
    name: str,
    *,
    groups: int = 1,
    padding: str = "symmetric",
    bias: bool = False,
) -> nn.Conv:
    """A square convolution.

    "symmetric" pads by kernel // 2 on all sides, as PyTorch's networks do; "same" as TensorFlow does, where
    the odd pixel goes to the bottom and right. They differ where the stride is 2 and the size even.
    """
    return nn.Conv(
        channels,
        (kernel, kernel),
        stride,
        "SAME" if padding == "same" else [(kernel // 2, kernel // 2)] * 2,
        feature_group_count=groups,
        use_bias=bias,
        name=name,
    )


def norm(name: str, epsilon: float, train: bool) -> nn.BatchNorm:
    """Batch norm: of the batch in training, of the running statistics otherwise."""
    return nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM, epsilon=epsilon, name=name)


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise, linear 1x1 projection; a shortcut where shapes agree."""

    stage: Stage
    padding: str
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool = False) -> Float[Array, "N h w c"]:
        stage, inputs, y = self.stage, x.shape[-1], x
        wide = inputs * stage.expansion
        if stage.expansion != 1:
            y = nn.relu6(norm("expand_bn", self.epsilon, train)(conv(wide, 1, 1, "expand")(y)))
        depthwise = conv(wide, stage.kernel, stage.stride, "depthwise", groups=wide, padding=self.padding)
        y = nn.relu6(norm("depthwise_bn", self.epsilon, train)(depthwise(y)))
        y = norm("project_bn", self.epsilon, train)(conv(stage.channels, 1, 1, "project")(y))
        return x + y if stage.stride == 1 and inputs == stage.channels else y
