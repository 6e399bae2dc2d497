"""Of many points the few that are worth most together."""

import heapq

import moocore
import numpy as np
from jaxtyping import Float, Int


def most_hypervolume(costs: Float[np.ndarray, "K M"], count: int) -> Int[np.ndarray, " k"]:
    """At most `count` rows, each the one that adds most to the hypervolume up to (1, ..., 1) of those before.

    At least 1 - 1/e of the best that so many rows can have (Nemhauser et al. 1978; hypervolume is
    submodular, so an old gain bounds a new one and few are worked out anew: Minoux 1978). A row beyond 1 in a
    cost adds nothing and comes last.
    """
    costs = np.asarray(costs, np.float64)
    rows = np.flatnonzero(moocore.is_nondominated(costs, keep_weakly=False)) if len(costs) else np.arange(0)
    queue = [(-float(np.prod(np.maximum(1 - costs[i], 0))), int(i), 0) for i in rows]
    heapq.heapify(queue)
    corner, volume = np.ones(costs.shape[1]), 0.0
    chosen: list[int] = []
    while queue and len(chosen) < count:
        gain, i, when = heapq.heappop(queue)
        if when == len(chosen):
            chosen.append(i)
            volume -= gain
        else:
            together = moocore.hypervolume(costs[[*chosen, i]], ref=corner)
            heapq.heappush(queue, (min(volume - float(together), 0.0), i, len(chosen)))
    return np.array(chosen, np.int64)
