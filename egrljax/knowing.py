"""Starting from what is known: placements of rules, of a solver, of an earlier run, and their latencies."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from . import replay as buffer
from .boltzmann import at_temperature
from .environment import Environment, Measured
from .population import Population
from .reward import reward
from .starts import Start, start_logits
from .state import EGRLState, Parts, ranked

_SURE = 1.0  # by how much the level of a known placement leads; one mutation may undo it


def know(
    parts: Parts,
    state: EGRLState,
    env: Environment,
    placements: Int[Array, "S N 2"],
    latency_s: Float[Array, " S"],
) -> EGRLState:
    """A state that starts from placements as well: the fastest become chromosomes, all are learned from.

    Whoever measured them counts them; `state.measured` does not.

    Args:
        placements: that fit, such as `hwmodel.rectify` leaves them.
        latency_s: as measured; NaN or infinite: failed.
    """
    config, population = parts.config, state.population
    speedup = env.reference_s / latency_s
    speedup = jnp.where((speedup > 0) & jnp.isfinite(speedup), speedup, 0)
    nothing = jnp.zeros_like(speedup)
    fitness = -reward(speedup, nothing, config.reward)
    order = jnp.argsort(fitness, stable=True)[: config.chromosomes]
    count = len(order)

    own = population.chromosomes
    known = chromosomes_of(env, placements[order], config.start)
    colder = at_temperature(known, config.temperature, config.temperatures)
    chromosomes = jax.tree.map(lambda old, new: old.at[:count].set(new.astype(old.dtype)), own, colder)
    rows = config.policies + jnp.arange(count)
    ran = jnp.isfinite(fitness[order])
    told = Population(
        policies=population.policies,
        chromosomes=chromosomes,
        placement=population.placement.at[rows].set(placements[order].astype(jnp.int8)),
        fitness=population.fitness.at[rows].set(jnp.where(ran, fitness[order], jnp.inf)),
    )
    seconds = jnp.where(speedup > 0, latency_s, jnp.inf)
    first = jnp.argmin(seconds)
    measured = Measured(latency_s, nothing, speedup > 0, placements)
    return replace(
        state,
        population=told,
        ranks=ranked(parts, told, state.learner, env),
        replay=buffer.add(state.replay, placements, measured, speedup, jnp.asarray(len(speedup))),
        best=jnp.where(seconds[first] < state.best_s, placements[first].astype(jnp.int32), state.best),
        best_s=jnp.minimum(state.best_s, seconds[first]),
    )


def chromosomes_of(
    env: Environment, placements: Int[Array, "S N 2"], start: Start
) -> Float[Array, "S N 2 L"]:
    """Logits whose map is the placement: the start's, but for the level where a tensor lies, which leads.

    So tensors keep their order, and mutations move those that the start would move first.
    """
    logits = start_logits(env, start)
    here = jax.nn.one_hot(placements, logits.shape[-1]) > 0
    return jnp.where(here, jnp.max(logits, axis=-1, keepdims=True)[None] + _SURE, logits[None])
