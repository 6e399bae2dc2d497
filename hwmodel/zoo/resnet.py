"""ResNet (He et al., 2016) and ResNeXt (Xie et al., 2017); the stride is on the 3x3, as in torchvision."""

from ..workload import Workload
from .builder import INPUT, Builder, Tensor, classifier, whole


def resnet50(*, batch: int = 1, resolution: int = 224, classes: int = 1000) -> Workload:
    """57 operations: 53 convolutions, max pooling, mean pooling, dense, softmax."""
    return resnet("resnet50", (3, 4, 6, 3), batch=batch, resolution=resolution, classes=classes)


def resnet101(*, batch: int = 1, resolution: int = 224, classes: int = 1000) -> Workload:
    """108 operations: 104 convolutions, max pooling, mean pooling, dense, softmax."""
    return resnet("resnet101", (3, 4, 23, 3), batch=batch, resolution=resolution, classes=classes)


def resnext101_32x8d(*, batch: int = 1, resolution: int = 224, classes: int = 1000) -> Workload:
    """ResNet-101 whose 3x3 convolutions have 32 groups, 8 channels each in the first stage."""
    return resnet(
        "resnext101_32x8d",
        (3, 4, 23, 3),
        groups=32,
        group_width=8,
        batch=batch,
        resolution=resolution,
        classes=classes,
    )


def resnet(
    name: str,
    repeats: tuple[int, ...],
    *,
    groups: int = 1,
    group_width: int = 64,
    batch: int = 1,
    resolution: int = 224,
    classes: int = 1000,
) -> Workload:
    """Bottleneck blocks, `repeats` of them in each stage; images of resolution x resolution x 3."""
    whole("resolution", resolution, 32)
    whole("classes", classes)
    build = Builder(batch)
    x = build.conv("stem", Tensor(INPUT, (resolution, resolution, 3)), 64, kernel=7, stride=2)
    x = build.max_pool("maxpool", x, kernel=3, stride=2)
    for stage, count in enumerate(repeats):
        planes = 64 * 2**stage
        inner = planes * group_width // 64 * groups
        for i in range(count):
            stride = 2 if stage and i == 0 else 1
            x = _bottleneck(build, f"layer{stage + 1}.{i}", x, inner, 4 * planes, stride, groups, i == 0)
    classifier(build, x, classes)
    return build.workload(name)


def _bottleneck(
    build: Builder, name: str, x: Tensor, inner: int, outer: int, stride: int, groups: int, project: bool
) -> Tensor:
    """1x1, 3x3, 1x1 and a shortcut; the add joins the convolution that comes last."""
    y = build.conv(f"{name}.conv1", x, inner, kernel=1)
    y = build.conv(f"{name}.conv2", y, inner, kernel=3, stride=stride, groups=groups)
    if not project:
        return build.conv(f"{name}.conv3", y, outer, kernel=1, residual=x)
    y = build.conv(f"{name}.conv3", y, outer, kernel=1)
    return build.conv(f"{name}.shortcut", x, outer, kernel=1, stride=stride, residual=y)
