"""Pictures, boxes and features that pages speak of, and plugins in the place of a pretrained network."""

import json
import sys
from functools import partial
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import fewshotjax as fs
from fewshotjax import cli_train_detector, plugins
from fewshotjax.detection import pyramid_plugins
from fewshotjax.detection.config import DetectorConfig

SHADES = {"ant": (220, 30, 30), "bee": (30, 200, 30), "cat": (30, 30, 220)}
STRIDES = (4, 8, 16)
TINY = 16  # pixels of what stands for Tiny-ImageNet


def pictures_array(count: int, side: int = 8, seed: int = 0) -> np.ndarray:
    """(count, side, side, 3) float32."""
    return np.random.default_rng(seed).normal(size=(count, side, side, 3)).astype(np.float32)


def photograph(*names: str, seed: int = 0, height: int = 48, width: int = 64):
    """Dark noise with a light-hearted square for each name, and their boxes (x, y, width, height)."""
    rng = np.random.default_rng(seed)
    image, boxes = rng.integers(50, 80, (height, width, 3)).astype(np.uint8), []
    for column, name in enumerate(names):
        x, y = 4 + 30 * column + int(rng.integers(0, 10)), int(rng.integers(0, 30))
        image[y : y + 16, x : x + 16] = SHADES[name]
        image[y + 4 : y + 12, x + 4 : x + 12] = 255  # so that a part of it is no whole
        boxes.append([x, y, 16, 16])
    return image, boxes


def class_folders(place: str, names=tuple(SHADES), each: int = 3, seed: int = 0) -> None:
    """PLACE/CLASS/*.png, each class of one shade."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(names):
        shade = np.asarray(SHADES.get(name, (25 * number,) * 3))
        Path(place, name).mkdir(parents=True)
        for i in range(each):
            pixels = np.clip(shade + rng.integers(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(Path(place, name, f"{i}.png"))


def loose_pictures(place: str, seed: int = 9) -> None:
    """PLACE/*.png without labels, two objects on each."""
    Path(place).mkdir(parents=True)
    for i, names in enumerate((("ant", "bee"), ("bee", "ant"))):
        Image.fromarray(photograph(*names, seed=seed + i)[0]).save(Path(place, f"p{i}.png"))


def coco_boxes(file: str, folder: str = ".") -> None:
    """COCO's JSON of three photographs with two classes; the photographs lie in `folder`."""
    names = ("ant", "bee")
    record = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(names)],
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, shown in enumerate((("ant", "bee"), ("bee", "ant"), ("ant", "bee"))):
        image, boxes = photograph(*shown, seed=number)
        name = f"{Path(file).stem}{number}.png"
        Image.fromarray(image).save(Path(folder, name))
        record["images"].append(
            {"id": number, "file_name": name, "height": image.shape[0], "width": image.shape[1]}
        )
        for label, box in zip(shown, boxes, strict=True):
            record["annotations"].append(
                {
                    "id": len(record["annotations"]) + 1, "image_id": number, "bbox": box,
                    "area": box[2] * box[3], "category_id": names.index(label) + 1, "iscrowd": 0,
                }
            )  # fmt: skip
    Path(file).write_text(json.dumps(record))


def labelled_features(classes: int = 8, each: int = 24, width: int = 8, seed: int = 0):
    """(N, width) float32 around a centre for each class, and labels (N,) int32."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes, dtype=np.int32), each)
    centres = rng.normal(size=(classes, width)) * 2
    return (centres[labels] + rng.normal(size=(len(labels), width))).astype(np.float32), labels


def _cells(params, x):
    """Mean colours in cells of each stride."""
    b, h, w, c = x.shape
    return tuple(
        x.reshape(b, h // s, s, w // s, s, c).mean(axis=(2, 4)) * params[None, None, None] for s in STRIDES
    )


def _pyramid():
    return {
        "name": "efficientnet_lite0", "function": _cells, "params": np.ones(3, np.float32), "channels": 3,
        "mean": 127.5, "scale": 64.0, "strides": STRIDES, "widths": (3, 3, 3),
    }  # fmt: skip


def _pixels():
    return {
        "name": "efficientnet_lite0", "function": lambda params, x: x.reshape(len(x), -1) * params[None],
        "params": np.ones(1, np.float32), "pixels": 4, "channels": 3, "mean": 0.0, "scale": 255.0,
        "width": 48, "trained_on": "nothing",
    }  # fmt: skip


def small_plugins(patch: pytest.MonkeyPatch) -> None:
    """fewshotjax's plugin `efficientnet_lite0` gives pixels, and mean colours of cells as a pyramid."""
    patch.setitem(sys.modules, "small_plugin", SimpleNamespace(pixels=_pixels, pyramid=_pyramid))
    for module, maker in ((plugins, "pixels"), (pyramid_plugins, "pyramid")):
        entries = EntryPoints([EntryPoint("efficientnet_lite0", f"small_plugin:{maker}", module.GROUP)])
        patch.setattr(module, "entry_points", lambda entries=entries, **what: entries.select(**what))
    config = partial(
        DetectorConfig, channels=4, before_nms=20, proposals=8, roi_size=2, hidden=(8,), hardest=8
    )
    patch.setattr(cli_train_detector, "DetectorConfig", config)


def tables() -> None:
    """seen.npz, other.npz and new.npz, and a backbone as mine.safetensors."""
    for seed, name in enumerate(("seen", "other", "new")):
        features, labels = labelled_features(
            classes=2 if name == "new" else 6, each=2 if name == "new" else 24, seed=seed
        )
        np.savez(f"{name}.npz", features=features, labels=np.array([f"{name}{label}" for label in labels]))


def small_tiny_imagenet(patch: pytest.MonkeyPatch) -> fs.LabelledImages:
    """In the place of `fs.tiny_imagenet`: 16 classes of 20 noisy images, whatever the part and its size."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(16, dtype=np.int32), 20)
    shades = rng.integers(0, 230, (16, 1, 1, 3))[labels]
    pixels = (shades + rng.integers(0, 25, (len(labels), TINY, TINY, 3))).astype(np.uint8)
    images = fs.from_arrays(pixels, labels)

    def tiny_imagenet(place, part, *, pixels):
        assert pixels == TINY
        return images

    patch.setattr(fs, "tiny_imagenet", tiny_imagenet)
    return images
