"""A plain evolutionary algorithm on the map itself: 2 N whole numbers, no policies, no learning."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hwmodel import check_fields

from ..decisions import draw
from ..environment import Environment
from ..operators import tournament, uniform_index
from ..reward import RewardConfig
from .course import RECTIFIED, Course, Trials, course_of, generations, trial

FirstMaps = Literal["uniform", "rules"]


@dataclass(frozen=True)
class EADirectConfig:
    """Settings of `ea_direct`, all ours; hashed by value.

    Raises:
        ValueError: a number out of its range, an unknown start.
    """

    population: int = 20
    elites: int = 4  # stay as they are, and are not measured again
    tournament: int = 3
    mutations: float = 2.0  # genes of 2 N that a child draws anew, expected: each with probability 1/N
    start: FirstMaps = "uniform"  # "rules": the compilers' maps are among the first

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.elites < self.population:
            raise ValueError(
                f"elites must lie in [1, population - 1 = {self.population - 1}], got {self.elites}"
            )
        if self.tournament < 1:
            raise ValueError(f"tournament must be at least 1, got {self.tournament}")
        if not self.mutations >= 0:
            raise ValueError(f"mutations must be at least 0, got {self.mutations}")
        if self.start not in get_args(FirstMaps):
            raise ValueError(f"start must be one of {get_args(FirstMaps)}, got {self.start!r}")


DEFAULT = EADirectConfig()


class _Population(NamedTuple):
    maps: Int[Array, "P N 2"]
    cost: Float[Array, " P"]


def ea_direct(
    key: jax.Array,
    env: Environment,
    budget: int,
    config: EADirectConfig = DEFAULT,
    *,
    seeds: Int[Array, "S N 2"] | None = None,
    reward: RewardConfig = RECTIFIED,
) -> Course:
    """Tournaments, one-point crossover on the flat genome, uniform mutation, elites.

    Args:
        budget: evaluations, static.
        seeds: with start "rules", maps that come first in the first population, such as those of
            `rules.rules`; the others are drawn uniformly from the levels allowed.

    Raises:
        ValueError: a budget below 1; seeds without start "rules" or the other way round, or more of them
            than members.
    """
    if (seeds is not None) != (config.start == "rules"):
        raise ValueError(f'seeds go with start "rules" and with no other, got start {config.start!r}')
    if seeds is not None and len(seeds) > config.population:
        raise ValueError(f"seeds must be at most the {config.population} of the population, got {len(seeds)}")
    children = config.population - config.elites
    rounds = generations(budget, config.population, children)
    k_draw, k_measure, k_rounds = jax.random.split(key, 3)
    maps = draw(k_draw, jnp.zeros((config.population, *env.allowed.shape)), env.allowed)
    if seeds is not None:
        maps = jnp.concatenate([seeds.astype(maps.dtype), maps[len(seeds) :]])
    first = trial(k_measure, env, maps, reward)

    def generation(old: _Population, key: Array) -> tuple[_Population, Trials]:
        k_breed, k_measure = jax.random.split(key)
        maps = _children(k_breed, env, old, children, config)
        found = trial(k_measure, env, maps, reward)
        stay = jnp.argsort(old.cost, stable=True)[: config.elites]
        new = _Population(
            jnp.concatenate([old.maps[stay], maps]), jnp.concatenate([old.cost[stay], found.cost])
        )
        return new, found

    _, rest = jax.lax.scan(generation, _Population(maps, first.cost), jax.random.split(k_rounds, rounds))
    return course_of(env, [first, rest], budget)


def _children(
    key: jax.Array, env: Environment, old: _Population, count: int, config: EADirectConfig
) -> Int[Array, "count N 2"]:
    k_a, k_b, k_cut, k_hit, k_level = jax.random.split(key, 5)
    live = jnp.ones(config.population, bool)
    a = old.maps[tournament(k_a, old.cost, live, count, config.tournament)]
    b = old.maps[tournament(k_b, old.cost, live, count, config.tournament)]
    genes = 2 * jnp.sum(env.problem.mask, dtype=jnp.int32)  # padding comes last and has none
    place = jnp.arange(2 * a.shape[1], dtype=jnp.int32).reshape(1, -1, 2)
    cut = 1 + uniform_index(jax.random.uniform(k_cut, (count, 1, 1)), genes - 1)
    crossed = jnp.where(place < cut, a, b)
    hit = jax.random.uniform(k_hit, a.shape) < config.mutations / genes.astype(jnp.float32)
    level = draw(k_level, jnp.zeros((count, *env.allowed.shape)), env.allowed)
    return jnp.where(hit, level, crossed)
