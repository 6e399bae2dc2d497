"""Average precision as a function of how often each episode counts, quick enough for a thousand resamples.

It equals `average_precision` with each episode's weight on all its images. Saved is what does not change: the
decisions behind the last hit are not looked at, sums are taken from hit to hit, and curves over the same
decisions (COCO's ten IoUs) share them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .metrics.curve import Curve, Points, mean_defined

Weighted = Callable[[Float[np.ndarray, " E"]], float]


class _Read(NamedTuple):
    """One curve."""

    places: Int[np.ndarray, " h"]  # of its hits among those of all curves over the same decisions
    gained: Int[np.ndarray, " h"]  # episode of each hit
    objects: Float[np.ndarray, " E"]  # of each episode


class _Shared(NamedTuple):
    """Curves over the same decisions."""

    episodes: Int[np.ndarray, " n"]  # of each decision up to the last hit
    starts: Int[np.ndarray, " H"]  # of the stretches that end with a hit of some curve
    curves: tuple[_Read, ...]


def by_episode(
    curves: Sequence[Curve], episode_of: Int[np.ndarray, " images"], points: Points = "all"
) -> Weighted:
    """Mean AP of the curves that have objects.

    Args:
        episode_of: of each image, 0 to E - 1.
        points: as of `average_precision`.
    """
    count = int(episode_of.max()) + 1
    groups: list[list[Curve]] = []
    for curve in curves:
        if groups and np.array_equal(groups[-1][0].image_index, curve.image_index):
            groups[-1].append(curve)
        else:
            groups.append([curve])
    shared = [_shared(group, episode_of, count) for group in groups]

    def measure(weights: Float[np.ndarray, " E"]) -> float:
        found = []
        for some in shared:
            made = (
                np.cumsum(np.add.reduceat(weights[some.episodes], some.starts)) if len(some.starts) else None
            )
            found += [_area(weights, curve, made, points) for curve in some.curves]
        return mean_defined(found)

    return measure


def _shared(curves: Sequence[Curve], episode_of: np.ndarray, count: int) -> _Shared:
    hits = [np.flatnonzero(curve.hit) for curve in curves]
    ends = np.unique(np.concatenate(hits))
    small = np.int16 if count < 2**15 else np.int64  # less to read
    last = int(ends[-1]) + 1 if len(ends) else 0
    episodes = episode_of[curves[0].image_index[:last]].astype(small)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else np.zeros(0, np.int64)
    reads = tuple(
        _Read(
            np.searchsorted(ends, hit),
            episodes[hit],
            np.bincount(episode_of[curve.objects], minlength=count).astype(np.float64),
        )
        for curve, hit in zip(curves, hits, strict=True)
    )
    return _Shared(episodes, starts, reads)


def _area(
    weights: Float[np.ndarray, " E"], curve: _Read, made: Float[np.ndarray, " H"] | None, points: Points
) -> float:
    """As `average_precision` reads a curve."""
    total = curve.objects @ weights
    if total == 0:
        return float("nan")
    if made is None or not len(curve.places):
        return 0.0
    gained = weights[curve.gained]
    found, upto = np.cumsum(gained), made[curve.places]
    precision = np.divide(found, upto, out=np.zeros_like(found), where=upto > 0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if points == "all":
        return float((gained * envelope).sum() / total)
    if points == 11:
        at = np.searchsorted(10 * found, np.arange(11) * total, "left")
    else:
        at = np.searchsorted(found / total, np.linspace(0, 1, 101), "left")
    return float(np.append(envelope, 0.0)[at].mean())
