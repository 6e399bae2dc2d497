"""How well a score tells regions of no class from those of some: the area under the ROC curve.

It is the probability that a region of no class has the higher score of the two, ties counting half: the
statistic U of Mann & Whitney (1947) over the number of pairs (Hanley & McNeil 1982).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class OpenSet(NamedTuple):
    """S regions of the query images of all episodes, before any is suppressed."""

    episode: Int[np.ndarray, " S"]
    background: Float[np.ndarray, " S"]  # log-probability of being of none of the episode's classes
    known: Bool[np.ndarray, " S"]  # it meets an object of the episode at IoU .5


def auroc(
    scores: Float[np.ndarray, " S"],
    positive: Bool[np.ndarray, " S"],
    weights: Float[np.ndarray, " S"] | None = None,
) -> float:
    """Probability that a positive has a higher score than a negative, + ½ that the two are equal.

    Args:
        weights: how often each counts; None: once.

    Returns:
        NaN without positives or without negatives.

    Raises:
        ValueError: scores that are NaN.
    """
    times = np.ones(len(scores)) if weights is None else weights.astype(np.float64)
    found = OpenSet(np.arange(len(scores)), scores, ~positive)
    return auroc_by_episode(found)(times)


def auroc_by_episode(found: OpenSet) -> Callable[[Float[np.ndarray, " E"]], float]:
    """`auroc` of the background, positive where a region is of no class, as a function of how often each
    episode counts: scores are sorted once for all resamples.

    Raises:
        ValueError: a background that is NaN.
    """
    if np.isnan(found.background).any():
        raise ValueError("scores must not be NaN: leave such regions out")
    known, none = found.background[found.known], found.background[~found.known]
    # Scores of known regions, each once: between two of them, and at one, it does not matter which is which.
    levels, level = np.unique(known, return_inverse=True)
    order = np.argsort(none, kind="stable")
    ordered = none[order]
    starts = np.searchsorted(ordered, levels, "left")
    stops = np.searchsorted(ordered, levels, "right")
    of_known, of_none = found.episode[found.known], found.episode[~found.known][order]

    def measure(weights: Float[np.ndarray, " E"]) -> float:
        upto = np.concatenate([[0.0], np.cumsum(weights[of_none])])
        own = np.bincount(level, weights[of_known], minlength=len(levels))
        pairs = own.sum() * upto[-1]
        if not pairs:
            return float("nan")
        above, equal = upto[-1] - upto[stops], upto[stops] - upto[starts]
        return float(own @ (above + 0.5 * equal) / pairs)

    return measure
