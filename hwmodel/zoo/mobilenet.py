"""Networks of inverted bottlenecks: MobileNet-V2 (Sandler et al., 2018) and EfficientNet-Lite0.

EfficientNet-Lite0 is EfficientNet-B0 (Tan & Le, 2019) without squeeze-and-excitation and with ReLU6, a
release of the authors' code without a paper; it pads as TensorFlow's SAME does.
"""

from typing import NamedTuple

from ..workload import Workload
from .builder import INPUT, Builder, Tensor, classifier, whole


class Stage(NamedTuple):
    """`repeats` blocks; the first one has the stride and changes the number of channels."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


MOBILENET_V2 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(3, 3, 2, 6, 32),
    Stage(4, 3, 2, 6, 64),
    Stage(3, 3, 1, 6, 96),
    Stage(3, 3, 2, 6, 160),
    Stage(1, 3, 1, 6, 320),
)
EFFICIENTNET_LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def mobilenet_v2(*, batch: int = 1, resolution: int = 224, classes: int = 1000) -> Workload:
    """55 operations: 52 convolutions, mean pooling, dense, softmax."""
    return _network("mobilenet_v2", MOBILENET_V2, batch, resolution, classes, same=False)


def efficientnet_lite0(*, batch: int = 1, resolution: int = 224, classes: int = 1000) -> Workload:
    """52 operations: 49 convolutions, mean pooling, dense, softmax."""
    return _network("efficientnet_lite0", EFFICIENTNET_LITE0, batch, resolution, classes, same=True)


def _network(
    name: str, stages: tuple[Stage, ...], batch: int, resolution: int, classes: int, same: bool
) -> Workload:
    """A 3x3 stem of 32 channels with stride 2, the blocks, a 1x1 head of 1280 channels, the classifier."""
    whole("resolution", resolution, 32)
    whole("classes", classes)
    build = Builder(batch)
    x = build.conv("stem", Tensor(INPUT, (resolution, resolution, 3)), 32, kernel=3, stride=2, same=same)
    block = 0
    for stage in stages:
        for i in range(stage.repeats):
            x = _block(build, f"blocks.{block}", x, stage, stage.stride if i == 0 else 1, same)
            block += 1
    classifier(build, build.conv("head", x, 1280, kernel=1), classes)
    return build.workload(name)


def _block(build: Builder, name: str, x: Tensor, stage: Stage, stride: int, same: bool) -> Tensor:
    """1x1 expansion, depthwise, linear 1x1 projection; a shortcut where shapes agree."""
    inputs, y = x.sizes[2], x
    wide = inputs * stage.expansion
    if stage.expansion != 1:
        y = build.conv(f"{name}.expand", y, wide, kernel=1)
    y = build.conv(f"{name}.depthwise", y, wide, stage.kernel, stride, groups=wide, same=same)
    shortcut = x if stride == 1 and inputs == stage.channels else None
    return build.conv(f"{name}.project", y, stage.channels, kernel=1, residual=shortcut)
