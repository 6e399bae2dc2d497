"""Where an episode's query images come from, if not from the photographs of the pool: scenes built for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from .data.boxed import BoxedImages
from .data.floors import centred as centred
from .data.mosaics import MosaicConfig
from .data.scenes import Scenes, query_scenes
from .detector import Detector
from .episodes import DetectionEpisodes
from .pool import DetectionPool, given_regions
from .regions import Regions, find_regions

# Images (N, H, W, C) and the rectangles (N, T, 4) that their photographs fill -> the images' regions.
Find = Callable[[UInt8[np.ndarray, "N H W C"], Float[np.ndarray, "N T 4"]], Regions]


class QueryImages(NamedTuple):
    """The queries of n episodes, Q images of each, with up to G true boxes; NumPy."""

    regions: Regions  # (n, Q, R, ...)
    boxes: Float[np.ndarray, "n Q G 4"]
    labels: Int[np.ndarray, "n Q G"]  # 0 to W - 1, of the episode
    shown: Bool[np.ndarray, "n Q G"]
    frames: Float[np.ndarray, "n Q G 4"]  # what the photograph of each box fills, for the floors
    images: np.ndarray | None = None  # (n, Q, H, W, C), for methods that tune whole networks


@dataclass(frozen=True, eq=False)
class QuerySource:
    """Query images of any episodes: a pure function of their numbers."""

    size: tuple[int, int]  # of the images, height and width
    images: Callable[[Int[np.ndarray, " n"]], QueryImages]
    name: str  # for tables
    count: int  # Q


def mosaic_queries(
    seed: int,
    pool: DetectionPool,
    distractors: BoxedImages,
    drawn: DetectionEpisodes,
    config: MosaicConfig | None = None,
    *,
    find: Find | None = None,
    others: float = 0.5,
    keep_images: bool = False,
) -> QuerySource:
    """For each query photograph of an episode a scene with it, as `query_scenes` builds them.

    Args:
        seed: with the episode's number it decides its scenes.
        pool: the photographs that the episodes were drawn from, of one box each.
        distractors: photographs of other classes.
        find: regions of the scenes; None: the pool's detector's. `frame_regions` gives the floors.
        others: as of `query_scenes`.
        keep_images: hand the scenes on, too, for networks that are tuned whole.
    """
    config = config or MosaicConfig()
    photographs, detector = pool.photographs, pool.detector
    found = find or _of(detector)

    def scenes(number: int) -> Scenes:
        rows = drawn.queries[number][drawn.asked[number]]
        names = [drawn.names[label] for label in drawn.members[number].reshape(-1)]
        own = photographs.take(rows).only(names)
        rng = np.random.default_rng([seed, number])
        return query_scenes(rng, own, distractors, config, others=others, parts=drawn.parts)

    def images(numbers: Int[np.ndarray, " n"]) -> QueryImages:
        built = [scenes(int(number)) for number in numbers]
        pixels = np.stack([np.asarray(one.images.images) for one in built])
        frames = np.stack([one.frames for one in built])
        flat = found(pixels.reshape(-1, *pixels.shape[2:]), frames.reshape(-1, *frames.shape[2:]))
        shape = pixels.shape[:2]
        regions = Regions(*(np.asarray(leaf).reshape(*shape, *leaf.shape[1:]) for leaf in flat))
        boxes, labels, shown = (
            np.stack([getattr(one.images, name) for one in built]) for name in ("boxes", "labels", "shown")
        )
        ways = labels // drawn.parts  # merged classes follow each other
        return QueryImages(regions, boxes, ways, shown, frames, pixels if keep_images else None)

    if not drawn.asked.all():
        raise ValueError("drawn has episodes of different numbers of queries: scenes need equally many")
    height, width = (config.grid * side for side in pool.size)
    name = f"mosaic{config.grid}, jitter {config.jitter}, crop {config.crop}, others {others}, seed {seed}"
    return QuerySource((height, width), images, name, drawn.queries.shape[1])


def frame_regions(detector: Detector, box: str = "whole") -> Find:
    """The photographs' rectangles as regions, or centred boxes of 3/4 of their sides: floors of scenes."""
    if box not in ("whole", "centred"):
        raise ValueError(f"box must be whole or centred, got {box!r}")

    def find(images: UInt8[np.ndarray, "N H W C"], frames: Float[np.ndarray, "N T 4"]) -> Regions:
        return given_regions(detector, images, frames if box == "whole" else centred(frames))

    return find


def _of(detector: Detector) -> Find:
    def find(images: UInt8[np.ndarray, "N H W C"], frames: Any) -> Regions:
        return find_regions(detector, images)

    return find
