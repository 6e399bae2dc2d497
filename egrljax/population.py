"""The mixed population: graph policies as vectors, Boltzmann chromosomes, and how both make children.

Members keep their places: policies first, then chromosomes. Elites are the best of each type [the method's
are the best of all]: how many of each there are is static.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from . import boltzmann, ssne
from .boltzmann import Boltzmann, BoltzmannRates
from .config import EGRLConfig
from .genomes import Genome
from .operators import repeats, tournament

ERL = ssne.SSNERates()


@struct.dataclass
class Population:
    """G policies and B chromosomes, and what came of their last maps."""

    policies: jax.Array  # (G, P) float32
    chromosomes: Boltzmann  # (B, N, 2, L), (B, N)
    placement: jax.Array  # (G + B, N, 2) int8, of the last map
    fitness: jax.Array  # (G + B,) float32, minimised: -reward; +inf: not measured, or failed


class Children(NamedTuple):
    """New members without maps."""

    policies: Float[Array, "g P"]
    chromosomes: Boltzmann


def split(values: Array, config: EGRLConfig) -> tuple[Array, Array]:
    """Of all members -> of policies, of chromosomes."""
    return values[: config.policies], values[config.policies :]


def without_repeats(placement: Int[Array, "K ..."], fitness: Float[Array, " K"]) -> Float[Array, " K"]:
    """+inf where a better member, or an equally good one before it, has the same map."""
    order = jnp.argsort(fitness, stable=True)
    return fitness.at[order].set(jnp.where(repeats(placement[order]), jnp.inf, fitness[order]))


def with_luck(key: jax.Array, fitness: Float[Array, " K"]) -> Float[Array, " K"]:
    """Fitness for tournaments: the order of the members, those at +inf last and among themselves by lot.

    So the first generations' children are those of random members, the start of the search.
    """
    lot = jax.random.uniform(key, fitness.shape)
    order = jnp.lexsort((jnp.where(jnp.isfinite(fitness), 0, lot), fitness))
    return jnp.zeros_like(fitness).at[order].set(jnp.arange(len(fitness), dtype=fitness.dtype))


def policy_children(
    key: jax.Array,
    policies: Float[Array, "G P"],
    fitness: Float[Array, " G"],
    count: int,
    genome: Genome,
    config: EGRLConfig,
) -> Float[Array, "count P"]:
    """Children of policies: one parent by tournament, crossed with another, mutated (ERL's operators)."""
    if not count:
        return policies[:0]
    k_a, k_b, k_do, k_cross, k_mutates, k_mutate = jax.random.split(key, 6)
    live = jnp.ones(len(fitness), bool)
    a = policies[tournament(k_a, fitness, live, count, config.tournament)]
    b = policies[tournament(k_b, fitness, live, count, config.tournament)]
    crossed = ssne.crossover(k_cross, a, b, genome, ERL, "erl")
    child = jnp.where(_chance(k_do, count, config.crossover)[:, None], crossed, a)
    mutated = ssne.mutate(k_mutate, child, genome, ERL, "erl")
    return jnp.where(_chance(k_mutates, count, config.mutation)[:, None], mutated, child)


def chromosome_children(
    key: jax.Array,
    population: Population,
    fitness: Float[Array, " K"],
    posteriors: Float[Array, "G N 2 L"],
    count: int,
    config: EGRLConfig,
) -> Boltzmann:
    """Children of chromosomes; where the other parent is a policy, its posterior is the child's prior.

    Args:
        posteriors: logits of the population's policies.
    """
    if not count:
        return jax.tree.map(lambda x: x[:0], population.chromosomes)
    k_a, k_b, k_do, k_cross, k_type, k_policy, k_mutates, k_mutate = jax.random.split(key, 8)
    policies, chromosomes = split(fitness, config)
    live = jnp.ones(len(chromosomes), bool)
    own = population.chromosomes
    a = _rows(own, tournament(k_a, chromosomes, live, count, config.tournament))
    b = _rows(own, tournament(k_b, chromosomes, live, count, config.tournament))
    crossed = boltzmann.crossover(k_cross, a, b, config.cuts)
    crosses = _chance(k_do, count, config.crossover)
    child = _where(crosses, crossed, a)
    if config.policies:
        live = jnp.ones(len(policies), bool)
        chosen = posteriors[tournament(k_policy, policies, live, count, config.tournament)]
        other = boltzmann.seeded(chosen, config.temperature, config.temperatures)
        child = _where(crosses & _chance(k_type, count, config.cross_type), other, child)
    mutated = boltzmann.mutate(k_mutate, child, BoltzmannRates(**dict(config.rates)))
    return _where(_chance(k_mutates, count, config.mutation), mutated, child)


def elites(fitness: Float[Array, " K"], config: EGRLConfig) -> Int[Array, " E"]:
    """Indices of the members that stay: the best policies, then the best chromosomes."""
    policies, chromosomes = split(fitness, config)
    first = jnp.argsort(policies, stable=True)[: config.policy_elites]
    second = jnp.argsort(chromosomes, stable=True)[: config.chromosome_elites] + config.policies
    return jnp.concatenate([first, second]).astype(jnp.int32)


def next_population(
    population: Population,
    stay: Int[Array, " E"],
    children: Children,
    placement: Int[Array, "K N 2"],
    fitness: Float[Array, " K"],
    config: EGRLConfig,
) -> Population:
    """Those that stay and the children.

    Args:
        placement, fitness: of the next population's members, policies that stay, new policies, then
            chromosomes likewise.
    """
    first, second = stay[: config.policy_elites], stay[config.policy_elites :] - config.policies
    return Population(
        policies=jnp.concatenate([population.policies[first], children.policies]),
        chromosomes=jax.tree.map(
            lambda old, new: jnp.concatenate([old[second], new]), population.chromosomes, children.chromosomes
        ),
        placement=placement.astype(jnp.int8),
        fitness=fitness,
    )


def _chance(key: jax.Array, count: int, probability: float) -> Bool[Array, " count"]:
    return jax.random.uniform(key, (count,)) < probability


def _rows(members: Boltzmann, index: Int[Array, " k"]) -> Boltzmann:
    return jax.tree.map(lambda x: x[index], members)


def _where(choice: Bool[Array, " k"], a: Boltzmann, b: Boltzmann) -> Boltzmann:
    def pick(x: Array, y: Array) -> Array:
        return jnp.where(choice.reshape(-1, *(1,) * (x.ndim - 1)), x, y)

    return jax.tree.map(pick, a, b)
