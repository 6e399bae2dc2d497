"""The first phase of a search: configurations chosen by a sensitivity table, evaluated before any species.

They enter the archive, from which the direct species draw guests, and the best of them are those species'
first members. Ours; the paper starts from nothing.
"""

from dataclasses import replace

import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Float, Int

from .archive import update_archive
from .baselines.proxy import proxy_front
from .first_generation import uniform_bits
from .nemo import NemoState
from .pareto import non_dominated
from .sensitivity import Sensitivity
from .task import Task, worst_error


def warm_bits(
    task: Task, sensitivity: Sensitivity, count: int, limits: Float[np.ndarray, " M"] | None = None
) -> Int[np.ndarray, "k n"]:
    """At most `count` different configurations: the uniform ones, then the predicted front's most valuable.

    Args:
        limits: of the objectives; those of size and bit-operations bound what is chosen.
    """
    if count < 1:
        return np.zeros((0, task.space.size), np.int32)
    uniform = uniform_bits(task)
    uniform = uniform[
        np.unique(np.linspace(0, len(uniform) - 1, min(count, len(uniform))).round().astype(int))
    ]
    upper = {} if limits is None else dict(zip(task.objectives, limits, strict=True))
    most = np.array([upper.get(name, np.inf) for name in ("model_ratio", "bitops_max")])
    chosen = proxy_front(task.space, task.network.workload, sensitivity, count, worst_error(task), most=most)
    new = chosen[~(chosen[:, None] == uniform[None]).all(-1).any(-1)]
    return np.concatenate([uniform, new[: count - len(uniform)]])


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

    The mean over the bit-widths of the logarithm; the least sensitive quantizer has 0, the most 1. Without a
    table all have 0, so that policies of searches with and without one fit each other.
    """
    column = np.zeros(len(graph.nodes))
    if sensitivity is not None:
        level = np.nanmean(np.log10(np.maximum(sensitivity.table, 1e-30)), axis=1)
        span = level.max() - level.min()
        column = (level - level.min()) / (span if span > 0 else 1)
    return graph._replace(nodes=np.column_stack([graph.nodes, column]).astype(np.float32))
