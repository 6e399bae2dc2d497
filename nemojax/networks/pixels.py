"""How the trainers of published weights turned pixels into numbers."""

from nemojax.preprocess import Preprocess


def torchvision(resolution: int) -> Preprocess:
    """torchvision's and timm's: mean and deviation of ImageNet's colours, side 256 before a crop to 224."""
    mean, scale = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    return Preprocess(resolution, mean, scale, interpolation="bilinear", fit="torchvision")


def efficientnet(resolution: int) -> Preprocess:
    """EfficientNet-Lite's: (x - 127) / 128, and a margin of 16 pixels on each side that is cropped away.

    Below 224 pixels, the least of the published members, the margin shrinks in proportion.
    """
    published = max(224, resolution)
    return Preprocess(resolution, 127.0, 128.0, crop_ratio=(published + 32) / published)


def keras_scaled(resolution: int) -> Preprocess:
    """Of Keras's MobileNet-V2: to [-1, 1]."""
    return Preprocess(resolution, 127.5, 127.5)


def keras_centred(resolution: int) -> Preprocess:
    """Of Keras's ResNet: minus the mean colour of ImageNet, not scaled."""
    return Preprocess(resolution, (123.68, 116.779, 103.939), 1.0)


def cifar(resolution: int) -> Preprocess:
    """Mean and deviation of the training pixels of CIFAR-10; no resizing."""
    mean, scale = (125.3, 122.9, 113.9), (62.5, 61.9, 66.5)
    return Preprocess(resolution, mean, scale, crop_ratio=1.0, fit="as_is")
