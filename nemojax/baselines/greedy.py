"""Greedy descent by sensitivity per cost saved, as HAWQ-like tools do it (Dong et al. 2019).

From every quantizer at its highest bit-width, again and again the step down that adds the least error for
what it saves, until all are at their lowest: one path of configurations, of which any budget picks the
first that keeps it.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hwmodel import Workload

from ..sensitivity import Sensitivity, check_covers
from ..shares import Shares
from ..space import BitSpace

# Weights of (model_ratio, bitops_max) in the cost of a path.
COST_WEIGHTS = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))


def greedy_path(
    space: BitSpace,
    workload: Workload,
    sensitivity: Sensitivity,
    cost_weights: tuple[float, float] = (1.0, 1.0),
) -> Int[np.ndarray, "K n"]:
    """The path of one cost, from every quantizer at its highest bit-width to every one at its lowest.

    Args:
        cost_weights: of model_ratio and bitops_max, not negative, not both zero.

    A step takes one quantizer one bit-width down, or all of an operation's quantizers that are at its widest
    bit-width, since bitops_max counts the wider of the two alone. What the space's ties and pairs then
    require comes with it. A step that saves nothing is taken only when all do.

    Raises:
        ValueError: weights that are negative or zero, or a sensitivity of other quantizers or bit-widths.
    """
    if min(cost_weights) < 0 or max(cost_weights) <= 0:
        raise ValueError(f"cost_weights must not be negative, nor both zero, got {cost_weights}")
    check_covers(sensitivity, space)
    shares = Shares.of(workload)
    moves = _moves(space, shares)

    def cost(bits: np.ndarray) -> Float[np.ndarray, " K"]:
        return cost_weights[0] * shares.model_ratio(bits) + cost_weights[1] * shares.bitops_max(bits)

    path = [space.uniform(int(space.high.max()))]
    while True:
        steps = _steps(space, path[-1], moves)
        if not len(steps):
            return np.stack(path)
        added = sensitivity.additive(steps) - sensitivity.additive(path[-1][None])
        saved = cost(path[-1][None]) - cost(steps)
        saves = saved > 1e-12
        steps, added, saved = (x[saves] if saves.any() else x for x in (steps, added, saved))
        path.append(steps[np.argmin(added / saved if saves.any() else added)])


def greedy_paths(space: BitSpace, workload: Workload, sensitivity: Sensitivity) -> Int[np.ndarray, "K n"]:
    """All configurations of the paths of `COST_WEIGHTS`."""
    return np.concatenate([greedy_path(space, workload, sensitivity, weights) for weights in COST_WEIGHTS])


def greedy_front(
    space: BitSpace,
    workload: Workload,
    sensitivity: Sensitivity,
    count: int,
    cost_weights: Sequence[tuple[float, float]] = COST_WEIGHTS,
) -> Int[np.ndarray, "K n"]:
    """At most `count` different configurations, spread evenly over the paths of several costs.

    Evenly in bits, over each path's own cost: steps are many where quantizers are small.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    shares, paths = Shares.of(workload), []
    for weights in cost_weights:
        path = greedy_path(space, workload, sensitivity, weights)
        cost = weights[0] * shares.model_ratio(path) + weights[1] * shares.bitops_max(path)
        paths.append((path, (cost - cost[-1]) / (np.ptp(cost) or 1.0)))
    share = -(-count // len(paths))
    found: dict[bytes, np.ndarray] = {}
    for level in np.linspace(0, 1, share):  # all paths at one level, so that a cut spares none
        for path, height in paths:
            bits = path[int(np.argmin(np.abs(height - level)))]
            found.setdefault(bits.tobytes(), bits)
    rows = np.array(list(found.values()))
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]


def _moves(space: BitSpace, shares: Shares) -> Bool[np.ndarray, "M n"]:
    """The quantizers that a step may lower: each alone, and each operation's two; tied ones together."""
    fed = np.flatnonzero(shares.input >= 0)
    pairs = np.zeros((len(fed), space.size), bool)
    pairs[np.arange(len(fed)), shares.weight[fed]] = True
    pairs[np.arange(len(fed)), shares.input[fed]] = True
    moves = np.concatenate([np.eye(space.size, dtype=bool), pairs])
    for group in map(list, space.groups):
        moves[:, group] = moves[:, group].any(axis=1, keepdims=True)
    return np.unique(moves, axis=0)


def _steps(space: BitSpace, bits: Int[np.ndarray, " n"], moves: np.ndarray) -> Int[np.ndarray, "M n"]:
    """Legal configurations that are lower than `bits` somewhere and higher nowhere."""
    index = (space.choices < bits[:, None]).sum(axis=1)
    below = space.choices[np.arange(space.size), np.maximum(index - 1, 0)].astype(np.int32)
    widest = np.where(moves, bits, 0).max(axis=1, keepdims=True)
    steps = np.where(moves & (bits == widest), below, bits)
    if space.pairs:
        steps = np.asarray(_snap(space, jnp.asarray(steps)))
    return steps[(steps <= bits).all(axis=1) & (steps < bits).any(axis=1)]


@partial(jax.jit, static_argnums=0)
def _snap(space: BitSpace, rows: Array) -> Array:
    return jax.vmap(space.snap)(rows)
