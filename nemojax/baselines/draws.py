"""The baselines that a search must beat at equal evaluations, all with one signature.

A baseline gives the configurations to evaluate: `bits = BASELINES[name](key, task, budget, sensitivity)`,
(K, n) int32, K <= budget, all legal and different. None sees a result before it has chosen all of them.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Int, PRNGKeyArray

from hwmodel import Workload

from ..first_generation import initial_bits, uniform_bits
from ..sensitivity import Sensitivity
from ..space import BitSpace
from ..task import Task, worst_error
from .greedy import greedy_front
from .knapsack import knapsack_front
from .proxy import proxy_front

Bits = Int[np.ndarray, "K n"]
FrontOf = Callable[[BitSpace, Workload, Sensitivity, int], np.ndarray]
Baseline = Callable[[PRNGKeyArray, Task, int, Sensitivity | None], Bits]


def uniform(key: PRNGKeyArray, task: Task, budget: int, sensitivity: Sensitivity | None = None) -> Bits:
    """One bit-width everywhere, as far as the space allows."""
    return _distinct(budget, uniform_bits(task))


def random(key: PRNGKeyArray, task: Task, budget: int, sensitivity: Sensitivity | None = None) -> Bits:
    """The uniform configurations, then every quantizer by itself, uniform over its bit-widths."""
    return _distinct(budget, uniform_bits(task), np.asarray(task.space.sample(key, budget)))


def perturbed(key: PRNGKeyArray, task: Task, budget: int, sensitivity: Sensitivity | None = None) -> Bits:
    """The uniform configurations, then those with noise on each quantizer: `initial_bits`."""
    return _distinct(budget, uniform_bits(task), initial_bits(key, task.space, budget))


def greedy(key: PRNGKeyArray, task: Task, budget: int, sensitivity: Sensitivity | None = None) -> Bits:
    """The uniform configurations and greedy paths of several costs; see `greedy_front`."""
    return _with_uniform(greedy_front, task, budget, sensitivity, "greedy")


def knapsack(key: PRNGKeyArray, task: Task, budget: int, sensitivity: Sensitivity | None = None) -> Bits:
    """The uniform configurations and a grid of knapsacks; see `knapsack_front`."""
    return _with_uniform(knapsack_front, task, budget, sensitivity, "knapsack")


def proxy(key: PRNGKeyArray, task: Task, budget: int, sensitivity: Sensitivity | None = None) -> Bits:
    """The uniform configurations and the most valuable part of the predicted front; see `proxy_front`."""
    worst = worst_error(task)

    def front(space: BitSpace, workload: Workload, table: Sensitivity, count: int) -> Bits:
        return proxy_front(space, workload, table, count, worst)

    return _with_uniform(front, task, budget, sensitivity, "proxy")


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "uniform": uniform,
        "random": random,
        "perturbed": perturbed,
        "greedy": greedy,
        "knapsack": knapsack,
        "proxy": proxy,
    }
)


def _with_uniform(
    front: FrontOf,
    task: Task,
    budget: int,
    sensitivity: Sensitivity | None,
    name: str,
) -> Bits:
    """A front of what the sensitivity's own evaluations leave of the budget."""
    if sensitivity is None:
        raise ValueError(f"{name} needs a sensitivity: give one of measure_sensitivity(key, task)")
    left = budget - sensitivity.evaluations
    if left < 1:
        raise ValueError(
            f"budget is {budget} evaluations, of which the sensitivity took {sensitivity.evaluations}: "
            "raise it, or measure fewer bit-widths, or 'fisher', which takes none"
        )
    even = uniform_bits(task)
    if left <= len(even):
        return _distinct(left, even)
    return _distinct(left, even, front(task.space, task.network.workload, sensitivity, left - len(even)))


def _distinct(budget: int, *parts: Int[np.ndarray, "_ n"]) -> Bits:
    """The first `budget` different rows, in order."""
    if budget < 1:
        raise ValueError(f"budget must be at least 1, got {budget}")
    rows = np.concatenate(parts).astype(np.int32)
    return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])][:budget]
