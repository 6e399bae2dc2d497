"""A sub-population that any strategy of evosax drives, beside policies and chromosomes.

Its members are logits, flat, about the start; they act at the chromosomes' temperature. The strategy is told
their fitness, and the best of them becomes a chromosome where it beats the weakest one [ours].
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from evosax.algorithms import algorithms
from evosax.algorithms.population_based.base import PopulationBasedAlgorithm
from jaxtyping import Array, Float

from .config import EGRLConfig
from .environment import Environment
from .starts import start_logits
from .strictness import as_evosax

FAILED = 1e6  # finite, as some strategies average what they are told; rewards are of order 1


class Asked(NamedTuple):
    """What `tell` needs again."""

    solutions: Float[Array, "S G"]
    state: Any


@lru_cache(maxsize=16)
def strategy_of(name: str, members: int, size: int) -> tuple[Any, Any]:
    """A strategy of evosax at its defaults, by the name of its class, and its parameters."""
    with as_evosax(), jax.ensure_compile_time_eval():  # some makers turn arrays into numbers
        made = algorithms[name](population_size=members, solution=jnp.zeros((size,), jnp.float32))
        return made, made.default_params


def _of(config: EGRLConfig, env: Environment) -> tuple[Any, Any]:
    return strategy_of(config.strategy, config.guests, env.allowed.size)


def init(key: jax.Array, config: EGRLConfig, env: Environment) -> Any:
    """The strategy's state about the start; () without guests.

    A strategy that keeps a population is given one drawn about the start, which it takes for failed.
    """
    if not config.guests:
        return ()
    made, params = _of(config, env)
    mean = start_logits(env, config.start).reshape(-1)
    k_first, k_init = jax.random.split(key)
    with as_evosax():
        if isinstance(made, PopulationBasedAlgorithm):
            noise = jax.random.normal(k_first, (config.guests, mean.size), mean.dtype)
            first = mean[None] + config.start_std * noise
            return made.init(k_init, first, jnp.full((config.guests,), FAILED), params)
        return made.init(k_init, mean, params)


def ask(
    key: jax.Array, state: Any, config: EGRLConfig, env: Environment
) -> tuple[Float[Array, "S N 2 L"], Asked]:
    """Logits of this generation's members at their temperature."""
    if not config.guests:
        return jnp.zeros((0, *env.allowed.shape)), Asked(jnp.zeros((0, env.allowed.size)), ())
    made, params = _of(config, env)
    with as_evosax():
        solutions, state = made.ask(key, state, params)
    logits = solutions.reshape(-1, *env.allowed.shape) / config.temperature
    return logits, Asked(solutions, state)


def tell(
    key: jax.Array, asked: Asked, fitness: Float[Array, " S"], config: EGRLConfig, env: Environment
) -> Any:
    """The strategy's next state, from its members' fitness (minimised; +inf: failed)."""
    if not config.guests:
        return ()
    made, params = _of(config, env)
    with as_evosax():
        state, _ = made.tell(key, asked.solutions, jnp.minimum(fitness, FAILED), asked.state, params)
    return state
