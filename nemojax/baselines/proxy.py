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
    *,
    most: Float[np.ndarray, " 2"] | None = None,
) -> Int[np.ndarray, "K n"]:
    """At most `count` different configurations, the most valuable first.

    Args:
        worst: see `Prices.of`.
        most: limits of model_ratio and bitops_max.

    Raises:
        ValueError: a count below 1, or a sensitivity of other quantizers or bit-widths.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    prices = Prices.of(space, workload, sensitivity, worst)
    paths = greedy_paths(space, workload, sensitivity)
    rows = np.unique(np.concatenate([bargains(space, prices)[1], paths]), axis=0).astype(np.int32)
    costs = predicted(space, prices, rows)
    if most is not None:
        within = (costs[:, 1:] <= most).all(axis=1)
        rows, costs = rows[within], costs[within]
    return rows[most_hypervolume(costs / _highest(costs), count)]


def _highest(costs: Float[np.ndarray, "K M"]) -> Float[np.ndarray, " M"]:
    highest = costs.max(axis=0, initial=0)
    return np.where(highest > 0, highest, 1)
