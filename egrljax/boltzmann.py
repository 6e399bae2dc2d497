"""Boltzmann chromosomes: a map as logits and temperatures, without a network (Khadka et al. 2021).

Each decision is drawn from softmax(prior / T). One temperature belongs to a node (both of its decisions) and
evolves: hot nodes explore, cold ones stay. What mutates and by how much is ours; the paper's rates are not
known to us.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

T_MIN, T_MAX = 0.05, 20.0


@struct.dataclass
class Boltzmann:
    """K chromosomes over N nodes with D decisions of L choices each; without K: one."""

    prior: jax.Array  # (*K, N, D, L) float32, logits
    log_t: jax.Array  # (*K, N) float32, log temperature, within log T_MIN and log T_MAX


@struct.dataclass
class BoltzmannRates:
    """Traced; all ours."""

    share: jax.Array | float = 0.1  # of nodes that mutate
    prior_std: jax.Array | float = 0.5  # of what is added to the logits of a node that mutates
    log_t_std: jax.Array | float = 0.1  # likewise of its log temperature


def random_boltzmann(
    key: jax.Array, members: int, start: Float[Array, "N D L"], std: float = 1.0
) -> Boltzmann:
    """`members` chromosomes at temperature 1 whose logits are `start` plus std · normal."""
    noise = jax.random.normal(key, (members, *start.shape), start.dtype)
    return Boltzmann(start[None] + std * noise, jnp.zeros((members, start.shape[0]), start.dtype))


def seeded(logits: Float[Array, "*K N D L"]) -> Boltzmann:
    """Chromosomes with exactly the distribution of a policy's logits: its log-posterior at T = 1."""
    return Boltzmann(jax.nn.log_softmax(logits, axis=-1), jnp.zeros(logits.shape[:-2], logits.dtype))


def logits_of(members: Boltzmann) -> Float[Array, "*K N D L"]:
    """prior / T: what softmax turns into the distribution of each decision."""
    return members.prior * jnp.exp(-members.log_t)[..., None, None]


def crossover(key: jax.Array, a: Boltzmann, b: Boltzmann) -> Boltzmann:
    """One child each of K pairs: a's nodes before a cut drawn for each pair, b's from it on.

    The cut lies between two nodes, so that each parent gives one node at least (with two nodes and more).
    """
    members, nodes = a.log_t.shape
    cut = jax.random.randint(key, (members, 1), 1, max(nodes, 2))
    first = jnp.arange(nodes)[None] < cut
    return Boltzmann(jnp.where(first[..., None, None], a.prior, b.prior), jnp.where(first, a.log_t, b.log_t))


def mutate(key: jax.Array, members: Boltzmann, rates: BoltzmannRates) -> Boltzmann:
    """Gaussian noise on the logits and the log temperature of a share of each member's nodes."""
    k_node, k_prior, k_t = jax.random.split(key, 3)
    hit = jax.random.uniform(k_node, members.log_t.shape) < rates.share
    prior = members.prior + rates.prior_std * jax.random.normal(k_prior, members.prior.shape)
    log_t = members.log_t + rates.log_t_std * jax.random.normal(k_t, members.log_t.shape)
    log_t = jnp.clip(log_t, jnp.log(T_MIN), jnp.log(T_MAX))
    return Boltzmann(
        jnp.where(hit[..., None, None], prior, members.prior), jnp.where(hit, log_t, members.log_t)
    )
