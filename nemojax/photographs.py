"""Photographs without labels for a first run: those that scikit-learn and scikit-image carry in their wheels.

Colour pictures of everyday subjects; the packages are located, never imported, and nothing is downloaded.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from nemojax.images import ImageSet, Parts
from nemojax.preprocess import INTERPOLATIONS, Preprocess, decode

SEARCH = {
    "astronaut": "skimage/data/astronaut.png",
    "china": "sklearn/datasets/images/china.jpg",
    "coffee": "skimage/data/coffee.png",
    "motorcycle": "skimage/data/motorcycle_left.png",
}
REPORT = {
    "chelsea": "skimage/data/chelsea.png",
    "flower": "sklearn/datasets/images/flower.jpg",
    "rocket": "skimage/data/rocket.jpg",
}
SMALLEST_CROP = 0.35  # of the shorter side of a photograph


class Photographs(NamedTuple):
    """Crops for the three uses, and the photographs they come from."""

    parts: Parts
    search_names: tuple[str, ...]  # also of the calibration crops
    report_names: tuple[str, ...]


def sample_photographs(
    key: jax.Array,
    preprocess: Preprocess | None = None,
    *,
    calibration: int = 32,
    search: int = 64,
    report: int = 64,
) -> Photographs:
    """Square crops at random places and scales, resized as `preprocess` interpolates and normalised.

    Search and report use different photographs, so a report is not about pixels that the search has seen;
    the calibration crops come from the photographs of the search. Photographs take turns; the side of a crop
    is log-uniform between `SMALLEST_CROP` and 1 of the shorter side.

    Raises:
        ValueError: scikit-learn or scikit-image is missing, or a size is below 1.
    """
    preprocess = preprocess or Preprocess()
    assert not SEARCH.keys() & REPORT.keys()
    k_calibration, k_search, k_report = jax.random.split(key, 3)
    known, unseen = _open(SEARCH), _open(REPORT)
    parts = Parts(
        _crops(k_calibration, known, calibration, preprocess, "calibration"),
        _crops(k_search, known, search, preprocess, "search"),
        _crops(k_report, unseen, report, preprocess, "report"),
    )
    return Photographs(parts, tuple(known), tuple(unseen))


def _open(files: dict[str, str]) -> dict[str, Image.Image]:
    pictures = {}
    for name, file in files.items():
        package, inside = file.split("/", 1)
        spec = importlib.util.find_spec(package)
        folders = (spec.submodule_search_locations if spec else None) or ["missing"]
        path = Path(folders[0], inside)
        if not path.is_file():
            raise ValueError(f"the photograph {file} is not installed: pip install 'frugaljax[pretrained]'")
        pictures[name] = decode(path.read_bytes())
    return pictures


def _crops(
    key: jax.Array, pictures: dict[str, Image.Image], count: int, preprocess: Preprocess, what: str
) -> ImageSet:
    if count < 1:
        raise ValueError(f"{what} must be at least 1 crop, got {count}")
    size = preprocess.resolution
    images = np.empty((count, size, size, 3), np.float32)
    names = []
    for i, (u, v, w) in enumerate(np.asarray(jax.random.uniform(key, (count, 3))).tolist()):
        name = list(pictures)[i % len(pictures)]
        picture = pictures[name]
        side = round(min(picture.size) * SMALLEST_CROP**w)
        left, top = round(u * (picture.width - side)), round(v * (picture.height - side))
        box = (left, top, left + side, top + side)
        crop = picture.crop(box).resize((size, size), INTERPOLATIONS[preprocess.interpolation])
        images[i] = preprocess.normalize(np.asarray(crop))
        names.append(f"{name}[{top}:{top + side}, {left}:{left + side}]")
    return ImageSet(images, None, tuple(names))
