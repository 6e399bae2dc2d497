"""σ and the limit of "none of these", from the support alone: each example is left out in turn.

In NumPy and float64, as it is done once for a classifier.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

SIGMA = 0.5  # of the authors' code, where the examples cannot tell
GRID = tuple(np.geomspace(0.05, 1.0, 31).tolist())
QUANTILE = 0.95  # of the distances of examples to their nearest ones that the limit lets through
LEFT_OUT = 2_000  # examples that are left out in turn at most, evenly spread
_FLOOR = 1e-300  # of a class's share, whose logarithm would be -inf


class LeftOut(NamedTuple):
    """What n examples, each of a class with others, see of the rest of S examples."""

    squared: Float[np.ndarray, "n S"]  # ‖x_i - x_j‖²; to itself: inf
    own: Int[np.ndarray, " n"]  # class of each
    labels: Int[np.ndarray, " S"]

    def nearest(self) -> Float[np.ndarray, " n"]:
        """Distance of each to the nearest other example, of whatever class, as it is measured of a query."""
        return np.sqrt(self.squared.min(axis=1, initial=np.inf))


def leave_one_out(unit: Float[np.ndarray, "S D"], labels: Int[np.ndarray, " S"]) -> LeftOut:
    """Of examples of unit length; those alone in their class are not left out, but are seen."""
    counts = np.bincount(labels)
    rows = np.flatnonzero(counts[labels] > 1)
    if len(rows) > LEFT_OUT:
        rows = rows[np.linspace(0, len(rows) - 1, LEFT_OUT).astype(int)]
    exact = unit.astype(np.float64)
    norms = np.sum(exact**2, axis=1)
    squared = np.maximum(norms[rows, None] + norms[None] - 2 * exact[rows] @ exact.T, 0.0)
    squared[np.arange(len(rows)), rows] = np.inf
    return LeftOut(squared, labels[rows], labels)


def smoothed_loss(seen: LeftOut, ways: int, sigma: float) -> float:
    """Mean cross-entropy of the mixture's posterior of the examples left out, with every other as a mode:

        -1/n Σ_i Σ_k t_ik log P(k | x_i),   P(k | x_i) ∝ Σ_{j ≠ i, y_j = k} exp(-‖x_i - x_j‖² / 2σ²)

    Departs from the plain likelihood, t_ik = [y_i = k]: that goes on rising as σ goes to 0 where no example
    is wrong, so five clean examples would give a confidence of 1 to everything. By the rule of succession
    the next one is wrong with probability 1 / (n + 2): that is shared by the other classes.
    """
    n = len(seen.own)
    member = np.eye(ways)[seen.labels]
    nearest = seen.squared.min(axis=1, keepdims=True)
    share = np.exp((nearest - seen.squared) / (2 * sigma**2)) @ member
    log_p = np.log(np.maximum(share, _FLOOR)) - np.log(share.sum(axis=1, keepdims=True))
    target = np.full((n, ways), 1 / (n + 2) / (ways - 1))
    target[np.arange(n), seen.own] = (n + 1) / (n + 2)
    return float(-np.mean(np.sum(target * log_p, axis=1)))


def choose_sigma(seen: LeftOut, ways: int) -> float | None:
    """The one of `GRID` with the least `smoothed_loss`; None without an example that could be left out.

    The examples are the modes here, also of classes that k-means reduces to fewer.
    """
    if not len(seen.own):
        return None
    return GRID[int(np.argmin([smoothed_loss(seen, ways, sigma) for sigma in GRID]))]


def choose_threshold(seen: LeftOut) -> float | None:
    """The `QUANTILE` of `nearest`; None without an example that could be left out.

    It is estimated from few examples, so more than 5 % of what does belong to the classes may be rejected.
    The nearest of an example's own class would give a limit that is the wider, the more classes there are.
    """
    return float(np.quantile(seen.nearest(), QUANTILE)) if len(seen.own) else None
