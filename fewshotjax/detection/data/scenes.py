"""Sets of mosaics: to train on, without any novel class, and to be queried in an episode."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from fewshotjax.detection.data.boxed import BoxedImages
from fewshotjax.detection.data.mosaics import MosaicConfig, mosaic


class Scenes(NamedTuple):
    """N scenes of T photographs."""

    images: BoxedImages  # boxes (N, T, 4), in the order of the cells
    frames: Float[np.ndarray, "N T 4"]  # what each photograph fills, for `floors`


def check_no_novel(images: BoxedImages, novel: Iterable[str]) -> None:
    """Raises ValueError: some box is of a class named in `novel`: it would no longer be novel."""
    names = set(novel)
    shown = [name for name, count in zip(images.classes, images.counts().tolist(), strict=True) if count]
    seen = [name for name in shown if name in names]
    if seen:
        raise ValueError(
            f"images show {len(seen)} novel classes, such as {seen[0]!r}: train on base classes alone"
        )


def training_scenes(
    rng: np.random.Generator,
    photographs: BoxedImages,
    count: int,
    config: MosaicConfig,
    *,
    novel: Sequence[str],
    balanced: bool = True,
) -> Scenes:
    """Scenes of random photographs, each at most once in a scene.

    Args:
        photographs: of one size, with one box each.
        novel: class names that must not occur; `check_no_novel` is run before anything is drawn.
        balanced: each cell's class is drawn first, all alike; else each photograph alike.

    Raises:
        ValueError: a novel class; photographs with no or several boxes; fewer than a scene takes.
    """
    check_no_novel(photographs, novel)
    pictures, labels = _single(photographs)
    tiles = config.grid**2
    if len(photographs) < tiles:
        raise ValueError(f"photographs are {len(photographs)}, a scene takes {tiles}: give more")
    if count < 1:
        raise ValueError(f"count must be at least 1 scene, got {count}")
    share = np.ones(len(labels))
    if balanced:
        share /= np.bincount(labels)[labels]
    edges = np.cumsum(share)
    rows = np.searchsorted(edges, rng.random((count, tiles)) * edges[-1], "right")
    while len(again := _with_twins(rows)):
        rows[again] = np.searchsorted(edges, rng.random((len(again), tiles)) * edges[-1], "right")
    own, boxes = np.ones(rows.shape, bool), photographs.boxes[:, 0]
    return _scenes(rng, pictures, boxes, labels, photographs.classes, rows, own, config)


def query_scenes(
    rng: np.random.Generator,
    queries: BoxedImages,
    distractors: BoxedImages,
    config: MosaicConfig,
    *,
    others: float = 0.5,
    parts: int = 1,
) -> Scenes:
    """For each query photograph a scene with it in a random cell.

    Each other cell has, with probability `others`, a query photograph of another class of the episode, else a
    distractor of a class outside of it. Only the episode's classes have boxes (and labels).

    Args:
        queries: the episode's query photographs; `classes` are those of the episode, in its order.
        distractors: photographs of other classes; those of the episode's (by name) are passed over.
        parts: so many classes that follow each other are merged to one, and are not another class of it.

    Raises:
        ValueError: photographs with no or several boxes, of different sizes; too few to fill a scene.
    """
    if not 0 <= others <= 1:
        raise ValueError(f"others must be a probability, got {others}: 0.5 is ours")
    pictures, labels = _single(queries)
    more, _ = _single(distractors)
    if more.shape[1:] != pictures.shape[1:]:
        raise ValueError(f"distractors are {more.shape[1:]}, queries {pictures.shape[1:]}: read them alike")
    inside = [name in queries.classes for name in distractors.classes]
    outside = np.flatnonzero(~np.array(inside)[distractors.labels[:, 0]])
    tiles = config.grid**2
    rows, own = np.empty((len(queries), tiles), np.int64), np.empty((len(queries), tiles), bool)
    for i in range(len(queries)):
        cells = rng.permutation(tiles)
        same = rng.random(tiles - 1) < others
        another = np.flatnonzero(labels // parts != labels[i] // parts)
        for name, pool, need in (
            ("queries of another class", another, int(same.sum())),
            ("distractors", outside, int((~same).sum())),
        ):
            if len(pool) < need:
                raise ValueError(f"{name} are {len(pool)}, this scene takes {need}: give more")
        rows[i, cells[0]], own[i, cells[0]] = i, True
        own[i, cells[1:]] = same
        rows[i, cells[1:][same]] = rng.choice(another, int(same.sum()), replace=False)
        rows[i, cells[1:][~same]] = len(queries) + rng.choice(outside, int((~same).sum()), replace=False)
    boxes = np.concatenate([queries.boxes[:, 0], distractors.boxes[:, 0]])
    pictures = np.concatenate([pictures, more])
    return _scenes(rng, pictures, boxes, labels, queries.classes, rows, own, config)


def _scenes(
    rng: np.random.Generator,
    pictures: UInt8[np.ndarray, "P S S C"],
    boxes: Float[np.ndarray, "P 4"],
    labels: Int[np.ndarray, " Q"],
    classes: tuple[str, ...],
    rows: Int[np.ndarray, "N T"],
    own: Bool[np.ndarray, "N T"],
    config: MosaicConfig,
) -> Scenes:
    """Scenes of rows of pictures; where `own` is False, without box and label."""
    count, tiles = rows.shape
    side = config.grid * pictures.shape[1]
    images = np.empty((count, side, side, pictures.shape[3]), np.uint8)
    moved, frames = (np.zeros((count, tiles, 4), np.float32) for _ in range(2))
    for i in range(count):
        images[i], moved[i], frames[i] = mosaic(rng, pictures[rows[i]], boxes[rows[i]], config)
    shown = np.where(own, labels[np.where(own, rows, 0)], np.int32(0))
    moved = np.where(own[..., None], moved, np.float32(0))
    return Scenes(BoxedImages(images, moved, own, shown, classes), frames)


def _with_twins(rows: Int[np.ndarray, "N T"]) -> Int[np.ndarray, " n"]:
    """Scenes that have a photograph twice."""
    ordered = np.sort(rows, axis=1)
    return np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))


def _single(photographs: BoxedImages) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels of photographs of one size with one box each."""
    pictures, shown = photographs.images, photographs.shown
    if not isinstance(pictures, np.ndarray) or pictures.shape[1] != pictures.shape[2]:
        raise ValueError("photographs must be square and of one size: resize them first")
    if photographs.boxes.shape[1] != 1 or not shown.all():
        raise ValueError("photographs must have exactly one box each")
    return pictures, photographs.labels[:, 0]
