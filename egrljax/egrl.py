"""EGRL (Khadka et al. 2021): evolution of graph policies and chromosomes, with a learner beside it.

One generation::

    ask     children of the last population, `screen` candidates for each place; the critic chooses
            maps of the children (and of the elites, if they are measured anew) and of the actor
    measure by the model, a simulator, a board
    tell    everything into the replay buffer; elites and children are the next population;
            critics and actor learn; the actor that made the rollout takes the weakest policy's place

Screening, acting by margins and the learned roofline are ours; `paper_like` does without them.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Float

from . import guests, replay as buffer, ssne
from .asking import ask
from .boltzmann import random_boltzmann
from .config import EGRLConfig
from .environment import Environment
from .genomes import Genome, genome
from .knowing import know
from .policies import Policy, policy
from .population import ERL, Population
from .sac import Learner, learner
from .starts import start_logits
from .state import EGRLState, Metrics, Parts, Ticket
from .telling import answer, tell


class EGRL(NamedTuple):
    """Pure functions; jit and vmap (over states, or over environments of one shape) are the caller's."""

    config: EGRLConfig
    features: int
    policy: Policy
    genome: Genome
    learner: Learner
    init: Callable[..., EGRLState]  # key, env, actor=None (P,): a trained policy to start from -> state
    know: Callable[..., EGRLState]  # state, env, placements, latency_s -> state that starts from them, too
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
    parts = Parts(config, net, shapes, learner(config, net, shapes))
    return EGRL(
        config,
        features,
        net,
        shapes,
        parts.learner,
        partial(_init, parts),
        partial(know, parts),
        partial(ask, parts),
        partial(tell, parts),
        partial(answer, parts),
    )


def _init(parts: Parts, key: Array, env: Environment, actor: Float[Array, " P"] | None = None) -> EGRLState:
    config = parts.config
    check_levels(config, env)
    n = env.allowed.shape[0]
    k_run, k_policies, k_chromosomes, k_learner, k_guests = jax.random.split(key, 5)
    made = first_policies(parts, k_policies, env, config.policies + 1, actor)
    start = start_logits(env, config.start) if actor is None else parts.learner.logits(env, actor[None])[0]
    population = Population(
        policies=made[1:],
        chromosomes=random_boltzmann(
            k_chromosomes,
            config.chromosomes,
            start,
            config.start_std,
            config.temperature,
            config.temperatures,
        ),
        placement=jnp.zeros((config.members, n, 2), jnp.int8),
        fitness=jnp.full((config.members,), jnp.inf, float),
    )
    return EGRLState(
        key=k_run,
        population=population,
        ranks=population.fitness,
        learner=parts.learner.init(k_learner, env, made[0]),
        guests=guests.init(k_guests, config, env),
        replay=buffer.empty(config.budget, n),
        best=jnp.zeros((n, 2), jnp.int32),
        best_s=jnp.full((), jnp.inf, env.reference_s.dtype),
        measured=jnp.zeros((), jnp.int32),
        generation=jnp.zeros((), jnp.int32),
    )


def first_policies(
    parts: Parts | EGRL, key: jax.Array, env: Environment, count: int, actor: Float[Array, " P"] | None
) -> Float[Array, "K P"]:
    """New policies; or a trained one, twice as it is (actor and member), then with ERL's mutations."""
    if actor is None:
        keys = jax.random.split(key, count)
        return jax.vmap(lambda key: parts.genome.ravel(parts.policy.init(key, env.graph)))(keys)
    copies = jnp.repeat(actor[None], count, axis=0)
    return jnp.concatenate([copies[:2], ssne.mutate(key, copies[2:], parts.genome, ERL, "erl")])


def check_levels(config: EGRLConfig, env: Environment) -> None:
    """Raise if the policies choose among another number of levels than the chip has."""
    levels = env.allowed.shape[-1]
    if config.policy.choices != levels:
        raise ValueError(
            f"policy.choices must be the chip's number of levels, {levels}, got {config.policy.choices}"
        )


def _two_nodes(features: int) -> jraph.GraphsTuple:
    """A graph for the shapes of parameters."""
    own, counts = jnp.arange(2), jnp.array([1, 0], jnp.int32)
    return jraph.GraphsTuple(jnp.zeros((2, features)), None, own, own, None, counts, counts)
