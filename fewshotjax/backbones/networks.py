"""The networks that few-shot papers train: Conv-4, ResNet-12, and ResNet-18 for small images.

All take normalised images (B, H, W, C) and give features (B, width); with train=True batch norms take the
statistics of the batch and remember them in "batch_stats".
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .convolution import Conv, max_pool

OUTPUTS = ("flatten", "mean")


def norm(name: str, train: bool) -> nn.BatchNorm:
    """Batch norm with PyTorch's defaults: the authors' codes use it."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


def out(x: Float[Array, "B h w C"], output: str) -> Float[Array, "B width"]:
    """The last feature map as one vector."""
    return jnp.mean(x, (1, 2)) if output == "mean" else x.reshape(len(x), -1)


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm, ReLU and 2x2 max-pool (Vinyals et al. 2016, section 4.1).

    Attributes:
        hidden: channels of each block; 64 in the papers.
        output: "flatten" or "mean" of the last map. Default as in Snell et al. 2017 (64 features of 28x28
            pixels, 1,600 of 84x84); "mean" has `hidden` features of images of any size.
    """

    hidden: int = 64
    output: str = "flatten"
    plain_weights = True  # see `draw_plain`

    def __post_init__(self):
        _at_least_one("hidden", self.hidden)
        _known_output(self.output)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B width"]:
        if min(x.shape[1:3]) < 16:
            raise ValueError(
                f"pixels must be at least 16 for conv4, which halves them 4 times, got {x.shape}"
            )
        for i in range(4):
            x = Conv(self.hidden, name=f"conv_{i}")(x)
            x = max_pool(nn.relu(norm(f"norm_{i}", train)(x)))
        return out(x, self.output)


class ResNet12(nn.Module):
    """Four blocks of three 3x3 convolutions, a 1x1 shortcut and 2x2 max-pool (Lee et al. 2019, section 4.1).

    Departs from the paper: no DropBlock, which needs random numbers in the network; the default output is
    the mean of the last map (640 features), as most later work has it, where the paper flattens.

    Attributes:
        width: multiplies the channels 64, 160, 320, 640.
        output: "mean" or "flatten".
    """

    width: float = 1.0
    output: str = "mean"
    plain_weights = True  # see `draw_plain`

    def __post_init__(self):
        _above_zero("width", self.width)
        _known_output(self.output)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B width"]:
        if min(x.shape[1:3]) < 16:
            raise ValueError(
                f"pixels must be at least 16 for resnet12, which halves them 4 times, got {x.shape}"
            )
        for i, channels in enumerate((64, 160, 320, 640)):
            many = _scaled(channels, self.width)
            y = x
            for j in range(3):
                y = norm(f"norm_{i}_{j}", train)(Conv(many, name=f"conv_{i}_{j}")(y))
                y = nn.leaky_relu(y, 0.1) if j < 2 else y
            shortcut = norm(f"shortcut_norm_{i}", train)(Conv(many, 1, name=f"shortcut_{i}")(x))
            x = max_pool(nn.leaky_relu(y + shortcut, 0.1))
        return out(x, self.output)


class ResNet18Small(nn.Module):
    """ResNet-18 (He et al. 2016) for small images: the stem is a 3x3 convolution, without pooling.

    Attributes:
        width: multiplies the channels 64, 128, 256, 512; with 0.25 it trains on a CPU.
    """

    width: float = 1.0
    plain_weights = True  # see `draw_plain`

    def __post_init__(self):
        _above_zero("width", self.width)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B width"]:
        x = nn.relu(norm("stem_norm", train)(Conv(_scaled(64, self.width), name="stem")(x)))
        for i, channels in enumerate((64, 128, 256, 512)):
            for j in range(2):
                x = self._block(x, _scaled(channels, self.width), 2 if i and not j else 1, f"{i}_{j}", train)
        return jnp.mean(x, (1, 2))

    def _block(self, x: jax.Array, channels: int, stride: int, name: str, train: bool) -> jax.Array:
        y = nn.relu(norm(f"norm_{name}_0", train)(Conv(channels, 3, stride, name=f"conv_{name}_0")(x)))
        y = norm(f"norm_{name}_1", train)(Conv(channels, name=f"conv_{name}_1")(y))
        if stride > 1 or x.shape[3] != channels:
            x = Conv(channels, 1, stride, name=f"shortcut_{name}")(x)
            x = norm(f"shortcut_norm_{name}", train)(x)
        return nn.relu(y + x)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _at_least_one(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")


def _above_zero(name: str, value: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be above 0, got {value!r}")


def _known_output(output: str) -> None:
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
