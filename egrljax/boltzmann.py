"""Boltzmann chromosomes: a map as logits and temperatures, without a network (Khadka et al. 2021).

Each decision is drawn from softmax(prior / T). A temperature belongs to a node (both of its decisions) or to
a decision and evolves: what is hot explores, what is cold stays. What mutates and by how much is ours, for
the paper's rates are not known to us. So are the bounds; `tuned` starts at the lower one.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

T_MIN, T_MAX = 0.05, 20.0
Temperatures = Literal["node", "decision"]  # what has one of its own


@struct.dataclass
class Boltzmann:
    """K chromosomes over N nodes with D decisions of L choices each; without K: one."""

    prior: jax.Array  # (*K, N, D, L) float32, logits
    log_t: jax.Array  # (*K, N) or (*K, N, D) float32, log temperature, within log T_MIN and log T_MAX


@struct.dataclass
class BoltzmannRates:
    """Traced; all ours."""

    share: jax.Array | float = 0.1  # of nodes that mutate
    count: jax.Array | float = 0.0  # nodes that mutate besides, times a draw from Exp(1) for each child
    prior_std: jax.Array | float = 0.5  # of what is added to the logits of a node that mutates
    log_t_std: jax.Array | float = 0.1  # likewise of its log temperature


def random_boltzmann(
    key: jax.Array,
    members: int,
    start: Float[Array, "N D L"],
    std: float = 1.0,
    temperature: float = 1.0,
    of: Temperatures = "node",
) -> Boltzmann:
    """`members` chromosomes whose logits are `start` plus std · normal, all at one temperature.

    Raises:
        ValueError: a temperature outside [T_MIN, T_MAX].
    """
    noise = jax.random.normal(key, (members, *start.shape), start.dtype)
    return at_temperature(start[None] + std * noise, temperature, of)


def seeded(
    logits: Float[Array, "*K N D L"], temperature: float = 1.0, of: Temperatures = "node"
) -> Boltzmann:
    """Chromosomes whose prior is a policy's log-posterior; at T = 1 they have exactly its distribution.

    Raises:
        ValueError: a temperature outside [T_MIN, T_MAX].
    """
    return at_temperature(jax.nn.log_softmax(logits, axis=-1), temperature, of)


def at_temperature(
    prior: Float[Array, "*K N D L"], temperature: float, of: Temperatures = "node"
) -> Boltzmann:
    """Chromosomes with one temperature for all, which each node or each decision then evolves for itself.

    Raises:
        ValueError: a temperature outside [T_MIN, T_MAX].
    """
    if not T_MIN <= temperature <= T_MAX:
        raise ValueError(f"temperature must lie in [{T_MIN}, {T_MAX}], got {temperature}")
    shape = prior.shape[: -2 if of == "node" else -1]
    return Boltzmann(prior, jnp.full(shape, jnp.log(temperature), prior.dtype))


def logits_of(members: Boltzmann) -> Float[Array, "*K N D L"]:
    """prior / T: what softmax turns into the distribution of each decision."""
    return members.prior * _beside(jnp.exp(-members.log_t), members.prior)


def crossover(key: jax.Array, a: Boltzmann, b: Boltzmann, cuts: int = 1) -> Boltzmann:
    """One child each of K pairs, cut at places drawn for each pair.

    - one cut: a's nodes before it, b's from it on; each parent gives one node at least (of two and more).
    - two cuts: b's nodes between them, a's elsewhere.

    Raises:
        ValueError: cuts neither 1 nor 2.
    """
    if cuts not in (1, 2):
        raise ValueError(f"cuts must be 1 or 2, got {cuts}")
    members, nodes = a.log_t.shape[:2]
    node = jnp.arange(nodes)[None]
    if cuts == 1:
        from_a = node < jax.random.randint(key, (members, 1), 1, max(nodes, 2))
    else:
        ends = jnp.sort(jax.random.randint(key, (members, 2), 0, nodes + 1), axis=1)
        from_a = (node < ends[:, :1]) | (node >= ends[:, 1:])
    return jax.tree.map(lambda x, y: jnp.where(_beside(from_a, x), x, y), a, b)


def mutate(key: jax.Array, members: Boltzmann, rates: BoltzmannRates) -> Boltzmann:
    """Gaussian noise on the logits and the log temperatures of some of each member's nodes."""
    k_node, k_count, k_prior, k_t = jax.random.split(key, 4)
    count, nodes = members.log_t.shape[:2]
    spread = jax.random.exponential(k_count, (count, 1))
    share = rates.share + rates.count / nodes * spread
    hit = jax.random.uniform(k_node, (count, nodes)) < share
    prior = members.prior + rates.prior_std * jax.random.normal(k_prior, members.prior.shape)
    log_t = members.log_t + rates.log_t_std * jax.random.normal(k_t, members.log_t.shape)
    log_t = jnp.clip(log_t, jnp.log(T_MIN), jnp.log(T_MAX))
    changed = Boltzmann(prior, log_t)
    return jax.tree.map(lambda new, old: jnp.where(_beside(hit, old), new, old), changed, members)


def _beside(values: Array, other: Array) -> Array:
    """Values with axes of length 1 added until they broadcast with another array's leading axes."""
    return values.reshape(values.shape + (1,) * (other.ndim - values.ndim))
