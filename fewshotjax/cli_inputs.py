"""What `--backbone` and `--data` name."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .backbones import BACKBONES, Backbone, Preprocess, load_backbone
from .data import (
    LabelledFeatures,
    LabelledImages,
    csv_table,
    feature_table,
    folder,
    omniglot,
    tiny_imagenet,
)
from .plugins import installed_backbones, plugin_backbone

DEFAULT = "efficientnet_lite0"
BACKBONE_HELP = (
    "An installed one (default: efficientnet_lite0, of the extra pretrained) or WEIGHTS.safetensors."
)
SETS = {
    "tiny_imagenet": ("base_train", "base_test", "novel_val", "novel_test"),
    "omniglot": ("base", "val", "test"),
}
PIXELS = {"tiny_imagenet": 64, "omniglot": 28}  # where no backbone says otherwise; folders: 64


def named_backbone(name: str) -> Backbone:
    """The installed one of that name, or that of a file.

    Raises:
        ValueError: neither; what to install or to write is said.
    """
    if name.endswith(".safetensors"):
        if not Path(name).is_file():
            raise ValueError(f"--backbone {name}: there is no such file")
        return load_backbone(name)
    if name in BACKBONES and name not in installed_backbones():
        raise ValueError(
            f"--backbone {name} has no weights of its own: train it (fewshotjax train --backbone {name} "
            "--data ... --out FOLDER) and give FOLDER/weights.safetensors"
        )
    if name not in installed_backbones():
        raise ValueError(
            f"--backbone {name} is not installed: pip install 'frugaljax[pretrained]' brings {DEFAULT}, or "
            "give --backbone WEIGHTS.safetensors of fewshotjax train"
        )
    return plugin_backbone(name)


def is_features(data: str) -> bool:
    """Whether `--data` is a CSV without a column file: features, not pictures."""
    if not data.lower().endswith(".csv"):
        return False
    try:
        with open(data, encoding="utf-8-sig", newline="") as file:
            return "file" not in [cell.strip() for cell in next(csv.reader(file), [])]
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{data} is no UTF-8 CSV: save it as one") from None


def labelled_features(data: str) -> LabelledFeatures:
    """Of a CSV with a column label and one per feature."""
    return feature_table(data)


def labelled_images(
    data: str, preprocess: Preprocess | None = None, pixels: int | None = None, option: str = "--data"
) -> LabelledImages:
    """The images that `--data` names, at the size and number of channels that a backbone takes.

    Args:
        data: a folder, zip or tar file with one subfolder per class, a CSV with the columns file and label,
            or a part of a set, such as tiny_imagenet:novel_test, which lies where FRUGALJAX_DATA says.
        preprocess: of the backbone; None: `pixels`, or the set's own size.

    Raises:
        ValueError: no such part or file; as the readers.
    """
    name, _, part = data.partition(":")
    channels = preprocess.channels if preprocess else 1 if name == "omniglot" else 3
    side = preprocess.pixels if preprocess else pixels or PIXELS.get(name, 64)
    if name in SETS and not Path(data).exists():
        if part not in SETS[name]:
            raise ValueError(
                f"{option} {data}: {name} has the parts {', '.join(SETS[name])}: write {name}:PART"
            )
        wanted = 1 if name == "omniglot" else 3
        if channels != wanted:
            raise ValueError(
                f"{option} {data}: its images have {wanted} channels, the backbone takes {channels}: give "
                "another backbone"
            )
        if name == "omniglot":
            return omniglot(None, part, side)
        return tiny_imagenet(None, part, pixels=side)
    if data.lower().endswith(".csv"):
        return csv_table(data, pixels=side, channels=channels)
    if not Path(data).exists():
        sets = ", ".join(f"{name}:{parts[-1]}" for name, parts in SETS.items())
        raise ValueError(f"{option} {data}: there is no such folder or file; sets are named like {sets}")
    return folder(data, side, channels)


@runtime_checkable
class Network(Protocol):
    """A backbone or a detector."""

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> Mapping[str, Any]: ...


def contamination(data: str, backbone: Network | None) -> str | None:
    """A note where the backbone has seen the classes of the data."""
    trained_on = None if backbone is None else backbone.options.get("trained_on")
    if trained_on == "ImageNet" and data.startswith("tiny_imagenet"):
        return (
            f"contaminated: {backbone.name if backbone else ''} was trained on ImageNet, whose classes these "
            "are; no measure of how it takes to new classes"
        )
    return None
