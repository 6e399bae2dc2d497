"""Thousands of query images in a call: detections of a method in episodes, comparisons on the same ones."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ..evaluation import EpisodesChunk, OnChunk
from .episode_program import PoolArrays, on_device
from .episode_run import Entry, Run
from .episodes import DetectionEpisodes, draw_detection_episodes
from .methods import DetectionMethod
from .pool import DetectionPool
from .queries import QueryImages, QuerySource
from .results import DetectionComparison, DetectionResult
from .score import Scoring

BLOCK = 32  # episodes of one call of the compiled function, at most; `on_chunk` is told between


def evaluate_detection(
    key: PRNGKeyArray,
    method: DetectionMethod | str,
    pool: DetectionPool,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 10,
    parts: int = 1,
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
        ways, shots, queries, parts, episodes, classes: as of `draw_detection_episodes`.
        drawn: episodes to use in place of drawing (`listed_episodes`, another result's).
        asked: query images in place of the photographs, such as `mosaic_queries`; support stays single.
        scoring: suppression and cap; None: those of the detector's config.
        chunk: episodes alive at once; None: as many as suit the device. It changes no result beyond rounding.
        on_chunk: progress, such as `progress("episodes")`; told an `EpisodesChunk`.

    Raises:
        ValueError: too few photographs; episodes of other photographs; a method of trained classes on new
            ones.

    A photograph that is both support and query is not refused, as lists may have such, but counted: in the
    table's notes and as `queries_in_support` of the settings.
    """
    found = compare_detection(
        key,
        {"": method},
        pool,
        drawn=drawn,
        asked=asked,
        scoring=scoring,
        chunk=chunk,
        on_chunk=on_chunk,
        ways=ways,
        shots=shots,
        queries=queries,
        parts=parts,
        episodes=episodes,
        classes=classes,
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
            pool, asked) on query images of that view, too. Those on other query images than the best one have
            no paired difference.
        options: ways, shots and so on, as all other arguments those of `evaluate_detection`.
    """
    if not methods:
        raise ValueError("methods is empty: give at least one, such as {'repmet': 'repmet'}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if drawn is None:
        drawn = draw_detection_episodes(key, pool.photographs, **options)
    runs = {name: Run(entry, pool, asked, drawn, scoring, chunk) for name, entry in methods.items()}
    pools = list({id(run.pool): None for run in runs.values()})
    ordered = sorted(runs, key=lambda name: pools.index(id(runs[name].pool)))
    arrays: PoolArrays | None = None  # of one pool: several may be too many for a device
    held: DetectionPool | None = None
    total = len(drawn)
    size = max(run.chunk for run in runs.values())
    block = size * math.ceil(min(BLOCK, total) / size)
    for first in range(0, total, block):
        numbers = np.arange(first, min(first + block, total))
        given: dict[int, QueryImages] = {}
        for run in runs.values():
            if run.asked is not None and id(run.asked) not in given:
                given[id(run.asked)] = run.asked.images(numbers)
        for name in ordered:
            run = runs[name]
            if held is not run.pool or arrays is None:
                arrays = None  # freed before the next are there
                looks = [one.method for one in runs.values() if one.pool is run.pool]
                looked_at = any(method.images or method.regions is not None for method in looks)
                arrays, held = on_device(run.pool, looked_at), run.pool
            run.step(key, numbers, block, arrays, given.get(id(run.asked)))
            if on_chunk is not None:
                on_chunk(EpisodesChunk(min(first + block, total), total, name))
    number = np.asarray(jax.random.key_data(key)).tolist()
    return DetectionComparison({name: run.result(number) for name, run in runs.items()})
