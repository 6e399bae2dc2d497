"""The front that a sensitivity table predicts, and the part of it worth most: no result is seen.

Candidates are bargains at a grid of prices and the greedy paths. Of those that none dominates in predicted
error, size and bit-operations, `count` are chosen that have the most predicted hypervolume together. Ours;
the grid is the Lagrangian of `knapsack`, at a hundredth of its time.
"""

import numpy as np
from jaxtyping import Float, Int

from hwmodel import Workload

from ..prices import Prices, bargains, predicted
from ..sensitivity import Sensitivity
from ..space import BitSpace
from ..subset import most_hypervolume
from .greedy import greedy_paths


def proxy_front(
    space: BitSpace,
    workload: Workload,
    sensitivity: Sensitivity,
    count: int,
    worst: float = 1.0,
) -> Int[np.ndarray, "K n"]:
    """At most `count` different configurations, the most valuable first.

    Args:
        worst: see `Prices.of`.

    Raises:
        ValueError: a count below 1, or a sensitivity of other quantizers or bit-widths.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    prices = Prices.of(space, workload, sensitivity, worst)
    rows = candidates(space, prices, greedy_paths(space, workload, sensitivity))
    return most_valuable(space, prices, rows, count)


def candidates(space: BitSpace, prices: Prices, paths: Int[np.ndarray, "J n"]) -> Int[np.ndarray, "K n"]:
    """Different configurations: bargains at a grid of prices, and `paths`."""
    return np.unique(np.concatenate([bargains(space, prices)[1], paths]), axis=0).astype(np.int32)


def most_valuable(
    space: BitSpace,
    prices: Prices,
    rows: Int[np.ndarray, "K n"],
    count: int,
    known: Float[np.ndarray, "J 3"] | None = None,
) -> Int[np.ndarray, "k n"]:
    """At most `count` of the rows, those of most predicted hypervolume together, the most valuable first.

    Args:
        known: error (share of the worst), size and bit-operations of what is there already; see `predicted`.
    """
    costs = predicted(space, prices, rows)
    scale = np.append(1.0, np.maximum(costs[:, 1:].max(axis=0, initial=0), 1e-30))
    return rows[most_hypervolume(costs / scale, count, None if known is None else known / scale)]
