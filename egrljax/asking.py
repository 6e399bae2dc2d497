"""The first half of a generation: children, the critic's choice among them, maps to measure."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import hwmodel as hw

from . import guests
from .acting import act
from .boltzmann import Boltzmann, logits_of, seeded
from .config import EGRLConfig
from .environment import Environment
from .operators import repeats
from .population import (
    Children,
    Population,
    chromosome_children,
    elites,
    policy_children,
    split,
    with_luck,
)
from .state import EGRLState, Parts, Ticket, keys_of, parted

_SHARP = 1e6  # beside logits times this, Gumbel noise decides ties only


def ask(parts: Parts, state: EGRLState, env: Environment) -> tuple[Array, Ticket, EGRLState]:
    """Maps (M, N, 2), the ticket for `tell`, and the state."""
    # Networks, assignment and critic are each called once, on all members together: XLA compiles each call.
    config, learns, population = parts.config, parts.learner, state.population
    keys = keys_of(state)
    ranks = with_luck(keys.luck, state.ranks)
    stay = elites(state.ranks, config)
    many = [config.screen * count for count in (*config.varied, config.rollouts)]

    worth, _ = split(ranks, config)
    policies = policy_children(keys.policies, population.policies, worth, many[0], parts.genome, config)
    vectors = [population.policies, policies, state.learner.actor[None]]
    posteriors, wishes, actor = parted(learns.logits(env, jnp.concatenate(vectors)), vectors)
    chromosomes = chromosome_children(keys.chromosomes, population, ranks, posteriors, many[1], config)
    seeds = _seeds(config, actor, posteriors, split(state.ranks, config)[0])
    kept_policies, kept = _kept(population, posteriors, stay, config)
    visiting, asked_guests = guests.ask(keys.guests, state.guests, config, env)
    rollouts = _rollouts(config, actor)
    groups = [wishes, logits_of(chromosomes), rollouts, logits_of(seeds), visiting]
    if config.remeasure:
        groups += [kept_policies, logits_of(kept)]
    maps = act(keys.act, env, jnp.concatenate(groups), config.acting)
    first, second, third, seeded_maps, visitors, *again = parted(maps, groups)

    take = _choose(parts, state, env, [first, second, third], [*config.varied, config.rollouts])
    chosen = Children(policies[take[0]], jax.tree.map(lambda x: x[take[1]], chromosomes))
    first, second, third = first[take[0]], second[take[1]], third[take[2]]
    if len(seeded_maps):
        due = (state.generation + 1) % config.seed_every == 0
        new = Children(chosen.policies, jax.tree.map(_last, chosen.chromosomes, seeds))
        chosen = jax.tree.map(lambda a, b: jnp.where(due, a, b), new, chosen)
        second = jnp.where(due, _last(second, seeded_maps), second)
    if config.remeasure:
        asked = [again[0], first, again[1], second, third, visitors]
    else:
        asked = [first, second, third, visitors]
    return jnp.concatenate(asked), Ticket(chosen, stay, asked_guests), state


def _rollouts(config: EGRLConfig, actor: Float[Array, "1 N 2 L"]) -> Float[Array, "C N 2 L"]:
    """Logits of the candidates for the actor's maps: all the actor's, to be drawn from.

    Where the critic chooses, the first is its map without chance, all but ties: a trained one is tried as is.
    """
    count = config.screen * config.rollouts
    if config.screen == 1:
        return jnp.repeat(actor, count, axis=0)
    return jnp.concatenate([_SHARP * actor[:count], jnp.repeat(actor, max(count - 1, 0), axis=0)])


def _last(old: Array, new: Array) -> Array:
    """The last rows of the old ones made the new ones."""
    return jnp.concatenate([old[: len(old) - len(new)], new])


def _choose(
    parts: Parts,
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
    costs = parted(-parts.learner.value(state.learner, env, seen), groups)
    known = state.population.placement
    rows = []
    for maps, cost, count in zip(parted(seen, groups), costs, counts, strict=True):
        order = jnp.argsort(cost, stable=True)
        old = repeats(jnp.concatenate([known, maps[order].astype(known.dtype)]))[len(known) :]
        order = order[jnp.argsort(old, stable=True)]
        rows.append(jnp.where(state.generation > 0, order[:count], jnp.arange(count)))
    return rows


def _seeds(config: EGRLConfig, actor: Array, posteriors: Array, policies: Float[Array, " G"]) -> Boltzmann:
    """Chromosomes like the actor, if it learns, and like the best policy; none if none are due."""
    count = min(config.seeds, config.varied[1]) if config.seed_every else 0
    learns = config.learner.actor_steps > 0
    half = (-(-count // 2) if learns else 0) if config.policies else count
    logits = [jnp.repeat(actor, half, axis=0)]
    if count > half:
        logits.append(jnp.repeat(posteriors[jnp.argmin(policies)][None], count - half, axis=0))
    return seeded(jnp.concatenate(logits), config.temperature, config.temperatures)


def _kept(
    population: Population, posteriors: Array, stay: Int[Array, " E"], config: EGRLConfig
) -> tuple[Array, Boltzmann]:
    """The logits of the policies that stay, and the chromosomes that do."""
    first, second = stay[: config.policy_elites], stay[config.policy_elites :] - config.policies
    return posteriors[first], jax.tree.map(lambda x: x[second], population.chromosomes)
