"""Any strategy of evosax on the flat logits of a map: 2 N L real numbers, the largest logit decides."""

from typing import Any

import jax
import jax.numpy as jnp
from evosax.algorithms import algorithms
from evosax.algorithms.population_based.base import PopulationBasedAlgorithm
from jaxtyping import Array, Float

from ..acting import Acting, act_greedily
from ..environment import Environment
from ..guests import FAILED, strategy_of
from ..reward import RewardConfig
from ..starts import Start, start_logits
from ..strictness import as_evosax
from .course import RECTIFIED, Course, Trials, course_of, generations, trial

STRATEGIES = (
    "Sep_CMA_ES",
    "SNES",
    "CR_FM_NES",
    "LM_MA_ES",
    "LGA",
    "DifferentialEvolution",
    "SimpleGA",
)
"""Strategies of evosax 0.3.2 that are compared; SimpleGA has no elitism at its defaults and is weak."""

_SPREAD = 1.0  # standard deviation of a first population about the start: evosax's usual std_init


def evosax_search(
    key: jax.Array,
    env: Environment,
    budget: int,
    name: str,
    population: int = 20,
    acting: Acting = "levels",
    start: Start = "uniform",
    *,
    reward: RewardConfig = RECTIFIED,
) -> Course:
    """A strategy at its defaults, about the start's logits.

    A strategy that keeps a distribution starts with its mean there. One that keeps a population is given one
    drawn about there (standard deviation 1) and measured, which counts.

    Args:
        budget: evaluations, static.
        name: of the class in evosax's registry of algorithms, "SNES", static; `STRATEGIES` are tested.
        population: members, all measured in each generation; many strategies want an even number.

    Raises:
        ValueError: a budget or population below 1, an unknown name, start or way of acting.
    """
    if name not in algorithms:
        raise ValueError(f"name must be one of {sorted(algorithms)}, got {name!r}")
    if population < 1:
        raise ValueError(f"population must be at least 1, got {population}")
    mean = start_logits(env, start).reshape(-1)
    algorithm, params = strategy_of(name, population, mean.size)
    k_init, k_first, k_measure, k_rounds = jax.random.split(key, 4)

    def measured(key: Array, flat: Float[Array, "P G"]) -> Trials:
        logits = flat.reshape(population, *env.allowed.shape)
        return trial(key, env, act_greedily(env, logits, acting), reward)

    def generation(state: Any, key: Array) -> tuple[Any, Trials]:
        k_ask, k_measure, k_tell = jax.random.split(key, 3)
        with as_evosax():
            flat, state = algorithm.ask(k_ask, state, params)
        found = measured(k_measure, flat)
        with as_evosax():
            state, _ = algorithm.tell(k_tell, flat, _finite(found.cost), state, params)
        return state, found

    parts, spent = [], 0
    if isinstance(algorithm, PopulationBasedAlgorithm):
        flat = mean[None] + _SPREAD * jax.random.normal(k_first, (population, mean.size))
        parts, spent = [measured(k_measure, flat)], population
        with as_evosax():
            state = algorithm.init(k_init, flat, _finite(parts[0].cost), params)
    else:
        with as_evosax():
            state = algorithm.init(k_init, mean, params)
    keys = jax.random.split(k_rounds, generations(budget, spent, population))
    _, rest = jax.lax.scan(generation, state, keys)
    return course_of(env, [*parts, rest], budget)


def _finite(cost: Float[Array, " P"]) -> Float[Array, " P"]:
    return jnp.minimum(cost, FAILED)
