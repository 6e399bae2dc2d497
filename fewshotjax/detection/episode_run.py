"""A method over blocks of episodes: what it is given, and what becomes of its answers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from ..training.describe import describe
from .detector import Detector, Net
from .episode_program import Part, PoolArrays, run_episodes
from .episode_truth import LEFT_OUT, NOTHING, OBJECT, QueryTruth, query_truth
from .episodes import FIT, DetectionEpisodes
from .methods import DetectionMethod, detection_method
from .metrics.auroc import OpenSet
from .metrics.records import Detections, GroundTruth
from .pool import DetectionPool
from .queries import QueryImages, QuerySource
from .regions import Regions
from .results import DetectionResult
from .score import Scoring, scoring_of

_DEVICE_CHUNK = 16  # episodes at once; 1 on a CPU, whose cores one episode keeps busy

Entry = DetectionMethod | str | tuple[Any, ...]


class Run:
    """A method on one view of the photographs; keeps what each block of episodes gives."""

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
        self.named = given[0] if isinstance(given[0], str) else None
        self.method = _method(given[0], detector.net)
        self.scoring = scoring or scoring_of(detector.net.config)
        suited = 1 if jax.default_backend() == "cpu" else _DEVICE_CHUNK
        self.chunk = 1 if self.method.sequential else chunk or suited
        self.known = _known_classes(detector, drawn)
        _check(self, pool)
        self.found: list[tuple[np.ndarray, ...]] = []
        self.there: list[tuple[np.ndarray, ...]] = []
        self.open_set: list[OpenSet] = []
        self.missing: list[np.ndarray] = []
        self.failed = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.pool.size if self.asked is None else self.asked.size

    def step(
        self,
        key: PRNGKeyArray,
        numbers: np.ndarray,
        block: int,
        arrays: PoolArrays,
        given: QueryImages | None,
    ) -> None:
        # The last block repeats its last episode, so that all are alike.
        rows = np.minimum(numbers[0] + np.arange(block), numbers[-1])
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), FIT))(rows)
        drawn, detector = self.drawn.take(rows), self.pool.detector
        truth = query_truth(self.drawn, numbers, self.pool.photographs, given)
        arrays_of = self.known[rows], drawn.support, drawn.slots, drawn.shown, drawn.queries
        of_queries = (one[rows - numbers[0]] for one in (truth.boxes, truth.kind))
        part = Part(keys, *map(jnp.asarray, (*arrays_of, *of_queries)))
        queries, pictures = None, None
        if given is not None:
            queries = Regions(*(jnp.asarray(leaf[rows - numbers[0]]) for leaf in given.regions))
            if self.method.regions is not None:
                if given.images is None:
                    raise ValueError("asked gives no images, which this method needs: keep_images=True")
                pictures = jnp.asarray(given.images[rows - numbers[0]])
        out: Any = jax.device_get(
            run_episodes(
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
        out = jax.tree.map(lambda leaf: leaf[: len(numbers)], out)  # an Out of NumPy arrays
        wanted = self.drawn.asked[numbers]
        episode, query, place = np.nonzero(out.found.valid & wanted[..., None])
        image = (numbers[episode] * wanted.shape[1] + query).astype(np.int64)
        taken: list[Any] = [None if leaf is None else leaf[episode, query, place] for leaf in out.found]
        labels = self.drawn.classes[numbers[episode], taken[2]]
        none = np.zeros(0, np.float32) if taken[4] is None else taken[4]
        self.found.append((image, labels, taken[1], taken[0], none, taken[3]))
        self.there.append(_listed(truth, numbers))
        if out.background is not None:
            counts = (out.met != LEFT_OUT) & wanted[..., None] & ~np.isnan(out.background)
            of_episode = np.broadcast_to(numbers[:, None, None], counts.shape)[counts]
            self.open_set.append(
                OpenSet(of_episode.astype(np.int32), out.background[counts], out.met[counts] == OBJECT)
            )
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
        open_set = [np.concatenate(each) for each in zip(*self.open_set, strict=True)]
        settings = {
            "ways": ways,
            "shots": shots // self.drawn.parts,  # of each part
            "parts": self.drawn.parts,
            "queries": self.drawn.asked.shape[1],  # in all
            "episodes": count,
            "images": "photographs" if self.asked is None else self.asked.name,
            "queries_in_support": self.drawn.shared(),
            "method": self.named,
            "fit": describe(self.method.fit),  # with the options that its maker was given
            **self.pool.told,
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
            OpenSet(*open_set) if open_set else None,
        )


def _listed(truth: QueryTruth, numbers: Int[np.ndarray, " n"]) -> tuple[np.ndarray, ...]:
    """Image, label, box, difficult, crowd and frame of each true box of the episodes' classes."""
    at = np.nonzero(truth.kind != NOTHING)
    image = (numbers[at[0]] * truth.kind.shape[1] + at[1]).astype(np.int64)
    rest = (truth.boxes, truth.difficult, truth.crowd, truth.frames)
    return (image, truth.labels[at], *(one[at] for one in rest))


def _method(method: Any, net: Net) -> DetectionMethod:
    if isinstance(method, str):
        return detection_method(method, net)
    if not isinstance(method, DetectionMethod):
        raise ValueError(f"method must be a DetectionMethod or a name, such as 'repmet', got {method!r}")
    return method


def _known_classes(detector: Detector, drawn: DetectionEpisodes) -> Int[np.ndarray, "E W P"]:
    number = {name: i for i, name in enumerate(detector.classes)}
    of_name = np.array([number.get(name, -1) for name in drawn.names], np.int32)
    return of_name[drawn.members]


def _check(run: Run, pool: DetectionPool) -> None:
    drawn, photographs = run.drawn, run.pool.photographs
    if drawn.names != photographs.classes or photographs.classes != pool.photographs.classes:
        raise ValueError("drawn is of other classes than the pool's photographs: draw from these")
    if len(run.pool) != len(pool):
        raise ValueError(f"pools are of {len(run.pool)} and {len(pool)} photographs: they must be the same")
    if run.pool is not pool:
        for name in ("files", "boxes", "shown", "labels", "sizes"):
            if not np.array_equal(getattr(photographs, name), getattr(pool.photographs, name)):
                raise ValueError(
                    f"pools are of photographs with different {name}: give views of the very same ones, in "
                    "one order and of one size"
                )
    for name in ("support", "queries"):
        rows = getattr(drawn, name)
        if rows.min() < 0 or rows.max() >= len(pool):
            raise ValueError(f"drawn has rows up to {rows.max()}, but there are {len(pool)} photographs")
    at = drawn.support[drawn.shown], drawn.slots[drawn.shown]
    wanted = np.broadcast_to(drawn.members[:, :, None], (*drawn.shown.shape, drawn.parts))[drawn.shown]
    if (
        drawn.slots.max() >= photographs.boxes.shape[1]
        or not (photographs.shown[at] & (photographs.labels[at][:, None] == wanted).any(axis=1)).all()
    ):
        raise ValueError("drawn shows boxes that the photographs do not have: draw from these photographs")
    if run.asked is not None and run.asked.count != drawn.asked.shape[1]:
        raise ValueError(f"asked gives {run.asked.count} queries, drawn has {drawn.asked.shape[1]}")
    if run.method.trained and (run.known < 0).any():
        label = drawn.members[run.known < 0][0]
        raise ValueError(
            f"class {drawn.names[label]!r} is none that the detector was trained on, and this method knows "
            "only these: give classes="
        )
