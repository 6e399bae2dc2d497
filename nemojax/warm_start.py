"""The first phase of a search: configurations chosen by a sensitivity table, evaluated before any species.

They are chosen in rounds, each by the table as corrected by what the rounds before it found. They enter the
archive, from which the direct species draw guests; the best of them are those species' first members, and
the corrected table is what `priced` reads. Ours; the paper starts from nothing.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Bool, Float, Int

from .archive import update_archive
from .baselines.greedy import greedy_paths
from .baselines.proxy import candidates, most_valuable
from .batches import count as samples_of
from .correction import corrected
from .custom_error import ErrorOfBits, ErrorOfOutputs
from .first_generation import uniform_bits
from .nemo import NemoState
from .objectives import KLDivergence, TopKError
from .pareto import non_dominated
from .prices import Prices, predicted
from .sensitivity import Sensitivity
from .task import Task, worst_error

OWN_RESOLUTION = 1e-3  # of an error of the user's own, which may count anything
FIRST, LEAST_ROUND = 0.5, 10  # share of the first round; configurations in a later one but for the last
_AT_ONCE = 512  # configurations whose costs are worked out in one call


class WarmStart:
    """Configurations before the first generation, at most `count` of them, a round at a time."""

    def __init__(
        self,
        task: Task,
        sensitivity: Sensitivity,
        count: int,
        limits: Float[np.ndarray, " M"] | None = None,
        seeds: Int[np.ndarray, "k n"] | None = None,
        rounds: int = 4,
    ):
        """
        Args:
            limits: of the objectives; those of costs of bits alone bound what is chosen.
            seeds: others' configurations, which come first and do not count.
            rounds: after the first one; 0: all in one, and the table is never corrected.
        """
        self._task, self._sensitivity, self._count, self._rounds = task, sensitivity, count, rounds
        self._seeds = np.zeros((0, task.space.size), np.int32) if seeds is None else seeds
        self._limits = np.full(len(task.objectives), np.inf) if limits is None else limits
        self._costs_by_bits = jax.jit(jax.vmap(task.costs_by_bits))
        self._prices = Prices.of(task.space, task.network.workload, sensitivity, worst_error(task))
        self._paths: np.ndarray | None = None

    def __call__(self, bits: Int[np.ndarray, "k n"], costs: Float[np.ndarray, "k M"]) -> np.ndarray:
        """The next round, (j, n) int32, after `bits` of the rounds before; without a row at the end."""
        first = int(np.ceil(FIRST * self._count)) if self._rounds else self._count
        if not len(bits):
            return np.concatenate([self._seeds, self._first(first)])
        left = self._count - (len(bits) - len(self._seeds))
        size = -(-(self._count - first) // max(self._rounds, 1))
        return self._next(bits, costs, min(left, max(LEAST_ROUND, size)) if self._rounds else 0)

    def prices(self, bits: Int[np.ndarray, "k n"], costs: Float[np.ndarray, "k M"]) -> Prices:
        """The table's, corrected by what was evaluated."""
        if not self._rounds:
            return self._prices
        share, resolution = error_share(self._task, costs[:, 0])
        return corrected(self._task.space, self._prices, bits, share, resolution)

    def _first(self, count: int) -> Int[np.ndarray, "k n"]:
        """The uniform configurations, then the predicted front's most valuable."""
        task = self._task
        if count < 1:
            return np.zeros((0, task.space.size), np.int32)
        uniform = without(uniform_bits(task), self._seeds)
        uniform = uniform[self._allowed(uniform)]
        even = np.linspace(0, len(uniform) - 1, min(count, len(uniform))).round().astype(int)
        uniform = uniform[np.unique(even)]
        chosen = most_valuable(task.space, self._prices, self._pool(self._prices), count + len(self._seeds))
        fresh = without(chosen, np.concatenate([self._seeds, uniform]))
        return np.concatenate([uniform, fresh[: count - len(uniform)]])

    def _next(self, bits: np.ndarray, costs: np.ndarray, count: int) -> Int[np.ndarray, "k n"]:
        """Of the corrected front what adds most to the hypervolume of what was evaluated."""
        space = self._task.space
        if count < 1:
            return np.zeros((0, space.size), np.int32)
        prices = self.prices(bits, costs)
        pool = without(self._pool(prices), bits)
        known = predicted(space, prices, bits)
        known[:, 0] = error_share(self._task, costs[:, 0])[0]
        return most_valuable(space, prices, pool, count, known[np.isfinite(known[:, 0])])

    def _pool(self, prices: Prices) -> Int[np.ndarray, "K n"]:
        """What may be chosen: bargains at these prices and the table's greedy paths, within the limits."""
        space = self._task.space
        if self._paths is None:
            self._paths = greedy_paths(space, self._task.network.workload, self._sensitivity)
        rows = candidates(space, prices, self._paths)
        return rows[self._allowed(rows)]

    def _allowed(self, rows: Int[np.ndarray, "K n"]) -> Bool[np.ndarray, " K"]:
        """Which configurations are within all limits of costs of bits alone."""
        if not np.isfinite(self._limits[1:]).any() or not len(rows):
            return np.ones(len(rows), bool)
        padded = np.pad(rows, ((0, -len(rows) % _AT_ONCE), (0, 0)), mode="edge")
        parts = np.split(padded, len(padded) // _AT_ONCE)
        costs = np.concatenate([np.asarray(self._costs_by_bits(jnp.asarray(part))) for part in parts])
        return np.all(costs[: len(rows)] <= self._limits[1:], axis=1)


def seeds_alone(seeds: Int[np.ndarray, "k n"]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """In the place of a WarmStart where there is no table: one round."""
    return lambda bits, costs: seeds[len(bits) :]


def error_share(task: Task, errors: Float[np.ndarray, " K"]) -> tuple[Float[np.ndarray, " K"], float]:
    """Errors as shares of the worst that quantization can add; +inf if failed. And their resolution.

    An error against labels is not 0 at full precision, nor need be one of the user's own: the lowest one
    evaluated counts as 0.
    """
    share = np.asarray(errors, np.float64) / worst_error(task)
    custom = isinstance(task.score, ErrorOfBits | ErrorOfOutputs)
    if custom:
        resolution = OWN_RESOLUTION
    else:
        resolution = 0.0 if isinstance(task.score, KLDivergence) else 1 / samples_of(task.inputs)
    known = share[np.isfinite(share)]
    if (custom or isinstance(task.score, TopKError)) and len(known):
        lowest = min(float(known.min()), 1 - resolution)
        share, resolution = (share - lowest) / (1 - lowest), resolution / (1 - lowest)
    return share, resolution


def without(rows: Int[np.ndarray, "K n"], others: Int[np.ndarray, "J n"]) -> Int[np.ndarray, "k n"]:
    """The rows that are not among the others, in their order."""
    seen = {row.tobytes() for row in np.ascontiguousarray(others, np.int32)}
    fresh = [row.tobytes() not in seen for row in np.ascontiguousarray(rows, np.int32)]
    return rows[np.array(fresh, bool)]


def with_prior(
    state: NemoState,
    bits: Int[np.ndarray, "k n"],
    costs: Float[np.ndarray, "k M"],
    over: Float[np.ndarray, " k"],
) -> NemoState:
    """The state with evaluated configurations in its archive."""
    costs = np.where(over[:, None] > 0, np.inf, costs).astype(np.float32)
    archive = update_archive(state.archive, jnp.asarray(bits), jnp.asarray(costs))
    return replace(state, archive=archive)


def best_spread(bits: np.ndarray, costs: np.ndarray, over: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the configurations that are not dominated, spread evenly along the first cost."""
    costs = np.where(over[:, None] > 0, np.inf, costs).astype(np.float32)
    front = np.flatnonzero(np.asarray(non_dominated(jnp.asarray(costs))))
    front = front[np.argsort(costs[front, 0], kind="stable")]
    if not len(front) or not count:
        return bits[:0]
    return bits[front[np.unique(np.linspace(0, len(front) - 1, min(count, len(front))).round().astype(int))]]


def with_sensitivity(graph: jraph.GraphsTuple, sensitivity: Sensitivity | None) -> jraph.GraphsTuple:
    """The graph with one more feature: how sensitive each quantizer is, on a log scale from 0 to 1.

    The mean of the logarithm over the bit-widths that cost anything; the least sensitive quantizer has 0, the
    most 1. Without a table all have 0, so that policies of searches with and without one fit each other.
    """
    column = np.zeros(len(graph.nodes))
    if sensitivity is not None:
        costs = np.nan_to_num(sensitivity.table) > 0
        logs = np.log10(np.where(costs, sensitivity.table, 1.0))
        known = costs.any(axis=1)
        level = logs.sum(axis=1) / np.maximum(costs.sum(axis=1), 1)
        level = np.where(known, level, level[known].min(initial=np.inf) if known.any() else 0.0)
        span = level.max() - level.min()
        column = (level - level.min()) / (span if span > 0 else 1)
    return graph._replace(nodes=np.column_stack([graph.nodes, column]).astype(np.float32))
