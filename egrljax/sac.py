r"""Discrete soft actor-critic on a graph, for episodes of one step (Khadka et al. 2021, section 3).

With one step there is nothing to bootstrap from: the target is the reward itself, and target networks would
be idle, so there are none. Two critics Q_1, Q_2 and a policy π over maps a::

    critic loss   mean_a (Q_j(a) - r(a))²          a, r from the replay buffer, in units of the scale
    actor loss    -E_(a ~ π) min_j Q_j(a) - α H(π) + o · overflow(softmax π)

H is the exact mean entropy of the decisions. The sample a is differentiable by the straight-through Gumbel
softmax (Jang et al. 2017). The overflow is exact, too, and ours: a critic that only sees maps as they ran
knows no others.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

import hwmodel as hw

from .config import EGRLConfig
from .critics import Critic, critic
from .decisions import entropy, masked
from .environment import Environment
from .genomes import Genome
from .policies import Policy, policy_bytes
from .replay import Replay, sample
from .reward import reward
from .starts import start_logits


@struct.dataclass
class LearnerState:
    """Twin critics (leading axis 2) and an actor of P parameters, with Adam's moments."""

    critics: Any
    critic_moments: Any
    actor: jax.Array  # (P,) float32, a member of the population of policies
    actor_moments: Any


class Learned(NamedTuple):
    """Of one generation; 0 where nothing was learned."""

    critic_loss: Float[Array, ""]
    actor_loss: Float[Array, ""]
    entropy: Float[Array, ""]  # of the actor, nats


class Learner(NamedTuple):
    """Pure functions; jit is the caller's."""

    init: Any  # key, env, actor (P,) -> LearnerState
    logits: Any  # env, actors (K, P) -> (K, N, 2, L)
    value: Any  # state, env, maps (M, N, 2) as the critic sees them -> predicted rewards (M,)
    update: Any  # key, state, env, replay -> state, Learned
    # The same of one actor in E environments of one shape, each with critics of its own (leading axes E, 2).
    init_several: Any
    update_several: Any


def learner(config: EGRLConfig, policy: Policy, genome: Genome) -> Learner:
    """The learner of a configuration; `genome` is that of the policy's parameters."""
    settings = config.learner
    judge: Critic = critic(settings.critic, config.policy, config.reward)
    critic_adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(settings.critic_rate))
    actor_adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(settings.actor_rate))

    def init(key: jax.Array, env: Environment, actor: Float[Array, " P"]) -> LearnerState:
        critics = jax.vmap(judge.init, (0, None))(jax.random.split(key, 2), env)
        return LearnerState(critics, critic_adam.init(critics), actor, actor_adam.init(actor))

    def logits(env: Environment, actors: Float[Array, "K P"]) -> Float[Array, "K N 2 L"]:
        n = env.allowed.shape[0]
        start = start_logits(env, config.start)

        def one(vector: Float[Array, " P"]) -> Float[Array, "N 2 L"]:
            made = policy.apply(genome.unravel(vector), env.graph)
            return start + jnp.pad(made, ((0, max(0, n - len(made))), (0, 0), (0, 0)))[:n]

        nodes, edges = len(env.graph.nodes), len(env.graph.senders)
        chunk = hw.chunk_within(len(actors), lambda size: policy_bytes(config.policy, nodes, edges, size))
        return jax.vmap(one)(actors) if chunk >= len(actors) else jax.lax.map(one, actors, batch_size=chunk)

    def twin(critics: Any, env: Environment, x: Float[Array, "N 2 L"]) -> Float[Array, "2"]:
        if judge.learns:
            return jax.vmap(judge.value, (0, None, None))(critics, env, x)
        return jnp.broadcast_to(judge.value(critics, env, x), (2,))

    def value(state: LearnerState, env: Environment, maps: Int[Array, "M N 2"]) -> Float[Array, " M"]:
        levels = env.allowed.shape[-1]

        def one(placed: Int[Array, "N 2"]) -> Float[Array, ""]:
            return jnp.min(twin(state.critics, env, jax.nn.one_hot(placed, levels)))

        return jax.lax.map(one, maps, batch_size=64)

    def critic_loss(critics: Any, key: jax.Array, env: Environment, batch: Replay) -> Float[Array, ""]:
        levels = env.allowed.shape[-1]
        if judge.sees_placements:
            # What ran has no bytes to re-assign; what did not run under "strict" gave no latency.
            x = jax.nn.one_hot(batch.placement, levels)
            worth = reward(batch.speedup, jnp.zeros_like(batch.moved), config.reward)
            told = (batch.moved == 0) | (config.reward.fitness == "rectified")
        else:
            noise = settings.noise * jax.random.normal(key, (*batch.asked.shape, levels))
            x = jax.nn.one_hot(batch.asked, levels) + jnp.clip(
                noise, -settings.noise_clip, settings.noise_clip
            )
            worth = reward(batch.speedup, batch.moved, config.reward)
            told = jnp.ones_like(worth, bool)
        known = told & jnp.isfinite(worth)
        predicted = jax.vmap(twin, (None, None, 0))(critics, env, x)
        error = jnp.where(known[:, None], predicted - jnp.where(known, worth, 0)[:, None], 0)
        count = jnp.maximum(jnp.sum(known.astype(error.dtype)), 1)
        loss = jnp.sum((error / config.reward.scale) ** 2) / count
        if settings.critic == "roofline":
            loss += settings.decay * sum(
                jnp.mean(critics[name] ** 2) for name in ("weight", "output", "parent")
            )
        return loss

    def actor_loss(
        actor: Float[Array, " P"], key: jax.Array, critics: Any, env: Environment
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        made = logits(env, actor[None])[0]
        allowed = masked(made, env.allowed)
        soft = jax.nn.softmax(allowed, axis=-1)

        def one(key: jax.Array) -> Float[Array, ""]:
            drawn = jax.nn.softmax(allowed + jax.random.gumbel(key, allowed.shape), axis=-1)
            hard = jax.nn.one_hot(jnp.argmax(drawn, axis=-1), drawn.shape[-1])
            return jnp.min(twin(critics, env, drawn + jax.lax.stop_gradient(hard - drawn)))

        worth = jnp.mean(jax.vmap(one)(jax.random.split(key, settings.samples)))
        spread = entropy(made, env.allowed)
        steps = jnp.sum(env.problem.mask).astype(soft.dtype)
        too_much = hw.overflow(env.problem, soft) / steps
        return -worth - settings.entropy * spread + settings.overflow * config.reward.scale * too_much, spread

    def learn_critics(
        key: jax.Array, critics: Any, moments: Any, env: Environment, replay: Replay
    ) -> tuple[Any, Any, Float[Array, ""]]:
        def step(carry: Any, key: jax.Array) -> tuple[Any, Array]:
            critics, moments = carry
            k_rows, k_noise = jax.random.split(key)
            loss, gradient = jax.value_and_grad(critic_loss)(
                critics, k_noise, env, sample(k_rows, replay, settings.batch)
            )
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
                updates, moments = critic_adam.update(gradient, moments)
            return (optax.apply_updates(critics, updates), moments), loss

        if not (judge.learns and settings.critic_steps):
            return critics, moments, jnp.zeros(())
        keys = jax.random.split(key, settings.critic_steps)
        (critics, moments), losses = jax.lax.scan(step, (critics, moments), keys)
        return critics, moments, losses[-1]

    def learn_actor(key: jax.Array, state: LearnerState, loss: Any) -> tuple[Any, Any, Array, Array]:
        """`loss` of actor and key gives the loss and the entropy."""

        def step(carry: Any, key: jax.Array) -> tuple[Any, tuple[Array, Array]]:
            actor, moments = carry
            (value, spread), gradient = jax.value_and_grad(loss, has_aux=True)(actor, key)
            with jax.numpy_dtype_promotion("standard"):
                updates, moments = actor_adam.update(gradient, moments)
            return (optax.apply_updates(actor, updates), moments), (value, spread)

        carry = state.actor, state.actor_moments
        if not settings.actor_steps:
            return *carry, jnp.zeros(()), jnp.zeros(())
        keys = jax.random.split(key, settings.actor_steps)
        (actor, moments), (losses, spreads) = jax.lax.scan(step, carry, keys)
        return actor, moments, losses[-1], spreads[-1]

    def update(
        key: jax.Array, state: LearnerState, env: Environment, replay: Replay
    ) -> tuple[LearnerState, Learned]:
        k_critic, k_actor = jax.random.split(key)
        critics, critic_moments, critic = learn_critics(
            k_critic, state.critics, state.critic_moments, env, replay
        )
        actor, moments, value, spread = learn_actor(
            k_actor, state, lambda actor, key: actor_loss(actor, key, critics, env)
        )
        return LearnerState(critics, critic_moments, actor, moments), Learned(critic, value, spread)

    def init_several(key: jax.Array, envs: Environment, actor: Float[Array, " P"]) -> LearnerState:
        keys = jax.random.split(key, envs.reference_s.shape[0])
        each = jax.vmap(lambda key, env: init(key, env, actor))(keys, envs)
        return LearnerState(each.critics, each.critic_moments, actor, actor_adam.init(actor))

    def update_several(
        key: jax.Array, state: LearnerState, envs: Environment, replays: Replay
    ) -> tuple[LearnerState, Learned]:
        count = envs.reference_s.shape[0]
        k_critic, k_actor = jax.random.split(key)
        critics, critic_moments, critic = jax.vmap(learn_critics)(
            jax.random.split(k_critic, count), state.critics, state.critic_moments, envs, replays
        )

        def mean_loss(actor: Float[Array, " P"], key: jax.Array) -> tuple[Array, Array]:
            each = jax.vmap(actor_loss, (None, 0, 0, 0))(actor, jax.random.split(key, count), critics, envs)
            return jnp.mean(each[0]), jnp.mean(each[1])

        actor, moments, value, spread = learn_actor(k_actor, state, mean_loss)
        return LearnerState(critics, critic_moments, actor, moments), Learned(jnp.mean(critic), value, spread)

    return Learner(init, logits, value, update, init_several, update_several)
