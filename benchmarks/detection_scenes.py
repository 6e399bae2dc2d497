"""Query scenes of detection_table, and what a detector sees in them, once for all methods and episodes.

A photograph stands in one and the same scene in whichever episode it is asked for: among distractors that are
of no episode's class, which have no box. So a detector looks at some thousands of scenes and not at 25,000 of
500 episodes. Scenes with objects of several classes depend on the episode, and are built for each.

The query photographs of an episode are the same for 1, 5 and 10 shots: episodes are drawn with the most, and
fewer are the first of them. What is found lies in files, features as float16; a block of episodes at a time
is read from there.
"""

import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib.format import open_memmap

from fewshotjax import detection as de
from fewshotjax.detection.data import query_scenes
from fewshotjax.detection.queries import QueryImages, centred
from fewshotjax.detection.regions import region_features

from .detection_cells import QUERIES, SCENE_SEED, SHOTS, WAYS, Kind, Split, photographs

BLOCK = 8  # episodes whose scenes are looked at at once
PHOTOGRAPHS = 64  # likewise, of scenes that do not depend on the episode
AT_ONCE = 16 * 64 * 64  # pixels of the images of one call
VIEWS = ("regions", "whole", "centred")  # of the detector; the photographs' rectangles; their middles
_REGIONS = ("boxes", "proposals", "features", "objectness", "mask")
_TRUTH = ("boxes", "labels", "shown", "frames")

Find = Callable[[np.ndarray, np.ndarray, np.ndarray], de.Regions]  # of images, rectangles, places in files


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

    def __init__(
        self, folder: Path, pool: de.DetectionPool, split: Split, kind: Kind, drawn: Any, find: Find
    ):
        self._folder, self._split, self._kind = folder, split, kind
        self._drawn: de.DetectionEpisodes = drawn
        self._find, self._pool = find, pool
        self._tiles, self._side = kind.mosaic.grid**2, kind.mosaic.grid * pool.size[0]
        self._asked = np.unique(drawn.queries)  # photographs

    def fill(self) -> None:
        """Looks at the scenes, if that was not done to the end."""
        if (self._folder / "done").exists():
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        count = len(self._asked) if self._kind.others is None else len(self._drawn)
        files: dict[str, np.ndarray] = {}
        for rows, found in self._of_photographs() if self._kind.others is None else self._of_episodes():
            for name, part in _named(found).items():
                if name not in files:
                    kind = np.float16 if name == "regions features" else part.dtype
                    files[name] = open_memmap(
                        self._folder / f"{name}.npy", "w+", kind, (count, *part.shape[1:])
                    )
                files[name][rows] = part
        del files
        (self._folder / "done").touch()

    def _of_photographs(self) -> Iterator[tuple[np.ndarray, QueryImages]]:
        """Scenes (n, ...) of photographs, each a function of the photograph's number, with their places."""
        whole, others = photographs(self._split.part), photographs(self._split.distractors)
        for first in range(0, len(whole), PHOTOGRAPHS):
            rows = np.arange(first, min(first + PHOTOGRAPHS, len(whole)))
            wanted = np.isin(rows, self._asked)
            rng = np.random.default_rng([SCENE_SEED, first])
            built = query_scenes(rng, whole.take(rows), others, self._kind.mosaic, others=0.0)
            if not wanted.any():
                continue
            images, frames = built.images.take(wanted), built.frames[wanted]
            places = np.searchsorted(self._asked, rows[wanted])
            found = self._find(np.asarray(images.images), frames, places)
            yield places, QueryImages(found, images.boxes, images.labels, images.shown, frames)

    def _of_episodes(self) -> Iterator[tuple[np.ndarray, QueryImages]]:
        """Scenes (n, Q, ...) of episodes, with other query photographs of the episode in them."""
        assert self._kind.others is not None
        source = de.mosaic_queries(
            SCENE_SEED,
            self._pool,
            photographs(self._split.distractors),
            self._drawn,
            self._kind.mosaic,
            find=lambda images, frames: self._find(images, frames, np.zeros(0, np.int64)),
            others=self._kind.others,
        )
        for first in range(0, len(self._drawn), BLOCK):
            numbers = np.arange(first, min(first + BLOCK, len(self._drawn)))
            yield numbers, source.images(numbers)

    def asked(self, view: str = "regions") -> de.QuerySource:
        """The scenes as `evaluate_detection` takes them, with some of the regions."""
        stored = {path.stem: np.load(path, mmap_mode="r") for path in self._folder.glob("*.npy")}
        own = stored["regions mask"].shape[-1] - 2 * self._tiles
        start = {"regions": 0, "whole": own, "centred": own + self._tiles}[view]
        stop = own if view == "regions" else start + self._tiles
        drawn, apart = self._drawn, self._kind.others is None

        def images(numbers: np.ndarray) -> QueryImages:
            # Blocks of episodes that follow each other.
            rows: Any = slice(int(numbers[0]), int(numbers[-1]) + 1)
            if apart:
                rows = np.searchsorted(self._asked, drawn.queries[numbers])  # (n, Q)
            regions = [_part(stored[f"regions {name}"], rows, start, stop) for name in _REGIONS]
            truth = {name: np.array(stored[f"true {name}"][rows]) for name in _TRUTH}
            if apart:  # labels are classes of the photographs there, and ways here
                same = truth["labels"][..., None] == drawn.classes[numbers][:, None, None]
                truth["labels"] = np.where(truth["shown"], np.argmax(same, axis=-1), 0).astype(np.int32)
            return QueryImages(de.Regions(*regions), **truth)

        mosaic = self._kind.mosaic
        name = f"{self._kind.name} (jitter {mosaic.jitter}, crop {mosaic.crop}), {view}"
        return de.QuerySource((self._side, self._side), images, name, drawn.queries.shape[1])

    def likeliest(self, places: np.ndarray, count: int) -> de.Regions:
        """The first regions of some photographs' scenes."""
        stored = (np.load(self._folder / f"regions {name}.npy", mmap_mode="r") for name in _REGIONS)
        return de.Regions(*(np.array(one[places, :count]) for one in stored))

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _part(stored: np.ndarray, rows: Any, start: int, stop: int) -> np.ndarray:
    """Regions `start` to `stop` of some rows (n, Q, R, ...)."""
    if isinstance(rows, slice):
        found = np.array(stored[rows, :, start:stop])
    else:
        found = np.array(stored[:, start:stop][rows])
    return found.astype(np.float32) if found.dtype == np.float16 else found


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
    find: Find | None = None,
) -> SceneFiles:
    """Of the pool's detector; `find` gives its regions, then the rectangles and their middles."""
    drawn = episodes_of(split, 1, episodes, key)

    def looked(images: np.ndarray, frames: np.ndarray, places: np.ndarray) -> de.Regions:
        return look(pool.detector, images, frames)

    return SceneFiles(folder, pool, split, kind, drawn, find or looked)


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
