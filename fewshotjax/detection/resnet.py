"""ResNet-18 and ResNet-50 (He et al. 2016) with the maps of their four stages, for small images.

Departs from the paper: the stem is a 3x3 convolution of stride 2 without pooling, and the first stage has the
second stride, so that the maps lie at strides 4, 8, 16 and 32 as in the paper, but see finer detail.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from .layers import conv, group_norm, groups

STRIDES = (4, 8, 16, 32)
NORMS = ("group", "frozen")
_CHANNELS = (64, 128, 256, 512)
_EPSILON = 1e-5


class ResNet18Pyramid(nn.Module):
    """Two blocks of two 3x3 convolutions in each stage: 64, 128, 256, 512 channels at width 1.

    Attributes:
        width: multiplies the channels; 0.5 trains on a CPU.
        norm: "group" (Wu and He 2018), which does not depend on the batch; "frozen": batch norms, which
            learn while the network is trained as a classifier (train=True) and stay as they are in a
            detector, as the RepMet authors' do.
    """

    width: float = 1.0
    norm: str = "group"
    blocks: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)
    expansion: ClassVar[int] = 1  # of the channels, by blocks with a bottleneck
    plain_weights = True  # see `draw_plain`

    def __post_init__(self):
        if not 0 < self.width < float("inf"):
            raise ValueError(f"width must be above 0, got {self.width}")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        super().__post_init__()

    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B width"]:
        """The mean of the last map, of normalised images: what a classifier is trained on."""
        return jnp.mean(self._levels(x, train)[-1], (1, 2))

    def maps(self, x: Float[Array, "B H W C"]) -> tuple[Float[Array, "B _ _ _"], ...]:
        """What the stages give, at strides 4, 8, 16, 32: ⌈H / stride⌉ rows."""
        return self._levels(x, False)

    def widths(self) -> tuple[int, ...]:
        """Channels of the maps."""
        return tuple(self._scaled(channels) * self.expansion for channels in _CHANNELS)

    @nn.compact
    def _levels(self, x: Array, train: bool) -> tuple[Array, ...]:
        x = nn.relu(self._norm("stem_norm", train, _Conv(self._scaled(64), 3, 2, name="stem")(x)))
        found = []
        for i, (channels, count) in enumerate(zip(_CHANNELS, self.blocks, strict=True)):
            for j in range(count):
                x = self._block(x, self._scaled(channels), 1 if j else 2, f"{i}_{j}", train)
            found.append(x)
        return tuple(found)

    def _block(self, x: Array, channels: int, stride: int, name: str, train: bool) -> Array:
        if self.expansion == 1:
            layers: tuple[tuple[int, int, int], ...] = ((channels, 3, stride), (channels, 3, 1))
        else:  # the stride in the 3x3 convolution, as most later codes have it; the paper's is in the first
            layers = ((channels, 1, 1), (channels, 3, stride), (channels * self.expansion, 1, 1))
        y = x
        for k, (many, kernel, step) in enumerate(layers):
            y = _Conv(many, kernel, step, name=f"conv_{name}_{k}")(y)
            y = self._norm(f"norm_{name}_{k}", train, y)
            y = nn.relu(y) if k + 1 < len(layers) else y
        if stride > 1 or x.shape[3] != y.shape[3]:
            x = _Conv(y.shape[3], 1, stride, name=f"shortcut_{name}")(x)
            x = self._norm(f"shortcut_norm_{name}", train, x)
        return nn.relu(y + x)

    def _norm(self, name: str, train: bool, x: Array) -> Array:
        if self.norm == "group":
            return _GroupNorm(name=name)(x)
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=_EPSILON, name=name)(x)

    def _scaled(self, channels: int) -> int:
        return max(1, round(channels * self.width))


class ResNet50Pyramid(ResNet18Pyramid):
    """3, 4, 6, 3 blocks with a bottleneck: 256, 512, 1,024, 2,048 channels at width 1."""

    blocks: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)
    expansion: ClassVar[int] = 4


class _Conv(nn.Module):
    """A square convolution without bias, padded by kernel // 2."""

    features: int
    kernel: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        shape = (self.kernel, self.kernel, x.shape[3], self.features)
        start = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # He et al. 2015
        return conv(x, self.param("kernel", start, shape), self.stride)


class _GroupNorm(nn.Module):
    """With the parameters of `nn.GroupNorm`."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[3],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[3],))
        return group_norm({"scale": scale, "bias": bias}, x, groups(x.shape[3]))
