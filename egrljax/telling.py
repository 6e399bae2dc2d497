"""The second half of a generation: what was measured makes the next population, and is learned from."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from . import guests, replay as buffer
from .boltzmann import at_temperature
from .config import EGRLConfig
from .environment import Environment, Measured
from .population import Population, next_population, split
from .reward import reward
from .state import EGRLState, Metrics, Parts, Ticket, keys_of, live, ranked


def tell(
    parts: Parts,
    state: EGRLState,
    env: Environment,
    maps: Int[Array, "M N 2"],
    ticket: Ticket,
    measured: Measured,
) -> tuple[EGRLState, Metrics]:
    """The next state, and what came of the generation. Maps beyond the budget count for nothing."""
    config, population, keys = parts.config, state.population, keys_of(state)
    within = live(config, state)
    counts = jnp.arange(config.batch) < within
    speedup = env.reference_s / measured.latency_s
    speedup = jnp.where(counts & (speedup > 0) & jnp.isfinite(speedup), speedup, 0)
    worth = jnp.where(counts, reward(speedup, measured.moved, config.reward), -jnp.inf)
    fitness = -worth
    stored = buffer.add(state.replay, maps, measured, speedup, within)
    best, best_s = _best(state, measured, speedup, config)

    members = config.members if config.remeasure else sum(config.varied)
    ends = members + config.rollouts
    placement = measured.placement
    own = next_population(
        population,
        ticket.stay,
        ticket.children,
        _for_members(population.placement, ticket.stay, placement[:members], counts[:members], config),
        _for_members(population.fitness, ticket.stay, fitness[:members], counts[:members], config),
        config,
    )
    own = _migrate(config, state, own, placement[members:ends], fitness[members:ends])
    own = _invite(config, own, ticket.guests, placement[ends:], fitness[ends:], env)
    learner, learned = parts.learner.update(keys.learn, state.learner, env, stored)
    done = EGRLState(
        key=state.key,
        population=own,
        ranks=ranked(parts, own, learner, env),
        learner=learner,
        guests=guests.tell(keys.told_guests, ticket.guests, fitness[ends:], config, env),
        replay=stored,
        best=best,
        best_s=best_s,
        measured=state.measured + within.astype(jnp.int32),
        generation=state.generation + 1,
    )
    first = config.policies if config.remeasure else config.varied[0]
    parting = (0, first, members, ends, config.batch)
    bests = [jnp.max(worth[a:b], initial=-jnp.inf) for a, b in pairwise(parting)]
    log_t = own.chromosomes.log_t
    fitted = jnp.sum((measured.valid & counts).astype(worth.dtype))
    metrics = Metrics(
        best_s=best_s,
        answer=answer(parts, done, env).astype(jnp.int8),
        measured=done.measured,
        valid=fitted / jnp.maximum(within, 1).astype(worth.dtype),
        rewards=jnp.stack(bests),
        temperature=jnp.exp(jnp.sum(log_t) / max(log_t.size, 1)),
        learned=learned,
    )
    return done, metrics


def answer(parts: Parts, state: EGRLState, env: Environment) -> Int[Array, "N 2"]:
    """The placement to use: the fastest measured, or, by `rank`, what the critic holds for the fastest.

    The latter looks at the population's members, which the critic has ranked all along.
    """
    if parts.config.rank == "measured":
        return state.best
    winner = jnp.argmin(state.ranks)
    found = state.population.placement[winner].astype(jnp.int32)
    return jnp.where(jnp.isfinite(state.ranks[winner]), found, state.best)


def _best(
    state: EGRLState, measured: Measured, speedup: Float[Array, " M"], config: EGRLConfig
) -> tuple[Int[Array, "N 2"], Float[Array, ""]]:
    """The fastest placement so far and its latency; under "strict" of maps that fitted as they were asked."""
    ran = speedup > 0
    if config.reward.fitness == "strict":
        ran &= measured.valid
    latency_s = jnp.where(ran, measured.latency_s, jnp.inf)
    winner = jnp.argmin(latency_s)
    better = latency_s[winner] < state.best_s
    best = jnp.where(better, measured.placement[winner], state.best)
    return best, jnp.minimum(state.best_s, latency_s[winner])


def _for_members(
    old: Array, stay: Int[Array, " E"], new: Array, counts: Bool[Array, " M"], config: EGRLConfig
) -> Array:
    """Values of the next population's members: policies that stay, new ones, chromosomes likewise.

    Where those that stay are measured anew, what is beyond the budget keeps its old value.
    """
    old, new = old[stay], new.astype(old.dtype)
    kept, made = config.policy_elites, config.varied[0]
    if not config.remeasure:
        return jnp.concatenate([old[:kept], new[:made], old[kept:], new[made:]])
    first, second = config.policies, config.policies + config.chromosome_elites
    before = jnp.concatenate([old[:kept], new[kept:first], old[kept:], new[second:]])
    return jnp.where(counts.reshape(-1, *(1,) * (new.ndim - 1)), new, before)


def _migrate(
    config: EGRLConfig,
    state: EGRLState,
    population: Population,
    placement: Array,
    fitness: Float[Array, " R"],
) -> Population:
    """The actor that made the rollouts takes the place of the weakest policy [ERL: a random one]."""
    if not (config.rollouts and config.migrate_every and config.policies):
        return population
    weakest = jnp.argmax(split(population.fitness, config)[0])
    best = jnp.argmin(fitness)
    due = ((state.generation + 1) % config.migrate_every == 0) & jnp.isfinite(fitness[best])
    return Population(
        policies=_put(due, population.policies, weakest, state.learner.actor),
        chromosomes=population.chromosomes,
        placement=_put(due, population.placement, weakest, placement[best]),
        fitness=_put(due, population.fitness, weakest, fitness[best]),
    )


def _invite(
    config: EGRLConfig,
    population: Population,
    asked: guests.Asked,
    placement: Array,
    fitness: Array,
    env: Environment,
) -> Population:
    """The best guest becomes a chromosome in the place of the weakest one, if it is better."""
    if not (config.guests and config.chromosomes):
        return population
    row = jnp.argmax(split(population.fitness, config)[1])
    weakest, best = config.policies + row, jnp.argmin(fitness)
    better = fitness[best] < population.fitness[weakest]
    prior = asked.solutions[best].reshape(env.allowed.shape)
    new = at_temperature(prior, config.temperature, config.temperatures)
    return Population(
        policies=population.policies,
        chromosomes=jax.tree.map(lambda old, one: _put(better, old, row, one), population.chromosomes, new),
        placement=_put(better, population.placement, weakest, placement[best]),
        fitness=_put(better, population.fitness, weakest, fitness[best]),
    )


def _put(due: Bool[Array, ""], old: Array, row: Int[Array, ""], value: Array) -> Array:
    return old.at[row].set(jnp.where(due, value.astype(old.dtype), old[row]))
