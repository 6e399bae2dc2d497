"""Of many points the few that are worth most together."""

import heapq

import moocore
import numpy as np
from jaxtyping import Float, Int


def most_hypervolume(
    costs: Float[np.ndarray, "K M"], count: int, known: Float[np.ndarray, "J M"] | None = None
) -> Int[np.ndarray, " k"]:
    """At most `count` rows, each the one that adds most to the hypervolume up to (1, ..., 1) of those before.

    Args:
        known: points that are there already; then rows that add nothing are left out.

    At least 1 - 1/e of the best that so many rows can have (Nemhauser et al. 1978; hypervolume is
    submodular, so an old gain bounds a new one and few are worked out anew: Minoux 1978). A row beyond 1 in a
    cost adds nothing and comes last.
    """
    costs = np.asarray(costs, np.float64)
    rows = np.flatnonzero(moocore.is_nondominated(costs, keep_weakly=False)) if len(costs) else np.arange(0)
    there = np.zeros((0, costs.shape[1])) if known is None else np.asarray(known, np.float64)
    there = there[(there < 1).all(axis=1)]
    there = there[moocore.is_nondominated(there)] if len(there) else there
    volume = _volume(there)
    queue = [(min(volume - _volume(np.vstack([there, costs[i]])), 0.0), int(i), 0) for i in rows]
    heapq.heapify(queue)
    chosen: list[int] = []
    while queue and len(chosen) < count:
        gain, i, when = heapq.heappop(queue)
        if known is not None and gain >= 0:
            break
        if when == len(chosen):
            chosen.append(i)
            there = np.vstack([there, costs[i]])
            volume -= gain
        else:
            together = _volume(np.vstack([there, costs[i]]))
            heapq.heappush(queue, (min(volume - together, 0.0), i, len(chosen)))
    return np.array(chosen, np.int64)


def _volume(costs: Float[np.ndarray, "K M"]) -> float:
    return float(moocore.hypervolume(costs, ref=np.ones(costs.shape[1]))) if len(costs) else 0.0
