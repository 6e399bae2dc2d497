"""EGRL (Khadka et al. 2021): evolution of graph policies and chromosomes, with a learner beside it.

One generation::

    ask     children of the last population, `screen` candidates for each place; the critic chooses
            maps of the children (and of the elites, if they are measured anew) and of the actor
    measure by the model, a simulator, a board
    tell    everything into the replay buffer; elites and children are the next population;
            critics and actor learn; the actor that made the rollout takes the weakest policy's place

Screening, acting by margins and the learned roofline are ours; `paper_like` does without them.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

import hwmodel as hw

from . import guests, replay as buffer
from .acting import act
from .boltzmann import Boltzmann, at_temperature, logits_of, random_boltzmann, seeded
from .config import EGRLConfig
from .environment import Environment, Measured
from .genomes import Genome, genome
from .policies import Policy, policy
from .population import (
    Children,
    Population,
    chromosome_children,
    elites,
    next_population,
    policy_children,
    split,
    with_luck,
    without_repeats,
)
from .replay import Replay
from .reward import reward
from .sac import Learned, Learner, LearnerState, learner
from .starts import start_logits


@struct.dataclass
class EGRLState:
    """A run between two generations."""

    key: jax.Array  # of the run; a generation's is folded from its number
    population: Population
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
    guests: guests.Asked


class Metrics(NamedTuple):
    """Of one generation."""

    best_s: Float[Array, ""]  # lowest latency measured so far
    answer: Int[Array, "N 2"]  # what the run would answer now, int8
    measured: Int[Array, ""]  # maps so far
    valid: Float[Array, ""]  # share of this generation's maps that fitted
    rewards: Float[Array, "4"]  # best of this generation: policies, chromosomes, rollouts, guests; -inf: none
    temperature: Float[Array, ""]  # geometric mean over chromosomes and nodes
    learned: Learned


class EGRL(NamedTuple):
    """Pure functions; jit and vmap (over states, or over environments of one shape) are the caller's."""

    config: EGRLConfig
    genome: Genome
    init: Callable[..., EGRLState]  # key, env, actor=None -> state
    ask: Callable[..., tuple[Any, Ticket, EGRLState]]  # state, env -> maps (M, N, 2), ticket, state
    tell: Callable[..., tuple[EGRLState, Metrics]]  # state, env, maps, ticket, Measured -> state, metrics
    answer: Callable[..., Any]  # state, env -> placement (N, 2)


@lru_cache(maxsize=64)  # one object, and so one compiled program, for equal configurations
def egrl(config: EGRLConfig, features: int) -> EGRL:
    """The algorithm of a configuration.

    Args:
        features: of a node, the width of `Environment.graph.nodes`.

    Raises:
        ValueError: features below 1.
    """
    if features < 1:
        raise ValueError(f"features must be at least 1, got {features}")
    net = policy(config.policy)
    shapes = genome(jax.eval_shape(net.init, jax.random.key(0), _two_nodes(features)))
    learns = learner(config, net, shapes)
    parts = _Parts(config, net, shapes, learns)
    return EGRL(
        config,
        shapes,
        partial(_init, parts),
        partial(_ask, parts),
        partial(_tell, parts),
        partial(_answer, parts),
    )


class _Parts(NamedTuple):
    config: EGRLConfig
    policy: Policy
    genome: Genome
    learner: Learner


def _init(parts: _Parts, key: Array, env: Environment, actor: Float[Array, " P"] | None = None) -> EGRLState:
    config = parts.config
    check_levels(config, env)
    n = env.allowed.shape[0]
    k_run, k_policies, k_chromosomes, k_learner, k_guests = jax.random.split(key, 5)
    own = 0 if actor is not None else 1
    made = _random_policies(parts, k_policies, env, config.policies + own)
    actor = made[-1] if actor is None else actor
    start = start_logits(env, config.start)
    population = Population(
        policies=made[: config.policies],
        chromosomes=random_boltzmann(
            k_chromosomes, config.chromosomes, start, config.start_std, config.temperature
        ),
        placement=jnp.zeros((config.members, n, 2), jnp.int8),
        fitness=jnp.full((config.members,), jnp.inf),
    )
    return EGRLState(
        key=k_run,
        population=population,
        learner=parts.learner.init(k_learner, env, actor),
        guests=guests.init(k_guests, config, env),
        replay=buffer.empty(config.budget, n),
        best=jnp.zeros((n, 2), jnp.int32),
        best_s=jnp.full((), jnp.inf, env.reference_s.dtype),
        measured=jnp.zeros((), jnp.int32),
        generation=jnp.zeros((), jnp.int32),
    )


def check_levels(config: EGRLConfig, env: Environment) -> None:
    """Raise if the policies choose among another number of levels than the chip has."""
    levels = env.allowed.shape[-1]
    if config.policy.choices != levels:
        raise ValueError(
            f"policy.choices must be the chip's number of levels, {levels}, got {config.policy.choices}"
        )


def _ask(parts: _Parts, state: EGRLState, env: Environment) -> tuple[Array, Ticket, EGRLState]:
    # Networks, assignment and critic are each called once, on all members together: XLA compiles each call.
    config, learns, population = parts.config, parts.learner, state.population
    key = jax.random.fold_in(state.key, state.generation)
    k_policies, k_chromosomes, k_act, k_luck, k_guests = jax.random.split(key, 5)
    fitness = _ranked(parts, state, env)
    ranks = with_luck(k_luck, fitness)
    stay = elites(population, fitness, config)
    many = [config.screen * count for count in (*config.varied, config.rollouts)]

    policies = policy_children(k_policies, population, ranks, many[0], parts.genome, config)
    vectors = [population.policies, policies, state.learner.actor[None]]
    posteriors, wishes, actor = _parted(learns.logits(env, jnp.concatenate(vectors)), vectors)
    chromosomes = chromosome_children(k_chromosomes, population, ranks, posteriors, many[1], config)
    seeds = _seeds(parts, actor, posteriors, split(fitness, config)[0])
    kept_policies, kept = _kept(population, posteriors, stay, config)
    visiting, asked_guests = guests.ask(k_guests, state.guests, config, env)
    groups = [wishes, logits_of(chromosomes), jnp.repeat(actor, many[2], axis=0), logits_of(seeds), visiting]
    if config.remeasure:
        groups += [kept_policies, logits_of(kept)]
    maps = act(k_act, env, jnp.concatenate(groups), config.acting)
    first, second, third, fourth, fifth, *again = _parted(maps, groups)

    take = _choose(parts, state, env, [first, second, third], [*config.varied, config.rollouts])
    chosen = Children(policies[take[0]], jax.tree.map(lambda x: x[take[1]], chromosomes))
    first, second, third = first[take[0]], second[take[1]], third[take[2]]
    if len(fourth):
        due = (state.generation + 1) % config.seed_every == 0
        new = Children(chosen.policies, jax.tree.map(_last, chosen.chromosomes, seeds))
        chosen = jax.tree.map(lambda a, b: jnp.where(due, a, b), new, chosen)
        second = jnp.where(due, _last(second, fourth), second)
    if config.remeasure:
        asked = [again[0], first, again[1], second, third, fifth]
    else:
        asked = [first, second, third, fifth]
    return jnp.concatenate(asked), Ticket(chosen, stay, asked_guests), state


def _last(old: Array, new: Array) -> Array:
    """The last rows of the old ones made the new ones."""
    return jnp.concatenate([old[: len(old) - len(new)], new])


def _parted(values: Array, like: Sequence[Array]) -> list[Array]:
    """Rows that were concatenated, apart again."""
    return jnp.split(values, np.cumsum([len(part) for part in like])[:-1].tolist())


def _tell(
    parts: _Parts,
    state: EGRLState,
    env: Environment,
    maps: Int[Array, "M N 2"],
    ticket: Ticket,
    measured: Measured,
) -> tuple[EGRLState, Metrics]:
    config, population = parts.config, state.population
    count = config.batch
    live = jnp.clip(config.budget - state.measured, 0, count)
    counts = jnp.arange(count) < live
    speedup = env.reference_s / measured.latency_s
    speedup = jnp.where(counts & (speedup > 0) & jnp.isfinite(speedup), speedup, 0)
    worth = reward(speedup, measured.moved, config.reward)
    fitness = -worth

    stored = buffer.add(state.replay, maps, measured, speedup, live)
    ran = speedup > 0
    if config.reward.fitness == "strict":
        ran &= measured.valid
    latency_s = jnp.where(ran, measured.latency_s, jnp.inf)
    winner = jnp.argmin(latency_s)
    better = latency_s[winner] < state.best_s
    best = jnp.where(better, measured.placement[winner], state.best)
    best_s = jnp.minimum(state.best_s, latency_s[winner])

    members = config.members if config.remeasure else sum(config.varied)
    own = next_population(
        population,
        ticket.stay,
        ticket.children,
        _for_members(population.placement, ticket.stay, measured.placement[:members], config),
        _for_members(population.fitness, ticket.stay, fitness[:members], config),
        config,
    )
    ends = members + config.rollouts
    own = _migrate(parts, state, own, measured.placement[members:ends], fitness[members:ends])
    own = _invite(parts, own, ticket.guests, measured.placement[ends:], fitness[ends:], env)
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.generation), 1)
    k_learn, k_guests = jax.random.split(key)
    learner_state, learned = parts.learner.update(k_learn, state.learner, env, stored)
    done = EGRLState(
        key=state.key,
        population=own,
        learner=learner_state,
        guests=guests.tell(k_guests, ticket.guests, fitness[ends:], config, env),
        replay=stored,
        best=best,
        best_s=best_s,
        measured=state.measured + live.astype(jnp.int32),
        generation=state.generation + 1,
    )
    policies, chromosomes = (config.policies, config.chromosomes) if config.remeasure else config.varied
    parting = (0, policies, policies + chromosomes, ends, count)
    bests = [jnp.max(worth[a:b], initial=-jnp.inf) for a, b in pairwise(parting)]
    log_t = own.chromosomes.log_t
    fitted = jnp.sum((measured.valid & counts).astype(worth.dtype))
    metrics = Metrics(
        best_s=best_s,
        answer=_answer(parts, done, env).astype(jnp.int8),
        measured=done.measured,
        valid=fitted / jnp.maximum(live, 1).astype(worth.dtype),
        rewards=jnp.stack(bests),
        temperature=jnp.exp(jnp.sum(log_t) / max(log_t.size, 1)),
        learned=learned,
    )
    return done, metrics


def _answer(parts: _Parts, state: EGRLState, env: Environment) -> Int[Array, "N 2"]:
    """The placement to use: the fastest measured, or, by `rank`, what the critic holds for the fastest.

    The latter looks at the population's members, which the critic has ranked all along.
    """
    if parts.config.rank == "measured":
        return state.best
    fitness = _ranked(parts, state, env)
    winner = jnp.argmin(fitness)
    found = state.population.placement[winner].astype(jnp.int32)
    return jnp.where(jnp.isfinite(fitness[winner]), found, state.best)


def _ranked(parts: _Parts, state: EGRLState, env: Environment) -> Float[Array, " K"]:
    """Fitness of the members as `rank` has it."""
    population, config = state.population, parts.config
    fitness = population.fitness
    if config.rank == "predicted":
        predicted = -parts.learner.value(state.learner, env, population.placement.astype(jnp.int32))
        fitness = jnp.where(jnp.isfinite(fitness), predicted, fitness)
    return without_repeats(population, fitness) if config.distinct else fitness


def _choose(
    parts: _Parts,
    state: EGRLState,
    env: Environment,
    groups: Sequence[Array],  # (C, N, 2) each
    counts: Sequence[int],
) -> list[Array]:
    """Of each group of candidates those that the critic holds for the best, maps that are new first.

    Before it has learned anything, the first ones.
    """
    config = parts.config
    if config.screen == 1:
        return [jnp.arange(count) for count in counts]
    seen = jnp.concatenate(list(groups))
    if config.acting == "levels" and config.learner.critic != "graph":
        seen = hw.rectify(env.problem, seen).placement
    costs = _parted(-parts.learner.value(state.learner, env, seen), groups)
    known = state.population.placement
    rows = []
    for maps, cost, count in zip(_parted(seen, groups), costs, counts, strict=True):
        order = jnp.argsort(cost, stable=True)
        best = maps[order].astype(jnp.int8)
        old = jnp.any(jnp.all(best[:, None] == known[None], axis=(-2, -1)), axis=1)
        same = jnp.all(best[:, None] == best[None], axis=(-2, -1))
        repeats = old | jnp.any(same & jnp.tril(jnp.ones_like(same), -1), axis=1)
        order = order[jnp.argsort(repeats, stable=True)]
        rows.append(jnp.where(state.generation > 0, order[:count], jnp.arange(count)))
    return rows


def _seeds(parts: _Parts, actor: Array, posteriors: Array, policies: Float[Array, " G"]) -> Boltzmann:
    """Chromosomes with the distribution of the actor, and with the best policy's; none if none are due."""
    config = parts.config
    count = min(config.seeds, config.varied[1]) if config.seed_every else 0
    half = -(-count // 2) if config.policies else count
    logits = [jnp.repeat(actor, half, axis=0)]
    if count > half:
        logits.append(jnp.repeat(posteriors[jnp.argmin(policies)][None], count - half, axis=0))
    return seeded(jnp.concatenate(logits), config.temperature)


def _migrate(
    parts: _Parts, state: EGRLState, population: Population, placement: Array, fitness: Float[Array, " R"]
) -> Population:
    """The actor that made the rollouts takes the place of the weakest policy [ERL: a random one]."""
    config = parts.config
    if not (config.rollouts and config.migrate_every and config.policies):
        return population
    weakest = jnp.argmax(split(population.fitness, config)[0])
    best = jnp.argmin(fitness)
    due = ((state.generation + 1) % config.migrate_every == 0) & jnp.isfinite(fitness[best])

    def put(old: Array, new: Array) -> Array:
        return old.at[weakest].set(jnp.where(due, new.astype(old.dtype), old[weakest]))

    return Population(
        policies=put(population.policies, state.learner.actor),
        chromosomes=population.chromosomes,
        placement=put(population.placement, placement[best]),
        fitness=put(population.fitness, fitness[best]),
    )


def _invite(
    parts: _Parts,
    population: Population,
    asked: guests.Asked,
    placement: Array,
    fitness: Array,
    env: Environment,
) -> Population:
    """The best guest becomes a chromosome in the place of the weakest one, if it is better."""
    config = parts.config
    if not (config.guests and config.chromosomes):
        return population
    weakest = config.policies + jnp.argmax(split(population.fitness, config)[1])
    best = jnp.argmin(fitness)
    better = fitness[best] < population.fitness[weakest]
    prior = asked.solutions[best].reshape(env.allowed.shape)
    new = at_temperature(prior, config.temperature)

    def put(old: Array, row: Array, value: Array) -> Array:
        return old.at[row].set(jnp.where(better, value.astype(old.dtype), old[row]))

    row = weakest - config.policies
    return Population(
        policies=population.policies,
        chromosomes=jax.tree.map(lambda old, value: put(old, row, value), population.chromosomes, new),
        placement=put(population.placement, weakest, placement[best]),
        fitness=put(population.fitness, weakest, fitness[best]),
    )


def _kept(
    population: Population, posteriors: Array, stay: Int[Array, " E"], config: EGRLConfig
) -> tuple[Array, Boltzmann]:
    """The logits of the policies that stay, and the chromosomes that do."""
    first, second = stay[: config.policy_elites], stay[config.policy_elites :] - config.policies
    return posteriors[first], jax.tree.map(lambda x: x[second], population.chromosomes)


def _for_members(old: Array, stay: Int[Array, " E"], new: Array, config: EGRLConfig) -> Array:
    """Values of the next population's members, from those of the last one and the new ones."""
    if config.remeasure:
        return new
    old, new = old[stay], new.astype(old.dtype)
    kept, made = config.policy_elites, config.varied[0]
    return jnp.concatenate([old[:kept], new[:made], old[kept:], new[made:]])


def _random_policies(parts: _Parts, key: Array, env: Environment, count: int) -> Float[Array, "count P"]:
    if not count:
        return jnp.zeros((0, parts.genome.size))
    keys = jax.random.split(key, count)
    return jax.vmap(lambda key: parts.genome.ravel(parts.policy.init(key, env.graph)))(keys)


def _two_nodes(features: int) -> jraph.GraphsTuple:
    """A graph for the shapes of parameters."""
    own = jnp.arange(2)
    one = jnp.ones((2,), jnp.int32).at[1].set(0)
    return jraph.GraphsTuple(jnp.zeros((2, features)), None, own, own, None, one, one)
