"""The same plain evolution on scores that an assignment turns into maps (random keys, Bean 1994).

A member is a score for every level of every tensor; `hwmodel.assign` gives tensors room in the order of their
margins, so every map fits. EGRL acts by the same rule ("margins"). This shows what the assignment alone is
worth, without policies, critics or learning.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hwmodel import check_fields

from ..acting import act_greedily
from ..environment import Environment
from ..operators import repeats, tournament, uniform_index
from ..reward import RewardConfig
from ..starts import Start, start_logits
from .course import RECTIFIED, Course, Trials, course_of, generations, trial


@dataclass(frozen=True)
class EAMarginsConfig:
    """Settings of `ea_margins`, all ours; hashed by value.

    Raises:
        ValueError: a number out of its range.
    """

    population: int = 80  # μ
    children: int = 20  # λ
    tournament: int = 2
    crossover: float = 0.6  # probability that a child has two parents
    mutations: float = 3.0  # decisions of a child that mutate, expected; times a draw of Exp(1) each
    mutation_std: float = 1.0
    start: Start = "density"
    start_std: float = 0.3  # of the first scores around the start

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("population", "children", "tournament"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.crossover <= 1:
            raise ValueError(f"crossover must lie in [0, 1], got {self.crossover}")
        for name in ("mutations", "mutation_std", "start_std"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


DEFAULT = EAMarginsConfig()


class _Population(NamedTuple):
    scores: Float[Array, "P N 2 L"]
    placement: Int[Array, "P N 2"]
    cost: Float[Array, " P"]


def ea_margins(
    key: jax.Array,
    env: Environment,
    budget: int,
    config: EAMarginsConfig = DEFAULT,
    *,
    reward: RewardConfig = RECTIFIED,
) -> Course:
    """(μ + λ): of parents and children the best μ live on, those with the placement of a better one last.

    Args:
        budget: evaluations, static; survivors are not measured again.

    Raises:
        ValueError: a budget below 1, an unknown start.
    """
    rounds = generations(budget, config.population, config.children)
    k_start, k_measure, k_rounds = jax.random.split(key, 3)
    noise = jax.random.normal(k_start, (config.population, *env.allowed.shape))
    scores = start_logits(env, config.start)[None] + config.start_std * noise
    first = trial(k_measure, env, act_greedily(env, scores, "margins"), reward)

    def generation(old: _Population, key: Array) -> tuple[_Population, Trials]:
        k_breed, k_measure = jax.random.split(key)
        scores = _children(k_breed, env, old, config)
        found = trial(k_measure, env, act_greedily(env, scores, "margins"), reward)
        born = _Population(scores, found.placement, found.cost)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), old, born)
        order = jnp.argsort(both.cost, stable=True)
        stay = order[jnp.argsort(repeats(both.placement[order]), stable=True)][: config.population]
        return jax.tree.map(lambda x: x[stay], both), found

    start = _Population(scores, first.placement, first.cost)
    _, rest = jax.lax.scan(generation, start, jax.random.split(k_rounds, rounds))
    return course_of(env, [first, rest], budget)


def _children(
    key: jax.Array, env: Environment, old: _Population, config: EAMarginsConfig
) -> Float[Array, "C N 2 L"]:
    k_a, k_b, k_do, k_cut, k_few, k_hit, k_noise = jax.random.split(key, 7)
    count, live = config.children, jnp.ones(config.population, bool)
    a = old.scores[tournament(k_a, old.cost, live, count, config.tournament)]
    b = old.scores[tournament(k_b, old.cost, live, count, config.tournament)]
    genes = 2 * jnp.sum(env.problem.mask, dtype=jnp.int32)
    place = jnp.arange(2 * a.shape[1], dtype=jnp.int32).reshape(1, -1, 2, 1)
    cut = jnp.sort(uniform_index(jax.random.uniform(k_cut, (count, 2)), genes + 1), axis=1)
    first, last = cut[:, 0, None, None, None], cut[:, 1, None, None, None]
    does = jax.random.uniform(k_do, (count, 1, 1, 1)) < config.crossover
    child = jnp.where(does & (first <= place) & (place < last), b, a)
    few = config.mutations * jax.random.exponential(k_few, (count, 1, 1, 1))
    share = few / env.decisions.astype(few.dtype)
    open_ = jnp.sum(env.allowed, axis=-1, dtype=jnp.int32) > 1
    hit = (jax.random.uniform(k_hit, (*a.shape[:3], 1)) < share) & open_[None, ..., None]
    return jnp.where(hit, child + config.mutation_std * jax.random.normal(k_noise, a.shape), child)
