"""Thousands of query images in a call: detections of a method in episodes, comparisons on the same ones."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, PRNGKeyArray

from ..episodes import FIT
from ..evaluation import EpisodesChunk, OnChunk
from .detector import Detector, Net
from .episodes import DetectionEpisodes, draw_detection_episodes
from .methods import DetectionMethod, detection_method
from .metrics.records import Detections, GroundTruth
from .pool import DetectionPool
from .queries import QueryImages, QuerySource
from .regions import Regions
from .results import DetectionComparison, DetectionResult
from .score import Found, Scoring, region_scores, scoring_of, suppress
from .support import SupportBoxes

BLOCK = 32  # episodes of one call of the compiled function, at most; `on_chunk` is told between
_DEVICE_CHUNK = 16  # episodes at once; 1 on a CPU, whose cores one episode keeps busy

Entry = DetectionMethod | str | tuple[Any, ...]


class _Arrays(NamedTuple):
    """Of the pool, on the device."""

    regions: Regions
    features: Array
    boxes: Array
    images: Array | None


class _Part(NamedTuple):
    """Of a block of episodes."""

    keys: Key[Array, " E"]
    known: Array  # (E, W) int32, number of each class among those that the detector was trained on, or -1
    support: Array
    slots: Array
    shown: Array
    queries: Array


class _Out(NamedTuple):
    found: Found  # (E, Q, K)
    missing: Bool[Array, "E W"]
    failed: Bool[Array, "E Q"]


def evaluate_detection(
    key: PRNGKeyArray,
    method: DetectionMethod | str,
    pool: DetectionPool,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 10,
    episodes: int = 500,
    classes: Sequence[str] | None = None,
    drawn: DetectionEpisodes | None = None,
    asked: QuerySource | None = None,
    scoring: Scoring | None = None,
    chunk: int | None = None,
    on_chunk: OnChunk | None = None,
) -> DetectionResult:
    """A method's detections over episodes of photographs.

    Args:
        key: decides the episodes, which are the same for every method, and what a method draws.
        method: of `detection.methods`, any `DetectionMethod`, or a name for `detection_method`.
        pool: the detector's view of the photographs.
        ways, shots, queries, episodes, classes: as of `draw_detection_episodes`.
        drawn: episodes to use in place of drawing (`listed_episodes`, another result's).
        asked: query images in place of the photographs, such as `mosaic_queries`; support stays single.
        scoring: suppression and cap; None: those of the detector's config.
        chunk: episodes alive at once; None: as many as suit the device. It changes no result beyond rounding.
        on_chunk: progress, such as `progress("episodes")`; told an `EpisodesChunk`.

    Raises:
        ValueError: too few photographs; episodes of other photographs; a method of trained classes on new
            ones.

    A photograph that is both support and query is not refused: the authors' lists have such.
    """
    options = {"ways": ways, "shots": shots, "queries": queries, "episodes": episodes, "classes": classes}
    found = compare_detection(
        key,
        {"": method},
        pool,
        drawn=drawn,
        asked=asked,
        scoring=scoring,
        chunk=chunk,
        on_chunk=on_chunk,
        **options,
    )
    return found[""]


def compare_detection(
    key: PRNGKeyArray,
    methods: Mapping[str, Entry],
    pool: DetectionPool,
    *,
    drawn: DetectionEpisodes | None = None,
    asked: QuerySource | None = None,
    scoring: Scoring | None = None,
    chunk: int | None = None,
    on_chunk: OnChunk | None = None,
    **options: Any,
) -> DetectionComparison:
    """Several methods on the same episodes, with intervals of their paired differences.

    Args:
        methods: by the name that the table shows. In place of a method, (method, pool) runs it on another
            view of the same photographs, by another detector or network or with other regions, and (method,
            pool, asked) on query images of that view, too.
        options: ways, shots and so on, as all other arguments those of `evaluate_detection`.
    """
    if not methods:
        raise ValueError("methods is empty: give at least one, such as {'repmet': 'repmet'}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if drawn is None:
        drawn = draw_detection_episodes(key, pool.photographs, **options)
    runs = {name: _Run(entry, pool, asked, drawn, scoring, chunk) for name, entry in methods.items()}
    arrays = {id(run.pool): _on_device(run.pool, runs.values()) for run in runs.values()}
    total = len(drawn)
    size = max(run.chunk for run in runs.values())
    block = size * math.ceil(min(BLOCK, total) / size)
    for first in range(0, total, block):
        numbers = np.arange(first, min(first + block, total))
        given: dict[int, QueryImages] = {}
        for run in runs.values():
            if run.asked is not None and id(run.asked) not in given:
                given[id(run.asked)] = run.asked.images(numbers)
        for name, run in runs.items():
            run.step(key, numbers, block, arrays[id(run.pool)], given.get(id(run.asked)))
            if on_chunk is not None:
                on_chunk(EpisodesChunk(min(first + block, total), total, name))
    number = np.asarray(jax.random.key_data(key)).tolist()
    return DetectionComparison({name: run.result(number) for name, run in runs.items()})


class _Run:
    """One method over blocks of episodes; keeps what they give."""

    def __init__(
        self,
        entry: Entry,
        pool: DetectionPool,
        asked: QuerySource | None,
        drawn: DetectionEpisodes,
        scoring: Scoring | None,
        chunk: int | None,
    ):
        several = isinstance(entry, tuple) and not isinstance(entry, DetectionMethod)
        given = (*entry, *(None, None))[:3] if several else (entry, None, None)
        self.pool: DetectionPool = given[1] or pool
        self.asked: QuerySource | None = given[2] or asked
        self.drawn = drawn
        detector = self.pool.detector
        self.method = _method(given[0], detector.net)
        self.scoring = scoring or scoring_of(detector.net.config)
        suited = 1 if jax.default_backend() == "cpu" else _DEVICE_CHUNK
        self.chunk = 1 if self.method.sequential else chunk or suited
        self.known = _known_classes(detector, drawn)
        _check(self, pool)
        self.found: list[tuple[np.ndarray, ...]] = []
        self.there: list[tuple[np.ndarray, ...]] = []
        self.missing: list[np.ndarray] = []
        self.failed = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.pool.size if self.asked is None else self.asked.size

    def step(
        self, key: PRNGKeyArray, numbers: np.ndarray, block: int, arrays: _Arrays, given: QueryImages | None
    ) -> None:
        # The last block repeats its last episode, so that all are alike.
        rows = np.minimum(numbers[0] + np.arange(block), numbers[-1])
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), FIT))(rows)
        drawn, detector = self.drawn.take(rows), self.pool.detector
        part = _Part(
            keys,
            *map(jnp.asarray, (self.known[rows], drawn.support, drawn.slots, drawn.shown, drawn.queries)),
        )
        queries, pictures = None, None
        if given is not None:
            queries = Regions(*(jnp.asarray(leaf[rows - numbers[0]]) for leaf in given.regions))
            if self.method.regions is not None:
                if given.images is None:
                    raise ValueError("asked gives no images, which this method needs: keep_images=True")
                pictures = jnp.asarray(given.images[rows - numbers[0]])
        out: Any = jax.device_get(
            _run(
                part,
                arrays,
                detector.params,
                queries,
                pictures,
                self.method,
                detector.net,
                self.size,
                self.scoring,
                self.chunk,
            )
        )
        out = jax.tree.map(lambda leaf: leaf[: len(numbers)], out)  # an _Out of NumPy arrays
        wanted = self.drawn.asked[numbers]
        episode, query, place = np.nonzero(out.found.valid & wanted[..., None])
        image = (numbers[episode] * wanted.shape[1] + query).astype(np.int64)
        taken: list[Any] = [None if leaf is None else leaf[episode, query, place] for leaf in out.found]
        labels = self.drawn.classes[numbers[episode], taken[2]]
        none = np.zeros(0, np.float32) if taken[4] is None else taken[4]
        self.found.append((image, labels, taken[1], taken[0], none, taken[3]))
        self.there.append(_truth_of(self, numbers, given))
        self.missing.append(out.missing)
        self.failed += int((out.failed & wanted).sum())

    def result(self, key: Any) -> DetectionResult:
        image, labels, scores, boxes, none, region = (
            np.concatenate(each) for each in zip(*self.found, strict=True)
        )
        at, own, truth, difficult, crowd, frames = (
            np.concatenate(each) for each in zip(*self.there, strict=True)
        )
        count, ways, shots = self.drawn.support.shape
        settings = {
            "ways": ways,
            "shots": shots,
            "queries": self.drawn.asked.shape[1],  # in all
            "episodes": count,
            "images": "photographs" if self.asked is None else self.asked.name,
            "nms": self.scoring.nms,
            "per_image": self.scoring.per_image,
            "least_score": self.scoring.least_score,
            "key": key,
        }
        return DetectionResult(
            Detections(image, labels, scores, boxes),
            none if len(none) == len(image) else None,
            region,
            GroundTruth(at, own, truth, difficult, crowd),
            frames,
            self.drawn,
            np.concatenate(self.missing),
            self.failed,
            settings,
        )


@partial(jax.jit, static_argnums=(5, 6, 7, 8, 9))
def _run(
    part: _Part,
    arrays: _Arrays,
    params: Any,
    given: Regions | None,
    pictures: Array | None,
    method: DetectionMethod,
    net: Net,
    size: tuple[int, int],
    scoring: Scoring,
    chunk: int,
) -> _Out:
    ways = part.support.shape[1]

    def one(item: tuple[_Part, Regions | None, Array | None]) -> _Out:
        episode, queries, images = item
        rows, slots = episode.support.reshape(-1), episode.slots.reshape(-1)
        labels = jnp.where(episode.shown, jnp.arange(ways, dtype=jnp.int32)[:, None], ways).reshape(-1)
        shown = SupportBoxes(
            arrays.features[rows, slots],
            arrays.boxes[rows, slots],
            labels,
            rows,
            Regions(*(leaf[rows] for leaf in arrays.regions)),
            episode.known,
            None if arrays.images is None else arrays.images[rows],
        )
        model = method.fit(episode.keys, params, shown, ways)

        def of(regions: Regions) -> tuple[Found, Array]:
            log_p, background, boxes = region_scores(method, params, model, net, regions, size)
            failed = jnp.any(jnp.isnan(log_p[:, :ways]) & regions.mask[:, None])
            return suppress(log_p[:, :ways], background, boxes, jnp.asarray(regions.mask), scoring), failed

        if method.regions is not None:
            if images is None:
                assert arrays.images is not None  # see _on_device
                images = arrays.images[episode.queries]
            again = method.regions
            queries = jax.lax.map(
                lambda image: jax.tree.map(lambda leaf: leaf[0], again(params, model, image[None])), images
            )
        elif queries is None:
            queries = Regions(*(leaf[episode.queries] for leaf in arrays.regions))
        found, failed = jax.vmap(of)(queries)
        missing = jnp.zeros(ways, bool) if method.missing is None else method.missing(model)
        return _Out(found, missing, failed)

    items = part, given, pictures
    return jax.lax.map(one, items) if chunk == 1 else jax.lax.map(one, items, batch_size=chunk)


def _truth_of(run: _Run, numbers: Int[np.ndarray, " n"], given: QueryImages | None) -> tuple[np.ndarray, ...]:
    """Image, label, box, difficult, crowd and frame of each true box of the episodes' classes."""
    drawn, width = run.drawn, run.drawn.asked.shape[1]
    wanted = drawn.asked[numbers]
    if given is not None:
        episode, query, slot = np.nonzero(given.shown & wanted[..., None])
        labels = drawn.classes[numbers[episode], given.labels[episode, query, slot]]
        none = np.zeros(len(episode), bool)
        rest = (given.boxes[episode, query, slot], none, none, given.frames[episode, query, slot])
    else:
        photographs, rows = run.pool.photographs, drawn.queries[numbers]
        own = (photographs.labels[rows][..., None] == drawn.classes[numbers][:, None, None]).any(axis=-1)
        episode, query, slot = np.nonzero(own & photographs.shown[rows] & wanted[..., None])
        at = rows[episode, query], slot
        labels = photographs.labels[at]
        height, width_px = run.pool.size
        frames = np.tile(np.array([0, 0, width_px, height], np.float32), (len(episode), 1))
        difficult, crowd = np.asarray(photographs.difficult), np.asarray(photographs.crowd)
        rest = (photographs.boxes[at], difficult[at], crowd[at], frames)
    return ((numbers[episode] * width + query).astype(np.int64), labels, *rest)


def _method(method: Any, net: Net) -> DetectionMethod:
    if isinstance(method, str):
        return detection_method(method, net)
    if not isinstance(method, DetectionMethod):
        raise ValueError(f"method must be a DetectionMethod or a name, such as 'repmet', got {method!r}")
    return method


def _known_classes(detector: Detector, drawn: DetectionEpisodes) -> Int[np.ndarray, "E W"]:
    number = {name: i for i, name in enumerate(detector.classes)}
    of_name = np.array([number.get(name, -1) for name in drawn.names], np.int32)
    return of_name[drawn.classes]


def _check(run: _Run, pool: DetectionPool) -> None:
    drawn, photographs = run.drawn, run.pool.photographs
    if drawn.names != photographs.classes or photographs.classes != pool.photographs.classes:
        raise ValueError("drawn is of other classes than the pool's photographs: draw from these")
    if len(run.pool) != len(pool):
        raise ValueError(f"pools are of {len(run.pool)} and {len(pool)} photographs: they must be the same")
    for name in ("support", "queries"):
        rows = getattr(drawn, name)
        if rows.min() < 0 or rows.max() >= len(pool):
            raise ValueError(f"drawn has rows up to {rows.max()}, but there are {len(pool)} photographs")
    at = drawn.support[drawn.shown], drawn.slots[drawn.shown]
    wanted = np.broadcast_to(drawn.classes[..., None], drawn.shown.shape)[drawn.shown]
    if (
        drawn.slots.max() >= photographs.boxes.shape[1]
        or (~photographs.shown[at] | (photographs.labels[at] != wanted)).any()
    ):
        raise ValueError("drawn shows boxes that the photographs do not have: draw from these photographs")
    if run.asked is not None and run.asked.count != drawn.asked.shape[1]:
        raise ValueError(f"asked gives {run.asked.count} queries, drawn has {drawn.asked.shape[1]}")
    if run.method.trained and (run.known < 0).any():
        label = drawn.classes[run.known < 0][0]
        raise ValueError(
            f"class {drawn.names[label]!r} is none that the detector was trained on, and this method knows "
            "only these: give classes="
        )


def _on_device(pool: DetectionPool, runs: Any) -> _Arrays:
    whole = any(run.method.regions is not None for run in runs if run.pool is pool)
    return _Arrays(
        Regions(*map(jnp.asarray, pool.regions)),
        jnp.asarray(pool.features),
        jnp.asarray(pool.photographs.boxes),
        jnp.asarray(pool.photographs.images) if whole else None,
    )
