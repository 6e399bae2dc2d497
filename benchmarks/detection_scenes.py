"""Episodes of detection_table, and what a detector sees in their query scenes, once for all methods and
shots.

The query photographs of an episode are the same for 1, 5 and 10 shots: episodes are drawn with the most, and
fewer are the first of them. What a detector finds in the scenes lies in files, features as float16, as 25,000
scenes of 100 regions take 1.3 GB so; a block of episodes at a time is read from there.
"""

import functools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib.format import open_memmap

from fewshotjax import detection as de
from fewshotjax.detection.queries import QueryImages, centred
from fewshotjax.detection.regions import region_features

from .detection_cells import QUERIES, SCENE_SEED, SHOTS, WAYS, Kind, Split, photographs

BLOCK = 8  # episodes whose scenes are looked at at once
AT_ONCE = 16 * 64 * 64  # pixels of the images of one call
VIEWS = ("regions", "whole", "centred")  # of the detector; the photographs' rectangles; their middles
_REGIONS = ("boxes", "proposals", "features", "objectness", "mask")
_TRUTH = ("boxes", "labels", "shown", "frames")


@functools.cache
def _drawn(split: Split, episodes: int, key: int) -> de.DetectionEpisodes:
    return de.draw_detection_episodes(
        jax.random.key(key),
        photographs(split.part),
        ways=WAYS,
        shots=max(SHOTS),
        queries=QUERIES,
        episodes=episodes,
    )


def episodes_of(split: Split, shots: int, episodes: int, key: int) -> de.DetectionEpisodes:
    """Classes with too few photographs for the most shots are left out, and named in `excluded`."""
    found = _drawn(split, episodes, key)
    return replace(
        found, **{name: getattr(found, name)[..., :shots] for name in ("support", "slots", "shown")}
    )


class SceneFiles:
    """What `find` gives of the query scenes of all episodes, in a folder."""

    def __init__(self, folder: Path, source: de.QuerySource, tiles: int, episodes: int):
        self._folder, self._source, self._tiles, self._episodes = folder, source, tiles, episodes

    def fill(self) -> None:
        """Looks at the scenes, if that was not done to the end."""
        if (self._folder / "done").exists():
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        files: dict[str, np.ndarray] = {}
        for first in range(0, self._episodes, BLOCK):
            numbers = np.arange(first, min(first + BLOCK, self._episodes))
            for name, part in _named(self._source.images(numbers)).items():
                if name not in files:
                    kind = np.float16 if name == "regions features" else part.dtype
                    shape = (self._episodes, *part.shape[1:])
                    files[name] = open_memmap(self._folder / f"{name}.npy", "w+", kind, shape)
                files[name][numbers] = part
        del files
        (self._folder / "done").touch()

    def asked(self, view: str = "regions") -> de.QuerySource:
        """The scenes as `evaluate_detection` takes them, with some of the regions."""
        stored = {path.stem: np.load(path, mmap_mode="r") for path in self._folder.glob("*.npy")}
        own = stored["regions mask"].shape[2] - 2 * self._tiles
        start = {"regions": 0, "whole": own, "centred": own + self._tiles}[view]
        stop = own if view == "regions" else start + self._tiles

        def images(numbers: np.ndarray) -> QueryImages:
            rows = slice(int(numbers[0]), int(numbers[-1]) + 1)  # blocks of episodes that follow each other
            regions = [np.array(stored[f"regions {name}"][rows, :, start:stop]) for name in _REGIONS]
            regions = [one.astype(np.float32) if one.dtype == np.float16 else one for one in regions]
            truth = [np.array(stored[f"true {name}"][rows]) for name in _TRUTH]
            return QueryImages(de.Regions(*regions), *truth)

        return replace(self._source, images=images, name=f"{self._source.name}, {view}")

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _named(found: QueryImages) -> dict[str, np.ndarray]:
    regions = {f"regions {name}": np.asarray(getattr(found.regions, name)) for name in _REGIONS}
    return {**regions, **{f"true {name}": np.asarray(getattr(found, name)) for name in _TRUTH}}


def scenes(
    folder: Path,
    pool: de.DetectionPool,
    split: Split,
    kind: Kind,
    episodes: int,
    key: int,
    find: Callable[[Any, Any], de.Regions] | None = None,
) -> SceneFiles:
    """Of the pool's detector; `find` gives its regions, then the rectangles and their middles."""
    source = de.mosaic_queries(
        SCENE_SEED,
        pool,
        photographs(split.distractors),
        episodes_of(split, 1, episodes, key),
        kind.mosaic,
        find=find or functools.partial(look, pool.detector),
    )
    return SceneFiles(folder, source, kind.mosaic.grid**2, episodes)


def look(detector: de.Detector, images: np.ndarray, frames: np.ndarray) -> de.Regions:
    """The detector's regions, then the photographs' rectangles, then their middles: one pass of the
    network.
    """
    given, size = np.concatenate([frames, centred(frames)], axis=1).astype(np.float32), len(images)
    chunk = max(1, AT_ONCE // (images.shape[1] * images.shape[2]))
    parts = []
    for start in range(0, size, chunk):
        rows = np.minimum(np.arange(start, start + chunk), size - 1)  # the last chunk is filled up
        inputs = jnp.asarray(images[rows]), jnp.asarray(given[rows])
        found = jax.device_get(_look(detector.params, detector.net, *inputs))
        parts.append(jax.tree.map(lambda leaf, n=size - start: leaf[:n], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@functools.partial(jax.jit, static_argnums=(1,))
def _look(params: Any, net: de.Net, images: Any, given: Any) -> de.Regions:
    """As `regions_of`, with given boxes of objectness 1 behind."""
    height, width = images.shape[1:3]
    maps = de.feature_maps(params, net, images)
    found = de.propose(net, de.rpn(params, net, maps), height, width)
    features = region_features(params, net, maps, jnp.concatenate([found.boxes, given], axis=1))
    there = jnp.all(given[..., 2:] > given[..., :2], axis=2)
    mask = jnp.concatenate([found.mask, there], axis=1)
    features = jnp.where(mask[..., None], features, 0.0)

    def boxes_of(features: Any, proposals: Any) -> Any:
        return de.decoded(net, de.box_codes(params, net, features), proposals, height, width)

    own = jax.vmap(boxes_of)(features[:, : found.boxes.shape[1]], found.boxes)
    own = jnp.where(found.mask[..., None], own, 0.0)
    return de.Regions(
        jnp.concatenate([own, given], axis=1),
        jnp.concatenate([found.boxes, given], axis=1),
        features,
        jnp.concatenate([found.scores, there.astype(jnp.float32)], axis=1),
        mask,
    )
