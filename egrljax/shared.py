"""One policy for several workloads and chips: EGRL's policies and actor on E environments at once [ours].

Chromosomes belong to one workload and stay away. A policy is worth what its maps without chance are worth on
all environments, for that is how it will be used; maps that are drawn come from the actor::

    fitness   -mean_e log(reward_e / scale)               one map in each environment; the speed-up by default
    critics   two for each environment, learned from its measurements
    actor     mean over environments of the loss of sac.py

Environments with noise are measured as they are: a policy keeps its first measurement, the mean over E.
A generation is E (varied policies + rollouts) maps; the actor's first rollout is its map without chance, with
which it takes the weakest policy's place.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

import hwmodel as hw

from . import replay as buffer
from .acting import act, act_greedily
from .config import EGRLConfig, tuned
from .egrl import EGRL, check_levels, egrl, first_policies
from .environment import Environment, Measured, measure
from .operators import repeats
from .population import policy_children, with_luck, without_repeats
from .replay import Replay
from .reward import reward
from .sac import Learned, LearnerState
from .several import one_of


@struct.dataclass
class SharedState:
    """A training between two generations; G policies, E environments."""

    key: jax.Array
    policies: jax.Array  # (G, P) float32
    placement: jax.Array  # (G, E, N, 2) int8, of their maps without chance
    fitness: jax.Array  # (G,) float32, minimised; +inf: not measured, or failed
    learner: LearnerState  # critics (E, 2, ...)
    replay: Replay  # (E, ...)
    measured: jax.Array  # () int32, maps so far, of all environments
    generation: jax.Array  # () int32


class SharedMetrics(NamedTuple):
    """Of one generation."""

    measured: Int[Array, ""]
    fitness: Float[Array, ""]  # of the best policy
    speedup: Float[Array, " E"]  # of the best map that was measured in this generation, over the reference
    learned: Learned


class Shared(NamedTuple):
    """Pure functions; jit is the caller's. `envs` is stacked, see `environments`."""

    config: EGRLConfig
    inner: EGRL
    generations: Callable[[Environment], int]  # that the budget pays for
    init: Callable[..., SharedState]  # key, envs, actor=None -> state
    ask: Callable[..., tuple[Any, Any]]  # state, envs -> maps (E, M, N, 2), children
    tell: Callable[..., tuple[SharedState, SharedMetrics]]  # state, envs, maps, children, Measured
    step: Callable[..., tuple[SharedState, SharedMetrics]]  # state, envs; measured by the model
    best: Callable[[SharedState], Any]  # the best policy's vector (P,)


class _Keys(NamedTuple):
    children: jax.Array
    luck: jax.Array
    act: jax.Array
    measure: jax.Array
    learn: jax.Array


def shared_config(levels: int = 3, budget: int = 8_000) -> EGRLConfig:
    """The default for several environments: more policies than `tuned`, no chromosomes."""
    return replace(
        tuned(levels),
        budget=budget,
        policies=32,
        policy_elites=24,
        chromosomes=0,
        chromosome_elites=0,
        seed_every=0,
        rollouts=2,
        screen=4,
    )


@lru_cache(maxsize=64)
def shared(config: EGRLConfig, features: int) -> Shared:
    """The algorithm of a configuration; `features` of a node.

    Raises:
        ValueError: settings that mean nothing here (chromosomes, guests, rank "predicted", remeasure), or no
            policies.
    """
    for name, wanted in (("chromosomes", 0), ("guests", 0), ("rank", "measured"), ("remeasure", False)):
        if getattr(config, name) != wanted:
            raise ValueError(
                f"{name} must be {wanted!r} where one policy is trained on several environments, got "
                f"{getattr(config, name)!r}; see shared_config"
            )
    if not config.policies:
        raise ValueError("policies must be at least 1 where a policy is trained, got 0")
    inner = egrl(config, features)
    return Shared(
        config,
        inner,
        partial(_generations, config),
        partial(_init, inner),
        partial(_ask, inner),
        partial(_tell, inner),
        partial(_step, inner),
        lambda state: state.policies[jnp.argmin(state.fitness)],
    )


def _generations(config: EGRLConfig, envs: Environment) -> int:
    """Whole generations within the budget.

    Raises:
        ValueError: a budget below one generation.
    """
    count = envs.reference_s.shape[0]
    each = count * (config.policies - config.policy_elites + config.rollouts)
    if config.budget < each:
        raise ValueError(
            f"budget must be at least {each}, one generation in {count} environments, got {config.budget}"
        )
    return config.budget // each


def _init(algo: EGRL, key: jax.Array, envs: Environment, actor: Array | None = None) -> SharedState:
    config = algo.config
    first = one_of(envs, 0)
    check_levels(config, first)
    count, n = envs.allowed.shape[:2]
    k_run, k_policies, k_learner = jax.random.split(key, 3)
    made = first_policies(algo, k_policies, first, config.policies + 1, actor)
    room = config.budget // count + 1
    return SharedState(
        key=k_run,
        policies=made[1:],
        placement=jnp.zeros((config.policies, count, n, 2), jnp.int8),
        fitness=jnp.full((config.policies,), jnp.inf, float),
        learner=algo.learner.init_several(k_learner, envs, made[0]),
        replay=jax.tree.map(lambda x: jnp.repeat(x[None], count, axis=0), buffer.empty(room, n)),
        measured=jnp.zeros((), jnp.int32),
        generation=jnp.zeros((), jnp.int32),
    )


def _keys(state: SharedState) -> _Keys:
    own = jax.random.split(jax.random.fold_in(state.key, state.generation), len(_Keys._fields))
    return _Keys(*(own[i] for i in range(len(_Keys._fields))))


def _ranked(config: EGRLConfig, state: SharedState) -> Array:
    """Fitness, where copies come last."""
    return without_repeats(state.placement, state.fitness) if config.distinct else state.fitness


def _ask(algo: EGRL, state: SharedState, envs: Environment) -> tuple[Array, Array]:
    """Maps of the new policies, then of the actor; and those policies."""
    config, learns, keys = algo.config, algo.learner, _keys(state)
    varied = config.policies - config.policy_elites
    ranks = with_luck(keys.luck, _ranked(config, state))
    many = config.screen * varied
    children = policy_children(keys.children, state.policies, ranks, many, algo.genome, config)
    vectors = jnp.concatenate([children, state.learner.actor[None]])

    def maps_in(env: Environment, key: jax.Array) -> tuple[Array, Array]:
        logits = learns.logits(env, vectors)
        greedy = act_greedily(env, logits, config.acting)
        drawn = act(key, env, jnp.repeat(logits[-1:], max(config.rollouts - 1, 0), axis=0), config.acting)
        return greedy, drawn

    greedy, drawn = jax.vmap(maps_in)(envs, jax.random.split(keys.act, envs.reference_s.shape[0]))
    take = _chosen(algo, state, envs, greedy[:, :-1], varied)
    rollouts = jnp.concatenate([greedy[:, -1:], drawn], axis=1)[:, : config.rollouts]
    return jnp.concatenate([greedy[:, take], rollouts], axis=1), children[take]


def _chosen(algo: EGRL, state: SharedState, envs: Environment, maps: Array, count: int) -> Array:
    """The candidates that the critics hold for the best; maps that are new everywhere alike first."""
    config = algo.config
    if config.screen == 1:
        return jnp.arange(count)
    seen = maps
    if config.acting == "levels" and config.learner.critic != "graph":
        seen = jax.vmap(lambda env, each: hw.rectify(env.problem, each).placement)(envs, maps)
    critics = state.learner.critics

    def value(critics: Any, env: Environment, maps: Array) -> Array:
        own = LearnerState(critics, (), state.learner.actor, ())
        return algo.learner.value(own, env, maps)

    value_e = jax.vmap(value)(critics, envs, seen)
    cost = -jnp.mean(jnp.log(jnp.maximum(value_e, 1e-6)), axis=0)
    order = jnp.argsort(cost, stable=True)
    rows = jnp.moveaxis(seen, 0, 1).astype(state.placement.dtype)
    old = repeats(jnp.concatenate([state.placement, rows[order]]))[len(state.placement) :]
    order = order[jnp.argsort(old, stable=True)]
    return jnp.where(state.generation > 0, order[:count], jnp.arange(count))


def _tell(
    algo: EGRL, state: SharedState, envs: Environment, maps: Array, children: Array, measured: Measured
) -> tuple[SharedState, SharedMetrics]:
    """The next state. `measured` is of every environment's maps, fields (E, M, ...); NaN: failed."""
    config, learns, keys = algo.config, algo.learner, _keys(state)
    count, batch = maps.shape[:2]
    speedup = envs.reference_s[:, None] / measured.latency_s
    speedup = jnp.where((speedup > 0) & jnp.isfinite(speedup), speedup, 0)
    worth = reward(speedup, measured.moved, config.reward) / config.reward.scale
    each = jnp.where(worth > 0, -jnp.log(jnp.where(worth > 0, worth, 1)), jnp.inf)
    fitness = jnp.mean(each, axis=0)  # (M,)
    placement = jnp.moveaxis(measured.placement, 0, 1).astype(jnp.int8)
    stored = jax.vmap(buffer.add, (0, 0, 0, 0, None))(
        state.replay, maps, measured, speedup, jnp.asarray(batch)
    )

    stay = jnp.argsort(_ranked(config, state), stable=True)[: config.policy_elites]
    varied = config.policies - config.policy_elites
    policies = jnp.concatenate([state.policies[stay], children])
    places = jnp.concatenate([state.placement[stay], placement[:varied]])
    ranks = jnp.concatenate([state.fitness[stay], fitness[:varied]])
    if config.rollouts and config.migrate_every:
        row = jnp.argmax(ranks)
        due = ((state.generation + 1) % config.migrate_every == 0) & (fitness[varied] < ranks[row])
        policies = policies.at[row].set(jnp.where(due, state.learner.actor, policies[row]))
        places = places.at[row].set(jnp.where(due, placement[varied], places[row]))
        ranks = ranks.at[row].set(jnp.where(due, fitness[varied], ranks[row]))
    learner, learned = learns.update_several(keys.learn, state.learner, envs, stored)
    after = SharedState(
        key=state.key,
        policies=policies,
        placement=places,
        fitness=ranks,
        learner=learner,
        replay=stored,
        measured=state.measured + count * batch,
        generation=state.generation + 1,
    )
    return after, SharedMetrics(after.measured, jnp.min(ranks), jnp.max(speedup, axis=1), learned)


def _step(algo: EGRL, state: SharedState, envs: Environment) -> tuple[SharedState, SharedMetrics]:
    maps, children = _ask(algo, state, envs)
    keys = jax.random.split(_keys(state).measure, len(maps))
    return _tell(algo, state, envs, maps, children, jax.vmap(measure)(keys, envs, maps))
