"""What a run of EGRL carries, hands out and tells: its state, tickets, metrics, keys."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from .config import EGRLConfig
from .environment import Environment
from .genomes import Genome
from .guests import Asked
from .policies import Policy
from .population import Children, Population, without_repeats
from .replay import Replay
from .sac import Learned, Learner, LearnerState


@struct.dataclass
class EGRLState:
    """A run between two generations; K members."""

    key: jax.Array  # of the run; a generation's keys come of it and of its number
    population: Population
    ranks: jax.Array  # (K,) float32, fitness by which the members are ranked, minimised; see `ranked`
    learner: LearnerState
    guests: Any  # of a strategy of evosax; () without guests
    replay: Replay
    best: jax.Array  # (N, 2) int32, the placement with the lowest latency that was measured
    best_s: jax.Array  # () float32, that latency; +inf: none yet
    measured: jax.Array  # () int32, maps so far
    generation: jax.Array  # () int32


class Ticket(NamedTuple):
    """What `tell` has to know of the maps that `ask` gave out."""

    children: Children
    stay: Int[Array, " E"]
    guests: Asked


class Metrics(NamedTuple):
    """Of one generation."""

    best_s: Float[Array, ""]  # lowest latency measured so far
    answer: Int[Array, "N 2"]  # what the run would answer now, int8
    measured: Int[Array, ""]  # maps so far
    valid: Float[Array, ""]  # share of this generation's maps that fitted
    rewards: Float[Array, "4"]  # best of this generation: policies, chromosomes, rollouts, guests; -inf: none
    temperature: Float[Array, ""]  # geometric mean over chromosomes and nodes
    learned: Learned


class Parts(NamedTuple):
    """What the functions of an algorithm are made of."""

    config: EGRLConfig
    policy: Policy
    genome: Genome
    learner: Learner


class Keys(NamedTuple):
    """Of one generation, one for each use."""

    policies: jax.Array
    chromosomes: jax.Array
    act: jax.Array
    luck: jax.Array
    guests: jax.Array
    measure: jax.Array
    learn: jax.Array
    told_guests: jax.Array


def keys_of(state: EGRLState) -> Keys:
    """All keys of the coming generation, from one split: split(k)[i] can be fold_in(k, i)."""
    own = jax.random.split(jax.random.fold_in(state.key, state.generation), len(Keys._fields))
    return Keys(*(own[i] for i in range(len(Keys._fields))))


def live(config: EGRLConfig, state: EGRLState) -> Int[Array, ""]:
    """How many of the coming generation's maps are within the budget: the first ones."""
    return jnp.clip(config.budget - state.measured, 0, config.batch)


def ranked(parts: Parts, population: Population, learner: LearnerState, env: Environment) -> Array:
    """Fitness of the members as `rank` has it: as measured, or predicted for those whose maps ran."""
    config, fitness = parts.config, population.fitness
    if config.rank == "predicted":
        # Under "strict" the fitness of a map that did not fit is its share of bytes, and stays.
        ran = fitness < 0 if config.reward.fitness == "strict" else jnp.isfinite(fitness)
        predicted = -parts.learner.value(learner, env, population.placement.astype(jnp.int32))
        fitness = jnp.where(ran, predicted, fitness)
    return without_repeats(population.placement, fitness) if config.distinct else fitness


def parted(values: Array, like: Sequence[Array]) -> list[Array]:
    """Rows that were concatenated, apart again."""
    return jnp.split(values, np.cumsum([len(part) for part in like])[:-1].tolist())
