"""Where a training's images come from: a fixed set, or scenes that are put together while it runs.

A source draws on the host. What it draws is a function of the seed and the number of the draw alone, so that
a training that goes on after a stop sees what it would have seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from ...files import digest_of
from ..data import BoxedImages, MosaicConfig, check_no_novel, training_scenes


class Drawn(NamedTuple):
    """N images with their boxes, padded to G; where `shown` and `ignored` are False the rest is 0."""

    images: UInt8[np.ndarray, "N H W C"]
    boxes: Float[np.ndarray, "N G 4"]
    labels: Int[np.ndarray, "N G"]
    shown: Bool[np.ndarray, "N G"]
    ignored: Bool[np.ndarray, "N G"] | None = None  # crowds and difficult boxes, see `Truth`; None: none are


@dataclass(frozen=True, eq=False)
class Source:
    """What `train_detector` trains on; `fixed` and `mosaics` make one."""

    classes: tuple[str, ...]
    photographs: int  # that there are
    per_image: int  # photographs in an image
    size: tuple[int, int, int]  # height, width, channels of an image
    draw: Callable[[Sequence[int], int, int], Drawn]  # (seed, number of the draw from 0, images)
    told: Mapping[str, Any]  # settings and a digest of the data, JSON values


def fixed(
    images: BoxedImages,
    *,
    balanced: bool = False,
    novel: Sequence[str] = (),
    difficult: Literal["ignore", "train"] = "ignore",
) -> Source:
    """A set as it is, all images once, shuffled, before any comes again.

    Args:
        images: of one size. Boxes marked crowd are no objects, and what lies on them is no background either
            (`on_ignored`).
        balanced: draws a class, all with boxes alike, and then one of the images that show it. Images
            without boxes never come then.
        novel: class names that must not occur.
        difficult: boxes marked difficult are ignored as crowds are, or trained as all others.

    Raises:
        ValueError: a novel class, images of different sizes, or nothing to draw from.
    """
    check_no_novel(images, novel)
    pictures = images.images
    if not isinstance(pictures, np.ndarray):
        raise ValueError("images are of different sizes: fit them to one with `fitted`")
    if not len(images):
        raise ValueError("images are none: give some")
    if difficult not in ("ignore", "train"):
        raise ValueError(f"difficult must be 'ignore' or 'train', got {difficult!r}")
    ignored = images.to_ignore if difficult == "ignore" else images.shown & np.asarray(images.crowd)
    shown = images.shown & ~ignored
    if balanced and not shown.any():
        raise ValueError("balanced draws a class first, but no image has a box: set balanced=False")
    boxes = images.boxes  # 0 where it is padding
    labels = np.where(shown, images.labels, np.int32(0))
    members = [np.flatnonzero((shown & (labels == c)).any(axis=1)) for c in range(len(images.classes))]
    members = [rows for rows in members if len(rows)]

    def draw(seed: Sequence[int], number: int, count: int) -> Drawn:
        if balanced:
            rng = np.random.default_rng([*seed, number])
            kinds = rng.integers(len(members), size=count)
            rows = np.array([members[kind][rng.integers(len(members[kind]))] for kind in kinds])
        else:
            rows = shuffled(seed, number * count, count, len(pictures))
        left_out = ignored[rows] if ignored.any() else None  # None: a program without them
        return Drawn(pictures[rows], boxes[rows], labels[rows], shown[rows], left_out)

    data = digest_of([pictures, boxes, labels, shown, *([ignored] if ignored.any() else [])])
    told = {"source": "fixed", "balanced": balanced, "classes": list(images.classes), "data": data}
    height, width, channels = pictures.shape[1:]
    return Source(images.classes, len(images), 1, (height, width, channels), draw, told)


def mosaics(
    photographs: BoxedImages,
    config: MosaicConfig | None = None,
    *,
    novel: Sequence[str],
    balanced: bool = True,
) -> Source:
    """Scenes of photographs with one box each, new ones all the time.

    Args:
        photographs: square and of one size.
        config: None: 2 × 2. `MosaicConfig(grid=1)` gives single photographs, cropped and shrunk at random.
        novel: class names that must not occur, those of the episodes to come.
        balanced: the class of each cell is drawn first.

    Raises:
        ValueError: a novel class; photographs that `training_scenes` refuses.
    """
    config = config or MosaicConfig()
    check_no_novel(photographs, novel)

    def draw(seed: Sequence[int], number: int, count: int) -> Drawn:
        rng = np.random.default_rng([*seed, number])
        found = training_scenes(rng, photographs, count, config, novel=novel, balanced=balanced).images
        return Drawn(np.asarray(found.images), found.boxes, found.labels, found.shown)

    first = draw((0,), 0, 1).images  # refuses what does not fit, before a training begins
    data = digest_of([np.asarray(photographs.images), photographs.boxes, photographs.labels])
    told = {
        "source": "mosaics",
        "mosaic": asdict(config),
        "balanced": balanced,
        "classes": list(photographs.classes),
        "data": data,
    }
    height, width, channels = first.shape[1:]
    size = (height, width, channels)
    return Source(photographs.classes, len(photographs), config.grid**2, size, draw, told)


def shuffled(seed: Sequence[int], first: int, count: int, total: int) -> Int[np.ndarray, " count"]:
    """Places `first` to `first + count` of an endless row of permutations of 0 to total - 1."""
    passes = range(first // total, (first + count - 1) // total + 1)
    rows = np.concatenate([np.random.default_rng([*seed, one]).permutation(total) for one in passes])
    start = first - passes[0] * total
    return rows[start : start + count]
