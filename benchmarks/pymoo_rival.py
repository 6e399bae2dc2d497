"""NSGA-III of pymoo with its default operators: what NEMO's fronts and generations are measured against."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.util.ref_dirs import get_reference_directions

from nemojax.reference_points import most_divisions


class Run(NamedTuple):
    """Costs of K evaluated candidates and of the last population, M objectives."""

    evaluated: Float[np.ndarray, "K M"]  # in the order of evaluation
    final: Float[np.ndarray, "P M"]


class _Box(Problem):
    """pymoo's description of a box; the evaluation is ours."""

    def __init__(self, lower, upper, num_objectives):
        super().__init__(n_var=len(lower), n_obj=num_objectives, xl=lower, xu=upper, vtype=float)


def _algorithm(lower, upper, num_objectives, population, seed):
    """Set up: SBX (eta 30), polynomial mutation (eta 20), no duplicates, the most directions that fit."""
    divisions = most_divisions(num_objectives, population)
    directions = get_reference_directions("das-dennis", num_objectives, n_partitions=divisions)
    algorithm = NSGA3(directions, pop_size=population)
    algorithm.setup(_Box(lower, upper, num_objectives), termination=NoTermination(), seed=seed)
    return algorithm


def run_nsga3(
    costs: Callable[[Float[np.ndarray, "N d"]], Float[np.ndarray, "N M"]],
    lower: Float[np.ndarray, " d"],
    upper: Float[np.ndarray, " d"],
    num_objectives: int,
    *,
    population: int,
    generations: int,
    seed: int,
) -> Run:
    """The first, random population and the generations after it: `generations` populations in all.

    Args:
        costs: of candidates as rows; minimised.
        population: candidates in a generation; pymoo makes fewer where it finds no new ones.
    """
    algorithm = _algorithm(lower, upper, num_objectives, population, seed)
    seen = []
    for _ in range(generations):
        candidates = algorithm.ask()
        found = np.asarray(costs(candidates.get("X")), float)
        candidates.set("F", found)
        seen.append(found)
        algorithm.tell(infills=candidates)
    return Run(np.concatenate(seen), algorithm.pop.get("F"))


def generation_seconds(
    population: int,
    *,
    num_variables: int = 244,
    num_objectives: int = 3,
    generations: int = 10,
    warm_up: int = 3,
    seed: int = 0,
) -> float:
    """Median time of pymoo's own work in a generation: making candidates and choosing survivors.

    The evaluation between the two, squared distances to one corner for each objective, is not counted.
    """
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 2, (num_objectives, num_variables)).astype(float)
    lower, upper = np.zeros(num_variables), np.ones(num_variables)
    algorithm = _algorithm(lower, upper, num_objectives, population, seed)
    times = []
    for _ in range(warm_up + generations):
        start = time.perf_counter()
        candidates = algorithm.ask()
        asked = time.perf_counter()
        x = candidates.get("X")
        candidates.set("F", np.stack([np.mean((x - corner) ** 2, axis=1) for corner in corners], axis=1))
        told = time.perf_counter()
        algorithm.tell(infills=candidates)
        times.append(asked - start + time.perf_counter() - told)
    return float(np.median(times[warm_up:]))
